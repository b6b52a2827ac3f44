import json
import threading
import time

import numpy as np
import pytest
import torch
from helpers.lse_videos import noise, still, write_lossless
from helpers.media import clicks, film, mux, onsets
from helpers.paths import SHARED

from unisync_loss.lse import procedures, reading
from unisync_loss.lse.crops import (
    FaceTrack,
    crop_boxes,
    crop_face,
    resize_frame,
)
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.procedures import measure_video, measure_videos, video_row
from unisync_loss.lse.results import average
from unisync_loss.utils.files import ASSETS
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip


def test_a_file_equals_the_original(golden, golden_syncnet, tmp_path):
    write_lossless(tmp_path / "a.mkv", golden["frames_bgr"][..., ::-1], golden["wav"])
    theirs = json.loads((SHARED / "golden" / "syncnet_golden.json").read_text())["wav2lip_scores"]
    row = measure_video(golden_syncnet, tmp_path / "a.mkv", "wav2lip-lrs")
    assert row["lse_d"] == pytest.approx(theirs["min_distance"], rel=1e-4)
    assert row["lse_c"] == pytest.approx(theirs["confidence"], rel=1e-4)
    assert row["offset"] == -theirs["offset"]


def test_a_file_equals_its_frames(quick, tmp_path):
    pictures, samples = noise()
    write_lossless(tmp_path / "a.mkv", pictures, samples)
    meter = LseMeter(quick, samples)
    for picture in pictures:
        meter.add(resize_frame(picture))
    row = measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    for edge, suffix in (("legacy", ""), ("valid", "_valid")):
        expected = summarise(meter.distances(edge))
        assert (row[f"lse_d{suffix}"], row[f"offset{suffix}"]) == (pytest.approx(expected.lse_d), expected.offset)
    assert row["tracks"][0]["frames"] == 12


@pytest.mark.parametrize(("fps", "start"), [(25, 0.0), (30, 0.0), (15, 0.176), (50, 0.4)])
def test_frames_and_sound_are_those_of_read_clip(quick, tmp_path, monkeypatch, fps, start):
    """Any rate to 25 fps; sound that starts late stays late."""
    mux(tmp_path / "a.mkv", film(2 * fps), clicks(2), fps=fps, audio_start=start)
    samples_read, shown = [], []

    class Meter(LseMeter):
        def __init__(self, net, samples):
            super().__init__(net, samples)
            samples_read.append(samples / 32768)

        def add(self, frame):
            shown.append(frame)
            super().add(frame)

    monkeypatch.setattr(procedures, "LseMeter", Meter)
    measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    clip = read_clip(tmp_path / "a.mkv")
    assert torch.equal(torch.stack(shown), torch.stack([resize_frame(frame) for frame in clip.frames]))
    samples = samples_read[0][: len(clip.waveform)]
    assert np.abs(samples - clip.waveform[: len(samples)]).max() < 1e-4
    assert onsets(samples) == pytest.approx([0.5 + start, 1.2 + start], abs=0.003)


def test_a_face_is_tracked(quick, tmp_path):
    pytest.importorskip("mediapipe")
    clip = read_clip(ASSETS / "demo.mp4", max_frames=55)
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
    monkeypatch.setattr(reading, "shared_finder", lambda: None)
    monkeypatch.setattr(reading, "find_tracks", lambda frames, finder: tracks)
    monkeypatch.setattr(reading, "keep_tracks", lambda found, min_frames: found)
    row = measure_video(quick, tmp_path / "a.mkv", "syncnet")
    assert [track["start"] for track in row["tracks"]] == [0, 0.2, 0.8]
    for (first, end), track, result in zip(spans, tracks, row["tracks"], strict=True):
        meter = LseMeter(quick, samples[first * 640 : end * 640])
        for picture, box in zip(pictures[first:end], crop_boxes(track), strict=True):
            meter.add(crop_face(picture, box))
        assert result["lse_d"] == pytest.approx(summarise(meter.distances()).lse_d, rel=1e-6)


