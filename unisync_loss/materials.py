"""What a run starts from: clips in memory, the model that listens, weights of an earlier expert."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unisync_loss.cache import build_cache
from unisync_loss.clips import list_clips
from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.hubert import HubertEncoder, cached_features
from unisync_loss.pretrained import load_expert
from unisync_loss.sampling import ClipData, Listen, part_of

Say = Callable[[str], None]
_EVERY = 5.0  # seconds between lines of progress


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
        ValueError: for folders without a usable clip.
    """
    entries = [entry for folder in folders for entry in list_clips(folder)]
    what = ", ".join(folders)
    tell = _Progress(say)
    reasons: dict[str, str] = {}
    for done, total, reasons in build_cache(entries, cache, workers, part_of(config)):  # noqa: B007
        tell(f"{what}: clips measured", done, total)
    for name, reason in reasons.items():
        say(f"{what}: left out {name}: {reason}")
    data = ClipData(entries, cache, config, shortest, listen, partial(tell, f"{what}: clips read"))
    minutes = data.frames.sum() / 25 / 60
    say(
        f"{what}: {len(data)} clips, {len(set(data.speaker.tolist()))} speakers, {minutes:.1f} minutes; "
        f"{len(entries) - len(data)} left out, {len(reasons)} of them cannot be used"
    )
    return data


class _Progress:
    """A line now and then, with the time left."""

    def __init__(self, say: Say) -> None:
        self.say, self.started, self.last, self.first = say, time.monotonic(), time.monotonic(), 0
        self.what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.started, self.last, self.first = what, now, now, done
        if now - self.last > _EVERY and done > self.first:
            self.last = now
            left = (now - self.started) / (done - self.first) * (total - done)
            self.say(f"{what}: {done}/{total}, {left:.0f} s left")


def listener(config: UniSyncConfig, model: str | None, folder: Path) -> tuple[UniSyncConfig, Listen | None]:
    """Load the HuBERT that an expert listens through, and write its identity into the expert's config.

    Args:
        config: of the expert; one on mel has no use for a model.
        model: ``owner/name[@revision]`` on the Hub, or a folder; None is that of the config.
        folder: of the feature cache.

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
    encoder = HubertEncoder.from_pretrained(name, revision=revision or "main", layer=config.hubert_layer)
    # a branch moves on: what is stored is the commit, or the sha256 of a folder's weights
    told = replace(config, hubert_model=name, hubert_revision=encoder.identity, audio_features=encoder.width)

    def listen(waveform: NDArray[np.float32]) -> NDArray[np.float16]:
        return cached_features(waveform, encoder, folder).astype(np.float16)

    return told, listen


def take_over(expert: UniSyncExpert, name: str) -> list[str]:
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
    taken = []
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
            taken.append(side)
    if not taken:
        raise ValueError(
            f"init: expected an expert that shares a tower with {expert.config.architecture} {expert.config.name}, "
            f"got {trained.config.architecture} {trained.config.name}"
        )
    return taken
