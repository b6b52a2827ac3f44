"""Faults planted in drawn faces are found, each with its own verdict; clean clips have none."""

import numpy as np
import pytest
from helpers.small_store import write_store
from safetensors.numpy import save

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert
from unisync_loss.curation.doctor import examine, list_clip_refs
from unisync_loss.curation.measurements import FaceMeasurements
from unisync_loss.data.clips import shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import encode_frames, encode_wav, write_clip

pytest.importorskip("mediapipe")
pytest.importorskip("scipy")

NO_FACE = FaceMeasurements({"face_found": 0.0}, None)


def play(seconds):
    """Chords held for half a second each."""
    times = np.arange(int(seconds * 16000)) / 16000
    roots = np.array([220, 277, 330, 247, 294, 196])[(times * 2).astype(int) % 6]
    tones = [0.1 * np.sin(2 * np.pi * times * np.round(roots * step)) for step in (1, 1.25, 1.5, 2)]
    return np.sum(tones, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def roots(tmp_path_factory, drawn):
    top = tmp_path_factory.mktemp("doctor")
    one, two, three, four, again = drawn
    half = three.frames.repeat(2, 1).repeat(2, 2)[:, 96:288, 192:]
    faulty = {
        "train/a/one/clean": one,
        "train/a/two/clean": two,
        "train/a/late/late": shift_audio(four, -3),
        "train/a/swapped/swapped": Clip(three.frames, four.waveform),
        "train/a/swapped/back": Clip(four.frames, three.waveform),
        "train/a/silent/silent": Clip(four.frames, np.zeros_like(four.waveform)),
        "train/a/half/half": Clip(half, three.waveform),
        "train/a/bgr/bgr": Clip(four.frames[..., ::-1], four.waveform),
        "train/a/static/static": Clip(three.frames[:1].repeat(75, 0), three.waveform),
        "train/a/music/music": Clip(three.frames, play(3)),
        "val/a/other/face": again,
    }
    for name, clip in faulty.items():
        path = top / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, np.ascontiguousarray(clip.frames), clip.waveform)
    write_clip(top / "train/a/two/twin.mp4", two.frames[8:], 0.5 * two.waveform[8 * 640 :], crf=30)
    (top / "train/a/rate").mkdir()
    write_clip(top / "train/a/rate/rate.mp4", three.frames, three.waveform, fps=30)
    write_clip(top / "train/a/rate/tiny.mp4", one.frames[:30, :8, :8], one.waveform[: 30 * 640])
    (top / "val/a/two").mkdir()
    (top / "val/a/two/broken.mp4").write_bytes(b"no video")
    return top / "train", top / "val"


@pytest.fixture(scope="module")
def report(roots):
    return examine(list_clip_refs(roots), load_expert("mel-rgb"))


def verdicts_of(report, name):
    return {row["verdict"] for row in report["problems"] if row["clip"].endswith(name)}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("rate.mp4", "lengths differ"),
        ("late.mp4", "out of sync"),
        ("swapped.mp4", "sound of another clip"),
        ("back.mp4", "sound of another clip"),
        ("silent.mp4", "silent"),
        ("twin.mp4", "duplicate"),
        ("a/two", "speaker in two splits"),
        ("half.mp4", "no whole face"),
        ("bgr.mp4", "red and blue swapped"),
        ("static.mp4", "static picture"),
        ("music.mp4", "music"),
        ("face.mp4", "same face in two splits"),
        ("broken.mp4", "unreadable"),
        ("tiny.mp4", "unreadable"),
    ],
)
def test_a_planted_fault_is_found(report, name, verdict):
    assert verdict in verdicts_of(report, name)


def test_clean_clips_have_no_problem(report):
    assert verdicts_of(report, "clean.mp4") == set()


