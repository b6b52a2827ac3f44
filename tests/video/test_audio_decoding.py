"""Audio by time stamps."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from helpers.media import clicks, film, mux, onsets

from unisync_loss.video.audio_decoding import AudioReader, choose_audio, stream_audio
from unisync_loss.video.clip import read_clip
from unisync_loss.video.decoding import open_media


def test_sound_is_read_by_time_and_let_go():
    blocks = (np.full(16000, second, np.float32) for second in range(200))
    sound = AudioReader(blocks)
    assert sound.read(24000, 40000).tolist() == [1.0] * 8000 + [2.0] * 8000
    assert set(sound.read(150 * 16000, 151 * 16000)) == {150.0}
    assert len(sound._held) < 70
    assert sound.read(199 * 16000, 300 * 16000).size == 16000


def test_audio_that_starts_after_days_is_refused(tmp_path):
    mux(tmp_path / "a.mkv", np.zeros((5, 64, 64, 3), np.uint8), np.zeros(3200, np.float32), audio_start=90000.0)
    with (
        open_media(tmp_path / "a.mkv") as container,
        pytest.raises(ValueError, match="expected time stamps of at most"),
    ):
        next(stream_audio(container, 0.0))


def tone(seconds=3.0, rate=16000):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def write_tracks(path, tracks, *, codec="pcm_s16le", rate=16000, default=None, seconds=3.0):
    """A video with tracks (channels, S) of float samples; one of them may be flagged as the default."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height = video.width = 64
        video.pix_fmt = "yuv420p"
        streams = []
        for samples in tracks:
            streams.append(container.add_stream(codec, rate=rate, layout=("mono", "stereo")[len(samples) - 1]))
        for number, stream in enumerate(streams):
            if default is not None:
                stream.disposition = Disposition.default if number == default else Disposition(0)
        streams[-1].metadata["title"] = "dubbed"
        for picture in film(round(25 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        for stream, samples in zip(streams, tracks, strict=True):
            layout = ("mono", "stereo")[len(samples) - 1]
            convert = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
            whole = (np.asarray(samples).T * 32767).astype(np.int16)
            for start in range(0, len(whole), rate // 50):
                packed = np.ascontiguousarray(whole[start : start + rate // 50]).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
                for made in convert.resample(frame):
                    container.mux(stream.encode(made))
            container.mux(stream.encode(None))
    return path


def sound_of(path):
    with open_media(path) as container:
        return np.concatenate(list(stream_audio(container, 0.0))), choose_audio(container).notes


@pytest.mark.parametrize("weaker", [0, 1])
def test_of_stereo_in_opposite_phase_one_channel_is_taken(tmp_path, weaker):
    """Their mean would be silent, or what remains of the difference."""
    channels = np.stack([tone(), -tone()])
    channels[weaker] *= 0.8
    sound, notes = sound_of(write_tracks(tmp_path / "a.mkv", [channels]))
    assert np.abs(sound - channels[1 - weaker]).max() < 1e-3
    assert notes == (f"stereo in opposite phase: took the {('right', 'left')[weaker]} channel",)


def test_other_stereo_is_the_mean(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 48000))
    for name, channels in (("equal", np.stack([tone(), tone()])), ("apart", noise), ("left", noise * [[1], [0]])):
        sound, notes = sound_of(write_tracks(tmp_path / f"{name}.mkv", [channels]))
        assert np.abs(sound - channels.mean(0)).max() < 1e-3
        assert notes == ()


@pytest.mark.parametrize(
    ("loud", "default", "taken", "note"),
    [
        ((1, 1), None, 0, "2 audio tracks: took track 1"),
        ((1, 1), 1, 1, "2 audio tracks: took track 2 (dubbed)"),
        ((0, 1), None, 1, "2 audio tracks: took track 2 (dubbed), because track 1 is silent"),
        ((1, 0), 1, 0, "2 audio tracks: took track 1, because track 2 is silent"),
        ((0, 0), None, 0, "2 audio tracks: took track 1"),
    ],
)
def test_of_several_tracks_one_with_sound_is_taken(tmp_path, loud, default, taken, note):
    tracks = [(number + 1) / 2 * share * tone()[None] for number, share in enumerate(loud)]
    sound, notes = sound_of(write_tracks(tmp_path / "a.mkv", tracks, default=default))
    assert np.abs(sound - tracks[taken][0]).max() < 1e-3
    assert notes == (note,)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_opus_begins_when_its_uncompressed_sound_does(tmp_path, name):
    """Its encoder begins 6.5 ms before the sound, which each container says in its own way."""
    wave = clicks(3, 48000)[None]
    read = read_clip(write_tracks(tmp_path / name, [wave], codec="libopus", rate=48000)).waveform
    assert onsets(read) == pytest.approx(onsets(clicks(3)), abs=0.002)


def test_where_the_audio_ends():
    sound = AudioReader(iter([np.zeros(1000, np.float32)] * 5))
    assert sound.end(2500) == 2500
    assert sound.end(9000) == 5000
    assert sound.read(4000, 9000).size == 1000


def test_recordings_joined_byte_by_byte_are_refused(tmp_path):
    """Their time stamps begin again: half of the file would be dropped without a word."""
    part = write_tracks(tmp_path / "part.ts", [tone()[None]], codec="aac").read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    with pytest.raises(ValueError, match=r"expected time stamps that increase, got \d\.\d s after \d\.\d s"):
        read_clip(tmp_path / "a.ts")
    with open_media(tmp_path / "a.ts") as container, pytest.raises(ValueError, match="time stamps that increase"):
        list(stream_audio(container, 0.0))
    assert len(read_clip(tmp_path / "part.ts").frames) == 75
