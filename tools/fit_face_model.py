"""Fit the library's linear face model to the faces of a data folder.

    python -m tools.fit_face_model --data ROOT --out unisync_loss/assets/face_model.safetensors

ROOT is as for `unisync train`. Uses three clips per speaker, every second frame of their first six seconds; speakers
have equal weight. The bundled file was made by this command from the training clips.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unisync_loss.data import list_clips, read_clip
from unisync_loss.representations import normalise_landmarks
from unisync_loss.utils.files import atomic_path
from unisync_loss.video.expressions import EXPRESSIONS
from unisync_loss.video.face_mesh import face_mesh

CLIPS, FRAMES = 3, 150


def measure(root: Path) -> tuple[list[Tensor], list[str]]:
    """Measure meshes (T, 468, 3) in pixels of some clips per speaker; returns them with their speakers."""
    clips = defaultdict(list)
    for entry in list_clips(root):
        clips[entry.speaker].append(entry)
    chosen = random.Random(0)
    meshes, speakers = [], []
    for done, (speaker, entries) in enumerate(sorted(clips.items()), 1):
        for entry in chosen.sample(entries, min(CLIPS, len(entries))):
            frames = read_clip(entry.path, max_frames=FRAMES).frames[::2]
            height, width = frames.shape[1:3]
            mesh = torch.from_numpy(face_mesh(frames, depth=True)) * torch.tensor([width, height, width])
            mesh = mesh[mesh.isfinite().all(-1).all(-1)]
            if len(mesh):
                meshes.append(mesh)
                speakers.append(speaker)
        print(f"{done} of {len(clips)} speakers", flush=True)
    return meshes, speakers


def fit(meshes: list[Tensor], speakers: list[str]) -> dict[str, Tensor]:
    """Mean face, and the principal axes of movement within a clip, each scaled by its standard deviation.

    Args:
        meshes: (T, 468, 3) for each clip, in pixels.
        speakers: speaker of each clip.
    """
    points = [normalise_landmarks(mesh.double()).flatten(1) for mesh in meshes]
    share = torch.tensor([1 / speakers.count(speaker) for speaker in speakers], dtype=torch.float64)
    share /= share.sum()
    averages = torch.stack([clip.mean(0) for clip in points])
    moves = torch.cat([clip - average for clip, average in zip(points, averages, strict=True)])
    weights = torch.cat([part.expand(len(clip)) / len(clip) for clip, part in zip(points, share, strict=True)])
    values, axes = torch.linalg.eigh(moves.T @ (weights[:, None] * moves))
    scaled = (axes[:, -EXPRESSIONS:] * values[-EXPRESSIONS:].sqrt()).T.flip(0)
    tables = {"mean": (share @ averages).float(), "axes": scaled.half()}
    return {name: table.unflatten(-1, (468, 3)).contiguous() for name, table in tables.items()}


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tables = fit(*measure(arguments.data))
    with atomic_path(arguments.out) as temporary:
        save_file(tables, temporary)


if __name__ == "__main__":
    main()
