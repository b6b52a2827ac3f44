"""A drawn face of nobody: an identity from a seed, a head that moves a little, and a mouth that articulates.

Face coordinates: origin between nose and eyes, u to the right, v down, one unit is half the height from hairline to
chin. What never changes within a clip is painted once on a canvas in these coordinates, lit as a relief; each frame
warps the canvas (head, jaw) and draws lips, inner mouth and eyelids anew, with edges one pixel soft.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = tuple[float, float, float]

UNIT = 0.3  #: face units in picture heights: forehead to chin fills 0.6 of the picture
REACH = 1.95  #: the canvas spans [-REACH, REACH]; the picture needs 1.67, and the head moves
FINENESS = 1.5  #: canvas pixels per picture pixel
MOUTH_V = 0.56  #: height of the closed lips
GAP = 0.27  #: distance between the lips at opening 1
DROP = 0.17  #: way of the chin at jaw 1
EYE_U, EYE_V = 0.335, -0.2
SKINS: tuple[Colour, ...] = (
    (0.96, 0.80, 0.71),
    (0.90, 0.70, 0.57),
    (0.78, 0.57, 0.43),
    (0.60, 0.41, 0.30),
    (0.46, 0.31, 0.23),
)
HAIRS: tuple[Colour, ...] = (
    (0.09, 0.07, 0.06),
    (0.17, 0.11, 0.07),
    (0.32, 0.20, 0.11),
    (0.55, 0.38, 0.20),
    (0.42, 0.17, 0.08),
    (0.5, 0.5, 0.5),
)
IRISES: tuple[Colour, ...] = ((0.22, 0.13, 0.07), (0.35, 0.24, 0.12), (0.28, 0.38, 0.48), (0.30, 0.40, 0.28))


class Identity(NamedTuple):
    """What makes a drawn person; lengths in face units, colours in [0, 1]."""

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    wall: Colour
    width: float  #: half the width of the face
    jaw: float  #: squareness of the jaw, exponent of its outline
    eye: float  #: size of the eyes, about 1
    brow: float  #: thickness of the brows
    nose: float  #: width of the nose, about 1
    lip_width: float  #: half the width of the mouth at rest
    lip_thickness: float
    lip_red: float
    long_hair: bool
    hairline: float
    parting: float
    stubble: float
    light: tuple[float, float, float]  #: direction to the light
    texture: int  #: seed of skin grain, hair and wall


class Mouth(NamedTuple):
    """Articulation at one moment, each in [0, 1] but ``width`` in [-1, 1]; ``opening`` 0 means lips that touch."""

    opening: float
    jaw: float
    width: float
    rounding: float
    upper: float
    tuck: float
    tongue: float


class Pose(NamedTuple):
    """Head at one moment: shift in face units, roll in radians, scale, yaw in [-1, 1], eyelids closed in [0, 1]."""

    x: float
    y: float
    roll: float
    scale: float
    yaw: float
    blink: float


def random_identity(rng: np.random.Generator, *, beard: bool) -> Identity:
    """Draw a person; ``beard`` allows stubble."""
    tone = rng.uniform(0, len(SKINS) - 1)
    low = min(int(tone), len(SKINS) - 2)
    skin = tuple(float(a + (tone - low) * (b - a)) for a, b in zip(SKINS[low], SKINS[low + 1], strict=True))
    hair = HAIRS[int(rng.integers(len(HAIRS)))] if tone < 1.8 else HAIRS[int(rng.integers(2))]
    long_hair = bool(rng.random() < (0.15 if beard else 0.8))
    return Identity(
        skin=(skin[0], skin[1], skin[2]),
        hair=hair,
        iris=IRISES[int(rng.integers(len(IRISES)))] if tone < 1.8 else IRISES[0],
        shirt=(float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.1, 0.7)), float(rng.uniform(0.15, 0.8))),
        wall=(float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.35, 0.8)), float(rng.uniform(0.4, 0.85))),
        width=float(rng.uniform(0.7, 0.79)),
        jaw=float(rng.uniform(1.9, 2.4) + 0.15 * beard),
        eye=float(rng.uniform(0.92, 1.12)),
        brow=float(rng.uniform(0.03, 0.05) + 0.012 * beard),
        nose=float(rng.uniform(0.88, 1.15)),
        lip_width=float(rng.uniform(0.25, 0.31)),
        lip_thickness=float(rng.uniform(0.065, 0.105) - 0.012 * beard),
        lip_red=float(rng.uniform(0.35, 0.6) if beard else rng.uniform(0.5, 1.0)),
        long_hair=long_hair,
        hairline=float(rng.uniform(-0.96, -0.8)),
        parting=float(rng.uniform(-0.6, 0.6)),
        stubble=float(rng.uniform(0.05, 0.5)) if beard and rng.random() < 0.7 else 0.0,
        light=(float(rng.uniform(-0.6, 0.6)), -0.55, 0.9),
        texture=int(rng.integers(2**31)),
    )


class FacePainter:
    """Draws one identity.

    Args:
        identity: the person.
        size: height and width of the pictures.

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
        # a turn of the head moves what is in front (nose, mouth) and leaves the outline
        u = u - np.float32(0.08 * pose.yaw) * np.exp(-1.8 * u * u - 0.5 * v * v)
        picture = self._warp(u, v - np.float32(DROP * mouth.jaw) * _jaw_share(u, v))
        pixel = 1 / (UNIT * self.size * pose.scale)
        for inside, paint in (
            (
                (np.abs(u) < 0.5) & (v > 0.2) & (v < 1.1),
                lambda a, b, c: _paint_mouth(self.identity, mouth, a, b, c, pixel),
            ),
            (
                (np.abs(u) < 0.56) & (np.abs(v - EYE_V) < 0.2),
                lambda a, b, c: _paint_lids(self.identity, pose.blink, a, b, c),
            ),
        ):
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            picture[box] = paint(u[box], v[box], picture[box])
        return np.asarray(np.clip(picture * 255 + 0.5, 0, 255)).astype(np.uint8)

    def _warp(self, u: Image, v: Image) -> Image:
        """Sample the canvas bilinearly and lay it over the wall."""
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


