"""Reading here and in another process gives the same."""

import numpy as np
import pytest
from helpers.media import clicks, film, mux
from helpers.scoring import whole

from unisync_loss.utils.process_pool import iterate
from unisync_loss.video.clip import every_frame, read_clip
from unisync_loss.video.decoding import open_media, stream_frames
from unisync_loss.video.face_tracking import TrackEnd, TrackPiece
from unisync_loss.video.reading import read_clip_isolated, read_faces, read_frames, read_sound


@pytest.fixture
def path(tmp_path):
    mux(tmp_path / "a.mkv", film(60, size=128), clicks(3))
    return tmp_path / "a.mkv"


@pytest.mark.parametrize("isolated", [False, True])
def test_faces_are_those_of_the_video(path, isolated):
    first, *found, last = iterate(read_faces, path, whole, isolated=isolated)
    assert (first.event.facts.width, first.event.facts.zero) == (128, 0)
    pieces = [each.event for each in found if isinstance(each.event, TrackPiece)]
    crops = np.concatenate([piece.crops for piece in pieces])
    assert np.abs(crops.mean((1, 2, 3)) - film(60).mean((1, 2, 3))).max() < 2
    assert [each.event.frames for each in found if isinstance(each.event, TrackEnd)] == [60]
    assert last == (60, None)


@pytest.mark.parametrize("isolated", [False, True])
def test_sound_comes_in_blocks_of_a_second(path, isolated):
    blocks = list(iterate(read_sound, path, isolated=isolated))
    assert [block.size // 1000 for block in blocks] == [16, 16, 15]
    assert np.array_equal(np.concatenate(blocks)[: 60 * 640], read_clip(path).waveform)


def test_frames(path):
    with open_media(path) as container:
        expected = list(every_frame(stream_frames(container)))
    assert np.array_equal(list(iterate(read_frames, path, isolated=True)), expected)


def test_a_clip_is_the_same_however_many_messages_it_takes(path, monkeypatch):
    monkeypatch.setattr("unisync_loss.video.reading._PART", 5 * 128 * 128 * 3)
    clip, here = read_clip_isolated(read_clip, path), read_clip(path)
    assert np.array_equal(clip.frames, here.frames)
    assert np.array_equal(clip.waveform, here.waveform)
    with pytest.raises(FileNotFoundError, match="no such video file"):
        read_clip_isolated(read_clip, path.with_name("gone.mkv"))
