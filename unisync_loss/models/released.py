"""Table of the released experts and of the files of their towers.

Experts of one embedding space share towers, so the package holds each tower once: ``weights/towers/NAME.safetensors``
is the part of an expert's ``state_dict()`` below ``audio_input`` and ``audio_tower``, or ``visual_input`` and
``visual_tower``. ``weights/released.json`` has two tables: ``towers`` lists these files with their sha256, ``pairs``
the config and the two towers of each expert.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.utils.files import BUNDLED

RELEASED, TOWERS = "released.json", "towers"
Side = Literal["audio", "visual"]
SIDES: tuple[Side, ...] = ("audio", "visual")


@dataclass(frozen=True, kw_only=True)
class TowerFile:
    """A tower of released experts, as pinned in ``weights/released.json``."""

    name: str
    path: Path  # in the installed package
    parameters: int
    size: int  # bytes
    sha256: str

    def check(self, content: bytes, source: Path) -> None:
        """Compare the content of a file with the pinned sha256.

        Raises:
            ValueError: for any difference; ``source`` is named as the file.
        """
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"{source}: expected {self.name} of sha256 {self.sha256}, got {digest}: changed, install it again"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainedInfo:
    """A released expert, as pinned in ``weights/released.json``."""

    name: str
    config: UniSyncConfig  # audio, visual, architecture, threshold and the rest of the input contract
    audio_tower: TowerFile
    visual_tower: TowerFile
    path: Path | None  # folder of config and card in the installed package; None where only the Hub has the expert
    repo: str | None = None  # owner/name on the Hub, if published there
    revision: str | None = None  # commit of that repository

    @property
    def towers(self) -> dict[Side, TowerFile]:
        """Both towers."""
        return {"audio": self.audio_tower, "visual": self.visual_tower}

    @property
    def parameters(self) -> int:
        """Number of parameters of the expert."""
        return sum(tower.parameters for tower in self.towers.values())

    @property
    def size(self) -> int:
        """Bytes of both towers, which other experts may share."""
        return sum(tower.size for tower in self.towers.values())


def list_pretrained() -> dict[str, PretrainedInfo]:
    """List the released experts; reads one small file, no weights, and uses no network.

    Returns:
        Information by name, in alphabetical order.
    """
    table = read_table(BUNDLED)
    towers = {
        name: TowerFile(name=name, path=tower_path(BUNDLED, name), **row) for name, row in table["towers"].items()
    }
    return {name: _info(name, row, towers) for name, row in sorted(table["pairs"].items())}


def read_table(weights: Path) -> dict[str, dict[str, Any]]:
    """Read ``released.json`` of a folder of released experts; both tables are empty where there is none."""
    path = weights / RELEASED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"towers": {}, "pairs": {}}


def tower_path(weights: Path, name: str) -> Path:
    """File of a tower in a folder of released experts."""
    return weights / TOWERS / f"{name}.safetensors"


def tower_state(state: Mapping[str, Tensor], side: Side) -> dict[str, Tensor]:
    """Entries of an expert's ``state_dict()`` that belong to one of its towers and the representation before it."""
    return {key: value for key, value in state.items() if key.startswith((f"{side}_input.", f"{side}_tower."))}


def _info(name: str, row: Mapping[str, Any], towers: Mapping[str, TowerFile]) -> PretrainedInfo:
    bundled = (BUNDLED / name).is_dir() or "repo" not in row
    return PretrainedInfo(
        name=name,
        config=UniSyncConfig.from_dict(row["config"]),
        audio_tower=towers[row["audio_tower"]],
        visual_tower=towers[row["visual_tower"]],
        path=BUNDLED / name if bundled else None,
        repo=row.get("repo"),
        revision=row.get("revision"),
    )
