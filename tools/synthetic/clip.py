"""Synthetic talking faces, free to redistribute: one random sentence drives a drawn mouth and a synthetic voice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.synthetic.face import FacePainter
from tools.synthetic.parts import Identity, Mouth, Pose, random_identity
from tools.synthetic.voice import (
    PHONEMES,
    TICKS,
    Array,
    Segment,
    Voice,
    random_sentence,
    random_voice,
    smooth,
    synthesize_voice,
)
from unisync_loss.config import FPS, SAMPLES_PER_FRAME

#: targets of the lips for each sound: opening, jaw, width, rounding, upper lip, tuck, tongue; then their firmness
VISEMES: dict[str, tuple[float, ...]] = {
    "_": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5),
    "i": (0.30, 0.20, 0.9, 0.0, 0.3, 0.0, 0.5, 1.0),
    "I": (0.40, 0.30, 0.5, 0.0, 0.2, 0.0, 0.4, 0.9),
    "e": (0.50, 0.40, 0.6, 0.0, 0.2, 0.0, 0.3, 1.0),
    "E": (0.65, 0.55, 0.4, 0.0, 0.2, 0.0, 0.2, 1.0),
    "A": (0.88, 0.85, 0.4, 0.0, 0.2, 0.0, 0.1, 1.0),
    "a": (1.00, 1.00, 0.1, 0.0, 0.1, 0.0, 0.0, 1.0),
    "V": (0.70, 0.65, 0.0, 0.0, 0.1, 0.0, 0.1, 1.0),
    "@": (0.45, 0.40, 0.0, 0.0, 0.1, 0.0, 0.2, 0.7),
    "O": (0.75, 0.75, -0.3, 0.6, 0.0, 0.0, 0.0, 1.0),
    "o": (0.55, 0.50, -0.5, 0.85, 0.0, 0.0, 0.0, 1.1),
    "U": (0.38, 0.32, -0.4, 0.7, 0.0, 0.0, 0.1, 1.0),
    "u": (0.24, 0.22, -0.7, 1.0, 0.0, 0.0, 0.1, 1.2),
    "p": (0.0, 0.10, 0.0, 0.1, 0.0, 0.0, 0.2, 0.8),
    "b": (0.0, 0.10, 0.0, 0.1, 0.0, 0.0, 0.2, 0.8),
    "m": (0.0, 0.10, 0.0, 0.1, 0.0, 0.0, 0.2, 0.8),
    "t": (0.20, 0.12, 0.2, 0.0, 0.2, 0.0, 0.7, 0.7),
    "d": (0.22, 0.14, 0.2, 0.0, 0.2, 0.0, 0.7, 0.7),
    "k": (0.28, 0.25, 0.1, 0.0, 0.1, 0.0, 0.0, 0.4),
    "g": (0.28, 0.25, 0.1, 0.0, 0.1, 0.0, 0.0, 0.4),
    "C": (0.22, 0.08, -0.3, 0.55, 0.5, 0.0, 0.3, 1.2),
    "n": (0.22, 0.15, 0.2, 0.0, 0.2, 0.0, 0.7, 0.7),
    "N": (0.28, 0.25, 0.1, 0.0, 0.1, 0.0, 0.0, 0.4),
    "f": (0.13, 0.05, 0.2, 0.0, 0.8, 1.0, 0.0, 2.0),
    "v": (0.13, 0.06, 0.2, 0.0, 0.8, 1.0, 0.0, 2.0),
    "T": (0.24, 0.18, 0.1, 0.0, 0.3, 0.0, 1.0, 1.2),
    "D": (0.24, 0.18, 0.1, 0.0, 0.3, 0.0, 1.0, 1.2),
    "s": (0.19, 0.03, 0.5, 0.0, 0.5, 0.0, 0.1, 1.3),
    "z": (0.19, 0.03, 0.5, 0.0, 0.5, 0.0, 0.1, 1.3),
    "S": (0.24, 0.08, -0.3, 0.6, 0.5, 0.0, 0.2, 1.3),
    "h": (0.45, 0.35, 0.0, 0.0, 0.1, 0.0, 0.0, 0.2),
    "l": (0.34, 0.28, 0.1, 0.0, 0.1, 0.0, 0.95, 0.8),
    "r": (0.26, 0.20, -0.2, 0.45, 0.2, 0.0, 0.2, 0.9),
    "w": (0.12, 0.12, -0.8, 1.0, 0.0, 0.0, 0.0, 1.5),
    "j": (0.26, 0.18, 0.7, 0.0, 0.2, 0.0, 0.5, 0.9),
}
BLEND = 110  #: ms over which neighbouring targets mix
PART = 45  #: ms that the lips take to meet before a closure, and to part after it


class SyntheticClip(NamedTuple):
    """A talking face.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB at 25 fps; frame t is the instant t / 25 s.
        waveform: (640 * T,) float32 mono at 16 kHz in [-1, 1].
        mouth_opening: (T,) float32 distance between the lips in [0, 1]; 0 when they touch.
    """

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    mouth_opening: NDArray[np.float32]


class ClipPlan(NamedTuple):
    """All choices of a clip: speaker and sentence; ``noise_seed`` determines breath, blinks and head motion."""

    voice: Voice
    identity: Identity
    segments: list[Segment]
    noise_seed: int


def plan_clip(seed: int, seconds: float = 3.0, *, speaker_seed: int | None = None) -> ClipPlan:
    """Choose speaker and sentence.

    Args:
        seed: seed of the sentence, and of the speaker without a ``speaker_seed``.
        seconds: length; rounded to whole frames.
        speaker_seed: seed of voice and face.

    Returns:
        The plan of `synthesize_clip` for the same arguments.

    Raises:
        ValueError: for clips shorter than one frame, or negative seeds.
    """
    if round(seconds * FPS) < 1:
        raise ValueError(f"seconds: expected at least one frame ({1 / FPS} s), got {seconds}")
    if seed < 0 or (speaker_seed is not None and speaker_seed < 0):
        raise ValueError(f"seeds: expected 0 or more, got seed {seed} and speaker_seed {speaker_seed}")
    speaker = np.random.default_rng([1, seed if speaker_seed is None else speaker_seed])
    rng = np.random.default_rng([2, seed])
    voice = random_voice(speaker)
    identity = random_identity(speaker, beard=voice.f0 < 140)
    return ClipPlan(voice, identity, random_sentence(rng, voice, round(seconds * FPS) / FPS), int(rng.integers(2**31)))


def synthesize_clip(
    seed: int, seconds: float = 3.0, *, size: int = 192, speaker_seed: int | None = None
) -> SyntheticClip:
    """Make a clip of an invented person who speaks invented words.

    Args:
        seed: seed of the sentence, and of the speaker without a ``speaker_seed``.
        seconds: length; rounded to whole frames of 40 ms.
        size: height and width of the frames in pixels.
        speaker_seed: seed of voice and face, shared by the clips of one speaker.

    Returns:
        Frames, waveform and mouth opening; the same for the same arguments.

    Raises:
        ValueError: for clips shorter than one frame, frames below 32 pixels, or negative seeds.

    Example:
        >>> clip = synthesize_clip(0, seconds=0.4, size=64)
        >>> clip.frames.shape, clip.waveform.shape, clip.mouth_opening.shape
        ((10, 64, 64, 3), (6400,), (10,))
    """
    if size < 32:
        raise ValueError(f"size: expected at least 32 pixels, got {size}")
    plan = plan_clip(seed, seconds, speaker_seed=speaker_seed)
    rng = np.random.default_rng(plan.noise_seed)
    total = round(plan.segments[-1].end * FPS)
    tracks = articulate(plan.segments)[:: TICKS // FPS][:total]
    poses = _head_motion(rng, total)
    painter = FacePainter(plan.identity, size)
    frames = np.stack(
        [painter.draw(Mouth(*map(float, track)), pose) for track, pose in zip(tracks, poses, strict=True)]
    )
    waveform = synthesize_voice(rng, plan.voice, plan.segments)
    assert waveform.shape == (total * SAMPLES_PER_FRAME,)
    return SyntheticClip(frames, waveform, tracks[:, 0].astype(np.float32))


def articulate(segments: list[Segment]) -> Array:
    """Move the mouth through the targets of the sounds.

    Targets are mixed with their neighbours by a symmetric window, weighted by their firmness (coarticulation that leads
    as much as it lags, so the video is neither early nor late); bilabial closures and rest are then enforced.

    Args:
        segments: as `tools.synthetic.voice.random_sentence` gives them.

    Returns:
        (ticks, 7) the fields of `Mouth`, one row per millisecond.
    """
    ticks = round(segments[-1].end * TICKS)
    targets, hold, shut = np.zeros((ticks, 7)), np.zeros(ticks), np.zeros(ticks)
    for segment in segments:
        start, release, end = (round(time * TICKS) for time in segment[1:4])
        *target, firmness = VISEMES[segment.symbol]
        scale = 0.8 + 0.2 * segment.stress if PHONEMES[segment.symbol].kind == "vowel" else 1.0
        targets[start:end] = np.asarray(target) * scale
        hold[start:end] = firmness
        if segment.symbol in "pbm":
            shut[start:release] = 1.0
            hold[start:release] = 0.25  # the closure below sets the lips; the jaw continues between the vowels
    weights = smooth(hold[:, None], BLEND)
    tracks = smooth(targets * hold[:, None], BLEND) / weights
    # grown by the time the lips take to part, then smoothed over twice that: exactly 1 from closure to release
    reach = np.ones(2 * PART + 1)
    grown = (np.convolve(shut, reach, mode="same") > 0.5).astype(float) if shut.any() else shut
    closed = np.maximum(smooth(grown[:, None], 2 * PART - 2)[:, 0], shut)
    tracks[:, 0] *= 1 - closed
    tracks[:, 0] = np.where(tracks[:, 0] < 0.01, 0.0, tracks[:, 0])
    return np.asarray(np.clip(tracks, [0, 0, -1, 0, 0, 0, 0], 1.0))


def _head_motion(rng: np.random.Generator, total: int) -> list[Pose]:
    """Slow sways of a few periods each, and a blink every few seconds."""
    time = np.arange(total) / FPS

    def sway(size: float) -> Array:
        waves = [np.sin(2 * np.pi * (rng.uniform(0.1, 0.55) * time + rng.random())) for _ in range(3)]
        return np.asarray(size * np.sum(waves, axis=0) / 2 + rng.uniform(-size, size))

    blink = np.zeros(total)
    moment = rng.uniform(0.3, 3.0)
    while moment < time[-1]:
        blink = np.maximum(blink, np.clip(1.3 - np.abs(time - moment) / 0.085, 0, 1))
        moment += rng.uniform(1.8, 4.5)
    columns = (sway(0.04), sway(0.03), sway(0.035), 1 + sway(0.02), sway(0.6), blink)
    return [Pose(*map(float, row)) for row in zip(*columns, strict=True)]
