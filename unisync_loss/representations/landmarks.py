"""Facial landmarks: 68 points (iBUG), the mouth's 20, or MediaPipe's mesh of 468 or 478, in 2-D or 3-D."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import LANDMARK_SHAPES, UniSyncConfig
from unisync_loss.representations.base import VisualInput
from unisync_loss.representations.face_topology import IBUG_68, MEAN_FACE_68, MOUTH_20, RIGID_OF_68
from unisync_loss.utils.frozen import ConstantTables
from unisync_loss.utils.tensors import at_least_float32, describe

#: points that are fitted to the mean face, and their indices among the 68
_RIGID = {
    68: (RIGID_OF_68, RIGID_OF_68),
    20: (range(20), MOUTH_20),  # a mouth alone has no rigid points: all of it is fitted
    468: ([IBUG_68[point] for point in RIGID_OF_68], RIGID_OF_68),
    478: ([IBUG_68[point] for point in RIGID_OF_68], RIGID_OF_68),
}
#: GeneFace's unit of length, a decimetre, in distances between the outer corners of the eyes (88 mm in adults)
_DECIMETRE = 100 / 88
_GENEFACE_SCALE = 10.0  # its idexp landmarks are decimetres times ten
#: those of the 68 that have no vertex in MimicTalk's map from MediaPipe's mesh to the Basel model: jaw beside the ears
_WITHOUT_VERTEX = (0, 1, 2, 14, 15, 16)


class LandmarksInput(VisualInput):
    """Points (B, T, N, 2 or 3) → (B, T, N·axes), fitted to the mean face frame by frame.

    N is 68, 20, 468 or 478; the order is that of :mod:`unisync_loss.representations.face_topology`. The unit is free,
    but must be the same along all axes: pixels, not shares of width and height. See :func:`normalise_landmarks`.
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(config)
        points, axes = LANDMARK_SHAPES[config.visual_features]
        self.fit = MeanFaceFit(points, axes).float()

    @property
    def expected(self) -> str:
        """The shape, with this expert's number of coordinates."""
        return f"(B, T, N, 2 or 3) floating point with {self.config.visual_features} coordinates per frame"

    def accepts(self, video: Tensor) -> bool:
        """Whether shape and type of number are as expected."""
        shape = LANDMARK_SHAPES[self.config.visual_features]
        return video.ndim == 4 and video.is_floating_point() and tuple(video.shape[2:]) == shape

    def convert(self, video: Tensor) -> Tensor:
        """Fit each frame to the mean face."""
        return rearrange(self.fit(video).to(video.dtype), "b t n d -> b t (n d)")


def normalise_landmarks(points: Tensor) -> Tensor:
    """Remove place, size and rotation of each frame by fitting the mean face to eyes and nose, or to the mouth's 20.

    In 2-D the fit is the least-squares similarity. In 3-D it is the least-squares affine map, whose first two axes are
    made orthogonal, so that the pose of the head is removed, too. Both are smooth in the points; the gradient never
    asks a generator to move, turn or enlarge the head.

    Args:
        points: (..., N, 2 or 3), N = 68, 20, 468 or 478, one unit along all axes, y down and z away from the camera.

    Returns:
        (..., N, 2 or 3) in float32 at least: origin between the outer corners of the eyes, whose distance is 1.

    Raises:
        ValueError: for another number of points or axes.
    """
    if points.ndim < 2 or points.shape[-2] not in _RIGID or points.shape[-1] not in (2, 3):
        raise ValueError(f"landmarks: expected (..., 68, 20, 468 or 478 points, 2 or 3 axes), got {describe(points)}")
    fit = MeanFaceFit(*points.shape[-2:]).to(points.device, at_least_float32(points).dtype)
    fitted: Tensor = fit(points)
    return fitted


