"""From facts of clips to problems: a verdict, a detail and a remedy for each. Pure functions.

Thresholds were chosen on the training and validation clips that the bundled expert was made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.curation.duplicates import Repeat
from unisync_loss.curation.offset_curves import Curve, add_curves, centred_offset_curve, find_peak
from unisync_loss.video.voicing import SILENCE

#: what to do about each verdict
REMEDIES = {
    "unreadable": "take the file out, or get it again",
    "lengths differ": "correct the frame rate, or cut both to one length, then unisync prepare",
    "wrong frame rate": "correct the rate at the source, then unisync prepare",
    "low frame rate": "get the source at its own rate, of 20 or more",
    "low sample rate": "get the sound at 16 kHz or more",
    "silent": "leave it out, or find the right audio track",
    "static picture": "leave it out: nothing moves",
    "frozen mouth": "leave it out: a photograph, or someone who listens",
    "red and blue swapped": "swap the channels where the frames were written (OpenCV is BGR)",
    "no whole face": "crop again with unisync prepare, or leave it out",
    "not a face crop": "unisync prepare",
    "out of sync": "unisync align",
    "no clear offset": "look at it: dubbed, another's voice, noise or a hidden mouth; unisync align leaves it out",
    "sound of another clip": "give each clip its own sound again",
    "music": "leave it out: no voice",
    "another voice in a part": "look at it: dubbed in part, or someone else speaks; cut it there",
    "duplicate": "keep one",
    "same sound under other pictures": "keep the one that it belongs to",
    "same pictures under another sound": "keep the one that is in sync",
    "same clip in two splits": "keep it in one split",
    "same face in two splits": "look at both: one person under two names belongs into one split",
    "speaker in two splits": "split by speaker",
    "source in two splits": "split by source",
}
LATE = 1.5  # frames beyond which an offset is a problem: labels and experts are no surer than half a frame
LONG = 45  # windows from which a clip is judged by itself
_SURE = 2.0  # confidence, and
_EVIDENT = 1.0  # evidence, of a peak that is believed
_MATCH = (1.7, 3.0)  # evidence and confidence that take a clip's sound for another's, or its speed for wrong
BETTER = 0.5  # evidence by which another speed, or another clip's pictures, must win
_HALF = 75  # windows of each half in which a change of voice is looked for
_LOST, _KEPT = 0.4, 1.5  # evidence in the half of another voice, and in the half of the own
_RATES = (24 / 25, 25 / 24, 25 / 30, 30 / 25, 24 / 30, 30 / 24, 0.5, 2.0)  # picture's speeds that tags get wrong
_COMMON_RATES = (12.5, 15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 48.0, 50.0, 59.94, 60.0)
_LOW_RATE, _LOW_SAMPLE_RATE = 19.9, 15_999  # below which there is too little to see, and to hear
_STILL = 2.0  # levels
_FROZEN = 0.17  # change of the lips over their contrast
_BLUE = -10.0  # levels of red less blue; skin of any tone is redder than blue
_OUTSIDE, _SEEN = 0.02, 0.5  # shares of the face beyond the picture, and of the frames with a face
_SMALL = 0.25  # of the picture's width
_HELD, _PAUSES = 0.25, 0.15  # more tones held, and fewer pauses, than speech has
_SAME_FACE = 0.955  # correlation of portraits
_ROWS = 512  # portraits compared with all at a time

Array = NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """A problem of a clip, or of a speaker or source; ``other``: the clip it has it with."""

    clip: str
    verdict: str
    detail: str
    other: str | None = None

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.verdict]


def sync_facts(curve: Curve) -> dict[str, Any]:
    """Offset by an expert's curve, and how sure it is.

    Returns:
        ``offset_frames`` and ``offset_ms``, positive = audio late; ``confidence``: lead over the best rival in standard
        deviations, see `clip_offsets.Peak`; ``evidence``: height of the peak times the root of ``windows``, which does
        not depend on the length of a clip without sync; ``evidence_halves``: of either half, at the clip's offset.
    """
    mean, peak = curve.mean, find_peak(curve.mean)
    height = float(np.nanmax(mean)) if np.isfinite(mean).any() else 0.0
    best = int(np.clip(round(peak.offset) + len(mean) // 2, 1, len(mean) - 2))
    near = slice(best - 1, best + 2)
    halves = (curve.total[:, near] / np.sqrt(np.maximum(curve.heard[:, near], 1))).max(1)
    return {
        "offset_frames": round(peak.offset, 2),
        "offset_ms": round(peak.offset * 1000 / FPS),
        "confidence": round(peak.margin, 2),
        "evidence": round(height * float(np.sqrt(curve.windows)), 2),
        "evidence_halves": [round(float(half), 2) for half in halves],
        "windows": curve.windows,
    }


def is_sure(row: Row) -> bool:
    """Whether a clip's offset is to be believed."""
    return bool(row["confidence"] >= _SURE and row["evidence"] >= _EVIDENT)


