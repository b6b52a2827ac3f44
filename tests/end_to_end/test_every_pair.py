"""`unisync score`, `unisync eval` and the studies with experts of every pair: random weights, small random encoders."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from einops import rearrange
from helpers.paths import ROOT
from helpers.visuals import visual_of_frames
from typer.testing import CliRunner

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import app
from unisync_loss.data import clips
from unisync_loss.data.clips import list_clips
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation import video_scores as score
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.evaluation.video_scores import score_video
from unisync_loss.evaluation.video_summary import summarise_video
from unisync_loss.functional import offset_matrix
from unisync_loss.representations.audio_encoder import AudioEncoder
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip
from unisync_loss.video.face_mesh import face_mesh
from unisync_loss.video.face_tracking import TrackPiece, track_faces

sys.path.insert(0, str(ROOT / "benchmarks"))
import generated
import shift_study

pytest.importorskip("av")
pytest.importorskip("mediapipe")

VISUALS = {"rgb": 0, "parsing": 0, "landmarks": 136, "3dmm": 40}
PAIRS = [(audio, visual) for audio in ("mel", "hubert", "whisper") for visual in VISUALS]


def whole(frame, number):
    """A face that fills the frame."""
    height, width = frame.shape[:2]
    return np.array([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]], np.float32)


@pytest.fixture(scope="module")
def build(audio_models):
    def made(audio, visual):
        sizes = {"visual_features": VISUALS[visual], "embedding": 8}
        config = UniSyncConfig(audio=audio, visual=visual, **sizes, **audio_models[audio])
        torch.manual_seed(3)
        return UniSyncExpert(config).eval()

    return made


@pytest.fixture(scope="module")
def face():
    return read_clip(DEFAULT_CLIP, max_frames=110)


@pytest.fixture(scope="module")
def film(face, tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "face.mp4"
    write_clip(path, face.frames, face.waveform, crf=10)
    return path


@pytest.fixture(scope="module")
def short_film(face, tmp_path_factory):
    """Long enough for two batches of frames."""
    path = tmp_path_factory.mktemp("short") / "face.mp4"
    write_clip(path, face.frames[:70], face.waveform[: 70 * 640], crf=10)
    return path


@pytest.fixture(scope="module")
def meshes():
    """Face mesh of clips, measured once for all pairs."""
    known = {}

    def measure(frames, **options):
        key = hash((frames.tobytes(), *options.items()))
        if key not in known:
            known[key] = face_mesh(frames, **options)
        return known[key].copy()

    return measure


@pytest.fixture(scope="module")
def mixed(folder, tmp_path_factory):
    """Two clips with a face, one without, one that is none."""
    root = tmp_path_factory.mktemp("mixed")
    drawn = list_clips(folder)
    for number, entry in enumerate(drawn[::3]):
        target = root / "drawn" / f"s{number}" / "face.mp4"
        target.parent.mkdir(parents=True)
        shutil.copy(entry.path, target)
    clip = read_clip(drawn[0].path)
    write_clip(root / "drawn" / "s0" / "grey.mp4", np.full_like(clip.frames, 128), clip.waveform)
    (root / "drawn" / "s1" / "text.mp4").write_text("no video")
    return root


def unisync(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("audio", "visual"), PAIRS)
def test_score_and_eval(audio, visual, build, short_film, mixed, meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "face_mesh", meshes)
    save_pretrained(build(audio, visual), tmp_path / "expert")
    done = unisync("score", short_film, "--model", tmp_path / "expert", "--json", tmp_path / "score.json")
    assert done.exit_code == 0, done.output
    (video,) = json.loads((tmp_path / "score.json").read_text())["videos"]
    (track,) = video["tracks"]
    assert len(track["probability"]) == 66
    assert sum(value is not None for value in track["probability"]) > 50
    done = unisync("eval", "--data", mixed, "--model", tmp_path / "expert", "--json", tmp_path / "eval.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "eval.json").read_text())
    named = {row["clip"]: row["reason"] for row in report["left_out"]}
    faceless = set() if visual == "rgb" else {"drawn/s0/grey.mp4"}
    assert set(named) == {"drawn/s1/text.mp4"} | faceless
    assert "cannot be decoded" in named["drawn/s1/text.mp4"]
    assert report["clips"] == 4 - len(named)
    assert f"({len(named)} more skipped)" in done.output
    assert all(f"skipped {name}: " in done.output for name in named)


@pytest.mark.parametrize("visual", ["parsing", "landmarks", "3dmm"])
def test_streaming_equals_all_at_once(visual, build, film):
    """Meshes are followed from piece to piece, not found anew, and kept: a face's mean is that of two pieces."""
    expert = build("mel", visual)
    (track,) = score_video(film, [expert], finder=whole).tracks
    clip = read_clip(film)
    crops = np.concatenate([p.crops for p in track_faces(iter(clip.frames), whole) if isinstance(p, TrackPiece)])
    with torch.inference_mode():
        video = visual_of_frames(expert.config, crops)
        first, whole_film = expert.encode_visual(video[:, :64]), expert.encode_visual(video)
        visual_embedding = torch.cat([first, whole_film[:, first.shape[1] :]], 1)
        audio_embedding = expert.encode_audio(torch.from_numpy(clip.waveform)[None], len(crops))
    expected = offset_matrix(audio_embedding, visual_embedding, 15)[0].numpy()
    both = ~np.isnan(expected) & ~np.isnan(track.table)
    assert both[15:-15].mean() > 0.95
    assert np.abs(track.table - expected)[both].max() < 1e-4
    assert np.nanstd(expected) > 1e-3


