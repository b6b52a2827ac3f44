"""Coefficients and parsing maps stored by ``unisync prepare --features``: which clips have them, and of which size."""

from __future__ import annotations

from collections.abc import Sequence

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import STORED, ClipEntry
from unisync_loss.data.store import read_feature_shapes
from unisync_loss.video.extraction import check_provided


def stored_width(entries: Sequence[ClipEntry], visual: str) -> int | None:
    """Size of the second axis of stored features: for coefficients, their number.

    Args:
        entries: the clips.
        visual: the representation.

    Returns:
        The size; None when no clip has the representation stored.

    Raises:
        ValueError: when some clips have it and others do not, or sizes of coefficients differ.
    """
    if visual not in STORED:
        return None
    widths: dict[int | None, str] = {}
    for entry in entries:
        shape = read_feature_shapes(entry.record).get(visual) if entry.record is not None else None
        width = shape[1] if shape is not None and len(shape) > 1 else None
        widths.setdefault(width if visual == "3dmm" or width is None else 0, entry.name)
    if len(widths) > 1:
        found = ", ".join(f"{width or 'none'} in {name}" for width, name in widths.items())
        what = "coefficients of one size" if visual == "3dmm" else "parsing maps"
        raise ValueError(f"{visual}: expected stored {what} in every clip (unisync prepare --features), got {found}")
    return next(iter(widths), None)


def check_trainable(config: UniSyncConfig, entries: Sequence[ClipEntry]) -> None:
    """Refuse an expert that cannot be trained on clips, before any work.

    Raises:
        ValueError: for a representation that is neither stored with every clip nor can be made from video, or stored
            coefficients of another number than the expert's.
    """
    width = stored_width(entries, config.visual)
    if width is None:
        check_provided(config)
    elif config.visual == "3dmm" and width != config.visual_features:
        raise ValueError(
            f"3dmm: expected {config.visual_features} stored coefficients (expert.visual_features), got {width}; "
            "without expert.visual_features, the number is taken from the store"
        )