def _step(distance: Image, softness: float = 0.012) -> Image:
    """1 where the distance is positive, 0 where negative, smooth in between."""
    share = np.clip(distance / np.float32(2 * softness) + np.float32(0.5), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _blob(u: Image, v: Image, centre: tuple[float, float], radius: tuple[float, float]) -> Image:
    """Gaussian bump of height 1."""
    across, down = (
        (u - np.float32(centre[0])) / np.float32(radius[0]),
        (v - np.float32(centre[1])) / np.float32(radius[1]),
    )
    return np.asarray(np.exp(-across * across - down * down), np.float32)


def _disc(u: Image, v: Image, centre: tuple[float, float], radius: tuple[float, float]) -> Image:
    """Signed distance, roughly, to an ellipse; positive inside."""
    ratio = np.hypot((u - centre[0]) / radius[0], (v - centre[1]) / radius[1])
    return np.asarray((1 - ratio) * min(radius), np.float32)


def _cloud(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Image:
    """Smooth noise in [-1, 1] of so many cells down and across."""
    knots = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1))
    down = np.linspace(0, cells[0], shape[0])
    across = np.linspace(0, cells[1], shape[1])
    tall = np.stack([np.interp(down, np.arange(cells[0] + 1), column) for column in knots.T], axis=1)
    return np.stack([np.interp(across, np.arange(cells[1] + 1), row) for row in tall]).astype(np.float32)


def _mix(picture: Image, colour: Image | Colour, mask: Image) -> Image:
    """Lay a colour, (3,) or (H, W, 3), over a picture."""
    return np.asarray(picture + (np.asarray(colour, np.float32) - picture) * mask[..., None], np.float32)