@pytest.mark.parametrize("audio", ["mel", "hubert", "whisper"])
def test_long_audio_is_encoded_as_by_the_encoder(audio, build, film, monkeypatch):
    """Segments of 2 s in place of 20 s; windows across a seam differ, because either side has another context."""
    monkeypatch.setattr(AudioEncoder, "segment", 100)
    monkeypatch.setattr(score, "_CHUNK", 50)
    expert, clip = build(audio, "rgb"), read_clip(film)
    if audio != "mel":
        monkeypatch.setattr(expert.audio_input.encoder_type, "context", 21)  # no whole number of frames
    (track,) = score_video(film, [expert], finder=whole).tracks
    crops = np.concatenate([p.crops for p in track_faces(iter(clip.frames), whole) if isinstance(p, TrackPiece)])
    with torch.inference_mode():
        visual_embedding = expert.encode_visual(
            rearrange(torch.from_numpy(crops), "t h w c -> 1 t c h w").float() / 255
        )
        audio_embedding = expert.encode_audio(torch.from_numpy(clip.waveform)[None], len(crops))
    expected = offset_matrix(audio_embedding, visual_embedding, 15)[0].numpy()
    window = np.arange(106)[:, None] + np.arange(-15, 16)
    seam = (window % 50 >= 46) & (audio != "mel")
    assert np.array_equal(np.isnan(track.table), np.isnan(expected))
    assert np.abs(track.table - expected)[~np.isnan(expected) & ~seam].max() < 1e-3
    assert np.nanstd(expected) > 1e-3


def test_frames_without_a_mesh_are_not_scored(build, film, monkeypatch):
    """One lost frame costs the five windows that hold it; a face that is lost for good is named."""
    lost = [70]

    class Finder(score.MeshFinder):
        count = 0

        def __call__(self, frames):
            mesh = super().__call__(frames)
            for index in range(len(frames)):
                if self.count + index in lost:
                    mesh[index] = np.nan
            self.count += len(frames)
            return mesh

    expert = build("mel", "landmarks")
    (full,) = score_video(film, [expert], finder=whole).tracks
    monkeypatch.setattr(score, "MeshFinder", Finder)
    (track,) = score_video(film, [expert], finder=whole).tracks
    gone = np.isnan(track.table).all(1)
    assert np.flatnonzero(gone).tolist() == [66, 67, 68, 69, 70]
    # the lost frame is missing in the face's mean, too, one of 64
    assert np.allclose(track.table[~gone], full.table[~gone], atol=2e-2, equal_nan=True)
    judged = summarise_video("a", score.VideoScores([track], [], 4.4, []), 0.5)
    assert judged["tracks"][0]["probability"][66:71] == [None] * 5
    lost = range(110)
    with pytest.raises(ValueError, match=r"found none \(a face whose landmarks could not be found\)"):
        score_video(film, [expert], finder=whole)