def test_decoding_runs_beside_the_network_and_ends_with_it(quick, tmp_path, monkeypatch):
    """The frames after the one that is looked at are there already; an error there leaves no thread behind."""
    write_lossless(tmp_path / "a.mkv", *noise())
    decoded, looked_at = [], []
    every = reading.every_frame

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

    monkeypatch.setattr(reading, "every_frame", watched)
    monkeypatch.setattr(procedures, "LseMeter", Meter)
    with pytest.raises(ValueError, match="enough"):
        measure_video(quick, tmp_path / "a.mkv", "wav2lip-lrs")
    assert all(count > number for number, count in enumerate(looked_at, 1))
    assert threading.main_thread() not in decoded
    assert not any(thread.is_alive() for thread in decoded)


def rows(*offsets):
    keys = ("lse_d", "lse_c", "lse_d_valid", "lse_c_valid", "offset", "offset_valid")
    return [
        {key: float(i + 1) for key in keys[:4]} | dict.fromkeys(keys[4:], offset) | {"frames": 100 + i}
        for i, offset in enumerate(offsets)
    ]


def test_tracks_of_a_video_are_averaged():
    tracks = rows(3, -2)
    assert video_row("a", tracks, "wav2lip-real") == average(tracks) | {
        "video": "a",
        "variant": "wav2lip-real",
        "offset": -2,
        "offset_valid": -2,
        "notes": [],
        "tracks": tracks,
    }
    assert video_row("a", rows(-3, -2), "latentsync")["offset"] == -2  # -2.5, cut
    assert average(tracks)["lse_d"] == 1.5


def test_means_go_over_tracks_or_videos(tmp_path, monkeypatch):
    values = {"a.mp4": rows(0, 0, 0), "b.mp4": rows(0)}
    for name in (*values, "weights"):
        (tmp_path / name).touch()

    def measured(net, path, variant, tick, audio, isolated):
        return video_row(str(path), values[path.name], variant)

    monkeypatch.setattr(procedures, "load_syncnet", lambda path: None)
    monkeypatch.setattr(procedures, "measure_video", measured)
    for variant, mean in (("syncnet", 7 / 4), ("wav2lip-real", 7 / 4), ("latentsync", 3 / 2), ("wav2lip-lrs", 3 / 2)):
        assert measure_videos([tmp_path], tmp_path / "weights", variant, print)["means"]["lse_d"] == mean


def test_the_voice_of_another_file_and_remarks_on_the_sound(quick, tmp_path, monkeypatch):
    frames, samples = noise(40)
    write_lossless(tmp_path / "a.mkv", frames, samples)
    write_lossless(tmp_path / "other.mkv", frames, noise(40, seed=7)[1])
    write_lossless(tmp_path / "short.mkv", frames, samples[: 20 * 640])
    monkeypatch.setattr(procedures, "load_syncnet", lambda path: quick)
    (tmp_path / "weights").touch()

    def measured(video, audio=None):
        report = measure_videos([tmp_path / video], tmp_path / "weights", "wav2lip-lrs", print, audio=audio)
        return report["videos"][0]

    own, other = measured("a.mkv"), measured("other.mkv")
    given = measured("other.mkv", tmp_path / "a.mkv")
    assert given["lse_d"] == pytest.approx(own["lse_d"], rel=1e-6)
    assert given["lse_d"] != pytest.approx(other["lse_d"], rel=1e-3)
    assert own["notes"] == []
    assert measured("short.mkv")["notes"] == ["the audio ends at 0.8 of 1.6 s: the rest is not measured"]
    with pytest.raises(ValueError, match="audio: expected one video, got 3"):
        measure_videos([tmp_path], tmp_path / "weights", "wav2lip-lrs", print, audio=tmp_path / "a.mkv")
    with pytest.raises(FileNotFoundError, match="no such audio file"):
        measured("a.mkv", tmp_path / "gone.wav")
