"""Time stamps rule: holes, seeks, rotation and size, on files made for it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.media import clicks, film, mux, onsets

from unisync_loss.video.clip import read_clip
from unisync_loss.video.decoding import AudioReader, open_media, read_facts, stream_frames


def write(path, stamps, *, hole=None, size=(64, 48), sound_start=0.0, codec="libx264", audio="pcm_s16le", seconds=3.0):
    """Frame k shows level 40 + 3 k at stamps[k] s; the sound leaves out the samples of ``hole``, stamps and all."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=Fraction(1000), options={"g": "30"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream(audio, rate=16000, layout="mono")
        for index, stamp in enumerate(stamps):
            picture = np.full((size[1], size[0], 3), 40 + 3 * (index % 60), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * stamp), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = (clicks(seconds) * 32767).astype(np.int16)
        for start in range(0, samples.size, 800):
            if hole and hole[0] <= start / 16000 < hole[1]:
                continue
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 800], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = (
                16000,
                Fraction(1, 16000),
                start + round(16000 * sound_start),
            )
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def levels(frames):
    return (frames.mean((1, 2, 3)) - 40) / 3


def test_sound_with_a_hole_keeps_its_time(tmp_path):
    write(tmp_path / "a.mkv", np.arange(75) / 25, hole=(0.6, 1.0))
    assert onsets(read_clip(tmp_path / "a.mkv").waveform) == pytest.approx([0.5, 1.2], abs=0.002)


def test_variable_frame_rate_shows_each_picture_in_its_time(tmp_path):
    stamps = np.cumsum(np.r_[0, np.random.default_rng(0).choice([0.017, 0.033, 0.05, 0.12], 50)])
    write(tmp_path / "a.mkv", stamps)
    shown = levels(read_clip(tmp_path / "a.mkv").frames)
    expected = [np.flatnonzero(stamps <= tick / 25 + 1e-3)[-1] for tick in range(len(shown))]
    assert np.abs(shown - expected).max() < 0.5
    assert len(shown) == pytest.approx(25 * stamps[-1], abs=2)


def test_a_long_hole_gives_no_pictures_and_no_memory(tmp_path):
    stamps = np.r_[np.arange(25) / 25, 5000 + np.arange(25) / 25]
    write(tmp_path / "a.mkv", stamps)
    with open_media(tmp_path / "a.mkv") as container:
        ticks = [picture.tick for picture in stream_frames(container)]
    assert ticks[:25] == list(range(25))
    assert ticks[-25:] == list(range(125000, 125025))
    assert len(ticks) < 80


def test_rotated_pictures_are_turned_upright(tmp_path):
    write(tmp_path / "a.mkv", np.arange(5) / 25)
    with open_media(tmp_path / "a.mkv") as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
    assert frame.rotation == 0
    from unisync_loss.video.decoding import upright

    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert upright(picture, 90)[:, :, 0].tolist() == [[2, 5], [1, 4], [0, 3]]


def test_large_pictures_are_shrunk(tmp_path):
    write(tmp_path / "a.mkv", np.arange(5) / 25, size=(128, 96))
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


def test_sound_is_read_by_time_and_let_go():
    blocks = (np.full(16000, second, np.float32) for second in range(200))
    sound = AudioReader(blocks)
    assert sound.read(24000, 40000).tolist() == [1.0] * 8000 + [2.0] * 8000
    assert set(sound.read(150 * 16000, 151 * 16000)) == {150.0}
    assert len(sound._held) < 70
    assert sound.read(199 * 16000, 300 * 16000).size == 16000
