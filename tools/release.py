"""Bundle a checkpoint: its towers, its config, and its rows of ``released.json``.

python -m tools.release RUN/best --name mel-rgb

Towers are stored in float16; one that is stored already, bit by bit, is shared. The card, ``README.md``, is written by
``tools.cards``. To remove an expert, delete its folder, its row and the towers that no other expert uses; tests name
leftovers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unisync_loss import load_expert
from unisync_loss.models.pretrained import CARD, CONFIG, serialise
from unisync_loss.models.released import RELEASED, SIDES, TOWERS, Side, read_table, tower_path, tower_state
from unisync_loss.utils.files import BUNDLED, write_atomically
from unisync_loss.utils.hub import COMMIT

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


def release(
    checkpoint: Path,
    name: str,
    *,
    weights: Path,
    towers: Mapping[Side, str | None] | None = None,
    replace: bool = False,
    repo: str | None = None,
    revision: str | None = None,
) -> None:
    """Write the towers, the config and the table, as far as they differ from what is there.

    Args:
        checkpoint: folder with ``config.json`` and ``model.safetensors``.
        name: of the released expert.
        weights: folder of the released experts.
        towers: names of the tower files; by default that of a file with the same content, or else the side and its
            representation, such as ``"audio-mel"``.
        replace: write over a tower of that name and another content, for every expert that uses it.
        repo: ``owner/name`` where a checkpoint of the same weights in float16 is published; used when the package does
            not include the expert.
        revision: full commit of that repository.

    Raises:
        ValueError: for a checkpoint that does not load or is not finite in float16, a wrong name, a tower of that name
            with another content, or a repository without a full commit. Nothing has been written.
    """
    if (repo is None) != (revision is None) or not COMMIT.fullmatch(revision or "0" * 40):
        raise ValueError(f"expected a repo with a revision of 40 hex digits, or neither, got {repo!r} and {revision!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name: expected words joined by hyphens, such as 'mel-rgb', got {name!r}")
    expert = load_expert(checkpoint)
    contents = {side: serialise(tower_state(expert.state_dict(), side), torch.float16) for side in SIDES}
    names = {side: (towers or {}).get(side) for side in SIDES}
    usual = {side: f"{side}-{getattr(expert.config, side)}" for side in SIDES}
    files = {side: _choose(weights, side, contents[side], names[side], usual[side], replace) for side in SIDES}
    table = read_table(weights)
    pair = {"config": asdict(expert.config), **{f"{side}_tower": files[side] for side in SIDES}}
    table["pairs"][name] = pair if repo is None else {**pair, "repo": repo, "revision": revision}
    for side in SIDES:
        parameters = tower_state(dict(expert.named_parameters()), side).values()
        table["towers"][files[side]] = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "size": len(contents[side]),
            "sha256": _digest(contents[side]),
        }
        _write(tower_path(weights, files[side]), contents[side])
    _write(weights / name / CONFIG, expert.config.to_json().encode())
    _write(weights / RELEASED, _to_json(table))


def describe(weights: Path, name: str) -> list[str]:
    """Lines on a released expert: its towers with the experts that use them, what is left to do, and the total size."""
    users = _users(read_table(weights))
    lines = [f"{tower}: {', '.join(pairs)}" for tower, pairs in users.items() if name in pairs]
    stored = sorted((weights / TOWERS).glob("*.safetensors"))
    lines += [f"{path}: no expert uses it, delete it" for path in stored if path.stem not in users]
    card = weights / name / CARD
    lines += [] if card.is_file() else [f"{card}: missing, python -m tools.cards writes it"]
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    return [*lines, f"{weights}: {size / 1e6:.1f} MB"]


def _choose(weights: Path, side: Side, content: bytes, wanted: str | None, usual: str, replace: bool) -> str:
    """Name of the file for a tower."""
    stored = {_digest(path.read_bytes()): path.stem for path in (weights / TOWERS).glob("*.safetensors")}
    same = stored.get(_digest(content))
    name = wanted or same or usual
    if not _NAME.fullmatch(name) or not name.startswith(f"{side}-"):
        raise ValueError(f"{side} tower: expected a name such as {usual!r}, got {name!r}")
    if same not in (None, name):
        raise ValueError(f"{side} tower: expected {same!r}, the file that has this content already, got {name!r}")
    if same is None and tower_path(weights, name).exists() and not replace:
        raise ValueError(
            f"{side} tower: expected the content of {tower_path(weights, name)}, got another: pass another name with "
            f"--{side}-tower, or --replace, which changes every expert that uses it"
        )
    return name


def _users(table: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the experts that use each tower, in alphabetical order."""
    used = sorted((row[f"{side}_tower"], pair) for pair, row in table["pairs"].items() for side in SIDES)
    return {tower: [pair for other, pair in used if other == tower] for tower, _ in used}


def _to_json(table: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The table in alphabetical order, without towers that no expert uses any more."""
    towers = {tower: table["towers"][tower] for tower in _users(table)}
    return (json.dumps({"towers": towers, "pairs": dict(sorted(table["pairs"].items()))}, indent=2) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def main() -> None:
    """Bundle one checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of config.json and model.safetensors, such as RUN/best")
    parser.add_argument("--name", required=True, help="of the released expert, such as mel-rgb")
    parser.add_argument("--audio-tower", help="name of its file; default: an equal one, or audio-<representation>")
    parser.add_argument("--visual-tower", help="name of its file; default: an equal one, or visual-<representation>")
    parser.add_argument("--replace", action="store_true", help="write over a tower of that name with another content")
    parser.add_argument("--repo", help="owner/name on the Hugging Face Hub where the same weights are published")
    parser.add_argument("--revision", help="full commit of that repository")
    options = parser.parse_args()
    release(
        options.checkpoint,
        options.name,
        weights=BUNDLED,
        towers={"audio": options.audio_tower, "visual": options.visual_tower},
        replace=options.replace,
        repo=options.repo,
        revision=options.revision,
    )
    print("\n".join(describe(BUNDLED, options.name)))


if __name__ == "__main__":
    main()