def test_only_faces_that_are_drawn_keep_their_pictures(build, face, tmp_path):
    """However many cuts: here six scenes."""
    scenes = [255 - face.frames[:32] if number % 2 else face.frames[:32] for number in range(6)]
    write_clip(tmp_path / "a.mp4", np.concatenate(scenes), np.tile(face.waveform[: 32 * 640], 6))
    tracks = score_video(tmp_path / "a.mp4", [build("mel", "rgb")], finder=whole).tracks
    assert [bool(track.mouths) for track in tracks] == [True] * 4 + [False] * 2


def test_a_folder_without_a_clip_to_embed(build, mixed, tmp_path):
    shutil.copytree(mixed / "drawn" / "s1", tmp_path / "data" / "drawn" / "s1")
    (tmp_path / "data" / "drawn" / "s1" / "face.mp4").unlink()
    save_pretrained(build("mel", "rgb"), tmp_path / "expert")
    done = unisync("eval", "--data", tmp_path / "data", "--model", tmp_path / "expert")
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith("none of 1 clips could be embedded: drawn/s1/text.mp4: cannot be decoded")


@pytest.mark.parametrize(("audio", "kind"), [("hubert", "HuBERT"), ("whisper", "Whisper")])
def test_an_audio_model_that_is_not_here_is_no_fault_of_the_clips(audio, kind, build, mixed):
    expert = build(audio, "rgb")
    gone = UniSyncExpert(UniSyncConfig(**{**vars(expert.config), "audio_model": "/nowhere/model"})).eval()
    left_out = {}
    with pytest.raises(ValueError, match=f"{kind} /nowhere/model"):
        list(embed_clips(gone, list_clips(mixed), skipped=left_out))


def test_the_studies(build, mixed, face, tmp_path, monkeypatch, capsys):
    save_pretrained(build("whisper", "landmarks"), tmp_path / "expert")
    for number in range(2):
        path = tmp_path / "long" / "drawn" / f"s{number}" / "a.mp4"
        path.parent.mkdir(parents=True)
        write_clip(path, face.frames[:60] if number else np.full_like(face.frames[:60], 99), face.waveform[: 60 * 640])
    common = ["--model", str(tmp_path / "expert"), "--threads", "1", "--json"]
    out = tmp_path / "shift.json"
    monkeypatch.setattr(sys, "argv", ["shift_study", "--data", str(tmp_path / "long"), *common, str(out)])
    shift_study.main()
    (row,) = json.loads(out.read_text())["experts"].values()
    assert list(row["by_clip"]) == ["drawn/s1/a.mp4"]
    assert list(row["left_out"]) == ["drawn/s0/a.mp4"]
    assert len(row["by_shift"]) == 21
    shutil.copytree(mixed / "drawn" / "s0", tmp_path / "generated" / "dinet_out")
    out = tmp_path / "generated.json"
    places = ["--generated", str(tmp_path / "generated"), "--real", str(mixed)]
    monkeypatch.setattr(sys, "argv", ["generated", *places, *common, str(out)])
    generated.main()
    report = json.loads(out.read_text())
    assert {name: row["clips"] for name, row in report["groups"].items()} == {"real, held out": 2, "dinet_out": 1}
    assert set(report["left_out"]) == {"drawn/s0/grey.mp4", "drawn/s1/text.mp4", "dinet_out/grey.mp4"}
    assert "skipped dinet_out/grey.mp4" in capsys.readouterr().out
