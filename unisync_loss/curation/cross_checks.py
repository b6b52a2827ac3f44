"""Checks between clips: copies, and what occurs in two splits. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unisync_loss.curation.checks import Finding, Row
from unisync_loss.curation.duplicates import Repeat

_SAME_FACE = 0.955  # correlation of portraits; docs/data.md: none of 170 faces was mistaken for one of 222 others
_ROWS = 512  # portraits compared with all others at a time, for memory


def check_copies(
    rows: Sequence[Row], digests: Sequence[str], audio_repeats: Sequence[Repeat], frame_repeats: Sequence[Repeat]
) -> list[Finding]:
    """Find clips that repeat others: per clip and verdict, the first clip that it repeats.

    Args:
        rows: measurements of the clips.
        digests: of the decoded clips; equal for exact copies, empty for unreadable ones.
        audio_repeats: pairs that share audio.
        frame_repeats: pairs that share frames.

    Returns:
        A finding for the later clip of each pair.
    """
    shared: dict[tuple[int, int], list[Repeat | None]] = {}
    for place, repeats in enumerate((audio_repeats, frame_repeats)):
        for repeat in repeats:
            shared.setdefault((repeat.first, repeat.second), [None, None])[place] = repeat
    pairs: dict[tuple[int, int], tuple[str, str]] = {}
    for (first, second), (audio, video) in shared.items():
        longest = max(repeat.seconds for repeat in (audio, video) if repeat)
        if audio and video:
            pairs[first, second] = ("duplicate", f"{longest:.1f} s of it also in")
        elif audio and not (rows[first].get("source") and rows[first].get("source") == rows[second].get("source")):
            pairs[first, second] = ("same sound under other pictures", f"{longest:.1f} s of the audio of")
        elif video:
            pairs[first, second] = ("same pictures under another sound", f"{longest:.1f} s of the frames of")
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


def check_splits(rows: Sequence[Row]) -> list[Finding]:
    """Find speakers and sources that are in more than one split."""
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


def check_faces(rows: Sequence[Row], portraits: Sequence[NDArray[np.float32] | None]) -> list[Finding]:
    """Find speakers of different splits with the same face, by the correlation of mean faces.

    This is no face recogniser: it finds one person in the same lighting only, with few false alarms.

    Args:
        rows: measurements of the clips.
        portraits: (24, 24, 3) of :func:`.measurements.measure_face`; None without a face.

    Returns:
        One finding per pair of speakers, with their most similar clips.
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