def _jaw_share(u: Image, v: Image) -> Image:
    """How far skin follows the jaw: none above the lips, all at the chin, none at the collar."""
    below = _step(v - np.float32(0.72), 0.22)
    collar = 1 - _step(v - np.float32(1.35), 0.3)
    return np.asarray(below * collar * (1 - _step(np.abs(u) - np.float32(0.85), 0.2)), np.float32)


def _paint_wall(identity: Identity, size: int) -> Image:
    """(size, size, 3) background with a soft gradient and out-of-focus shapes."""
    rng = np.random.default_rng(identity.texture + 1)
    shade = 0.85 + 0.15 * _cloud(rng, (size, size), (2, 2)) + 0.1 * _cloud(rng, (size, size), (1, 5))
    return np.asarray(np.asarray(identity.wall, np.float32) * shade[..., None], np.float32)


def _paint_canvas(identity: Identity, side: int) -> Image:
    """(side * side, 4) colours times coverage, and coverage, of all that does not articulate."""
    axis = (((np.arange(side) + 0.5) / side * 2 - 1) * REACH).astype(np.float32)
    u, v = np.meshgrid(axis, axis)
    rng = np.random.default_rng(identity.texture)
    head = _head_distance(identity, u, v)
    hair = _paint_hair(identity, rng, u, v)
    back = _step(np.maximum(_disc(u, v, (0, -0.32), (identity.width + 0.12, 1.12)), _hair_fall(identity, u, v)), 0.03)
    neck = _step(np.minimum(np.float32(0.45) + 0.25 * np.maximum(v - 1.2, 0) - np.abs(u), v - np.float32(0.3)), 0.02)
    shirt = _step(v - np.float32(1.62) + 0.16 * np.abs(u) - 0.5 * np.exp(-((u / 0.5) ** 2)) * 0.3, 0.02)
    skin = _paint_skin(identity, rng, u, v)
    picture = hair * np.float32(0.75)
    cover = np.maximum(np.maximum(back, neck), np.maximum(shirt, _step(head)))
    # the head throws its shadow on the neck
    picture = _mix(picture, skin * (0.62 + 0.2 * _step(v - 1.45, 0.3))[..., None], neck)
    shirt_shade = (0.85 + 0.1 * _cloud(rng, u.shape, (12, 8)))[..., None]
    picture = _mix(picture, np.asarray(identity.shirt, np.float32) * shirt_shade, shirt)
    for sign in (-1.0, 1.0):
        ear = _disc(u, v, (sign * (identity.width + 0.015), -0.02), (0.1, 0.21))
        picture = _mix(
            picture, skin * (0.72 + 1.6 * np.clip(ear, 0, 0.1))[..., None], _step(ear) * (not identity.long_hair)
        )
        cover = np.maximum(cover, _step(ear))
    picture = _mix(picture, skin, _step(head))
    picture = _paint_features(identity, picture, u, v)
    front = _step(_front_hair(identity, rng, u, v), 0.03) * _step(head + 0.1, 0.02)
    picture = _mix(picture, hair, front)
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
    strands = 0.04 * _cloud(rng, u.shape, (3, 60))
    part = 0.16 * np.exp(-(((u - identity.parting * 0.6) / 0.22) ** 2))
    line = identity.hairline + 0.5 * (np.abs(u) / identity.width) ** 3 - part + strands
    temple = np.abs(u) - (identity.width - (0.1 if identity.long_hair else 0.045)) + 0.4 * np.maximum(v - 0.05, 0)
    below = np.where(v < (0.9 if identity.long_hair else -0.02), temple, -1.0)
    return np.asarray(np.maximum(line - v, below), np.float32)


