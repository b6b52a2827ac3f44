"""Time stamps rule: holes, seeks, rotation and size, on files made for it."""

import av
import numpy as np
import pytest
from helpers.media import clicks, film, mux, onsets, write_at

from unisync_loss.video.clip import read_clip
from unisync_loss.video.decoding import open_media, read_facts, stream_frames


def levels(frames):
    return (frames.mean((1, 2, 3)) - 40) / 3


def test_sound_with_a_hole_keeps_its_time(tmp_path):
    write_at(tmp_path / "a.mkv", np.arange(75) / 25, hole=(0.6, 1.0))
    assert onsets(read_clip(tmp_path / "a.mkv").waveform) == pytest.approx([0.5, 1.2], abs=0.002)


def test_variable_frame_rate_shows_each_picture_in_its_time(tmp_path):
    stamps = np.cumsum(np.r_[0, np.random.default_rng(0).choice([0.017, 0.033, 0.05, 0.12], 50)])
    write_at(tmp_path / "a.mkv", stamps)
    shown = levels(read_clip(tmp_path / "a.mkv").frames)
    expected = [np.flatnonzero(stamps <= tick / 25 + 1e-3)[-1] for tick in range(len(shown))]
    assert np.abs(shown - expected).max() < 0.5
    assert len(shown) == pytest.approx(25 * stamps[-1], abs=2)


def test_a_long_hole_gives_no_pictures_and_no_memory(tmp_path):
    stamps = np.r_[np.arange(25) / 25, 5000 + np.arange(25) / 25]
    write_at(tmp_path / "a.mkv", stamps)
    with open_media(tmp_path / "a.mkv") as container:
        ticks = [picture.tick for picture in stream_frames(container)]
    assert ticks[:25] == list(range(25))
    assert ticks[-25:] == list(range(125000, 125025))
    assert len(ticks) < 80


def test_rotated_pictures_are_turned_upright(tmp_path):
    write_at(tmp_path / "a.mkv", np.arange(5) / 25)
    with open_media(tmp_path / "a.mkv") as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
    assert frame.rotation == 0
    from unisync_loss.video.decoding import upright

    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert upright(picture, 90)[:, :, 0].tolist() == [[2, 5], [1, 4], [0, 3]]


def test_large_pictures_are_shrunk(tmp_path):
    write_at(tmp_path / "a.mkv", np.arange(5) / 25, size=(128, 96))
    with open_media(tmp_path / "a.mkv") as container:
        assert next(stream_frames(container, short_side=48)).frame.shape == (48, 64, 3)


def test_facts(tmp_path):
    mux(tmp_path / "a.mkv", film(), clicks(2, 44100), fps=30, sample_rate=44100)
    facts = read_facts(tmp_path / "a.mkv")
    assert (facts.width, facts.fps, facts.video_codec, facts.sample_rate, facts.channels) == (64, 30, "h264", 44100, 1)


def test_a_playlist_leads_nowhere(tmp_path):
    mux(tmp_path / "a.ts", film(), clicks(2))
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.ts\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n")
    for name in ("list.ffconcat", "list.m3u8"):
        with pytest.raises(ValueError, match=f"{name}: cannot be decoded .a playlist: give the files"):
            read_facts(tmp_path / name)


def test_time_stamps_that_no_such_file_needs_are_refused(tmp_path):
    """A few kilobytes that claim to last for days: to fill the gap with silence alone would take minutes."""
    write_at(tmp_path / "a.mkv", [0, 0.04, 0.08, 90000, 90000.04])
    with (
        open_media(tmp_path / "a.mkv") as container,
        pytest.raises(ValueError, match=r"at most 1\d{4} s in a file of \d+ bytes, got 90000 s"),
    ):
        list(stream_frames(container))


def test_titles_in_other_encodings(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.read_bytes().count(b"TITLE") == 1
    path.write_bytes(path.read_bytes().replace(b"TITLE", "Ölé 1".encode("latin-1")))
    assert read_facts(path, audio=False).width == 64
