import csv
import json
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.media import clicks, film, mux, onsets
from helpers.paths import SHARED

import unisync_loss
from unisync_loss.cli import main
from unisync_loss.lse import procedures as lse_video
from unisync_loss.lse.crops import FaceTrack, crops, cut, find_tracks, keep_tracks, link_tracks, squeeze, whole_face
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.procedures import average, measure_video, measure_videos, video_row
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip

DRAWN = Path(unisync_loss.__file__).parent / "assets" / "demo.mp4"


def write_lossless(path, frames, samples):
    """FFV1 and PCM: what is read is what was written."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "bgr0"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def test_a_file_equals_the_original(golden, golden_syncnet, tmp_path):
    write_lossless(tmp_path / "a.mkv", golden["frames_bgr"][..., ::-1], golden["wav"])
    theirs = json.loads((SHARED / "golden" / "syncnet_golden.json").read_text())["wav2lip_scores"]
    row = measure_video(golden_syncnet, tmp_path / "a.mkv", "wav2lip-lrs")
    assert row["lse_d"] == pytest.approx(theirs["min_distance"], rel=1e-4)
    assert row["lse_c"] == pytest.approx(theirs["confidence"], rel=1e-4)
    assert row["offset"] == -theirs["offset"]


def noise(frames=12, size=64, seed=0):
    draw = np.random.default_rng(seed)
    pictures = draw.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    return pictures, draw.integers(-9000, 9000, frames * 640).astype(np.int16)


def test_a_file_equals_its_frames(quick, tmp_path):
    pictures, samples = noise()
    write_lossless(tmp_path / "a.mkv", pictures, samples)
    meter = LseMeter(quick, samples)
    for picture in pictures:
        meter.add(squeeze(picture))
    row = measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    for edge, suffix in (("legacy", ""), ("valid", "_valid")):
        expected = summarise(meter.distances(edge))
        assert (row[f"lse_d{suffix}"], row[f"offset{suffix}"]) == (pytest.approx(expected.lse_d), expected.offset)
    assert row["tracks"][0]["frames"] == 12


@pytest.mark.parametrize(("fps", "start"), [(25, 0.0), (30, 0.0), (15, 0.176), (50, 0.4)])
def test_frames_and_sound_are_those_of_read_clip(quick, tmp_path, monkeypatch, fps, start):
    """Any rate to 25 fps; sound that starts late stays late."""
    mux(tmp_path / "a.mkv", film(2 * fps), clicks(2), fps=fps, audio_start=start)
    heard, shown = [], []

    class Meter(LseMeter):
        def __init__(self, net, samples):
            super().__init__(net, samples)
            heard.append(samples / 32768)

        def add(self, frame):
            shown.append(frame)
            super().add(frame)

    monkeypatch.setattr(lse_video, "LseMeter", Meter)
    measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    clip = read_clip(tmp_path / "a.mkv")
    assert torch.equal(torch.stack(shown), torch.stack([squeeze(frame) for frame in clip.frames]))
    samples = heard[0][: len(clip.waveform)]
    assert np.abs(samples - clip.waveform[: len(samples)]).max() < 1e-4
    assert onsets(samples) == pytest.approx([0.5 + start, 1.2 + start], abs=0.003)


def test_a_face_is_tracked(quick, tmp_path):
    pytest.importorskip("mediapipe")
    clip = read_clip(DRAWN, max_frames=55)
    write_clip(tmp_path / "face.mp4", clip.frames, clip.waveform)
    shares = []
    row = measure_video(quick, tmp_path / "face.mp4", "latentsync", shares.append)
    assert row["variant"] == "latentsync"
    assert [track["frames"] for track in row["tracks"]] == [55]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with pytest.raises(ValueError, match="no face track of more than 100 frames at 25 fps, the longest has 55"):
        measure_video(quick, tmp_path / "face.mp4", "syncnet")


def test_several_tracks_of_a_video(quick, tmp_path, monkeypatch):
    """Each with its own frames and its own sound, whether they overlap or not."""
    pictures, samples = noise(30, seed=4)
    write_lossless(tmp_path / "a.mkv", pictures, samples)
    spans = [(0, 9), (5, 15), (20, 30)]
    tracks = [FaceTrack(a, still(b - a, x=10.0, y=10.0, side=40.0)) for a, b in spans]
    monkeypatch.setattr(lse_video, "MediaPipeFinder", lambda: None)
    monkeypatch.setattr(lse_video, "find_tracks", lambda frames, finder: tracks)
    monkeypatch.setattr(lse_video, "keep_tracks", lambda found, min_frames: found)
    row = measure_video(quick, tmp_path / "a.mkv", "syncnet")
    assert [track["start"] for track in row["tracks"]] == [0, 0.2, 0.8]
    for (first, end), track, result in zip(spans, tracks, row["tracks"], strict=True):
        meter = LseMeter(quick, samples[first * 640 : end * 640])
        for picture, place in zip(pictures[first:end], crops(track), strict=True):
            meter.add(cut(picture, *place))
        assert result["lse_d"] == pytest.approx(summarise(meter.distances()).lse_d, rel=1e-6)


def test_decoding_runs_beside_the_network_and_ends_with_it(quick, tmp_path, monkeypatch):
    """The frames after the one that is looked at are there already; an error there leaves no thread behind."""
    write_lossless(tmp_path / "a.mkv", *noise())
    decoded, looked_at = [], []
    every = lse_video.every_frame

    def watched(pictures):
        for frame in every(pictures):
            decoded.append(threading.current_thread())
            yield frame

    class Meter(LseMeter):
        def add(self, frame):
            deadline = time.monotonic() + 20
            while len(decoded) < min(12, len(looked_at) + 2) and time.monotonic() < deadline:
                time.sleep(0.01)
            looked_at.append(len(decoded))
            if len(looked_at) == 3:
                raise ValueError("enough")

    monkeypatch.setattr(lse_video, "every_frame", watched)
    monkeypatch.setattr(lse_video, "LseMeter", Meter)
    with pytest.raises(ValueError, match="enough"):
        measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    assert all(seen > number for number, seen in enumerate(looked_at, 1))
    assert threading.main_thread() not in decoded
    assert not any(thread.is_alive() for thread in decoded)


def still(frames, x=100.0, y=100.0, side=120.0):
    """Boxes of a face that stays."""
    return np.tile([x, y, x + side, y + side], (frames, 1))


def seen(boxes):
    """Faces of the frames whose box is a number."""
    return [(frame, box) for frame, box in enumerate(boxes) if np.isfinite(box).all()]


def spans_of(faces):
    return [(track.start, len(track.boxes)) for track in link_tracks(faces)]


def test_a_track_survives_25_frames_without_a_face():
    boxes = still(80)
    boxes[20:44] = np.nan
    boxes[44:, [0, 2]] += 25
    (track,) = link_tracks(seen(boxes))
    assert (track.start, len(track.boxes)) == (0, 80)
    assert track.boxes[19 + 5, 0] == pytest.approx(105)  # filled in linearly over 25 frames
    boxes[44] = np.nan
    assert spans_of(seen(boxes)) == [(0, 20), (45, 35)]


def test_a_track_ends_where_the_face_jumps_but_not_at_a_false_find():
    boxes = still(60)
    boxes[30:, [0, 2]] += 100
    assert spans_of(seen(boxes)) == [(0, 30), (30, 30)]
    boxes = still(60)
    boxes[30] = [300, 300, 420, 420]
    assert spans_of(seen(boxes)) == [(0, 60), (30, 1)]


def test_faces_beside_each_other_are_tracks_of_their_own():
    left, right = still(60), still(60, x=400.0)
    faces = [face for pair in zip(seen(left), seen(right), strict=True) for face in pair]
    one, two = link_tracks(faces)
    assert (one.boxes == left).all()
    assert (two.boxes == right).all()
    # of two finds of one face in a frame the first counts
    doubled = [face for face in seen(left) for _ in range(2)]
    assert [len(track.boxes) for track in link_tracks(doubled)] == [60, 60]


def test_looks_of_a_scene_are_every_fifth_frame_and_the_last():
    """Boxes as they were found there, in straight lines between; a cut ends all tracks."""
    boxes = still(33)
    boxes += np.arange(33)[:, None]
    frames = [np.full((400, 400, 3), 10 if index < 18 else 200, np.uint8) for index in range(33)]
    for index, frame in enumerate(frames):
        frame[0, 0, 0] = index
    looks = []

    def finder(frame, index):
        assert index == frame[0, 0, 0]
        looks.append(index)
        return boxes[looks[-1]][None]

    tracks = find_tracks(frames, finder)
    assert looks == [0, 5, 10, 15, 17, 18, 23, 28, 32]
    assert [(track.start, len(track.boxes)) for track in tracks] == [(0, 18), (18, 15)]
    expected = np.stack([whole_face(box) for box in boxes])
    assert np.concatenate([track.boxes for track in tracks]) == pytest.approx(expected)
    # 1.1 sides of 120, and 0.065 of them higher
    assert expected[0] == pytest.approx([94, 86.2, 226, 218.2])


def test_short_and_small_tracks_are_refused_with_the_reason():
    assert keep_tracks([FaceTrack(0, still(101)), FaceTrack(200, still(100))], 100)[0].start == 0
    with pytest.raises(ValueError, match="no face found"):
        keep_tracks(link_tracks([]), 50)
    with pytest.raises(ValueError, match="no face track of more than 100 frames at 25 fps, the longest has 100"):
        keep_tracks([FaceTrack(0, still(100))], 100)
    with pytest.raises(ValueError, match="no face larger than 100 pixels, the largest has 90"):
        keep_tracks([FaceTrack(0, still(120, side=90.0))], 100)


def test_boxes_are_smoothed():
    boxes = still(40)
    boxes[20] += 15  # one frame's outlier
    plan = list(crops(FaceTrack(0, boxes)))
    assert plan[20] == plan[19] == (160, 160, 60)
    # beyond the ends the original's filter sees zeros: at six frames in seven of thirteen are still real
    assert plan[0] == (160, 160, 60)


@pytest.mark.parametrize(("x", "y", "half"), [(150.3, 120.7, 40.2), (20.0, 15.0, 50.0), (290.0, 190.0, 60.5)])
def test_cut_is_the_original_crop(x, y, half):
    """Against the original's way: the whole picture padded with grey, cut, resized by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), (300, 200))
    pad = int(half * 1.8)
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
    rows = slice(int(y + pad - half), int(y + pad + half * 1.8))
    columns = slice(int(x + pad - half * 1.4), int(x + pad + half * 1.4))
    expected = cv2.resize(padded[rows, columns], (224, 224))
    ours = cut(picture, x, y, half).movedim(0, -1).numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1  # a level: OpenCV's weights have 11 bits