def _paint_hair(identity: Identity, rng: np.random.Generator, u: Image, v: Image) -> Image:
    """(H, W, 3) hair with strands and a sheen."""
    strands = 0.3 * _cloud(rng, u.shape, (5, 90)) + 0.25 * _cloud(rng, u.shape, (3, 30))
    sheen = 0.5 * np.exp(-(((v + 1.12 - 0.25 * u * u) / 0.16) ** 2)) * (1 + identity.light[0] * u)
    shade = 0.95 + strands + sheen + 0.25 * identity.light[0] * u
    return np.asarray(np.asarray(identity.hair, np.float32) * shade[..., None] + 0.03 * sheen[..., None], np.float32)


def _relief(identity: Identity, u: Image, v: Image) -> Image:
    """Height of the face towards the viewer."""
    height = 0.8 * np.sqrt(
        np.maximum(1.1 - (u / (identity.width * 1.02)) ** 2 * 0.95 - ((v + 0.1) / 1.3) ** 2 * 0.7, 0.03)
    )
    ramp = np.clip((v + 0.42) / 0.62, 0, 1) * _step(0.3 - v, 0.08)
    height += 0.2 * np.exp(-((u / (0.085 * identity.nose)) ** 2)) * ramp
    height += 0.09 * _blob(u, v, (0, 0.19), (0.1 * identity.nose, 0.1))
    height += 0.05 * _blob(u, v, (0, 0.5), (0.3, 0.18)) + 0.07 * _blob(u, v, (0, 0.9), (0.17, 0.1))
    height -= 0.035 * _blob(u, v, (0, 0.74), (0.2, 0.045)) + 0.015 * _blob(u, v, (0, 0.4), (0.025, 0.07))
    for sign in (-1.0, 1.0):
        height += 0.06 * _blob(u, v, (sign * 0.115 * identity.nose, 0.24), (0.06, 0.06))
        height -= 0.1 * _blob(u, v, (sign * 0.31, EYE_V - 0.02), (0.19, 0.12))
        height += 0.04 * _blob(u, v, (sign * 0.33, -0.42), (0.22, 0.07))
        height += 0.06 * _blob(u, v, (sign * 0.45, 0.08), (0.2, 0.16))
    return np.asarray(height, np.float32)


def _paint_skin(identity: Identity, rng: np.random.Generator, u: Image, v: Image) -> Image:
    """(H, W, 3) lit skin, with redder cheeks and nose, grain, and stubble."""
    height = _relief(identity, u, v)
    slope_v, slope_u = np.gradient(height, float(v[1, 0] - v[0, 0]))
    x, y, z = np.asarray(identity.light) / np.linalg.norm(identity.light)
    facing = (z - x * slope_u - y * slope_v) / np.sqrt(1 + slope_u**2 + slope_v**2)
    shade = 0.42 + 0.62 * np.clip(facing, 0, 1)
    gloss = 0.16 * np.clip(facing, 0, 1) ** 24
    grain = 0.02 * _cloud(rng, u.shape, (160, 160)) + 0.03 * _cloud(rng, u.shape, (24, 24))
    blush = _blob(np.abs(u), v, (0.45, 0.18), (0.2, 0.16)) + 0.7 * _blob(u, v, (0, 0.2), (0.12, 0.12))
    skin = np.asarray(identity.skin, np.float32) * (1 - blush[..., None] * np.array([0.0, 0.09, 0.08]))
    lit = skin * (shade + grain)[..., None] ** np.array([0.9, 1.0, 1.06]) + gloss[..., None]
    beard = identity.stubble * _step(v - 0.3 - 0.25 * np.exp(-(((np.abs(u) - 0.4) / 0.16) ** 2)), 0.12)
    beard = beard * (0.85 + 0.3 * _cloud(rng, u.shape, (170, 170)))
    return _mix(lit.astype(np.float32), np.asarray(identity.hair) * 0.7 + 0.06, beard.astype(np.float32))


