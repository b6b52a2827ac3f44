"""Drawn face: an identity from a seed, slight head movement, and a mouth that articulates.

Face coordinates: origin between nose and eyes, u to the right, v down, one unit is half the height from hairline to
chin. Static parts of a clip are painted once on a canvas in these coordinates, lit as a relief; each frame warps
the canvas (head, jaw) and draws lips, inner mouth and eyelids on it, with edges one pixel wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.synthetic.parts import (
    DROP,
    EYE_U,
    EYE_V,
    FINENESS,
    GAP,
    MOUTH_V,
    REACH,
    UNIT,
    Identity,
    Image,
    Mouth,
    Pose,
    blob,
    cloud,
    disc,
    mix,
    step,
)


class FacePainter:
    """Draws one identity.

    Args:
        identity: the person.
        size: height and width of the frames.

    Example:
        >>> painter = FacePainter(random_identity(np.random.default_rng(0), beard=False), 96)
        >>> painter.draw(Mouth(0.5, 0.5, 0, 0, 0, 0, 0), Pose(0, 0, 0, 1, 0, 0)).shape
        (96, 96, 3)
    """

    def __init__(self, identity: Identity, size: int) -> None:
        self.identity, self.size = identity, size
        self.side = round(2 * REACH * UNIT * size * FINENESS)
        self.canvas = _paint_canvas(identity, self.side)
        axis = ((np.arange(size) + 0.5) / size - 0.5) / UNIT
        self.x, self.y = (grid.astype(np.float32) for grid in np.meshgrid(axis, axis))
        self.wall = _paint_wall(identity, size)

    def draw(self, mouth: Mouth, pose: Pose) -> NDArray[np.uint8]:
        """Draw a frame.

        Args:
            mouth: articulation.
            pose: head and eyelids.

        Returns:
            (size, size, 3) uint8 RGB.
        """
        cosine, sine = np.float32(np.cos(pose.roll) / pose.scale), np.float32(np.sin(pose.roll) / pose.scale)
        x, y = self.x - np.float32(pose.x), self.y - np.float32(pose.y + 0.05)
        u, v = cosine * x + sine * y, cosine * y - sine * x
        # turning the head moves nose and mouth but not the outline
        u = u - np.float32(0.08 * pose.yaw) * np.exp(-1.8 * u * u - 0.5 * v * v)
        picture = self._warp(u, v - np.float32(DROP * mouth.jaw) * _jaw_share(u, v))
        pixel = 1 / (UNIT * self.size * pose.scale)
        lips = (np.abs(u) < 0.5) & (v > 0.2) & (v < 1.1)
        box = _bounds(lips)
        picture[box] = _paint_mouth(self.identity, mouth, u[box], v[box], picture[box], pixel)
        eyes = (np.abs(u) < 0.56) & (np.abs(v - EYE_V) < 0.2)
        box = _bounds(eyes)
        picture[box] = _paint_lids(self.identity, pose.blink, u[box], v[box], picture[box])
        return np.asarray(np.clip(picture * 255 + 0.5, 0, 255)).astype(np.uint8)

    def _warp(self, u: Image, v: Image) -> Image:
        """Sample the canvas bilinearly and composite it over the wall."""
        density = np.float32(self.side / (2 * REACH))
        limit = self.side - 1.001
        column = np.clip((u + np.float32(REACH)) * density - 0.5, 0, limit)
        row = np.clip((v + np.float32(REACH)) * density - 0.5, 0, limit)
        left, top = column.astype(np.int32), row.astype(np.int32)
        right, down = (column - left)[..., None], (row - top)[..., None]
        index = top * self.side + left
        flat = self.canvas
        upper = flat[index] * (1 - right) + flat[index + 1] * right
        lower = flat[index + self.side] * (1 - right) + flat[index + self.side + 1] * right
        mixed = upper + (lower - upper) * down
        return np.asarray(mixed[..., :3] + (1 - mixed[..., 3:]) * self.wall, np.float32)


def _bounds(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Smallest box around the inside."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _jaw_share(u: Image, v: Image) -> Image:
    """How far skin follows the jaw: none above the lips, all at the chin, none at the collar."""
    below = step(v - np.float32(0.72), 0.22)
    collar = 1 - step(v - np.float32(1.35), 0.3)
    return np.asarray(below * collar * (1 - step(np.abs(u) - np.float32(0.85), 0.2)), np.float32)


def _paint_wall(identity: Identity, size: int) -> Image:
    """(size, size, 3) background with a soft gradient and out-of-focus shapes."""
    rng = np.random.default_rng(identity.texture + 1)
    shade = 0.85 + 0.15 * cloud(rng, (size, size), (2, 2)) + 0.1 * cloud(rng, (size, size), (1, 5))
    return np.asarray(np.asarray(identity.wall, np.float32) * shade[..., None], np.float32)


def _paint_canvas(identity: Identity, side: int) -> Image:
    """(side * side, 4) colours times coverage, and coverage, of the static parts."""
    axis = (((np.arange(side) + 0.5) / side * 2 - 1) * REACH).astype(np.float32)
    u, v = np.meshgrid(axis, axis)
    rng = np.random.default_rng(identity.texture)
    head = _head_distance(identity, u, v)
    hair = _paint_hair(identity, rng, u, v)
    back = step(np.maximum(disc(u, v, (0, -0.32), (identity.width + 0.12, 1.12)), _hair_fall(identity, u, v)), 0.03)
    neck = step(np.minimum(np.float32(0.45) + 0.25 * np.maximum(v - 1.2, 0) - np.abs(u), v - np.float32(0.3)), 0.02)
    shirt = step(v - np.float32(1.62) + 0.16 * np.abs(u) - 0.5 * np.exp(-((u / 0.5) ** 2)) * 0.3, 0.02)
    skin = _paint_skin(identity, rng, u, v)
    picture = hair * np.float32(0.75)
    cover = np.maximum(np.maximum(back, neck), np.maximum(shirt, step(head)))
    # shadow of the head on the neck
    picture = mix(picture, skin * (0.62 + 0.2 * step(v - 1.45, 0.3))[..., None], neck)
    shirt_shade = (0.85 + 0.1 * cloud(rng, u.shape, (12, 8)))[..., None]
    picture = mix(picture, np.asarray(identity.shirt, np.float32) * shirt_shade, shirt)
    for sign in (-1.0, 1.0):
        ear = disc(u, v, (sign * (identity.width + 0.015), -0.02), (0.1, 0.21))
        picture = mix(
            picture, skin * (0.72 + 1.6 * np.clip(ear, 0, 0.1))[..., None], step(ear) * (not identity.long_hair)
        )
        cover = np.maximum(cover, step(ear))
    picture = mix(picture, skin, step(head))
    picture = _paint_features(identity, picture, u, v)
    front = step(_front_hair(identity, rng, u, v), 0.03) * step(head + 0.1, 0.02)
    picture = mix(picture, hair, front)
    return np.concatenate([picture * cover[..., None], cover[..., None]], axis=-1).reshape(-1, 4).astype(np.float32)


def _head_distance(identity: Identity, u: Image, v: Image) -> Image:
    """Distance to the outline of the head, positive inside: an ellipse above, a squarer jaw below."""
    middle, across = np.float32(-0.15), np.abs(u) / np.float32(identity.width)
    above = np.hypot(across, (v - middle) / np.float32(1.16))
    exponent = np.float32(identity.jaw)
    below = (across**exponent + np.abs((v - middle) / np.float32(1.16)) ** exponent) ** (1 / exponent)
    return np.asarray((1 - np.where(v < middle, above, below)) * np.float32(0.8), np.float32)


def _hair_fall(identity: Identity, u: Image, v: Image) -> Image:
    """Distance to long hair beside the face; far outside for short hair."""
    if not identity.long_hair:
        return np.full_like(u, -1.0)
    edge = identity.width + 0.16 + 0.05 * np.sin(3 * v) - np.abs(u)
    return np.asarray(np.minimum(np.minimum(edge, v + 0.4), 1.35 - v), np.float32)


def _front_hair(identity: Identity, rng: np.random.Generator, u: Image, v: Image) -> Image:
    """Distance to the hair in front of the forehead and at the temples."""
    strands = 0.04 * cloud(rng, u.shape, (3, 60))
    part = 0.16 * np.exp(-(((u - identity.parting * 0.6) / 0.22) ** 2))
    line = identity.hairline + 0.5 * (np.abs(u) / identity.width) ** 3 - part + strands
    temple = np.abs(u) - (identity.width - (0.1 if identity.long_hair else 0.045)) + 0.4 * np.maximum(v - 0.05, 0)
    below = np.where(v < (0.9 if identity.long_hair else -0.02), temple, -1.0)
    return np.asarray(np.maximum(line - v, below), np.float32)


def _paint_hair(identity: Identity, rng: np.random.Generator, u: Image, v: Image) -> Image:
    """(H, W, 3) hair with strands and a sheen."""
    strands = 0.3 * cloud(rng, u.shape, (5, 90)) + 0.25 * cloud(rng, u.shape, (3, 30))
    sheen = 0.5 * np.exp(-(((v + 1.12 - 0.25 * u * u) / 0.16) ** 2)) * (1 + identity.light[0] * u)
    shade = 0.95 + strands + sheen + 0.25 * identity.light[0] * u
    return np.asarray(np.asarray(identity.hair, np.float32) * shade[..., None] + 0.03 * sheen[..., None], np.float32)


def _relief(identity: Identity, u: Image, v: Image) -> Image:
    """Height of the face towards the viewer."""
    height = 0.8 * np.sqrt(
        np.maximum(1.1 - (u / (identity.width * 1.02)) ** 2 * 0.95 - ((v + 0.1) / 1.3) ** 2 * 0.7, 0.03)
    )
    ramp = np.clip((v + 0.42) / 0.62, 0, 1) * step(0.3 - v, 0.08)
    height += 0.2 * np.exp(-((u / (0.085 * identity.nose)) ** 2)) * ramp
    height += 0.09 * blob(u, v, (0, 0.19), (0.1 * identity.nose, 0.1))
    height += 0.05 * blob(u, v, (0, 0.5), (0.3, 0.18)) + 0.07 * blob(u, v, (0, 0.9), (0.17, 0.1))
    height -= 0.035 * blob(u, v, (0, 0.74), (0.2, 0.045)) + 0.015 * blob(u, v, (0, 0.4), (0.025, 0.07))
    for sign in (-1.0, 1.0):
        height += 0.06 * blob(u, v, (sign * 0.115 * identity.nose, 0.24), (0.06, 0.06))
        height -= 0.1 * blob(u, v, (sign * 0.31, EYE_V - 0.02), (0.19, 0.12))
        height += 0.04 * blob(u, v, (sign * 0.33, -0.42), (0.22, 0.07))
        height += 0.06 * blob(u, v, (sign * 0.45, 0.08), (0.2, 0.16))
    return np.asarray(height, np.float32)


def _paint_skin(identity: Identity, rng: np.random.Generator, u: Image, v: Image) -> Image:
    """(H, W, 3) lit skin, with redder cheeks and nose, grain, and stubble."""
    height = _relief(identity, u, v)
    slope_v, slope_u = np.gradient(height, float(v[1, 0] - v[0, 0]))
    x, y, z = np.asarray(identity.light) / np.linalg.norm(identity.light)
    facing = (z - x * slope_u - y * slope_v) / np.sqrt(1 + slope_u**2 + slope_v**2)
    shade = 0.42 + 0.62 * np.clip(facing, 0, 1)
    gloss = 0.16 * np.clip(facing, 0, 1) ** 24
    grain = 0.02 * cloud(rng, u.shape, (160, 160)) + 0.03 * cloud(rng, u.shape, (24, 24))
    blush = blob(np.abs(u), v, (0.45, 0.18), (0.2, 0.16)) + 0.7 * blob(u, v, (0, 0.2), (0.12, 0.12))
    skin = np.asarray(identity.skin, np.float32) * (1 - blush[..., None] * np.array([0.0, 0.09, 0.08]))
    lit = skin * (shade + grain)[..., None] ** np.array([0.9, 1.0, 1.06]) + gloss[..., None]
    beard = identity.stubble * step(v - 0.3 - 0.25 * np.exp(-(((np.abs(u) - 0.4) / 0.16) ** 2)), 0.12)
    beard = beard * (0.85 + 0.3 * cloud(rng, u.shape, (170, 170)))
    return mix(lit.astype(np.float32), np.asarray(identity.hair) * 0.7 + 0.06, beard.astype(np.float32))


def _paint_features(identity: Identity, picture: Image, u: Image, v: Image) -> Image:
    """Eyes, brows and nostrils."""
    side = np.abs(u)
    for dark, mask in (
        (0.62, 0.75 * blob(side, v, (0.062 * identity.nose, 0.293), (0.036, 0.02))),
        (0.35, 0.5 * blob(u, v, (0, 0.335), (0.13 * identity.nose, 0.03))),
        (0.3, 0.6 * blob(side, v, (0.165 * identity.nose, 0.25), (0.022, 0.05))),
        (0.2, 0.7 * np.exp(-(((side - 0.2 - 0.42 * (v - 0.28)) / 0.025) ** 2)) * blob(u, v, (0, 0.38), (9.0, 0.1))),
        (0.25, 0.6 * blob(side, v, (EYE_U, EYE_V + 0.12), (0.15, 0.03))),
        (0.3, 0.7 * blob(side, v, (0.16, EYE_V - 0.03), (0.06, 0.1))),
    ):
        picture = picture * (1 - dark * 1.2 * mask)[..., None]
    picture = _paint_eyes(identity, picture, u, v)
    along = (side - EYE_U + 0.01) / 0.2
    line = -0.405 - 0.045 * (1 - (along - 0.25) ** 2)
    thick = identity.brow * np.clip(1.1 - 0.5 * along, 0.3, 1.3) * (np.abs(along) < 1.15)
    brow = step(thick - np.abs(v - line), 0.018) * step(1.0 - np.abs(along), 0.15)
    return mix(picture, np.asarray(identity.hair, np.float32) * 0.75, 0.88 * brow)


def _almond(identity: Identity, u: Image, v: Image) -> tuple[Image, Image]:
    """Distances to the upper and the lower lid, positive inside the eye."""
    along = (np.abs(u) - EYE_U) / (0.155 * identity.eye)
    arch = np.maximum(1 - along * along, -0.6) * identity.eye
    centre = EYE_V - 0.012 * along
    return np.asarray(v - centre + 0.066 * arch, np.float32), np.asarray(centre + 0.045 * arch - v, np.float32)


def _paint_eyes(identity: Identity, picture: Image, u: Image, v: Image) -> Image:
    """White, iris, pupil, glint, lashes and the fold of the lid."""
    upper, lower = _almond(identity, u, v)
    inside = step(np.minimum(upper, lower), 0.01)
    white = 0.93 * (0.62 + 0.38 * np.clip(upper / 0.06, 0, 1)[..., None]) * np.array([0.92, 0.9, 0.88])
    picture = mix(picture, white.astype(np.float32), inside)
    eyes = np.minimum(np.hypot(u - EYE_U, v - EYE_V + 0.008), np.hypot(u + EYE_U, v - EYE_V + 0.008)).astype(np.float32)
    iris = np.asarray(identity.iris, np.float32) * (0.6 + 6 * np.clip(eyes, 0, 0.08))[..., None]
    picture = mix(picture, iris.astype(np.float32), inside * step(0.068 - eyes))
    picture = mix(picture, (0.02, 0.02, 0.02), inside * step(0.033 - eyes))
    glint = sum(blob(u, v, (sign * EYE_U + 0.02, EYE_V - 0.03), (0.016, 0.016)) for sign in (-1.0, 1.0))
    picture = mix(picture, (1.0, 1.0, 1.0), inside * np.asarray(glint, np.float32))
    near = np.asarray(np.abs(np.abs(u) - EYE_U) < 0.165 * identity.eye, np.float32)
    picture = mix(picture, (0.06, 0.04, 0.04), 0.9 * near * np.exp(-((upper / 0.016) ** 2)) * step(lower + 0.01))
    picture = mix(picture, (0.2, 0.1, 0.08), 0.4 * near * np.exp(-((lower / 0.012) ** 2)) * step(upper + 0.01))
    fold = np.exp(-(((upper + 0.04) / 0.012) ** 2)) * near
    return np.asarray(picture * (1 - 0.35 * fold)[..., None], np.float32)


def _paint_lids(identity: Identity, blink: float, u: Image, v: Image, picture: Image) -> Image:
    """Close the eyes by ``blink``."""
    if blink <= 0.02:
        return picture
    upper, lower = _almond(identity, u, v)
    edge = np.asarray((1 - blink) * upper - blink * lower, np.float32)  # negative above the edge of the moving lid
    inside = step(np.minimum(upper, lower) + 0.006, 0.01)
    picture = mix(picture, tuple(0.74 * part for part in identity.skin), inside * step(-edge))  # type: ignore[arg-type]
    return mix(picture, (0.08, 0.05, 0.05), 0.85 * inside * np.exp(-((edge / 0.014) ** 2)))


def _paint_mouth(identity: Identity, mouth: Mouth, u: Image, v: Image, picture: Image, pixel: float) -> Image:
    """Draw lips and the inner mouth.

    Args:
        identity: size and colour of the lips.
        mouth: articulation.
        u: (h, w) face coordinates of the pixels.
        v: the same, down.
        picture: (h, w, 3) skin.
        pixel: side of a pixel in face units.

    Returns:
        (h, w, 3) the image with a mouth.
    """
    gap = GAP * mouth.opening
    half = identity.lip_width * (1 + 0.13 * mouth.width - 0.32 * mouth.rounding - 0.1 * mouth.opening)
    along = u / np.float32(half)
    y = v - np.float32(MOUTH_V) + np.float32(0.012) * (along * along - 0.4)
    arch = np.sqrt(np.clip(1 - along * along, 0, 1))
    inner_arch = np.sqrt(np.clip(1 - (along / 0.88) ** 2, 0, 1))
    swell = arch**1.3 * (1 + 0.3 * mouth.rounding - 0.12 * mouth.opening - 0.22 * (mouth.opening < 0.02))
    upper_gap, lower_gap = 0.25 * gap + 0.03 * mouth.upper * min(1.0, 20 * gap), 0.75 * gap
    bow = 1 - 0.24 * np.exp(-((along / 0.16) ** 2)) * (1 - 0.5 * mouth.rounding)
    top = -upper_gap * arch - identity.lip_thickness * 0.85 * swell * bow - 0.01 * mouth.upper * arch
    bottom = lower_gap * arch + identity.lip_thickness * 1.2 * swell * (1 - 0.45 * mouth.tuck)
    ends = step(1 - np.abs(along), 0.03)
    lips = step(np.minimum(y - top, bottom - y), pixel) * ends
    picture = picture * (1 - 0.28 * ends * np.exp(-(((y - bottom - 0.035) / 0.035) ** 2)) * arch)[..., None]
    picture = picture * (1 - 0.35 * np.exp(-(((np.abs(along) - 1.0) / 0.09) ** 2) - (y / 0.03) ** 2))[..., None]
    picture = mix(picture, _lip_colour(identity, along, y, top, bottom, lower_gap * arch), 0.92 * lips)
    hole = step(np.minimum(y + upper_gap * inner_arch, lower_gap * inner_arch - y), pixel) * min(1.0, gap / 0.012)
    hole = hole * (np.abs(along) < 0.88)
    seam = 0.75 * np.exp(-((y / 0.013) ** 2)) * step(0.97 - np.abs(along), 0.05) * max(0.0, 1 - gap / 0.04)
    picture = mix(picture, (0.2, 0.07, 0.07), np.asarray(seam, np.float32))
    return mix(picture, _inner_mouth(mouth, along, y, upper_gap, lower_gap), np.asarray(hole, np.float32))


def _lip_colour(identity: Identity, along: Image, y: Image, top: Image, bottom: Image, inner: Image) -> Image:
    """(h, w, 3) upper lip in shade, lower lip with a highlight, fine lines across."""
    skin, red = np.asarray(identity.skin, np.float32), identity.lip_red
    base = skin * (np.array([0.86, 0.66, 0.68]) - red * np.array([0.02, 0.2, 0.14]))
    middle = (inner + bottom) / 2
    shine = 0.16 * np.exp(-(((y - middle) / 0.022) ** 2) - ((along - 0.3 * identity.light[0]) / 0.45) ** 2)
    shade = np.where(
        y < 0, 0.78 + 0.12 * np.clip((y - top) / 0.1, 0, 1), 1.0 - 0.22 * np.clip((y - middle) / 0.06, 0, 1)
    )
    lines = 1 + 0.03 * np.cos(38 * along) * np.cos(9 * along)
    return np.asarray(base * (shade * lines)[..., None] + shine[..., None], np.float32)


def _inner_mouth(mouth: Mouth, along: Image, y: Image, upper_gap: float, lower_gap: float) -> Image:
    """(h, w, 3) dark cavity, tongue, teeth; the upper teeth move with the skull, the lower with the jaw."""
    curve = 0.03 * along * along
    picture = np.zeros((*y.shape, 3), np.float32) + np.array([0.17, 0.05, 0.055], np.float32)
    side = (1 - 0.55 * along * along) * (0.9 + 0.1 * np.minimum(1, 14 * np.abs(np.sin(10.5 * along))))
    ivory = np.asarray(side[..., None] * np.array([0.9, 0.87, 0.81]), np.float32)
    tip = 0.03 + 0.16 * mouth.jaw - 0.1 * mouth.tongue
    tongue = np.minimum(y - tip - 0.08 * along * along, 0.62 - np.abs(along))
    flesh = np.array([0.66, 0.3, 0.3], np.float32) * (0.75 + 1.5 * np.clip(tongue, 0, 0.12))[..., None]
    upper = step(0.032 - curve - y, 0.01)
    lower = step(y - 0.0 - 0.17 * mouth.jaw - 0.025 + curve, 0.01) * (mouth.tongue < 0.8)
    picture = mix(picture, flesh, step(np.asarray(tongue, np.float32), 0.015))
    picture = mix(picture, ivory * 0.85, 0.85 * np.asarray(lower, np.float32))
    picture = mix(picture, ivory, upper if mouth.tongue < 0.9 else 0.8 * upper)
    # shadow of the lips, just inside
    rim = np.minimum(y + upper_gap, lower_gap - y)
    return np.asarray(picture * (0.55 + 0.45 * np.clip(rim / 0.03, 0, 1))[..., None], np.float32)
