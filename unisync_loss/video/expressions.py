"""A linear face model of our own: coefficients of an expression, from MediaPipe's mesh.

A mean face and 40 axes, the principal components of how the training speakers' faces move within a clip
(``tools/fit_face_model.py``). It stands in for the 3-D morphable models of the field without their licences, and is
neither equal nor convertible to any: coefficients of the Basel model or of FLAME need experts of their own. Who speaks
adds a constant to the coefficients of a clip: axes of identity would share the mouth with those of expression, and take
a third of its opening (measured).
"""

from __future__ import annotations

import functools

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from unisync_loss.representations.landmarks import normalise_landmarks
from unisync_loss.utils.files import ASSETS
from unisync_loss.utils.tensors import describe

EXPRESSIONS = 40  # a number that no public model has
_FILE = ASSETS / "face_model.safetensors"


def expression_of_mesh(mesh: Tensor) -> Tensor:
    """Least-squares coefficients of each frame.

    Args:
        mesh: (..., 468, 3) in one unit along all axes, such as pixels; y down, z away from the camera.

    Returns:
        (..., 40) in float32 at least, of deviation 1 within the clips of the training speakers; linear in the mesh once
        its place, size and rotation are out.

    Raises:
        ValueError: for another shape.
    """
    if mesh.ndim < 2 or mesh.shape[-2:] != (468, 3):
        raise ValueError(f"mesh: expected (..., 468 points, 3 axes), got {describe(mesh)}")
    points = rearrange(normalise_landmarks(mesh), "... n d -> ... (n d)")
    mean, solver = (table.to(points) for table in _tables())
    return (points - mean) @ solver


@functools.cache
def mirrored_points() -> tuple[int, ...]:
    """For each of the 468 points of the mesh the one that is its mirror image, from the mean face.

    Raises:
        ImportError: without SciPy, which comes with the ``video`` extra.
    """
    from scipy.optimize import linear_sum_assignment

    mean = rearrange(_tables()[0], "(n d) -> n d", d=3)
    distance = torch.cdist(mean * torch.tensor([-1.0, 1.0, 1.0], dtype=mean.dtype), mean)
    return tuple(linear_sum_assignment(distance.numpy())[1].tolist())


@functools.cache
def _tables() -> tuple[Tensor, Tensor]:
    """Mean (1404,), and the map (1404, 40) from a mesh to its coefficients."""
    model = {name: table.double() for name, table in load_file(_FILE).items()}
    axes = rearrange(model["axes"], "k n d -> k (n d)")
    return rearrange(model["mean"], "n d -> (n d)"), torch.linalg.pinv(axes)