def _paint_features(identity: Identity, picture: Image, u: Image, v: Image) -> Image:
    """Eyes, brows and nostrils."""
    side = np.abs(u)
    for dark, mask in (
        (0.62, 0.75 * _blob(side, v, (0.062 * identity.nose, 0.293), (0.036, 0.02))),
        (0.35, 0.5 * _blob(u, v, (0, 0.335), (0.13 * identity.nose, 0.03))),
        (0.3, 0.6 * _blob(side, v, (0.165 * identity.nose, 0.25), (0.022, 0.05))),
        (0.2, 0.7 * np.exp(-(((side - 0.2 - 0.42 * (v - 0.28)) / 0.025) ** 2)) * _blob(u, v, (0, 0.38), (9.0, 0.1))),
        (0.25, 0.6 * _blob(side, v, (EYE_U, EYE_V + 0.12), (0.15, 0.03))),
        (0.3, 0.7 * _blob(side, v, (0.16, EYE_V - 0.03), (0.06, 0.1))),
    ):
        picture = picture * (1 - dark * 1.2 * mask)[..., None]
    picture = _paint_eyes(identity, picture, u, v)
    along = (side - EYE_U + 0.01) / 0.2
    line = -0.405 - 0.045 * (1 - (along - 0.25) ** 2)
    thick = identity.brow * np.clip(1.1 - 0.5 * along, 0.3, 1.3) * (np.abs(along) < 1.15)
    brow = _step(thick - np.abs(v - line), 0.018) * _step(1.0 - np.abs(along), 0.15)
    return _mix(picture, np.asarray(identity.hair, np.float32) * 0.75, 0.88 * brow)


def _almond(identity: Identity, u: Image, v: Image) -> tuple[Image, Image]:
    """Distances to the upper and the lower lid, positive inside the eye."""
    along = (np.abs(u) - EYE_U) / (0.155 * identity.eye)
    arch = np.maximum(1 - along * along, -0.6) * identity.eye
    centre = EYE_V - 0.012 * along
    return np.asarray(v - centre + 0.066 * arch, np.float32), np.asarray(centre + 0.045 * arch - v, np.float32)


def _paint_eyes(identity: Identity, picture: Image, u: Image, v: Image) -> Image:
    """White, iris, pupil, glint, lashes and the fold of the lid."""
    upper, lower = _almond(identity, u, v)
    inside = _step(np.minimum(upper, lower), 0.01)
    white = 0.93 * (0.62 + 0.38 * np.clip(upper / 0.06, 0, 1)[..., None]) * np.array([0.92, 0.9, 0.88])
    picture = _mix(picture, white.astype(np.float32), inside)
    eyes = np.minimum(np.hypot(u - EYE_U, v - EYE_V + 0.008), np.hypot(u + EYE_U, v - EYE_V + 0.008)).astype(np.float32)
    iris = np.asarray(identity.iris, np.float32) * (0.6 + 6 * np.clip(eyes, 0, 0.08))[..., None]
    picture = _mix(picture, iris.astype(np.float32), inside * _step(0.068 - eyes))
    picture = _mix(picture, (0.02, 0.02, 0.02), inside * _step(0.033 - eyes))
    glint = sum(_blob(u, v, (sign * EYE_U + 0.02, EYE_V - 0.03), (0.016, 0.016)) for sign in (-1.0, 1.0))
    picture = _mix(picture, (1.0, 1.0, 1.0), inside * np.asarray(glint, np.float32))
    near = np.asarray(np.abs(np.abs(u) - EYE_U) < 0.165 * identity.eye, np.float32)
    picture = _mix(picture, (0.06, 0.04, 0.04), 0.9 * near * np.exp(-((upper / 0.016) ** 2)) * _step(lower + 0.01))
    picture = _mix(picture, (0.2, 0.1, 0.08), 0.4 * near * np.exp(-((lower / 0.012) ** 2)) * _step(upper + 0.01))
    fold = np.exp(-(((upper + 0.04) / 0.012) ** 2)) * near
    return np.asarray(picture * (1 - 0.35 * fold)[..., None], np.float32)