def judge_content(row: Row) -> list[Finding]:
    """What is wrong with file, sound and picture of one clip, each for itself."""
    found = [*_judge_file(row), *_judge_picture(row)]
    if row["level"] < SILENCE:
        found.append(_finding(row, "silent", f"level {row['level']:.1e}"))
    elif not found and row["mouth_moves"] < _FROZEN:
        found.append(_finding(row, "frozen mouth", f"lips change by {row['mouth_moves']:.2f} of their contrast"))
    return found


def _judge_file(row: Row) -> list[Finding]:
    found = []
    picture, sound = row.get("seconds_video"), row.get("seconds_audio")
    if picture and sound and abs(picture - sound) > max(0.3, 0.05 * sound):
        detail = f"picture {picture:.2f} s, sound {sound:.2f} s"
        rate = row["fps"] * picture / sound
        nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
        if abs(nearest - rate) < 0.03 * rate:
            detail += f": tagged {row['fps']:g} fps, would fit at {nearest:g}"
        found.append(_finding(row, "lengths differ", detail))
    if 0 < row.get("fps", FPS) < _LOW_RATE:
        found.append(_finding(row, "low frame rate", f"{row['fps']:g} fps"))
    elif row["repeats"] > 1 - _LOW_RATE / FPS and row["moves"] >= _STILL:
        found.append(_finding(row, "low frame rate", f"{row['repeats']:.0%} of the frames equal the one before"))
    if 0 < row.get("sample_rate", FPS * 1000) <= _LOW_SAMPLE_RATE:
        found.append(_finding(row, "low sample rate", f"{row['sample_rate']} Hz"))
    return found


def _judge_picture(row: Row) -> list[Finding]:
    if row["moves"] < _STILL:
        return [_finding(row, "static picture", f"changes by {row['moves']:.1f} levels")]
    if row["face_found"] < _SEEN:
        return [_finding(row, "no whole face", f"a face in {row['face_found']:.0%} of the frames")]
    if row["face_outside"] > _OUTSIDE:
        return [_finding(row, "no whole face", f"{row['face_outside']:.0%} of the face beyond the picture")]
    if row["face_width"] < _SMALL:
        return [_finding(row, "not a face crop", f"the face is {row['face_width']:.0%} of the picture's width")]
    if row["red_less_blue"] < _BLUE:
        return [_finding(row, "red and blue swapped", f"skin: red less blue {row['red_less_blue']:.0f} levels")]
    return []


