"""Files of pretrained models, in a folder, bundled with the package or on the Hub, and the identity of their weights.

The weights are one file of one commit, or of one folder. Safetensors come first; older repositories (such as
``facebook/hubert-*``) have ``pytorch_model.bin`` instead, which a caller may allow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from unisync_loss.utils.files import BUNDLED
from unisync_loss.utils.hub import hub_source, is_absent

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
_SHARDS = "model.safetensors.index.json"
_SHA256 = re.compile("[0-9a-f]{64}")


class ModelFiles(NamedTuple):
    """Where a model was found.

    Attributes:
        folder: of its metadata.
        weights: the file.
        identity: of the weights: the commit, or the sha256 of a folder's file.
    """

    folder: Path
    weights: Path
    identity: str


def find_model(
    name: str, revision: str, metadata: tuple[str, ...] = (CONFIG,), weights: tuple[str, ...] = (WEIGHTS,)
) -> ModelFiles:
    """Find a model in a folder, in the package or on the Hub (from the cache if the revision is a full commit).

    Args:
        name: a folder, a bundled name, or ``owner/name`` on the Hub, tried in this order.
        revision: on the Hub; for files on this disk optionally the sha256 that their weights must have.
        metadata: JSON files that it must have, ``config.json`` first.
        weights: names that the file of its weights may have, the preferred one first.

    Raises:
        ValueError: for missing files or another sha256, or a model that is neither on this disk nor available from the
            Hub; within seconds, with the command that downloads it.
    """
    bundled = BUNDLED / name
    here = Path(name) if os.path.isdir(name) else bundled if (bundled / CONFIG).is_file() else None
    if here is None:
        return _hub_files(name, revision, metadata, weights)
    found = _folder_files(here, metadata, weights)
    if _SHA256.fullmatch(revision) and found.identity != revision:
        raise ValueError(f"expected weights of sha256 {revision}, got {found.identity}: another model's, or changed")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: for anything else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: expected a JSON object, got something else ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: expected a JSON object, got {type(values).__name__}")
    return values


def _folder_files(folder: Path, metadata: tuple[str, ...], weights: tuple[str, ...]) -> ModelFiles:
    """Check a folder's files and compute the sha256 of its weights."""
    present = [folder / name for name in weights if (folder / name).is_file()]
    if not present and (folder / _SHARDS).is_file():
        raise _sharded()
    missing = [name for name in metadata if not (folder / name).is_file()] + ([] if present else [weights[0]])
    if missing:
        raise ValueError(f"expected {', '.join(metadata)} and {weights[0]} in the folder, missing {missing}")
    digest = hashlib.sha256()
    with present[0].open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return ModelFiles(folder, present[0], digest.hexdigest())


def _hub_files(model: str, revision: str, metadata: tuple[str, ...], weights: tuple[str, ...]) -> ModelFiles:
    """Download a model's files where they are not cached."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) is None:
        raise ValueError("expected an existing folder, a bundled name, or owner/name on the Hub")
    from huggingface_hub import try_to_load_from_cache

    cached = [name for name in weights if isinstance(try_to_load_from_cache(model, name, revision=revision), str)]
    candidates = cached or weights
    fetch = hub_source(model, revision, (*metadata, candidates[0]))
    for name in metadata:
        folder = fetch(name).parent  # snapshots/<commit>
    for name in candidates:
        try:
            return ModelFiles(folder, fetch(name), folder.name)
        except ValueError as error:
            if not is_absent(error.__cause__):
                raise
            absent = error
    raise _sharded() if _has(fetch, _SHARDS) else absent


def _has(fetch: Callable[[str], Path], file: str) -> bool:
    try:
        fetch(file)
    except ValueError as error:
        if not is_absent(error.__cause__):
            raise
        return False
    return True


def _sharded() -> ValueError:
    return ValueError(
        f"expected all weights in one {WEIGHTS}, got shards ({_SHARDS}): pass a model whose weights are one file, such "
        "as openai/whisper-medium"
    )
