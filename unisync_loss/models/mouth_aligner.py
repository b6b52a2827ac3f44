"""Mouth aligner: a small network that estimates the face's pose in a crop, and the sampler that cuts the mouth out.

Generators hand over face crops of every tightness and aspect ratio (Wav2Lip squeezes a tight box to a square). The
``small`` RGB expert gets the mouth at one place, size and tilt, so crops need no landmarks and no common convention.
The pose is a constant: no gradient flows through it, so a generator cannot lower the loss by moving the face.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.utils.image import (
    FACE_SIZE,
    compose_affine,
    invert_affine,
    resize,
    sample_region,
    standardise_images,
    subregion,
)
from unisync_loss.utils.tensors import at_least_float32

MOUTH_CENTRE = (0.0, 0.88)  # template coordinates: nose base to below the chin
MOUTH_SIDE = 1.0  # template units
PATCH_SIZE = 64  # pixels of the mouth crop
_LARGEST_SIDE = 256  # pixels; larger images are reduced first, so that bilinear sampling does not alias
# pose of a face in the middle of a crop of 1.4 times its height
_MEAN_POSE = ((0.39, 0.0, 0.5), (0.0, 0.39, 0.38))


def sample_mouth(
    frames: Tensor, pose: Tensor, *, size: int = PATCH_SIZE, side: float = MOUTH_SIDE, oversample: int = 2
) -> Tensor:
    """Cut the mouth out of each frame, differentiably in the frames.

    Args:
        frames: (N, C, H, W).
        pose: (N, 2, 3) affine maps from template coordinates to shares of width and height.
        size: pixels of the crop.
        side: side of the crop in template units.
        oversample: samples per output pixel and axis, averaged: bilinear sampling alone aliases in large frames.

    Returns:
        (N, C, size, size); outside the frame, its border is repeated.
    """
    x, y = (centre - side / 2 for centre in MOUTH_CENTRE)
    return sample_region(frames, subregion(pose, (x, y), side), size, oversample)


def pose_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean distance of corners and centre of the mouth crop, in units of the template.

    Args:
        predicted: (N, 2, 3) affine maps from template coordinates to shares of the view.
        true: (N, 2, 3), the same.

    Returns:
        (N,).
    """
    # MOUTH_CENTRE, and MOUTH_SIDE / 2 to either side of it, in homogeneous coordinates
    corners = predicted.new_tensor([[-0.5, 0.38, 1], [0.5, 0.38, 1], [-0.5, 1.38, 1], [0.5, 1.38, 1], [0.0, 0.88, 1]])
    # distances in the crop are divided by the face's size there, so that loose crops count as much as tight ones
    size = torch.linalg.det(true[:, :, :2]).abs().sqrt()[:, None].clamp(min=0.05)  # 0.39 in the mean pose
    difference = torch.einsum("nij,kj->nki", predicted - true, corners)
    return (difference.norm(dim=2) / size).mean(1)


class PoseNetwork(nn.Module):
    """Estimates a pose from a 64² view of a face; untrained, it answers the mean pose.

    Shape:
        (N, 3, 64, 64) → (N, 2, 3) affine maps from template coordinates to shares of width and height.
    """

    mean_pose: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 16, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        last = nn.Linear(64, 6)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(channels[-1] * (FACE_SIZE // 16) ** 2, 64), nn.ReLU(), last)
        self.register_buffer("mean_pose", torch.tensor(_MEAN_POSE), persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        """Predict the pose; see the class for shapes."""
        correction = self.head(self.features(standardise_images(view)).flatten(1))
        return self.mean_pose + rearrange(correction, "n (i j) -> n i j", i=2)


class MouthAligner(nn.Module):
    """Estimates the face's pose in two stages: from the whole crop, then from the face warped to the mean pose.

    Shape:
        (N, 3, H, W) RGB in [0, 1] → (N, 2, 3) affine maps from template coordinates to shares of width and height.
    """

    from_mean_pose: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = PoseNetwork(), PoseNetwork()
        self.register_buffer("from_mean_pose", invert_affine(self.coarse.mean_pose), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict the pose; see the class for shapes."""
        return self.predict_two_stage(frames)[1]

    def predict_two_stage(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Poses after the first and the second stage; no gradient flows from the second to the first."""
        # one pose from the whole crop is imprecise where the face is small in it: the second stage magnifies the face
        first = self.coarse(resize(frames, FACE_SIZE, FACE_SIZE))
        region = compose_affine(first.detach(), self.from_mean_pose)
        view = sample_region(frames, region)
        return first, compose_affine(region, self.fine(view))

    def crop_mouths(self, frames: Tensor) -> Tensor:
        """Crop the mouths at the predicted pose.

        Args:
            frames: (N, 3, H, W).

        Returns:
            (N, 3, 64, 64), differentiable in the frames but not through the pose.
        """
        # in float32: bfloat16 places the mouth only to a percent, and cannot be resized on a CPU
        with torch.autocast(device_type=frames.device.type, enabled=False):
            frames = at_least_float32(frames)
            height, width = frames.shape[-2:]
            if max(height, width) > _LARGEST_SIDE:
                ratio = _LARGEST_SIDE / max(height, width)
                frames = resize(frames, max(1, round(height * ratio)), max(1, round(width * ratio)))
            with torch.no_grad():
                pose = self(frames)
            return sample_mouth(frames, pose)
