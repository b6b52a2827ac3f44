"""Measures of generated faces without a sync expert: lip shape by a face mesh, and errors of the mouth's picture.

Axes: T frames, G blocks of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.demo.results import LIPS, PICTURE, Comparison, Measure
from unisync_loss.evaluation.bootstrap import bootstrap_ci
from unisync_loss.representations.face_topology import OUTER_LIPS
from unisync_loss.utils.tensors import Array
from unisync_loss.video.face_mesh import face_mesh, fill_gaps, has_face, lip_shape, mouth_of_mesh, pose_of_mesh

BLOCK = 10  # frames resampled together, because neighbouring ones are correlated


class Box(NamedTuple):
    """Part of a frame, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, video: Tensor) -> Tensor:
        """Cut the box out of frames (T, C, H, W)."""
        return video[:, :, self.top : self.bottom, self.left : self.right]

    def square(self, size: int) -> Box:
        """Square around the box, half as wide again, inside frames of ``size`` pixels."""
        side = min(size, round(1.5 * max(self.bottom - self.top, self.right - self.left)))
        top = min(max(0, (self.top + self.bottom - side) // 2), size - side)
        left = min(max(0, (self.left + self.right - side) // 2), size - side)
        return Box(top, top + side, left, left + side)


def mesh_of(video: Tensor) -> NDArray[np.float32]:
    """Face mesh (T, 468, 2) of frames (T, 3, H, W), as fractions of width and height; NaN where no face was found."""
    pixels = rearrange(video.clamp(0, 1) * 255, "t c h w -> t h w c").round().byte()
    return face_mesh(np.ascontiguousarray(pixels.numpy()))


def lips_of(video: Tensor) -> Array:
    """Opening and width of the lips in frames (T, 3, H, W), (T, 2) in units of :func:`lip_shape`.

    A frame without a face counts as the mean of the others, which adds nothing to a correlation.
    """
    mesh = mesh_of(video)
    found = has_face(mesh)
    lips = np.zeros((len(mesh), 2))
    if found.any():
        mesh = mesh[found]
        lips[found] = lip_shape(mouth_of_mesh(mesh, pose_of_mesh(mesh, (video.shape[2], video.shape[3]))))
        lips[~found] = lips[found].mean(0)
    return lips


def mouth_box(truth: Tensor) -> Box:
    """Box around the mouth's mean place in the true frames (T, 3, H, W), one and a half times as wide as the lips.

    Raises:
        ValueError: when more than a fifth of the frames show no face.
    """
    size = np.array([truth.shape[3], truth.shape[2]])
    points = fill_gaps(mesh_of(truth))[:, OUTER_LIPS].mean(0) * size
    middle, side = (points.min(0) + points.max(0)) / 2, 0.75 * np.ptp(points[:, 0])
    left, top = (middle - np.array([side, 0.8 * side])).clip(0, size).round().astype(int).tolist()
    right, bottom = (middle + side).clip(0, size).round().astype(int).tolist()
    return Box(top, bottom, left, right)


def picture_errors(video: Tensor, truth: Tensor) -> Array:
    """Errors of frames against the true ones, both (T, 3, H, W) in [0, 1].

    Returns:
        (3, T), in the order of :data:`~unisync_loss.demo.results.PICTURE`: mean absolute difference of the pixels; of
        the colour, which is a pixel minus the mean of its channels; of the detail, which is the brightness minus its
        mean over 3 x 3 pixels.
    """
    pairs = [(video, truth), (_colour(video), _colour(truth)), (_detail(video), _detail(truth))]
    return np.stack([reduce((a - b).abs(), "t c h w -> t", "mean").double().numpy() for a, b in pairs])


def _colour(video: Tensor) -> Tensor:
    return video - video.mean(dim=1, keepdim=True)


def _detail(video: Tensor) -> Tensor:
    brightness = video.mean(dim=1, keepdim=True)
    return brightness - F.avg_pool2d(F.pad(brightness, (1, 1, 1, 1), mode="replicate"), 3, 1)


def compare_lips(truth: Array, reconstruction: Array, unisync: Array, *, seed: int) -> dict[str, Comparison]:
    """Correlation over time of the lips, all (T, 2), with the true ones, and its gain."""
    series = np.stack([np.ones_like(truth), *(lips - lips.mean(0) for lips in (truth, reconstruction, unisync))])
    products = np.einsum("itc, jtc -> tcij", series, series)
    found = {}
    for name, axes in zip(LIPS, (slice(0, 1), slice(1, 2), slice(0, 2)), strict=True):
        statistics = (partial(_correlation_of, 0, axes), partial(_correlation_of, 1, axes), partial(_gain, axes))
        found[name] = Comparison(*(_measure(statistic, products, seed) for statistic in statistics))
    return found


def _correlation_of(run: int, axes: slice, products: Array) -> Array:
    return np.asarray(_correlation(products)[..., axes, run].mean(-1))


def _gain(axes: slice, products: Array) -> Array:
    return _correlation_of(1, axes, products) - _correlation_of(0, axes, products)


def _correlation(products: Array) -> Array:
    """Correlation of the second with the later series, from the sums (..., 4, 4) of their products; the first is 1."""
    mean = products[..., 0, 1:] / products[..., :1, 0]
    covariance = products[..., 1:, 1:] / products[..., :1, :1] - mean[..., :, None] * mean[..., None, :]
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    return np.asarray(covariance[..., 0, 1:] / np.sqrt((variance[..., :1] * variance[..., 1:]).clip(1e-16)))


def compare_pictures(truth: Tensor, reconstruction: Tensor, unisync: Tensor, *, seed: int) -> dict[str, Comparison]:
    """Errors of two videos, all (T, 3, H, W) and cut to the mouth, and the ratio of these errors."""
    errors = np.stack([picture_errors(reconstruction, truth), picture_errors(unisync, truth)])
    found = {}
    for name, (before, after) in zip(PICTURE, errors.swapaxes(0, 1), strict=True):
        ratio = _measure(lambda sums: sums[..., 1] / sums[..., 0].clip(1e-12), np.stack([before, after], 1), seed)
        found[name] = Comparison(mean_over_time(before, seed), mean_over_time(after, seed), ratio)
    return found


def mean_over_time(values: Array, seed: int) -> Measure:
    """Mean of the values (T,) of consecutive frames or windows, with its 95 % interval."""
    columns = np.stack([values, np.ones_like(values)], axis=1)
    return _measure(lambda sums: sums[..., 0] / sums[..., 1], columns, seed)


def _measure(statistic: Callable[[Array], Array], values: Array, seed: int) -> Measure:
    """Statistic of the sums over time of values (T, ...), with the 95 % interval over blocks of frames."""
    starts = np.arange(0, len(values), max(1, min(BLOCK, len(values) // 3)))
    blocks = np.add.reduceat(values, starts)
    low, high = bootstrap_ci(lambda weights: statistic(np.tensordot(weights, blocks, axes=1)), len(blocks), seed=seed)
    return Measure(float(statistic(blocks.sum(0))), low, high)