def _paint_lids(identity: Identity, blink: float, u: Image, v: Image, picture: Image) -> Image:
    """Close the eyes by ``blink``."""
    if blink <= 0.02:
        return picture
    upper, lower = _almond(identity, u, v)
    edge = np.asarray((1 - blink) * upper - blink * lower, np.float32)  # negative above the edge of the moving lid
    inside = _step(np.minimum(upper, lower) + 0.006, 0.01)
    picture = _mix(picture, tuple(0.74 * part for part in identity.skin), inside * _step(-edge))  # type: ignore[arg-type]
    return _mix(picture, (0.08, 0.05, 0.05), 0.85 * inside * np.exp(-((edge / 0.014) ** 2)))


def _paint_mouth(identity: Identity, mouth: Mouth, u: Image, v: Image, picture: Image, pixel: float) -> Image:
    """Lips and what shows between them.

    Args:
        identity: size and colour of the lips.
        mouth: articulation.
        u: (h, w) face coordinates of the pixels.
        v: the same, down.
        picture: (h, w, 3) skin.
        pixel: side of a pixel in face units.

    Returns:
        (h, w, 3) the picture with a mouth.
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
    ends = _step(1 - np.abs(along), 0.03)
    lips = _step(np.minimum(y - top, bottom - y), pixel) * ends
    picture = picture * (1 - 0.28 * ends * np.exp(-(((y - bottom - 0.035) / 0.035) ** 2)) * arch)[..., None]
    picture = picture * (1 - 0.35 * np.exp(-(((np.abs(along) - 1.0) / 0.09) ** 2) - (y / 0.03) ** 2))[..., None]
    picture = _mix(picture, _lip_colour(identity, along, y, top, bottom, lower_gap * arch), 0.92 * lips)
    hole = _step(np.minimum(y + upper_gap * inner_arch, lower_gap * inner_arch - y), pixel) * min(1.0, gap / 0.012)
    hole = hole * (np.abs(along) < 0.88)
    seam = 0.75 * np.exp(-((y / 0.013) ** 2)) * _step(0.97 - np.abs(along), 0.05) * max(0.0, 1 - gap / 0.04)
    picture = _mix(picture, (0.2, 0.07, 0.07), np.asarray(seam, np.float32))
    return _mix(picture, _inner_mouth(mouth, along, y, upper_gap, lower_gap), np.asarray(hole, np.float32))


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
    """(h, w, 3) dark cavity, tongue, teeth; the upper teeth stay with the skull, the lower go with the jaw."""
    curve = 0.03 * along * along
    picture = np.zeros((*y.shape, 3), np.float32) + np.array([0.17, 0.05, 0.055], np.float32)
    side = (1 - 0.55 * along * along) * (0.9 + 0.1 * np.minimum(1, 14 * np.abs(np.sin(10.5 * along))))
    ivory = np.asarray(side[..., None] * np.array([0.9, 0.87, 0.81]), np.float32)
    tip = 0.03 + 0.16 * mouth.jaw - 0.1 * mouth.tongue
    tongue = np.minimum(y - tip - 0.08 * along * along, 0.62 - np.abs(along))
    flesh = np.array([0.66, 0.3, 0.3], np.float32) * (0.75 + 1.5 * np.clip(tongue, 0, 0.12))[..., None]
    upper = _step(0.032 - curve - y, 0.01)
    lower = _step(y - 0.0 - 0.17 * mouth.jaw - 0.025 + curve, 0.01) * (mouth.tongue < 0.8)
    picture = _mix(picture, flesh, _step(np.asarray(tongue, np.float32), 0.015))
    picture = _mix(picture, ivory * 0.85, 0.85 * np.asarray(lower, np.float32))
    picture = _mix(picture, ivory, upper if mouth.tongue < 0.9 else 0.8 * upper)
    # the lips throw a shadow just inside
    rim = np.minimum(y + upper_gap, lower_gap - y)
    return np.asarray(picture * (0.55 + 0.45 * np.clip(rim / 0.03, 0, 1))[..., None], np.float32)