def judge_sync(row: Row) -> list[Finding]:
    """What is wrong between sound and picture of one clip, both as they should be.

    A clip with another's sound has its peak anywhere, one in sync near 0, be it ever so weak.
    """
    if row["windows"] < LONG:
        return []
    certain = f"confidence {row['confidence']:.1f}, evidence {row['evidence']:.1f}"
    plausible = abs(row["offset_frames"]) <= LATE and row["confidence"] >= _SURE / 2
    musical = row["held"] > _HELD and row["pauses"] < _PAUSES  # a voice in steady noise is, too
    if musical and not (plausible or is_sure(row)):
        return [_finding(row, "music", f"{row['held']:.0%} held tones, {row['pauses']:.0%} pauses, {certain}")]
    if abs(row["offset_frames"]) > LATE:
        if is_sure(row):
            return [_finding(row, "out of sync", f"{lateness(row['offset_frames'])}, {certain}")]
        return [_finding(row, "no clear offset", certain)]
    weak, strong = sorted(row["evidence_halves"])
    if row["windows"] >= 2 * _HALF and weak < _LOST and strong > _KEPT:
        half = "second" if row["evidence_halves"][1] == weak else "first"
        return [_finding(row, "another voice in a part", f"the {half} half is not in sync, the other is")]
    return []


def lateness(frames: float) -> str:
    """An offset in words."""
    return f"audio {abs(frames):.1f} frames ({abs(frames) * 1000 / FPS:.0f} ms) {'late' if frames > 0 else 'early'}"


def _finding(row: Row, verdict: str, detail: str) -> Finding:
    return Finding(row["clip"], verdict, detail)


def find_speed(audio: torch.Tensor, visual: torch.Tensor) -> float | None:
    """Speed at which picture (W, D) and sound (W, D) do fit: 1.2 for 25 fps tagged 30; None where none does."""
    as_it_is = sync_facts(centred_offset_curve(audio, visual))["evidence"]
    best, speed = max(_MATCH[0], as_it_is + BETTER), None
    for rate in _RATES:
        heard = torch.arange(len(visual)).mul(rate).round().long()
        heard = heard[heard < len(audio)]
        if len(heard) < LONG:
            continue
        facts = sync_facts(centred_offset_curve(audio[heard], visual[: len(heard)]))
        if facts["evidence"] > best and facts["confidence"] >= _MATCH[1]:
            best, speed = facts["evidence"], rate
    return speed


def find_owner(audio: torch.Tensor, visuals: Sequence[torch.Tensor]) -> tuple[int, float] | None:
    """Place of the pictures (W, D) that a sound (W, D) belongs to, and the evidence; None where it fits none."""
    owner, best = None, _MATCH[0]
    for index, visual in enumerate(visuals):
        windows = min(len(audio), len(visual))
        if windows < LONG:
            continue
        facts = sync_facts(centred_offset_curve(audio[:windows], visual[:windows]))
        near = abs(facts["offset_frames"]) <= LATE
        if near and facts["evidence"] > best and facts["confidence"] >= _MATCH[1]:
            owner, best = index, facts["evidence"]
    return None if owner is None else (owner, best)


def judge_speakers(rows: Sequence[Row], curves: Sequence[Curve | None]) -> list[Finding]:
    """Speakers whose clips, too short or unsure to be judged one by one, are together late or early."""
    together: dict[str, list[Curve]] = {}
    for row, curve in zip(rows, curves, strict=True):
        if curve is not None and row["speaker"] and not (row["windows"] >= LONG and is_sure(row)):
            together.setdefault(f"{row['split']}/{row['speaker']}".lstrip("/"), []).append(curve)
    found = []
    for speaker, parts in sorted(together.items()):
        facts = sync_facts(add_curves(parts))
        if len(parts) > 1 and facts["windows"] >= LONG and is_sure(facts) and abs(facts["offset_frames"]) > LATE:
            detail = f"{len(parts)} short or unsure clips together: {lateness(facts['offset_frames'])}"
            found.append(Finding(speaker, "out of sync", f"{detail}, confidence {facts['confidence']:.1f}"))
    return found


