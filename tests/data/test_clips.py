import numpy as np
import pytest

from unisync_loss.data.clips import frames_with_audio, list_clips, load_clip, shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import write_clip


@pytest.fixture
def root(tmp_path):
    for name in ("a/ann/1.mp4", "a/ann/2.mp4", "b/bob/3.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, np.full((20, 32, 32, 3), 90, np.uint8), np.linspace(-0.5, 0.5, 20 * 640, dtype=np.float32))
    return tmp_path


def test_layout(root):
    entries = list_clips(root)
    assert [entry.name for entry in entries] == ["a/ann/1.mp4", "a/ann/2.mp4", "b/bob/3.mp4"]
    assert {entry.speaker for entry in entries} == {"a/ann", "b/bob"}
    assert [entry.offset for entry in entries] == [0, 0, 0]


def test_offsets_are_honoured(root):
    (root / "offsets.csv").write_text("clip,offset_frames,confidence\na/ann/1.mp4,2.5,0.9\na/ann/2.mp4,,0.0\n")
    entries = list_clips(root)
    assert [(entry.name, entry.offset) for entry in entries] == [("a/ann/1.mp4", 2.5), ("b/bob/3.mp4", 0)]
    assert len(load_clip(entries[0]).frames) == 17


def test_languages_of_a_manifest_above(root):
    (root.parent / "manifest.csv").write_text(
        f"split,clip,language\n{root.name},b/bob/3.mp4,ar\nother,a/ann/1.mp4,en\n"
    )
    assert [entry.language for entry in list_clips(root)] == ["?", "?", "ar"]


@pytest.mark.parametrize("offset", [0, 3, -3, 2.5, -2.5, 0.25])
def test_shift_reads_the_audio_later(offset):
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    late = Clip(frames, np.arange(20 * 640, dtype=np.float32))  # the sample's number is its time
    clip = shift_audio(late, offset)
    first = int(clip.frames[0, 0, 0, 0])
    assert len(clip.waveform) == 640 * len(clip.frames)
    assert clip.waveform[0] == round((first + offset) * 640)
    assert len(clip.frames) >= 20 - abs(offset) - 1


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, (0, 10)), (2, (0, 8)), (-2, (2, 10)), (1.5, (0, 8)), (50, (0, 0))]
)
def test_frames_with_audio(offset, expected):
    assert frames_with_audio(10, offset) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,offset\n", "missing clip, offset_frames"),
        ("clip,offset_frames\na/ann/1.mp4,late\n", "expected a number of frames for a/ann/1.mp4, got 'late'"),
        ("clip,offset_frames\na/ann/1.mp4,nan\n", "finite"),
    ],
)
def test_wrong_offsets(root, text, message):
    (root / "offsets.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list_clips(root)


def test_no_clips(tmp_path):
    with pytest.raises(ValueError, match=r"expected .*<corpus>/<speaker>/<clip>.mp4, found no video file"):
        list_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        list_clips(tmp_path / "gone")


def test_too_short_after_its_offset(root):
    (root / "offsets.csv").write_text("clip,offset_frames\na/ann/1.mp4,17\n")
    with pytest.raises(ValueError, match="at least 5 frames, got 3"):
        load_clip(list_clips(root)[0])
