import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.small_store import write_feature_store

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import (
    check_visual,
    clip_features,
    clip_mesh,
    frames_with_audio,
    list_clips,
    load_clip,
    shift_audio,
    stored_mesh,
    visual_of_clip,
)
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


@pytest.mark.parametrize("name", ["./a/ann/1.mp4", "a\\ann\\1.mp4", "/data/a/ann/1.mp4", "a/ann/1", "a/ann/9.mp4"])
def test_a_line_of_offsets_that_names_no_clip_is_refused(root, name):
    (root / "offsets.csv").write_text(f"clip,offset_frames\nb/bob/3.mp4,1\n{name},\n")
    with pytest.raises(ValueError, match=f"got 1 of other files, such as {re.escape(repr(name))}"):
        list_clips(root)
    assert len(list_clips(root, ignore_offsets=True)) == 3


def test_a_byte_order_mark_is_no_part_of_a_column(root):
    (root / "offsets.csv").write_text("\ufeffclip,offset_frames\nb/bob/3.mp4,1\n", encoding="utf-8")
    assert [entry.offset for entry in list_clips(root)] == [0, 0, 1]


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


CLIP = Clip(np.full((20, 192, 192, 3), 90, np.uint8), np.zeros(20 * 640, np.float32))
COEFFICIENTS = UniSyncConfig(visual="3dmm", visual_features=64)


def entry_with(tmp_path, **features):
    """The one clip of a store with these arrays, (T, …) each, made from the number of frames."""
    made = {name: lambda _, frames, make=make: make(frames) for name, make in features.items()}
    return list_clips(write_feature_store(tmp_path / "store", {"c/s/a": CLIP}, **made))[0]


class TestMesh:
    def test_a_stored_mesh_is_read_and_not_measured_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr("unisync_loss.data.clips.face_mesh", None)

        def mesh(frames):
            points = np.full((frames, 468, 3), 0.25, np.float16)
            points[3:] = 0.5
            points[5] = np.nan
            return points

        entry = entry_with(tmp_path, mesh=mesh)
        assert np.isnan(stored_mesh(entry)[:, 0, 0]).nonzero()[0].tolist() == [5]
        filled = clip_mesh(entry)
        assert (filled.shape, filled.dtype) == ((20, 468, 3), np.float32)
        assert filled[2:7, 9, 2].tolist() == [0.25, 0.5, 0.5, 0.5, 0.5]
        config = UniSyncConfig(visual="landmarks", visual_features=136)
        early = replace(entry, offset=-2.5)  # three frames without audio are cut off at the beginning
        made = visual_of_clip(config, early, load_clip(early))
        assert made.shape == (1, 17, 68, 2)
        assert set(made.flatten().tolist()) == {96.0}

    @pytest.mark.parametrize("features", [{}, {"landmarks": lambda frames: np.zeros((frames, 468, 2), np.float16)}])
    def test_else_it_is_measured(self, tmp_path, monkeypatch, features):
        measured = []

        def measure(frames, *, depth):
            measured.append(frames.shape)
            return np.full((len(frames), 468, 3), 0.5 if len(measured) == 1 else np.nan, np.float32)

        monkeypatch.setattr("unisync_loss.data.clips.face_mesh", measure)
        entry = entry_with(tmp_path, **features)
        assert stored_mesh(entry) is None
        assert (clip_mesh(entry) == 0.5).all()
        with pytest.raises(ValueError, match=r"c/s/a.mp4: expected a face in every frame, found one in 0 of 20"):
            clip_mesh(entry)
        assert measured == [(20, 192, 192, 3)] * 2


class TestFeatures:
    def test_coefficients(self, tmp_path):
        entry = entry_with(tmp_path, **{"3dmm": lambda frames: np.arange(frames * 64.0).reshape(frames, 64)})
        stored = clip_features(entry, "3dmm")
        assert (stored.shape, stored.dtype) == ((20, 64), np.float32)
        assert clip_features(entry, "parsing") is clip_features(entry, "rgb") is None
        check_visual(COEFFICIENTS, [entry])
        late = replace(entry, offset=-2.0)
        assert np.array_equal(visual_of_clip(COEFFICIENTS, late, load_clip(late))[0].numpy(), stored[2:])
        with pytest.raises(ValueError, match=r"c/s/a.mp4: 3dmm: expected 50 coefficients, got 64"):
            visual_of_clip(replace(COEFFICIENTS, visual_features=50), entry, CLIP)

    @pytest.mark.parametrize(
        ("make", "dtype"),
        [
            (lambda frames: np.ones((frames, 16, 16), np.int64), np.uint8),
            (lambda frames: np.full((frames, 6, 16, 16), 1 / 6, np.float16), np.float32),
        ],
    )
    def test_parsing_maps(self, tmp_path, make, dtype):
        entry = entry_with(tmp_path, parsing=make)
        assert clip_features(entry, "parsing").dtype == dtype
        assert visual_of_clip(UniSyncConfig(visual="parsing"), entry, CLIP).shape == (1, *make(20).shape)

    @pytest.mark.parametrize(
        ("visual", "array", "message"),
        [
            ("3dmm", np.zeros((20, 64), np.int32), r"3dmm: expected \(20, E\) floating point, got \(20, 64\) int32"),
            ("3dmm", np.zeros((19, 64)), r"3dmm: expected \(20, E\) floating point, got \(19, 64\) float64"),
            ("3dmm", np.full((20, 64), np.nan), "3dmm: expected finite numbers"),
            ("parsing", np.full((20, 16, 16), 256), r"parsing: expected labels in \[0, 6\), got 256 … 256; mouth"),
            ("parsing", np.zeros((20, 19, 16, 16)), r"parsing: expected .*\(20, 6, H, W\) .*, got \(20, 19, 16, 16\)"),
            ("parsing", np.zeros((20, 64)), r"parsing: expected \(20, H, W\) .* or \(20, 6, H, W\) .*, got \(20, 64\)"),
        ],
    )
    def test_wrong_arrays_name_the_clip(self, tmp_path, visual, array, message):
        entry = entry_with(tmp_path, **{visual: lambda frames: array})
        with pytest.raises(ValueError, match=rf"c/s/a.mp4: {message}"):
            clip_features(entry, visual)

    def test_an_expert_without_its_features(self, root):
        entries = list_clips(root)
        assert clip_features(entries[0], "3dmm") is None
        with pytest.raises(ValueError, match=r"got an expert on 64 of another face model: .* prepare --features"):
            check_visual(COEFFICIENTS, entries)
