"""Parameters of a drawn face (identity, mouth, pose) and soft-edged shapes to paint it with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = tuple[float, float, float]

UNIT = 0.3  #: face units in frame heights: forehead to chin fills 0.6 of the frame
REACH = 1.95  #: the canvas spans [-REACH, REACH]; the frame needs 1.67, and the head moves
FINENESS = 1.5  #: canvas pixels per frame pixel
MOUTH_V = 0.56  #: height of the closed lips
GAP = 0.27  #: distance between the lips at opening 1
DROP = 0.17  #: displacement of the chin at jaw 1
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
    """Appearance of a drawn person; lengths in face units, colours in [0, 1]."""

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
    """Articulation at one moment, each in [0, 1] except ``width`` in [-1, 1]; at ``opening`` 0 the lips touch."""

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


def step(distance: Image, softness: float = 0.012) -> Image:
    """1 where the distance is positive, 0 where negative, smooth in between."""
    share = np.clip(distance / np.float32(2 * softness) + np.float32(0.5), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def blob(u: Image, v: Image, centre: tuple[float, float], radius: tuple[float, float]) -> Image:
    """Gaussian bump of height 1."""
    across, down = (
        (u - np.float32(centre[0])) / np.float32(radius[0]),
        (v - np.float32(centre[1])) / np.float32(radius[1]),
    )
    return np.asarray(np.exp(-across * across - down * down), np.float32)


def disc(u: Image, v: Image, centre: tuple[float, float], radius: tuple[float, float]) -> Image:
    """Signed distance, roughly, to an ellipse; positive inside."""
    ratio = np.hypot((u - centre[0]) / radius[0], (v - centre[1]) / radius[1])
    return np.asarray((1 - ratio) * min(radius), np.float32)


def cloud(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, int]) -> Image:
    """Smooth noise in [-1, 1] with the given number of cells down and across."""
    knots = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1))
    down = np.linspace(0, cells[0], shape[0])
    across = np.linspace(0, cells[1], shape[1])
    tall = np.stack([np.interp(down, np.arange(cells[0] + 1), column) for column in knots.T], axis=1)
    return np.stack([np.interp(across, np.arange(cells[1] + 1), row) for row in tall]).astype(np.float32)


def mix(picture: Image, colour: Image | Colour, mask: Image) -> Image:
    """Blend a colour, (3,) or (H, W, 3), over an image."""
    return np.asarray(picture + (np.asarray(colour, np.float32) - picture) * mask[..., None], np.float32)
