"""Stores written from what a test already has, without preparing a video."""

import numpy as np
from safetensors.numpy import save

from unisync_loss.data.store_writer import ShardWriter, StagedInput, open_store, read_staged
from unisync_loss.video.encoding import encode_frames, encode_wav


def write_store(root, clips, **facts):
    """Write pairs of a clip's facts and its members; ``facts`` are those of the one source."""
    open_store(root, {})
    (root / "parts").mkdir()
    gatherer, part = ShardWriter(root), StagedInput(root / "parts", "0")
    for own, members in clips:
        part.add(own, {"safetensors": save({}), **members})
    part.finish({"clips": len(clips), **facts})
    gatherer.append(read_staged(root / "parts", "0"), root / "parts" / "0.tar")
    gatherer.close()
    return root


def write_feature_store(root, clips, **features):
    """Store decoded clips by key with made-up features.

    ``features`` take a random generator and the number of frames and return (T, …): coefficients of any width, as
    ``**{"3dmm": lambda rng, frames: rng.normal(size=(frames, 64)).astype("float32")}``.
    """
    rows = []
    for number, (key, clip) in enumerate(clips.items()):
        rng, frames = np.random.default_rng(number), len(clip.frames)
        arrays = {name: make(rng, frames) for name, make in features.items()}
        members = {"mp4": encode_frames(clip.frames), "wav": encode_wav(clip.waveform), "safetensors": save(arrays)}
        rows.append(({"key": key, "frames": frames}, members))
    return write_store(root, rows, source="made up")
