"""The state of a run in one safetensors file, written under a temporary name and renamed: never half a state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unisync_loss.utils.files import write_atomically


def save_state(
    path: Path, learner: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer | None, place: dict[str, Any]
) -> None:
    """Write networks, averaged networks, optimiser moments and the place reached.

    Args:
        path: of the file.
        learner: as trained.
        average: exponential moving average.
        optimiser: of the present stage; None between stages.
        place: JSON values.
    """
    tensors = {f"learner.{key}": value for key, value in learner.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    if optimiser is not None:
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    write_atomically(path, save(tensors, {"place": json.dumps(place)}))


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of states that they were writing."""
    for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):
        left.unlink(missing_ok=True)


def load_state(
    path: Path,
    learner: nn.Module,
    average: nn.Module,
    prepare: Callable[[int], torch.optim.Optimizer | None],
) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Args:
        path: of the file.
        learner: filled in.
        average: filled in.
        prepare: makes the optimiser of the stage whose number it is given; its moments are filled in.

    Returns:
        The place.

    Raises:
        ValueError: for a broken file, or one of other networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            place: dict[str, Any] = json.loads(file.metadata()["place"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        for name, module in (("learner.", learner), ("average.", average)):
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