def test_a_crop_beside_the_picture_is_grey():
    assert (cut(np.zeros((50, 50, 3), np.uint8), 500.0, 500.0, 30.0) == 110).all()


def rows(*offsets):
    keys = ("lse_d", "lse_c", "lse_d_valid", "lse_c_valid", "offset", "offset_valid")
    return [
        {key: float(i + 1) for key in keys[:4]} | dict.fromkeys(keys[4:], offset) | {"frames": 100 + i}
        for i, offset in enumerate(offsets)
    ]


def test_tracks_of_a_video_are_averaged():
    tracks = rows(3, -2)
    assert video_row(tracks, "wav2lip-real") == average(tracks) | {"offset": -2, "offset_valid": -2}
    assert video_row(rows(-3, -2), "latentsync")["offset"] == -2  # -2.5, cut
    assert average(tracks)["lse_d"] == 1.5


@pytest.fixture(scope="module")
def weights(syncnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(syncnet.network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos with spaces")
    (root / "below").mkdir()
    write_lossless(root / "a.mkv", *noise(7, seed=1))
    write_lossless(root / "below" / "b.mkv", *noise(8, seed=2))
    write_clip(root / "mute.mp4", noise()[0])
    (root / "text.mp4").write_text("no video")
    (root / "notes.txt").write_text("not looked at")
    return root


def unisync(*arguments):
    command = [sys.executable, "-m", "unisync_loss.cli", "lse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_program(folder, weights, tmp_path):
    out = [tmp_path / "out.json", tmp_path / "out.csv"]
    options = ("--weights", weights, "--variant", "wav2lip-lrs", "--json", out[0], "--csv", out[1])
    done = unisync(folder, folder / "a.mkv", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(out[0].read_text())
    assert [Path(video["video"]).name for video in report["videos"]] == ["a.mkv", "b.mkv"]
    for video in report["videos"]:
        assert {"lse_d", "lse_c", "offset", "variant"} <= set(video)
        assert video["variant"] == report["variant"] == "wav2lip-lrs"
    assert report["means"]["lse_d"] == pytest.approx(np.mean([video["lse_d"] for video in report["videos"]]))
    assert (report["n_videos"], report["n_tracks"], report["n_skipped"]) == (2, 2, 2)
    reasons = {Path(row["video"]).name: row["reason"] for row in report["skipped"]}
    assert "no audio stream" in reasons["mute.mp4"]
    assert "cannot be decoded" in reasons["text.mp4"]
    with out[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [bool(line["skipped"]) for line in lines] == [False, False, True, True]
    assert float(lines[1]["lse_c"]) == report["videos"][1]["lse_c"]
    assert "positive = audio late" in done.stdout
    assert "2 videos, 2 tracks, 2 skipped" in done.stdout


def test_means_go_over_tracks_or_videos(tmp_path, monkeypatch):
    values = {"a.mp4": rows(0, 0, 0), "b.mp4": rows(0)}
    for name in (*values, "weights"):
        (tmp_path / name).touch()

    def measured(net, path, variant, tick):
        tracks = values[path.name]
        return {"video": str(path), **video_row(tracks, variant), "tracks": tracks}

    monkeypatch.setattr(lse_video, "load_syncnet", lambda path: None)
    monkeypatch.setattr(lse_video, "measure_video", measured)
    for variant, mean in (("syncnet", 7 / 4), ("wav2lip-real", 7 / 4), ("latentsync", 3 / 2), ("wav2lip-lrs", 3 / 2)):
        assert measure_videos([tmp_path], tmp_path / "weights", variant, print)["means"]["lse_d"] == mean


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["FOLDER", "--weights", "WEIGHTS", "--variant", "lrs"], 1, "variant: expected one of syncnet, wav2lip-real"),
        (["gone.mp4", "--weights", "WEIGHTS"], 1, "no such video file or folder: gone.mp4"),
        (["FOLDER", "--weights", "gone.model"], 1, "no such weights file: gone.model"),
        (["EMPTY", "--weights", "WEIGHTS"], 1, "expected videos (.mp4"),
        (["FOLDER/text.mp4", "--weights", "WEIGHTS"], 1, "none of 1 videos could be measured"),
        (["FOLDER"], 2, "--weights"),
    ],
)
def test_exit_codes(folder, weights, tmp_path, monkeypatch, capsys, arguments, code, message):
    places = {"FOLDER": folder, "WEIGHTS": weights, "EMPTY": tmp_path, "FOLDER/text.mp4": folder / "text.mp4"}
    monkeypatch.setattr(sys, "argv", ["unisync", "lse", *(str(places.get(part, part)) for part in arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    # sys.exit prints a text and exits with 1
    said = done.value.code if code == 1 else capsys.readouterr().err
    assert message in said
    assert "\n" not in said if code == 1 else done.value.code == code