class MeanFaceFit(ConstantTables):
    """:func:`normalise_landmarks` for one number of points and axes, with its tables on the module's device.

    Args:
        points: 68, 20, 468 or 478.
        axes: 2 or 3.

    Shape:
        (..., points, axes) → the same, in float32 at least.
    """

    rigid: Tensor
    mean_face: Tensor
    inverse: Tensor

    def __init__(self, points: int, axes: int) -> None:
        chosen, among_68 = _RIGID[points]
        mean_face = torch.tensor(MEAN_FACE_68, dtype=torch.float64)[list(among_68), :axes]
        # (A, N): least-squares affine map from the centred rigid points of the mean face
        inverse = torch.linalg.pinv(mean_face - mean_face.mean(0))
        super().__init__(rigid=torch.tensor(list(chosen)), mean_face=mean_face, inverse=inverse)

    def forward(self, points: Tensor) -> Tensor:
        """Fit each face; see the class for shapes."""
        with torch.autocast(device_type=points.device.type, enabled=False):
            points = at_least_float32(points)
            mean_face, inverse = self.mean_face.to(points.dtype), self.inverse.to(points.dtype)
            rigid = points[..., self.rigid, :]
            source = mean_face - mean_face.mean(0)
            centre = rigid.mean(-2, keepdim=True)
            rotation = _rotation(source, inverse, rigid - centre)
            size = ((rigid - centre) * (source @ rotation.mT)).sum((-2, -1), keepdim=True) / source.square().sum()
            # all points in one place, as where no face was found, stay finite
            return (points - centre) @ rotation / size.clamp(min=1e-6) + mean_face.mean(0)


def _rotation(source: Tensor, inverse: Tensor, target: Tensor) -> Tensor:
    """Rotation (..., A, A) from centred ``source`` (N, A) to centred ``target`` (..., N, A)."""
    if source.shape[-1] == 2:
        cosine = (source * target).sum((-2, -1))
        sine = (source[:, 0] * target[..., 1] - source[:, 1] * target[..., 0]).sum(-1)
        x = F.normalize(torch.stack([cosine, sine], dim=-1), dim=-1, eps=1e-6)
        return torch.stack([x, torch.stack([-x[..., 1], x[..., 0]], dim=-1)], dim=-1)
    affine = (inverse @ target).mT  # (..., 3, 3), columns are the images of the axes
    x = F.normalize(affine[..., 0], dim=-1, eps=1e-6)
    # Gram-Schmidt instead of a singular value decomposition, whose gradient diverges for equal singular values
    y = affine[..., 1] - (affine[..., 1] * x).sum(-1, keepdim=True) * x
    y = F.normalize(y, dim=-1, eps=1e-6)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def points_of_idexp(idexp: Tensor) -> Tensor:
    """Points of GeneFace's ``idexp_lm3d``: ten times the offsets, in decimetres, of a pose-free face from a mean face.

    GeneFace subtracts its own mean face (of the Basel model); ours is added, so that size and opening of the mouth are
    kept. Its y axis points up and its z axis at the camera. MimicTalk and Real3DPortrait have 468 points, of which the
    68 are taken; six of the jaw, for which their model has no vertex, stay at the mean face.

    Args:
        idexp: (..., 204) or (..., 68, 3), the whole face; (..., 60) or (..., 20, 3), the mouth; or (..., 1404) or
            (..., 468, 3), the mesh of MediaPipe. Not standardised.

    Returns:
        (..., 68 or 20, 3) points for an expert on 68 or 20 landmarks in 3-D, differentiable.

    Raises:
        ValueError: for another shape.
    """
    if idexp.ndim and idexp.shape[-1] in (204, 60, 1404):
        idexp = rearrange(idexp, "... (n d) -> ... n d", d=3)
    if idexp.ndim < 2 or idexp.shape[-2] not in (68, 20, 468) or idexp.shape[-1] != 3:
        raise ValueError(f"idexp: expected (..., 204, 60 or 1404) or (..., 68, 20 or 468, 3), got {describe(idexp)}")
    if idexp.shape[-2] == 468:
        idexp = idexp[..., list(IBUG_68), :]
        idexp = idexp.index_fill(-2, torch.tensor(_WITHOUT_VERTEX, device=idexp.device), 0.0)
    mean_face = torch.tensor(MEAN_FACE_68, dtype=idexp.dtype, device=idexp.device)
    mean_face = mean_face if idexp.shape[-2] == 68 else mean_face[list(MOUTH_20)]
    axes = torch.tensor([1.0, -1.0, -1.0], dtype=idexp.dtype, device=idexp.device)
    return mean_face + idexp * axes * (_DECIMETRE / _GENEFACE_SCALE)
