"""Small videos and boxes for tests of LSE."""

from fractions import Fraction

import av
import numpy as np


def write_lossless(path, frames, samples):
    """Write FFV1 and PCM: decoding returns exactly these frames and samples."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "bgr0"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def noise(frames=12, size=64, seed=0):
    draw = np.random.default_rng(seed)
    pictures = draw.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    return pictures, draw.integers(-9000, 9000, frames * 640).astype(np.int16)


def still(frames, x=100.0, y=100.0, side=120.0):
    """Boxes of a face that does not move."""
    return np.tile([x, y, x + side, y + side], (frames, 1))
