"""Checks of single clips and speakers on their measurements: each problem gets a verdict, a detail and a fix.

The thresholds were chosen on the training and validation clips of the bundled expert; docs/data.md has the number of
planted faults found with them, and of false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unisync_loss.config import FPS
from unisync_loss.curation.offset_curves import Curve, add_curves, centred_offset_curve, find_peak
from unisync_loss.video.voicing import SILENCE

#: suggested fix of each verdict
FIXES = {
    "unreadable": "take the file out, or get it again",
    "lengths differ": "correct the frame rate, or cut both to one length, then unisync prepare",
    "wrong frame rate": "correct the rate at the source, then unisync prepare",
    "low frame rate": "get the source at its own rate, of 20 or more",
    "low sample rate": "get the audio at 16 kHz or more",
    "silent": "skip it, or find the right audio track",
    "static picture": "skip it: nothing moves",
    "frozen mouth": "skip it: a photograph, or someone who listens",
    "red and blue swapped": "swap the channels where the frames were written (OpenCV is BGR)",
    "no whole face": "crop again with unisync prepare, or skip it",
    "not a face crop": "unisync prepare",
    "out of sync": "unisync align",
    "no clear offset": "watch it: dubbed, another speaker, noise or a hidden mouth; unisync align skips it",
    "sound of another clip": "give each clip its own audio again",
    "music": "skip it: no speech",
    "another voice in a part": "watch it: dubbed in part, or someone else speaks; cut it there",
    "duplicate": "keep one",
    "same sound under other pictures": "keep the one that the audio belongs to",
    "same pictures under another sound": "keep the one that is in sync",
    "same clip in two splits": "keep it in one split",
    "same face in two splits": "watch both: one person under two names belongs in one split",
    "speaker in two splits": "split by speaker",
    "source in two splits": "split by source",
}
LATE = 1.5  # frames above which an offset is a problem: labels and experts are good to half a frame
LONG = 45  # windows from which the sync of a clip is assessed by itself, 2 s: shorter peaks are ambiguous
_CONFIDENT_Z, _CONFIDENT_EVIDENCE = 2.0, 1.0  # of a peak that is trusted
_MATCH_Z, _MATCH_EVIDENCE = 3.0, 1.7  # of another clip's audio, or another speed: higher, for many are tried
BETTER = 0.5  # evidence by which these must beat the clip as it is
_HALF = 75  # windows of each half in which a change of speaker is looked for
_WEAK_HALF, _STRONG_HALF = 0.4, 1.5  # evidence of the half of another speaker, and of the other half
_SPEEDS = (24 / 25, 25 / 24, 25 / 30, 30 / 25, 24 / 30, 30 / 24, 0.5, 2.0)  # of video, by common wrong tags
_COMMON_RATES = (12.5, 15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 48.0, 50.0, 59.94, 60.0)
_LOW_RATE, _LOW_SAMPLE_RATE = 19.9, 15_999  # frames and samples per second; the expert takes 25 and 16,000
_STILL = 2.0  # grey levels of change in 0.24 s
_FROZEN = 0.17  # change of the lips over their contrast
_BLUE = -10.0  # red minus blue in levels; skin of any tone is redder than blue
_OUTSIDE, _FACE_FOUND = 0.02, 0.5  # share of the face outside the frame, and of the frames with a face
_SMALL = 0.25  # width of the face as a share of the frame's
_HELD, _PAUSES = 0.25, 0.15  # music has more held tones and fewer pauses than speech

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """A problem.

    Attributes:
        clip: its name; of problems between splits the speaker or source.
        verdict: a key of :data:`FIXES`.
        detail: one line.
        other: the other clip of a pair.
    """

    clip: str
    verdict: str
    detail: str
    other: str | None = None

    @property
    def fix(self) -> str:
        """Suggested fix."""
        return FIXES[self.verdict]


def measure_sync(curve: Curve) -> dict[str, Any]:
    """Measure offset and strength of sync on a curve.

    Returns:
        ``offset_frames`` and ``offset_ms``, positive = audio late; ``peak_z`` of :class:`.offset_curves.Peak`;
        ``evidence``: height of the peak times the square root of ``windows``, which for clips without sync does not
        depend on their length; ``evidence_halves``: of either half, at the clip's offset.
    """
    mean, peak = curve.mean, find_peak(curve.mean)
    height = float(np.nanmax(mean)) if np.isfinite(mean).any() else 0.0
    best = int(np.clip(round(peak.offset) + len(mean) // 2, 1, len(mean) - 2))
    near = slice(best - 1, best + 2)
    halves = (curve.total[:, near] / np.sqrt(np.maximum(curve.counts[:, near], 1))).max(1)
    return {
        "offset_frames": round(peak.offset, 2),
        "offset_ms": round(peak.offset * 1000 / FPS),
        "peak_z": round(peak.z, 2),
        "evidence": round(height * float(np.sqrt(curve.windows)), 2),
        "evidence_halves": [round(float(half), 2) for half in halves],
        "windows": curve.windows,
    }


def is_confident(row: Row) -> bool:
    """Whether the offset of a clip, or of several together, is trusted."""
    return bool(row["peak_z"] >= _CONFIDENT_Z and row["evidence"] >= _CONFIDENT_EVIDENCE)


def has_own_offset(row: Row) -> bool:
    """Whether a clip is long enough, and its peak clear enough, to be assessed by itself."""
    return bool(row.get("windows", 0) >= LONG and is_confident(row))


def check_content(row: Row) -> list[Finding]:
    """Check file, audio and video of one clip, each by itself."""
    found = [*_check_file(row), *_check_face(row)]
    if row["level"] < SILENCE:
        found.append(_finding(row, "silent", f"level {row['level']:.1e}"))
    elif not found and row["mouth_moves"] < _FROZEN:
        found.append(_finding(row, "frozen mouth", f"lips change by {row['mouth_moves']:.2f} of their contrast"))
    return found


def _check_file(row: Row) -> list[Finding]:
    found = []
    video, audio = row.get("seconds_video"), row.get("seconds_audio")
    if video and audio and abs(video - audio) > max(0.3, 0.05 * audio):
        detail = f"video {video:.2f} s, audio {audio:.2f} s"
        rate = row["fps"] * video / audio
        nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
        if abs(nearest - rate) < 0.03 * rate:  # 24 and 25 differ by 4 %
            detail += f": tagged {row['fps']:g} fps, would fit at {nearest:g}"
        found.append(_finding(row, "lengths differ", detail))
    if 0 < row.get("fps", FPS) < _LOW_RATE:
        found.append(_finding(row, "low frame rate", f"{row['fps']:g} fps"))
    elif row["repeats"] > 1 - _LOW_RATE / FPS and row["moves"] >= _STILL:
        found.append(_finding(row, "low frame rate", f"{row['repeats']:.0%} of the frames equal the one before"))
    if 0 < row.get("sample_rate", FPS * 1000) <= _LOW_SAMPLE_RATE:
        found.append(_finding(row, "low sample rate", f"{row['sample_rate']} Hz"))
    return found


def _check_face(row: Row) -> list[Finding]:
    if row["moves"] < _STILL:
        return [_finding(row, "static picture", f"changes by {row['moves']:.1f} levels")]
    if row["face_found"] < _FACE_FOUND:
        return [_finding(row, "no whole face", f"a face in {row['face_found']:.0%} of the frames")]
    if row["face_outside"] > _OUTSIDE:
        return [_finding(row, "no whole face", f"{row['face_outside']:.0%} of the face outside the frame")]
    if row["face_width"] < _SMALL:
        return [_finding(row, "not a face crop", f"the face is {row['face_width']:.0%} of the frame's width")]
    if row["red_less_blue"] < _BLUE:
        return [_finding(row, "red and blue swapped", f"skin: red minus blue {row['red_less_blue']:.0f} levels")]
    return []


def check_sync(row: Row) -> list[Finding]:
    """Check the sync of one clip whose audio and video have passed their own checks.

    A clip with the audio of another has its peak anywhere, one in sync near 0 even where it is weak.
    """
    if row["windows"] < LONG:
        return []
    strength = f"peak z {row['peak_z']:.1f}, evidence {row['evidence']:.1f}"
    plausible = abs(row["offset_frames"]) <= LATE and row["peak_z"] >= _CONFIDENT_Z / 2
    musical = row["held"] > _HELD and row["pauses"] < _PAUSES  # speech in steady noise is, too
    if musical and not (plausible or is_confident(row)):
        return [_finding(row, "music", f"{row['held']:.0%} held tones, {row['pauses']:.0%} pauses, {strength}")]
    if abs(row["offset_frames"]) > LATE:
        if is_confident(row):
            return [_finding(row, "out of sync", f"{describe_offset(row['offset_frames'])}, {strength}")]
        return [_finding(row, "no clear offset", strength)]
    weak, strong = sorted(row["evidence_halves"])
    if row["windows"] >= 2 * _HALF and weak < _WEAK_HALF and strong > _STRONG_HALF:
        half = "second" if row["evidence_halves"][1] == weak else "first"
        return [_finding(row, "another voice in a part", f"the {half} half is not in sync, the other is")]
    return []


def describe_offset(frames: float) -> str:
    """Describe an offset in frames and milliseconds."""
    return f"audio {abs(frames):.1f} frames ({abs(frames) * 1000 / FPS:.0f} ms) {'late' if frames > 0 else 'early'}"


def _finding(row: Row, verdict: str, detail: str) -> Finding:
    return Finding(row["clip"], verdict, detail)


def find_speed(audio: torch.Tensor, visual: torch.Tensor) -> float | None:
    """Find the speed of the video at which the two match.

    Args:
        audio: (W, D) embeddings.
        visual: (W, D) embeddings.

    Returns:
        The factor, such as 1.2 for 25 fps tagged as 30; None where none matches.
    """
    unchanged = measure_sync(centred_offset_curve(audio, visual))["evidence"]
    best, speed = max(_MATCH_EVIDENCE, unchanged + BETTER), None
    for rate in _SPEEDS:
        windows = torch.arange(len(visual)).mul(rate).round().long()
        windows = windows[windows < len(audio)]
        if len(windows) < LONG:
            continue
        facts = measure_sync(centred_offset_curve(audio[windows], visual[: len(windows)]))
        if facts["evidence"] > best and facts["peak_z"] >= _MATCH_Z:
            best, speed = facts["evidence"], rate
    return speed


def find_owner(audio: torch.Tensor, visuals: Sequence[torch.Tensor]) -> tuple[int, float] | None:
    """Find the clip whose video matches an audio track within 1.5 frames.

    Args:
        audio: (W, D) embeddings.
        visuals: (W, D) embeddings of each clip.

    Returns:
        Index of the clip and the evidence; None where none matches.
    """
    owner, best = None, _MATCH_EVIDENCE
    for index, visual in enumerate(visuals):
        windows = min(len(audio), len(visual))
        if windows < LONG:
            continue
        facts = measure_sync(centred_offset_curve(audio[:windows], visual[:windows]))
        near = abs(facts["offset_frames"]) <= LATE
        if near and facts["evidence"] > best and facts["peak_z"] >= _MATCH_Z:
            owner, best = index, facts["evidence"]
    return None if owner is None else (owner, best)


def check_speakers(rows: Sequence[Row], curves: Sequence[Curve | None]) -> list[Finding]:
    """Check the clips of each speaker together that are too short or too unclear to be assessed one by one."""
    together: dict[str, list[Curve]] = {}
    for row, curve in zip(rows, curves, strict=True):
        if curve is not None and row["speaker"] and not has_own_offset(row):
            together.setdefault(f"{row['split']}/{row['speaker']}".lstrip("/"), []).append(curve)
    found = []
    for speaker, parts in sorted(together.items()):
        facts = measure_sync(add_curves(parts))
        if len(parts) > 1 and has_own_offset(facts) and abs(facts["offset_frames"]) > LATE:
            detail = f"{len(parts)} short or unclear clips together: {describe_offset(facts['offset_frames'])}"
            found.append(Finding(speaker, "out of sync", f"{detail}, peak z {facts['peak_z']:.1f}"))
    return found
