"""Parsing maps drawn from the mesh points that bound their groups: a whole map, or only its mouth region.

Axes: T frames, G points that bound groups (:data:`unisync_loss.representations.face_topology.RINGS`), P groups.
"""

from __future__ import annotations

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unisync_loss.config import PARSING_GROUPS
from unisync_loss.representations.face_topology import FACE_OVAL, LEFT_CORNER, NOSE, OUTER_LIPS
from unisync_loss.representations.parsing import LEAST_AREA, MOUTH_SHARE

_PARTS = np.cumsum([len(FACE_OVAL), len(NOSE), len(OUTER_LIPS)])
_FLAT = 1e-7  # area below which a polygon counts as having none
_AT_ONCE = 64  # frames: temporary arrays are several times as large as a map
_LINES = 3  # scan lines per row of pixels; along a line coverage is exact

Floats = NDArray[np.float32]


def paint(rings: Floats, size: int) -> Floats:
    """Draw the groups: the face oval, the nose, both lips and the area between them.

    Args:
        rings: (T, G, 2) the bounding mesh points as fractions of width and height, none NaN.
        size: pixels of the map's sides.

    Returns:
        (T, P, size, size): fraction of each pixel that belongs to each of
        :data:`unisync_loss.config.PARSING_GROUPS`.
    """
    maps = np.empty((len(rings), len(PARSING_GROUPS), size, size), np.float32)
    for start in range(0, len(rings), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        maps[part] = _paint(rings[part], size)
    return maps


def _paint(rings: Floats, size: int) -> Floats:
    oval, nose, outer, inner = np.split(rings, _PARTS, axis=1)
    # both lip rings run along the lower side to the left corner and back along the upper side
    turn = LEFT_CORNER + 1
    lower = np.concatenate([outer[:, :turn], inner[:, turn - 1 :: -1]], axis=1)
    upper = np.concatenate(
        [outer[:, LEFT_CORNER:], outer[:, :1], inner[:, :1], inner[:, : LEFT_CORNER - 1 : -1]], axis=1
    )
    left = np.ones((len(rings), size, size), np.float32)
    painted = {}
    # groups in front are drawn first; later ones get the rest of a pixel
    for group, ring in {"mouth": inner, "lower_lip": lower, "upper_lip": upper, "nose": nose}.items():
        painted[group] = np.minimum(coverage(ring, size), left)
        left = left - painted[group]
    # the oval contains all of these
    painted["skin"] = np.clip(coverage(oval, size) - (1 - left), 0, left)
    painted["other"] = left - painted["skin"]
    return np.stack([painted[group] for group in PARSING_GROUPS], axis=1)


def paint_mouths(rings: Floats, side: int) -> Floats:
    """Draw the region that :func:`unisync_loss.representations.parsing.mouth_of_maps` crops, without the whole map.

    Args:
        rings: (T, G, 2) the bounding mesh points as fractions of width and height; clipped to the frame.
        side: pixels of the crop's sides.

    Returns:
        (T, P, side, side), as :func:`paint`.
    """
    rings = rings.clip(0, 1)
    oval, _, outer, _ = np.split(rings, _PARTS, axis=1)
    area, _ = area_and_middle(oval)
    _, middle = area_and_middle(outer)
    extent = MOUTH_SHARE * np.sqrt(np.maximum(area, LEAST_AREA))
    return paint((rings - middle[:, None]) / extent[:, None, None] + 0.5, side)


def area_and_middle(polygons: Floats) -> tuple[Floats, Floats]:
    """Area (T,) and centroid (T, 2) of polygons (T, V, 2); without area, the centre of the frame.

    A mouth outside the frame has no area once it is clipped to the edge.
    """
    x, y = polygons[..., 0], polygons[..., 1]
    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    cross = x * next_y - next_x * y
    area = cross.sum(1) / 2
    flat = np.abs(area) < _FLAT
    moments = np.stack([((x + next_x) * cross).sum(1), ((y + next_y) * cross).sum(1)], axis=1)
    middle = moments / (6 * np.where(flat, 1, area))[:, None]
    return np.abs(area), np.where(flat[:, None], 0.5, middle)


def coverage(polygons: Floats, size: int) -> Floats:
    """Fraction of each pixel inside a polygon.

    Args:
        polygons: (T, V, 2) corners as fractions of width and height, one polygon per map; they may reach beyond it.
        size: pixels of the map's sides.

    Returns:
        (T, size, size) in [0, 1].
    """
    # most polygons are small: only the pixels around all of them are computed
    corners = polygons.astype(np.float32) * size
    left, top = np.floor(corners.min((0, 1))).clip(0, size).astype(int)
    right, bottom = np.ceil(corners.max((0, 1))).clip(0, size).astype(int)
    covered = np.zeros((len(polygons), size, size), np.float32)
    if left < right and top < bottom:
        box = corners - np.array([left, top], np.float32)
        covered[:, top:bottom, left:right] = _coverage_in_box(box, bottom - top, right - left)
    return covered


def _coverage_in_box(corners: Floats, height: int, width: int) -> Floats:
    """:func:`coverage` of polygons (T, V, 2) in pixels, on a map of any shape."""
    lines = height * _LINES
    x, y = corners[..., 0], corners[..., 1] * _LINES - 0.5
    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    # every edge crosses the scan lines between the heights of its ends: one entry per crossing
    first, last = (np.ceil(end(y, next_y)).clip(0, lines).astype(np.int64).ravel() for end in (np.minimum, np.maximum))
    edge = np.repeat(np.arange(first.size), last - first)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    slope = ((next_x - x) / np.where(next_y == y, 1, next_y - y)).ravel()
    crossing = (x.ravel()[edge] + slope[edge] * (line - y.ravel()[edge])).clip(0, width)
    # pixels right of a crossing are inside until the next crossing; the crossed pixel is covered in part
    sign, column = np.sign(next_y - y).ravel()[edge], crossing.astype(np.int64)
    share = column + 1 - crossing
    place = (edge // corners.shape[1] * lines + line) * (width + 2) + column
    cells = len(corners) * lines * (width + 2)
    change = np.bincount(place, sign * share, cells) + np.bincount(place + 1, sign * (1 - share), cells)
    table = rearrange(change.astype(np.float32), "(t l c) -> t l c", t=len(corners), l=lines)
    inside = np.abs(np.cumsum(table, axis=2)[..., :width])
    covered: Floats = rearrange(inside, "t (h l) w -> t h l w", l=_LINES).mean(2)
    return covered.clip(0, 1)