def judge_copies(
    rows: Sequence[Row], digests: Sequence[str], sounds: Sequence[Repeat], pictures: Sequence[Repeat]
) -> list[Finding]:
    """Clips that repeat others; of each the first, and of what is in two splits one of the other split.

    Args:
        rows: facts of the clips.
        digests: of what was decoded; equal for exact copies, empty where unread.
        sounds: pairs that share sound.
        pictures: pairs that share pictures.

    Returns:
        A finding for the later of each two.
    """
    shared: dict[tuple[int, int], list[Repeat | None]] = {}
    for place, repeats in enumerate((sounds, pictures)):
        for repeat in repeats:
            shared.setdefault((repeat.first, repeat.second), [None, None])[place] = repeat
    pairs: dict[tuple[int, int], tuple[str, str]] = {}
    for (first, second), (sound, picture) in shared.items():
        longest = max(repeat.seconds for repeat in (sound, picture) if repeat)
        if sound and picture:
            pairs[first, second] = ("duplicate", f"{longest:.1f} s of it also in")
        elif sound and not (rows[first].get("source") and rows[first].get("source") == rows[second].get("source")):
            pairs[first, second] = ("same sound under other pictures", f"{longest:.1f} s of the sound of")
        elif picture:
            pairs[first, second] = ("same pictures under another sound", f"{longest:.1f} s of the pictures of")
    earlier: dict[str, int] = {}
    for index, digest in enumerate(digests):
        if digest and earlier.setdefault(digest, index) != index:
            pairs[earlier[digest], index] = ("duplicate", "exact copy of")
    found: dict[tuple[int, str], Finding] = {}
    for (first, second), (verdict, detail) in sorted(pairs.items()):
        one, other = rows[first], rows[second]
        if one["split"] != other["split"]:
            verdict, detail = "same clip in two splits", f"{detail} (in {one['split']})"
        found.setdefault(
            (second, verdict), Finding(other["clip"], verdict, f"{detail} {one['clip']}", other=one["clip"])
        )
    return list(found.values())


def judge_splits(rows: Sequence[Row]) -> list[Finding]:
    """Speakers and sources that are in more than one split."""
    found = []
    for key in ("speaker", "source"):
        splits: dict[str, set[str]] = {}
        for row in rows:
            if row["split"] and row.get(key):
                splits.setdefault(row[key], set()).add(row["split"])
        found += [
            Finding(name, f"{key} in two splits", ", ".join(sorted(names)))
            for name, names in sorted(splits.items())
            if len(names) > 1
        ]
    return found


def judge_faces(rows: Sequence[Row], portraits: Sequence[NDArray[np.float32] | None]) -> list[Finding]:
    """Speakers of different splits who look the same in the same light: no face recogniser, few are found but surely.

    Args:
        rows: facts of the clips.
        portraits: of `clip_facts.face_facts`.

    Returns:
        A finding for each two speakers, with their likest clips.
    """
    known = [i for i, portrait in enumerate(portraits) if portrait is not None and rows[i]["split"]]
    splits, speakers = (np.array([rows[i][key] for i in known]) for key in ("split", "speaker"))
    if len(set(splits.tolist())) < 2:
        return []
    faces = np.stack([np.ravel(portraits[i]) for i in known])  # type: ignore[arg-type]
    faces = faces - faces.mean(1, keepdims=True)
    faces = faces / np.maximum(np.linalg.norm(faces, axis=1, keepdims=True), 1e-6)
    best: dict[tuple[str, str], tuple[float, int, int]] = {}
    for start in range(0, len(known), _ROWS):
        part = slice(start, start + _ROWS)
        alike = faces[part] @ faces.T
        elsewhere = (splits[part, None] != splits) & (speakers[part, None] != speakers)
        for one, other in np.argwhere((alike > _SAME_FACE) & elsewhere).tolist():
            first, second = known[start + one], known[other]
            if first < second:
                pair = (rows[first]["speaker"], rows[second]["speaker"])
                best[pair] = max(best.get(pair, (0.0, 0, 0)), (float(alike[one, other]), first, second))
    found = []
    for likeness, first, second in best.values():
        one, other = rows[first], rows[second]
        detail = f"like {one['clip']} (in {one['split']}), correlation {likeness:.3f}"
        found.append(Finding(other["clip"], "same face in two splits", detail, other=one["clip"]))
    return found
