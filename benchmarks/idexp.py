"""Accuracy of an expert on landmarks in the form of GeneFace's ``idexp_lm3d``, by `unisync eval`'s protocol.

    python benchmarks/idexp.py --data VAL --cache CACHE --json out/idexp.json

GeneFace takes its points from a fit of the Basel model, whose licence forbids bundling. Here they are rebuilt from
MediaPipe's mesh: free of pose, in 3-D, as ten times the offset in decimetres from a mean face. Then they are changed in
the ways in which a fit differs from a measurement, and go through `points_of_idexp`, as in the adapter. For each form:
accuracy, AUC, and how far the motion of the points within a clip lies from that of the mesh, in millimetres at eyes
88 mm apart. CACHE is a folder of meshes as training makes them; missing ones are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from unisync_loss import load_expert
from unisync_loss.data import list_clips
from unisync_loss.evaluation import ClipEmbedding, embed_audio, embed_visual, summarise, voiced_windows
from unisync_loss.representations import normalise_landmarks, points_of_idexp
from unisync_loss.representations.face_topology import IBUG_68, MEAN_FACE_68
from unisync_loss.training.data.cache import build_cache, is_cached, load
from unisync_loss.training.data.face_features import MESH_CENTRE
from unisync_loss.utils.files import ASSETS, write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.video.expressions import expression_of_mesh

_AXES = torch.tensor([1.0, -1.0, -1.0])  # of the Basel model: y up, z at the camera
_UNIT = 8.8  # ten times the distance of the outer eye corners in decimetres
_MILLIMETRE = 0.1  # in idexp
_OPEN_JAW = [*range(3), *range(14, 17)]  # points without a vertex in MimicTalk's map


def idexp_of_points(points: Tensor) -> Tensor:
    """``idexp`` (T, 68, 3) of meshes (T, 468, 3) that are free of pose; `points_of_idexp` undoes it."""
    return (points[:, list(IBUG_68)] - torch.tensor(MEAN_FACE_68)) * _AXES * _UNIT


def in_linear_model(mesh: Tensor) -> Tensor:
    """Meshes (T, 468, 3), free of pose, fitted by the bundled face model."""
    model = {name: table.float() for name, table in load_file(ASSETS / "face_model.safetensors").items()}
    return model["mean"] + torch.einsum("tk,knd->tnd", expression_of_mesh(mesh), model["axes"])


def scaled(idexp: Tensor, factor: float) -> Tensor:
    """Motion about the mean of the clip, times a factor: fits are regularised."""
    mean = idexp.mean(0)
    return mean + factor * (idexp - mean)


def smoothed(idexp: Tensor) -> Tensor:
    """Mean over five frames."""
    padded = torch.cat([idexp[:1], idexp[:1], idexp, idexp[-1:], idexp[-1:]])
    return padded.unfold(0, 5, 1).mean(-1)


def standardised(idexp: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of every coordinate, as ``idexp_lm3d_normalized``, but by the clip."""
    return (idexp - idexp.mean(0)) / idexp.std(0)


def forms(mesh: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The same faces in every form, by name."""
    own = idexp_of_points(normalise_landmarks(mesh))
    model = idexp_of_points(in_linear_model(mesh))
    person = (own - model).mean(0)  # an identity that is constant in the clip
    noise = torch.randn(own.shape, generator=generator)
    jaw = own.clone()
    jaw[:, _OPEN_JAW] = 0
    return {
        "idexp of the mesh": own,
        "of a linear model with 40 axes of expression": model + person,
        "the same, other faces 3 mm off at every point": model + person + 3 * _MILLIMETRE * noise[:1],
        "the same, motion times 0.7": scaled(model + person, 0.7),
        "the same, motion times 0.4": scaled(model + person, 0.4),
        "the same, mean over five frames": smoothed(model + person),
        "noise of 0.5 mm": own + 0.5 * _MILLIMETRE * noise,
        "noise of 1 mm": own + _MILLIMETRE * noise,
        "six points of the jaw at the mean face (MimicTalk)": jaw,
        "without the mean face, its mean over the clip removed": own - own.mean(0),
        "standardised (wrong)": standardised(own),
    }


def distance(idexp: Tensor, own: Tensor) -> float:
    """Root mean square distance of the points' motion within a clip, in millimetres."""
    difference = (idexp - idexp.mean(0)) - (own - own.mean(0))
    return difference.square().sum(-1).mean().sqrt().item() / _MILLIMETRE


def main() -> None:
    """Measure and print one line per form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="clips in sync")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model", default="hubert-landmarks", help="an expert on 68 landmarks in 2-D")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    expert = load_expert(options.model)
    entries = list_clips(options.data, ignore_offsets=True)
    for _ in build_cache(entries, options.cache, 1, "mesh"):
        pass
    entries = [entry for entry in entries if is_cached(entry, options.cache, "mesh")]
    generator = torch.Generator().manual_seed(options.seed)
    found: dict[str, list[ClipEmbedding]] = {}
    far: dict[str, list[float]] = {}
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for done, entry in enumerate(entries, 1):
        stored = load(entry, options.cache, "mesh")
        height, width = stored["size"].tolist()
        mesh = torch.from_numpy(stored["mesh"].astype(np.float32) + np.asarray(MESH_CENTRE, np.float32))
        mesh = mesh * torch.tensor([width, height, width], dtype=torch.float32)
        audio = embed_audio(expert, stored["waveform"], len(mesh))
        voiced = voiced_windows(stored["waveform"], len(audio))
        changed = forms(mesh, generator)
        own = changed["idexp of the mesh"]
        videos = {"points of the picture, 2-D": mesh[:, list(IBUG_68), :2]}
        videos |= {name: points_of_idexp(idexp)[..., :2] for name, idexp in changed.items()}
        for name, video in videos.items():
            embedding = ClipEmbedding(entry, audio, embed_visual(expert, video[None]), voiced)
            found.setdefault(name, []).append(embedding)
            if name in changed:
                far.setdefault(name, []).append(distance(changed[name], own))
        progress.update(done)
    rows = []
    for name, clips in found.items():
        pairs = summarise(clips, options.model, expert.config.threshold, options.seed)["pairs"]
        millimetres = float(np.median(far.get(name, [np.nan])))
        rows.append({"form": name, "millimetres": millimetres, **pairs})
        measures = f"{pairs['accuracy']:.3f} | {pairs['auc']:.3f} | {millimetres:.2f}"
        print(f"| {name} | {measures} |", pairs["ci95"], pairs["ci95_auc"], flush=True)
    write_atomically(options.json, json.dumps({"model": options.model, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
