"""Where the mouth is: a small network that finds the face's pose in a crop, and the sampler that cuts it out.

Generators hand over face crops of every tightness and aspect ratio (Wav2Lip squeezes a tight box to a square). The
``small`` RGB expert looks at the mouth at one place, size and tilt, so that crops need no landmarks and no agreement.
The pose is treated as a constant: no gradient flows through it, a generator cannot win by moving the face.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.utils.image import FACE_SIZE, compose_affine, invert_affine, resize, sample_region
from unisync_loss.utils.tensors import at_least_float32

MOUTH_CENTRE = (0.0, 0.88)  # template coordinates: nose base to below the chin
MOUTH_SIDE = 1.0  # template units
PATCH_SIZE = 64  # pixels of the cut
_LARGEST_SIDE = 256  # pictures above are reduced first, so that bilinear sampling does not alias
# pose of a face in the middle of a crop of 1.4 times its height
_MEAN_POSE = ((0.39, 0.0, 0.5), (0.0, 0.39, 0.38))


def sample_mouth(
    frames: Tensor, pose: Tensor, *, size: int = PATCH_SIZE, side: float = MOUTH_SIDE, oversample: int = 2
) -> Tensor:
    """Cut the mouth out of each frame, differentiably in the frames.

    Args:
        frames: (N, C, H, W).
        pose: (N, 2, 3) affine maps from template coordinates to shares of width and height.
        size: pixels of the cut.
        side: side of the cut in template units.
        oversample: samples per output pixel and axis, averaged: bilinear sampling alone aliases in large frames.

    Returns:
        (N, C, size, size); what lies outside the frame repeats its border.
    """
    corner = [centre - side / 2 for centre in MOUTH_CENTRE]
    square = torch.tensor([[side, 0, corner[0]], [0, side, corner[1]]], device=frames.device, dtype=pose.dtype)
    return sample_region(frames, compose_affine(pose, square), size, oversample)


class PoseNetwork(nn.Module):
    """Reads a pose from a 64² view of a face.

    Shape:
        (N, 3, 64, 64) → (N, 2, 3) affine maps from template coordinates to shares of width and height.
    """

    mean_pose: Tensor

    def __init__(self) -> None:
        """Build the network with the mean pose as its first answer."""
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
        # each view by itself is made of mean 0 and deviation 1: the light is not the pose
        mean, deviation = view.mean((1, 2, 3), keepdim=True), view.var((1, 2, 3), keepdim=True).add(1e-4).sqrt()
        correction = self.head(self.features((view - mean) / deviation).flatten(1))
        return self.mean_pose + rearrange(correction, "n (i j) -> n i j", i=2)


class Aligner(nn.Module):
    """Finds the face's pose in two looks: at the whole crop, then at the face brought to the mean pose.

    Shape:
        (N, 3, H, W) RGB in [0, 1] → (N, 2, 3) affine maps from template coordinates to shares of width and height.
    """

    def __init__(self) -> None:
        """Build both networks."""
        super().__init__()
        self.coarse, self.fine = PoseNetwork(), PoseNetwork()

    def forward(self, frames: Tensor) -> Tensor:
        """Predict the pose; see the class for shapes."""
        return self.looks(frames)[1]

    def looks(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The poses after the first and the second look; no gradient from the second to the first."""
        first = self.coarse(resize(frames, FACE_SIZE, FACE_SIZE))
        region = compose_affine(first.detach(), invert_affine(self.coarse.mean_pose))
        view = sample_region(frames, region)
        return first, compose_affine(region, self.fine(view))

    def mouths(self, frames: Tensor) -> Tensor:
        """Cut out the mouths at the predicted pose.

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
