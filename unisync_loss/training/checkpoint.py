"""Checkpoints of a run: ``last``, ``best``, and the state that ``--resume`` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_split
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.evaluation.protocols import choose_settings, score_pairs
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert, save_pretrained
from unisync_loss.utils.files import write_atomically

STATE = "state.safetensors"


class CheckpointKeeper:
    """Writes ``RUN/last`` at every validation and ``RUN/best`` where the AUC is the highest so far.

    Args:
        out: folder of the run.

    Attributes:
        best: highest validation AUC so far.
    """

    def __init__(self, out: Path) -> None:
        self._out, self.best = out, 0.0

    def keep(self, expert: UniSyncExpert, report: dict[str, float] | None) -> None:
        """Save an expert with the threshold and calibration of its validation report, if there is one."""
        names = ("threshold", "temperature", "midpoint")
        chosen: dict[str, Any] = {
            name: getattr(UniSyncConfig, name) if report is None else report[name] for name in names
        }
        expert.config = replace(expert.config, **chosen)
        save_pretrained(expert, self._out / "last")
        if report is not None and report["val_auc"] > self.best:
            self.best = report["val_auc"]
            save_pretrained(expert, self._out / "best")

    @property
    def has_best(self) -> bool:
        """Whether a best checkpoint has been saved."""
        return (self._out / "best").is_dir()

    def choose_threshold(self, folder: str) -> None:
        """Set the best checkpoint's threshold and calibration on validation files, read as ``unisync eval`` does."""
        expert = load_expert(self._out / "best")
        scores = score_pairs(list(embed_clips(expert, list_split(folder))), seed=0)
        chosen: dict[str, Any] = dict(choose_settings(scores))
        expert.config = replace(expert.config, **chosen)
        save_pretrained(expert, self._out / "best")


def save_state(
    path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer | None, place: dict[str, Any]
) -> None:
    """Write networks, averaged networks, optimiser moments and the place reached.

    Args:
        path: file to write.
        model: networks in training.
        average: exponential moving average of the networks.
        optimiser: optimiser of the current stage; None between stages.
        place: stage, step and other JSON values.
    """
    tensors = {f"learner.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    if optimiser is not None:
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    write_atomically(path, save(tensors, {"place": json.dumps(place)}))


def remove_unfinished(path: Path) -> None:
    """Remove partly written states of killed processes."""
    for unfinished in path.parent.glob(f".{path.stem}.*{path.suffix}"):
        unfinished.unlink(missing_ok=True)


def load_state(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    prepare: Callable[[int], torch.optim.Optimizer | None],
) -> dict[str, Any]:
    """Load a state of :func:`save_state`.

    Args:
        path: of the file.
        model: receives the weights.
        average: receives the averaged weights.
        prepare: makes the optimiser of a stage by its index; the moments are filled in.

    Returns:
        The place.

    Raises:
        ValueError: for a broken file, or one of other networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            place: dict[str, Any] = json.loads(file.metadata()["place"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        for name, module in (("learner.", model), ("average.", average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: expected the state of a run of these networks: {error}") from error
    optimiser = prepare(place["stage"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    if optimiser is not None and moments:
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return place
