"""Small videos with known frames and clicks."""

from fractions import Fraction

import av
import numpy as np


def film(frames=50, size=64):
    """Frame t is grey of its own level, which identifies the frame that is shown."""
    levels = (40 + 2 * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, size, size, 3)).copy()


def clicks(seconds, sample_rate=16000, at=(0.5, 1.2)):
    """A burst of tone at known times."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    sound = np.zeros_like(time)
    for start in at:
        inside = (time >= start) & (time < start + 0.02)
        sound[inside] = 0.8 * np.sin(2 * np.pi * 1000 * (time[inside] - start))
    return sound.astype(np.float32)


def onsets(waveform):
    loud = np.abs(waveform) > 0.2
    starts = np.flatnonzero(loud & ~np.r_[False, loud[:-1]])
    return [start / 16000 for start in starts[np.r_[True, np.diff(starts) > 1600]]]


def mux(path, frames, sound, *, fps=25, sample_rate=16000, audio_start=0.0):
    """Write a file whose audio starts at a given time."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=sample_rate, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = (sound * 32767).astype(np.int16)
        for start in range(0, samples.size, 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
            frame.pts = round(audio_start * sample_rate) + start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def write_at(
    path, stamps, *, hole=None, size=(64, 48), sound_start=0.0, codec="libx264", audio="pcm_s16le", seconds=3.0
):
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
