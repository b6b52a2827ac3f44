"""Linear face model of this library: expression coefficients from MediaPipe's mesh.

A mean face and 40 axes, the principal components of the motion of the training speakers' faces within a clip
(``tools/fit_face_model.py``). It replaces 3-D morphable models, whose licences are restrictive, and cannot be converted
to any of them: coefficients of the Basel model or of FLAME need experts of their own. The identity of a speaker adds a
constant to the coefficients of a clip; there are no identity axes, because they would absorb a third of the mouth's
opening (measured).
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

EXPRESSIONS = 40  # differs from all public models, so that coefficients are not confused
_FILE = ASSETS / "face_model.safetensors"


def expression_of_mesh(mesh: Tensor) -> Tensor:
    """Least-squares coefficients of each frame.

    Args:
        mesh: (..., 468, 3) in one unit along all axes, such as pixels; y down, z away from the camera.

    Returns:
        (..., 40) in float32 at least, of standard deviation 1 within the clips of the training speakers; linear in the
        mesh once position, size and rotation are removed.

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
    """Flip indices of the mesh: for each of the 468 points the one opposite, from the mean face.

    Raises:
        ImportError: without SciPy, which comes with the ``video`` extra.
    """
    from scipy.optimize import linear_sum_assignment

    mean = rearrange(_tables()[0], "(n d) -> n d", d=3)
    distance = torch.cdist(mean * torch.tensor([-1.0, 1.0, 1.0], dtype=mean.dtype), mean)
    return tuple(linear_sum_assignment(distance.numpy())[1].tolist())


# the first caller may be in inference mode, whose tensors take no part in a later gradient
@functools.cache
@torch.inference_mode(False)
def _tables() -> tuple[Tensor, Tensor]:
    """Mean (1404,), and the map (1404, 40) from a mesh to its coefficients."""
    model = {name: table.double() for name, table in load_file(_FILE).items()}
    axes = rearrange(model["axes"], "k n d -> k (n d)")
    return rearrange(model["mean"], "n d -> (n d)"), torch.linalg.pinv(axes)
