"""What a run starts from: clips, the model that listens, weights of an earlier expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unisync_loss.cache import build_cache
from unisync_loss.clips import list_split
from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.hubert import HubertEncoder, cached_features
from unisync_loss.pretrained import load_expert
from unisync_loss.progress import Pace
from unisync_loss.representations.morphable import MorphableInput
from unisync_loss.sampling import ClipData, Listen, part_of

Say = Callable[[str], None]
CPU = torch.device("cpu")


def load_clips(
    folders: Sequence[str],
    cache: Path,
    config: UniSyncConfig,
    shortest: int,
    workers: int,
    listen: Listen | None,
    say: Say,
) -> ClipData:
    """Measure what is not in the cache yet, and read it.

    Args:
        folders: data folders or stores.
        cache: folder of the cache.
        config: of the expert.
        shortest: frames that a clip must have.
        workers: processes that measure.
        listen: of :func:`listener`.
        say: takes lines of progress, and names what is left out.

    Raises:
        ValueError: for folders without a usable clip, or with several splits.
    """
    entries = [entry for folder in folders for entry in list_split(folder)]
    what = ", ".join(folders)
    tell = _Progress(say)
    reasons: dict[str, str] = {}
    for done, total, reasons in build_cache(entries, cache, workers, part_of(config)):  # noqa: B007
        tell(f"{what}: clips measured", done, total)
    data = ClipData(entries, cache, config, shortest, listen, partial(tell, f"{what}: clips read"))
    reasons = reasons | data.broken
    for name, reason in reasons.items():
        say(f"{what}: left out {name}: {reason}")
    minutes, short = data.frames.sum() / 25 / 60, len(entries) - len(data) - len(reasons)
    say(
        f"{what}: {len(data)} clips, {len(set(data.speaker.tolist()))} speakers, {minutes:.1f} minutes; left out: "
        f"{len(reasons)} that cannot be used, {short} shorter than {shortest} frames"
    )
    return data


def standardise(expert: UniSyncExpert, data: ClipData) -> None:
    """Store mean and deviation of the training clips' coefficients in an expert on 3dmm; others need none."""
    if isinstance(expert.visual_input, MorphableInput):
        expert.visual_input.measure(torch.from_numpy(data.seen["series"][:, 0].copy()))


class _Progress:
    """A line now and then, with the time left."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.what: str | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.what, self.pace = what, Pace(self.say, total, done)
        self.pace.tell(done, f"{what}: {done}/{total}")


def listener(
    config: UniSyncConfig, model: str | None, folder: Path, device: torch.device = CPU
) -> tuple[UniSyncConfig, Listen | None]:
    """Load the HuBERT that an expert listens through, and write its identity into the expert's config.

    Args:
        config: of the expert; one on mel has no use for a model.
        model: ``owner/name[@revision]`` on the Hub, a bundled name or a folder; None is that of the config.
        folder: of the feature cache.
        device: to encode on.

    Returns:
        The config with model, commit and width filled in, and the function that encodes a waveform; None for mel.

    Raises:
        ValueError: for a model that cannot be had, or one given for mel.
    """
    if config.audio != "hubert":
        if model is not None:
            raise ValueError(
                f"hubert: expected a HuBERT for an expert on hubert only, got {model!r} for {config.audio}"
            )
        return config, None
    name, revision = config.hubert_model, config.hubert_revision
    if model is not None:
        name, _, revision = (model, "", "") if Path(model).is_dir() else model.partition("@")
    encoder = HubertEncoder.from_pretrained(name, revision=revision or "main", layer=config.hubert_layer, device=device)
    # a branch moves on: what is stored is the commit, or the sha256 of a folder's weights
    told = replace(config, hubert_model=name, hubert_revision=encoder.identity, audio_features=encoder.width)

    def listen(waveform: NDArray[np.float32]) -> NDArray[np.float16]:
        return cached_features(waveform, encoder, folder, device).astype(np.float16)

    return told, listen


def take_over(expert: UniSyncExpert, name: str) -> set[str]:
    """Copy the towers of a trained expert that see or hear the same.

    Args:
        expert: to be trained; changed.
        name: of the trained one, as ``load_expert`` takes it.

    Returns:
        What was taken over: ``"visual"``, ``"audio"`` or both.

    Raises:
        ValueError: when neither fits.
    """
    trained = load_expert(name)
    taken = set()
    for side in ("visual", "audio"):
        modules: list[tuple[nn.Module, nn.Module]] = [
            (getattr(expert, f"{side}_{part}"), getattr(trained, f"{side}_{part}")) for part in ("input", "tower")
        ]
        shapes = [
            [{key: value.shape for key, value in module.state_dict().items()} for module in pair] for pair in modules
        ]
        same = getattr(expert.config, side) == getattr(trained.config, side)
        if same and all(ours == theirs for ours, theirs in shapes):
            for ours, theirs in modules:
                ours.load_state_dict(theirs.state_dict())
            taken.add(side)
    if not taken:
        raise ValueError(
            f"init: expected an expert that shares a tower with {expert.config.architecture} {expert.config.name}, "
            f"got {trained.config.architecture} {trained.config.name}"
        )
    return taken
