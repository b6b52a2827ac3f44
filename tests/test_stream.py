import numpy as np
import pytest
from test_media import clicks, film, mux, onsets

from unisync_loss.media import read_clip, write_clip
from unisync_loss.stream import count_frames, read_samples, stream_frames


@pytest.mark.parametrize("fps", [25, 30, 50, 15])
def test_frames_and_sound_are_those_of_read_clip(tmp_path, fps):
    mux(tmp_path / "a.mkv", film(2 * fps), clicks(2), fps=fps)
    clip = read_clip(tmp_path / "a.mkv")
    frames = list(stream_frames(tmp_path / "a.mkv"))
    assert np.array_equal(np.stack(frames), clip.frames)
    samples = read_samples(tmp_path / "a.mkv")[: len(clip.waveform)]
    assert np.abs(samples / 32768 - clip.waveform[: len(samples)]).max() < 1e-4
    assert abs(count_frames(tmp_path / "a.mkv") - len(frames)) <= 1


@pytest.mark.parametrize("start", [0.176, 0.4])
def test_late_audio_is_put_where_its_time_stamps_say(tmp_path, start):
    mux(tmp_path / "a.mkv", film(), clicks(1.5), audio_start=start)
    assert onsets(read_samples(tmp_path / "a.mkv") / 32768) == pytest.approx([0.5 + start, 1.2 + start], abs=0.003)


def test_pictures_are_shrunk(tmp_path):
    write_clip(tmp_path / "a.mp4", np.repeat(film(3), 2, axis=2), clicks(1))
    assert next(stream_frames(tmp_path / "a.mp4", longest=32)).shape == (16, 32, 3)
    assert next(stream_frames(tmp_path / "a.mp4", longest=999)).shape == (64, 128, 3)


@pytest.mark.parametrize("read", [lambda path: next(stream_frames(path)), read_samples, count_frames])
def test_damaged_and_missing(tmp_path, read):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text.mp4: cannot be decoded"):
        read(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match=r"gone.mp4"):
        read(tmp_path / "gone.mp4")


def test_no_sound(tmp_path):
    write_clip(tmp_path / "mute.mp4", film(3))
    with pytest.raises(ValueError, match=r"mute.mp4: .*no audio stream"):
        read_samples(tmp_path / "mute.mp4")
