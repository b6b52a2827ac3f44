"""Score a face crop with ONNX Runtime alone: no PyTorch, no unisync_loss.

    unisync export mel-rgb out/mel-rgb                       # once, where PyTorch is
    pip install onnxruntime av
    python examples/score_with_onnx.py out/mel-rgb FACE.mp4

FACE.mp4 shows one face, forehead to chin or up to 1.8 times that, such as a generator writes. Prints the offset of the
audio (positive = late) and the calibrated probability that a window of 0.2 s is in sync.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[np.float32]
SIDE = 160  # pixels; the graphs take 65 to 256
MAX_OFFSET = 15  # frames of 40 ms


def read_face(path: Path) -> tuple[Array, Array]:
    """Frames (T, 3, H, W) in [0, 1] at 25 fps and waveform (640·T,) at 16 kHz."""
    with av.open(path) as container:
        graph = av.filter.Graph()
        video = container.streams.video[0]
        source, rate = graph.add_buffer(template=video), graph.add("fps", "25")
        scale, sink = graph.add("scale", f"{SIDE}:{SIDE}"), graph.add("buffersink")
        graph.link_nodes(source, rate, scale, sink).configure()
        frames: list[NDArray[np.uint8]] = []
        for frame in [*container.decode(video), None]:
            graph.push(frame)
            frames += list(pulled(graph))
    with av.open(path) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        blocks = [
            block.to_ndarray()[0] for frame in [*container.decode(audio=0), None] for block in resampler.resample(frame)
        ]
    sound = np.concatenate(blocks)
    count = min(len(frames), len(sound) // 640)
    pixels = np.stack(frames[:count]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return pixels, sound[: 640 * count].astype(np.float32)


def pulled(graph: av.filter.Graph) -> list[NDArray[np.uint8]]:
    """Frames that the filters have ready."""
    frames = []
    while True:
        try:
            frames.append(graph.pull().to_ndarray(format="rgb24"))
        except (av.error.BlockingIOError, av.error.EOFError):
            return frames


def unit(embedding: Array) -> Array:
    """ReLU and norm 1, so that an inner product is the score."""
    rectified = np.maximum(embedding, 0)
    return rectified / np.maximum(np.linalg.norm(rectified, axis=-1, keepdims=True), 1e-8)


def main() -> None:
    """Score one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", type=Path, help="folder that unisync export wrote")
    parser.add_argument("face", type=Path)
    options = parser.parse_args()
    config = json.loads((options.graphs / "config.json").read_text())

    def run(name: str, value: Array) -> Array:
        session = onnxruntime.InferenceSession(options.graphs / f"{name}.onnx", providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: value})[0]

    frames, sound = read_face(options.face)
    visual = unit(run("visual", frames[None])[0])
    audio = unit(run("audio", run("features", sound[None]))[0])[: len(visual)]
    table = visual[: len(audio)] @ audio.T
    means = [np.diagonal(table, offset).mean() for offset in range(-MAX_OFFSET, MAX_OFFSET + 1)]
    probability = 1 / (1 + np.exp((config["midpoint"] - np.diagonal(table)) / config["temperature"]))
    print(f"offset {np.argmax(means) - MAX_OFFSET:+d} frames, calibrated probability {probability.mean():.3f}")


if __name__ == "__main__":
    main()
