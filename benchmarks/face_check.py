"""Fit and test of the check that frames show a whole face (unisync_loss/inputs/face.py).

    python benchmarks/face_check.py --data VAL --every 3 --frames 1 --fit    # new coefficients, on a third of the clips
    python benchmarks/face_check.py --data VAL --every 3 --start 1           # false alarms and catches on another third

Every frame is cut in all the ways below by the box of its face mesh. The fit weighs right and wrong cuts alike. The
test prints, for single frames, for the median of a clip's frames and for the median of four clips as a batch has them,
the share of log odds above the threshold: false alarms where the cut is right, catches where it is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unisync_loss import load_expert
from unisync_loss.data import ClipEntry, list_clips, read_clip
from unisync_loss.inputs import face
from unisync_loss.models.mouth_aligner import MouthAligner
from unisync_loss.utils.image import resize, sample_region
from unisync_loss.video.face_mesh import face_mesh

Cut = Callable[[Tensor, Tensor], Tensor]
SIDE = 96


def around(scale: float, *, square: bool = True, x: float = 0.0, y: float = 0.0) -> Cut:
    """Crop around the box of the face.

    Args:
        scale: side in boxes.
        square: as wide as high in pixels; otherwise of the box's shape, squeezed to a square.
        x: shift to the right in widths of the box.
        y: shift down in heights of the box.
    """

    def cut(frames: Tensor, boxes: Tensor) -> Tensor:
        low, high = boxes[:, :2], boxes[:, 2:]
        sides = high - low
        centre = (low + high) / 2 + sides * torch.tensor([x, y])
        if square:
            sides = sides.amax(1, keepdim=True).expand_as(sides)
        return window(frames, centre, sides * scale)

    return cut


def mouth(side: float) -> Cut:
    """Square around the mouth, its side in widths of the face."""

    def cut(frames: Tensor, boxes: Tensor) -> Tensor:
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        # the lips lie at three quarters of the way from forehead to chin
        centre = torch.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1] + 0.75 * height], 1)
        return window(frames, centre, (side * width)[:, None].expand(-1, 2))

    return cut


def window(frames: Tensor, centre: Tensor, sides: Tensor) -> Tensor:
    """Cut rectangles of centre and sides (N, 2), shares of width and height, and resize them to a square."""
    zero = torch.zeros(len(frames))
    x = torch.stack([sides[:, 0], zero, centre[:, 0] - sides[:, 0] / 2], 1)
    y = torch.stack([zero, sides[:, 1], centre[:, 1] - sides[:, 1] / 2], 1)
    return sample_region(frames, torch.stack([x, y], 1), SIDE)


def turned(degrees: float) -> Cut:
    """The picture, turned about its centre."""
    angle = torch.tensor(degrees).deg2rad()
    linear = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    region = torch.cat([linear, 0.5 - linear.sum(1, keepdim=True) / 2], 1)
    return lambda frames, _: sample_region(frames, region.expand(len(frames), 2, 3), SIDE)


def lower_half(cut: Cut) -> Cut:
    """Lower half of another crop."""
    return lambda frames, boxes: cut(frames, boxes)[:, :, SIDE // 2 :]


def changed(change: Callable[[Tensor], Tensor], cut: Cut) -> Cut:
    """Another crop with a change of its pixels."""
    return lambda frames, boxes: change(cut(frames, boxes))


WHOLE = turned(0)
TIGHT = around(1.0, square=False)
RIGHT: dict[str, Cut] = {
    "whole clip": WHOLE,
    "tight box, squeezed": TIGHT,
    "tight box, square": around(1.0),
    "1.3 faces": around(1.3),
    "1.3 faces, squeezed": around(1.3, square=False),
    "1.6 faces": around(1.6),
    "1.8 faces": around(1.8),
    "shifted up by 10 %": around(1.1, y=-0.1),
    "shifted down by 10 %": around(1.1, y=0.1),
    "shifted left by 10 %": around(1.1, x=-0.1),
    "shifted right by 10 %": around(1.1, x=0.1),
    "mirrored": changed(lambda images: images.flip(3), WHOLE),
    "grey": changed(lambda images: images.mean(1, keepdim=True).expand_as(images), WHOLE),
    "half contrast": changed(lambda images: images / 2 + 0.25, WHOLE),
    "blurred": changed(lambda images: resize(resize(images, 24, 24), SIDE, SIDE), TIGHT),
}
HARDER: dict[str, Cut] = {"turned by 20 degrees": turned(20), "BGR": changed(lambda images: images.flip(1), WHOLE)}
WRONG: dict[str, Cut] = {
    "lower half of the clip": lower_half(WHOLE),
    "lower half of the tight box": lower_half(TIGHT),
    "lower half of 1.3 faces": lower_half(around(1.3, square=False)),
    "upper half of the tight box": lambda frames, boxes: TIGHT(frames, boxes)[:, :, : SIDE // 2],
    "left half of the tight box": lambda frames, boxes: TIGHT(frames, boxes)[:, :, :, : SIDE // 2],
    "mouth, 0.5 faces": mouth(0.5),
    "mouth, 0.65 faces": mouth(0.65),
    "mouth, 0.8 faces": mouth(0.8),
    "picture of 2.5 faces": around(2.5),
    "picture of 3.4 faces": around(3.4),
    "picture of 5 faces": around(5.0),
    "upside down": turned(180),
    "turned by 90 degrees": turned(90),
    "noise": lambda frames, _: torch.rand(len(frames), 3, SIDE, SIDE),
    "coarse noise": lambda frames, _: resize(torch.rand(len(frames), 3, 8, 8), SIDE, SIDE),
}


def find_faces(frames: np.ndarray) -> tuple[Tensor, Tensor] | None:
    """Pictures (T, 3, 192, 192) and boxes (T, 4) of uint8 frames (T, H, W, 3); None if one of them shows no face."""
    mesh = face_mesh(frames)
    if not np.isfinite(mesh).all():
        return None
    images = resize(rearrange(torch.from_numpy(frames), "t h w c -> t c h w").float() / 255, 192, 192)
    return images, torch.from_numpy(np.concatenate([mesh.min(1), mesh.max(1)], 1))


def load_faces(entries: list[ClipEntry], count: int) -> tuple[Tensor, Tensor]:
    """Frames (C, count, 3, 192, 192) and boxes (C, count, 4) of all clips with a face in each of these frames."""
    found = []
    for entry in entries:
        frames = read_clip(entry.path, max_frames=250).frames
        faces = find_faces(frames[np.linspace(0, len(frames) - 1, count + 2)[1:-1].round().astype(int)])
        if faces is not None:
            found.append(faces)
    images, boxes = zip(*found, strict=True)
    return torch.stack(images), torch.stack(boxes)


def measure(model: str, frames: Tensor, boxes: Tensor, cuts: dict[str, Cut]) -> dict[str, Tensor]:
    """Numbers of the check for every cut, (C, count, 13)."""
    aligner = load_expert(model).visual_tower.aligner
    assert isinstance(aligner, MouthAligner)
    parts: dict[str, list[Tensor]] = {name: [] for name in cuts}
    for images, box in zip(frames.flatten(0, 1).split(24), boxes.flatten(0, 1).split(24), strict=True):
        for name, cut in cuts.items():
            parts[name].append(face.measure_pose(aligner, cut(images, box)))
    return {name: torch.cat(part).unflatten(0, frames.shape[:2]) for name, part in parts.items()}


def fit(right: Tensor, wrong: Tensor) -> list[float]:
    """Constant and weights of a logistic regression of wrong (N, 13) against right (M, 13), of equal weight."""
    values = torch.cat([right, wrong]).double()
    target = torch.cat([torch.zeros(len(right)), torch.ones(len(wrong))]).double()
    share = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (right, wrong)]).double()
    mean, deviation = values.mean(0), values.std(0)
    scaled = (values - mean) / deviation
    weights = torch.zeros(scaled.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        each = F.binary_cross_entropy_with_logits(scaled @ weights[1:] + weights[0], target, reduction="none")
        loss = (each * share).sum() + 1e-3 * weights[1:].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    raw = weights.detach()[1:] / deviation
    return [float(f"{value:.4g}") for value in [weights[0].item() - (raw @ mean).item(), *raw.tolist()]]


def report(results: dict[str, Tensor], coefficients: list[float]) -> dict[str, dict[str, float]]:
    """Shares above the threshold, of single frames, of medians over a clip's frames, and over those of four clips."""
    constant, weights = coefficients[0], torch.tensor(coefficients[1:])
    rows = {}
    for name, measured in results.items():
        odds = measured @ weights + constant
        four = odds[torch.randint(len(odds), (1000, 4))].flatten(1).median(1).values
        kinds = {"frames": odds.flatten(), "clips": odds.median(1).values, "four clips": four}
        rows[name] = {kind: values.gt(face.THRESHOLD).float().mean().item() for kind, values in kinds.items()}
        rows[name] |= {
            "frames, 2:1": odds.gt(face.HALF_THRESHOLD).float().mean().item(),
            "clips, 2:1": kinds["clips"].gt(face.HALF_THRESHOLD).float().mean().item(),
            "middle": odds.median().item(),
            "largest clip": kinds["clips"].max().item(),
        }
        print(f"{name:30} " + "  ".join(f"{key} {value:.3f}" for key, value in rows[name].items()), flush=True)
    return rows


def main() -> None:
    """Fit or test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["mel-rgb"], help="all released experts share one aligner")
    parser.add_argument("--frames", type=int, default=3, help="per clip")
    parser.add_argument("--every", type=int, default=1, help="use every n-th clip")
    parser.add_argument("--start", type=int, default=0, help="number of the first clip")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    frames, boxes = load_faces(list_clips(options.data)[options.start :: options.every], options.frames)
    print(f"{len(frames)} clips", flush=True)
    cuts = RIGHT | HARDER | WRONG
    each = [measure(model, frames, boxes, cuts) for model in options.model]
    results = {name: torch.cat([one[name] for one in each]) for name in cuts}
    coefficients = list(face.COEFFICIENTS)
    if options.fit:
        right, wrong = (torch.cat([results[name].flatten(0, 1) for name in kinds]) for kinds in (RIGHT, WRONG))
        coefficients = fit(right, wrong)
        print("coefficients", coefficients)
    rows = report(results, coefficients)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"clips": len(frames), "models": options.model, "coefficients": coefficients, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