def test_the_facts(report):
    facts = {row["clip"].rsplit("/", 1)[1]: row for row in report["clips"]}
    clean, late = facts["clean.mp4"], facts["late.mp4"]
    assert (clean["fps"], clean["sample_rate"], clean["width"], clean["frames"]) == (25, 16000, 192, 75)
    assert late["offset_frames"] == pytest.approx(3, abs=0.8)
    assert late["offset_ms"] == pytest.approx(40 * late["offset_frames"], abs=1)
    assert facts["silent.mp4"]["level"] < 1e-3
    (rate,) = (row for row in report["problems"] if row["verdict"] == "lengths differ")
    assert "tagged 30 fps, would fit at 25" in rate["detail"]
    train = next(split for name, split in report["splits"].items() if name.endswith("train"))
    assert train["clips"] == 13
    assert train["fps"] == {"25": 12, "30": 1}
    assert train["minutes"] == pytest.approx(12 * 3 / 60, abs=0.03)
    assert train["speaker_clips"]["a/two"] == 2


def test_a_store_knows_splits_and_sources(tmp_path, drawn):
    clips = [
        (
            {"key": f"a/{split}/0", "frames": 30, "source": "talk.mov", "split": split, "crop_pixels": 80.5},
            {"mp4": encode_frames(clip.frames[:30]), "wav": encode_wav(clip.waveform[: 30 * 640])},
        )
        for split, clip in (("train", drawn[0]), ("val", drawn[1]))
    ]
    file = {"fps": 12.0, "sample_rate": 48000}
    root = write_store(tmp_path / "store", clips, source="talk.mov", file=file)
    found = examine(list_clip_refs([root]), load_expert("mel-rgb"))
    assert found["verdicts"] == {"low frame rate": 2, "source in two splits": 1}
    assert set(found["splits"]) == {"train", "val"}
    assert [row["crop_pixels"] for row in found["clips"]] == [80.5, 80.5]


def test_offsets_of_align_are_honoured(tmp_path, drawn):
    path = tmp_path / "data/a/one/late.mp4"
    path.parent.mkdir(parents=True)
    write_clip(path, *shift_audio(drawn[0], -3))
    (tmp_path / "data/offsets.csv").write_text("clip,offset_frames\na/one/late.mp4,3\n")
    assert examine(list_clip_refs([tmp_path / "data"]), load_expert("mel-rgb"))["problems"] == []


def test_a_stored_mesh_is_read_from_where_the_corrected_audio_begins(tmp_path, drawn, monkeypatch):
    mesh = np.stack([np.full((468, 3), number / 30, np.float16) for number in range(30)])
    parts = {
        "mp4": encode_frames(drawn[0].frames[:30]),
        "wav": encode_wav(drawn[0].waveform[: 30 * 640]),
        "safetensors": save({"mesh": mesh}),
    }
    root = write_store(tmp_path / "store", [({"key": "a/b/0", "frames": 30, "source": "x"}, parts)], source="x")
    (root / "offsets.csv").write_text("clip,offset_frames\na/b/0.mp4,-2.5\n")
    shown = []
    monkeypatch.setattr("unisync_loss.curation.doctor.measure_face", lambda *each: shown.append(each) or NO_FACE)
    monkeypatch.setattr("unisync_loss.curation.doctor.face_mesh", None)  # nothing is measured again
    examine(list_clip_refs([root]), load_expert("mel-rgb"))
    ((frames, read),) = shown
    assert frames.shape[0] == len(read) == 14  # every second of the 27 frames that have audio
    assert read[:, 0, 0] * 30 == pytest.approx(np.arange(3, 30, 2), abs=0.05)


def test_experts_on_other_representations_are_accepted_or_refused_before_any_work(tmp_path, drawn):
    path = tmp_path / "data/a/one/clip.mp4"
    path.parent.mkdir(parents=True)
    write_clip(path, *drawn[0])
    refs = list_clip_refs([tmp_path / "data"])
    row = examine(refs, load_expert("mel-landmarks"))["clips"][0]
    assert abs(row["offset_frames"]) < 15
    other = UniSyncExpert(UniSyncConfig(visual="3dmm", visual_features=64, embedding=8))
    with pytest.raises(ValueError, match="coefficients"):
        examine(refs, other)
