import numpy as np
import pytest
from helpers.media import clicks, film, mux, onsets, write_at

from unisync_loss.video.clip import every_frame, read_clip
from unisync_loss.video.decoding import TimedFrame
from unisync_loss.video.encoding import write_clip


def test_round_trip(tmp_path):
    frames, sound = film(), clicks(2)
    write_clip(tmp_path / "a.mp4", frames, sound)
    clip = read_clip(tmp_path / "a.mp4")
    assert clip.frames.shape == frames.shape
    assert clip.waveform.shape == (50 * 640,)
    assert np.abs(clip.frames.mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() < 3
    assert onsets(clip.waveform) == pytest.approx([0.5, 1.2], abs=0.002)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


@pytest.mark.parametrize("fps", [30, 50, 15])
def test_frame_rates_are_converted_by_time(tmp_path, fps):
    levels = film(2 * fps)
    mux(tmp_path / "a.mkv", levels, clicks(2), fps=fps)
    clip = read_clip(tmp_path / "a.mkv")
    assert abs(len(clip.frames) - 50) <= 1
    shown = (clip.frames.mean((1, 2, 3)) - 40) / 2
    expected = np.floor(np.arange(len(shown)) / 25 * fps + 0.02)
    assert np.abs(shown - expected).max() < 1.6


@pytest.mark.parametrize("start", [0.176, 0.4])
def test_late_audio_is_put_where_its_time_stamps_say(tmp_path, start):
    mux(tmp_path / "a.mkv", film(), clicks(1.5), audio_start=start)
    assert onsets(read_clip(tmp_path / "a.mkv").waveform) == pytest.approx([0.5 + start, 1.2 + start], abs=0.003)


@pytest.mark.parametrize("sample_rate", [44100, 48000, 8000])
def test_sample_rates(tmp_path, sample_rate):
    mux(tmp_path / "a.mkv", film(), clicks(2, sample_rate), sample_rate=sample_rate)
    assert onsets(read_clip(tmp_path / "a.mkv").waveform) == pytest.approx([0.5, 1.2], abs=0.003)


def test_a_hole_shows_the_last_frame_before_it():
    pictures = [TimedFrame(tick, tick, tick / 25, np.full((1, 1, 3), tick, np.uint8)) for tick in (2, 3, 7, 8)]
    # before the first frame there is none to repeat: the first is shown early
    assert [int(frame[0, 0, 0]) for frame in every_frame(iter(pictures))] == [2, 2, 2, 3, 3, 3, 3, 7, 8]


def test_a_gap_of_an_hour_is_refused_before_it_is_filled(tmp_path):
    write_at(tmp_path / "a.mkv", np.r_[np.arange(25) / 25, 3600 + np.arange(25) / 25])
    with pytest.raises(ValueError, match=r"a\.mkv: expected a clip without gaps of over 10 s, got one of 3598 s"):
        read_clip(tmp_path / "a.mkv")
    assert len(read_clip(tmp_path / "a.mkv", max_frames=20).frames) == 20
    write_at(tmp_path / "b.mkv", np.r_[np.arange(25) / 25, 9 + np.arange(25) / 25])
    assert len(read_clip(tmp_path / "b.mkv").frames) == 250


def test_max_frames(tmp_path):
    write_clip(tmp_path / "a.mp4", film(), clicks(2))
    clip = read_clip(tmp_path / "a.mp4", max_frames=20)
    assert (len(clip.frames), len(clip.waveform)) == (20, 20 * 640)


def test_damaged_and_missing(tmp_path):
    write_clip(tmp_path / "a.mp4", film(), clicks(2))
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    write_clip(tmp_path / "mute.mp4", film())
    (tmp_path / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    reasons = {
        "cut": "Invalid data found when processing input",
        "text": "Invalid data found when processing input",
        "empty": "an empty file",
        "pointer": "a Git LFS pointer: run `git lfs pull` where it was cloned",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"{name}.mp4: cannot be decoded \({reason}\)"):
            read_clip(tmp_path / f"{name}.mp4")
    with pytest.raises(FileNotFoundError, match=r"gone.mp4"):
        read_clip(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match=r"mute.mp4: .*no audio stream"):
        read_clip(tmp_path / "mute.mp4")
