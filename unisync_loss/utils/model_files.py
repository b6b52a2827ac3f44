"""Files of pretrained models, in a folder, bundled with the package or on the Hub, and the identity of their weights.

The weights are one file of one commit, or of one folder. Safetensors come first; older repositories (such as
``facebook/hubert-*``) have ``pytorch_model.bin`` instead, which a caller may allow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unisync_loss.utils.files import BUNDLED, read_json
from unisync_loss.utils.hub import Fetch, check_size, file_sha256, hub_source, is_absent

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
_SHARDS = "model.safetensors.index.json"
_SHA256 = re.compile("[0-9a-f]{64}")
#: bytes of a JSON file of metadata, of which the largest have some 10 KiB
JSON_BYTES = 2**20
#: parameters of a model; the largest Whisper has 1.6 billion
_MOST_PARAMETERS = 4_000_000_000


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
    name: str,
    revision: str,
    count: Callable[[dict[str, Any]], int],
    metadata: tuple[str, ...] = (CONFIG,),
    weights: tuple[str, ...] = (WEIGHTS,),
) -> ModelFiles:
    """Find a model in a folder, in the package or on the Hub (from the cache if the revision is a full commit).

    Args:
        name: a folder, a bundled name, or ``owner/name`` on the Hub, tried in this order.
        revision: on the Hub; for files on this disk optionally the sha256 that their weights must have.
        count: number of parameters that the weights of a config may have; raises ValueError for another kind of model.
        metadata: JSON files that it must have, ``config.json`` first.
        weights: names that the file of its weights may have, the preferred one first.

    Raises:
        ValueError: for missing files, weights that are larger than the config's model, or of another sha256, or a model
            that is neither on this disk nor available from the Hub; within seconds, with the command that downloads it.
    """

    def limit(folder: Path) -> int:
        parameters = count(read_json(folder / CONFIG))
        if parameters > _MOST_PARAMETERS:
            raise ValueError(
                f"{CONFIG}: expected a model of at most {_MOST_PARAMETERS:,} parameters, got {parameters:,}"
            )
        return most_bytes(parameters)

    bundled = BUNDLED / name
    here = Path(name) if os.path.isdir(name) else bundled if (bundled / CONFIG).is_file() else None
    if here is None:
        return _hub_files(name, revision, limit, metadata, weights)
    found = _folder_files(here, limit, metadata, weights)
    if _SHA256.fullmatch(revision) and found.identity != revision:
        raise ValueError(f"expected weights of sha256 {revision}, got {found.identity}: another model's, or changed")
    return found


def most_bytes(parameters: int) -> int:
    """Largest size of a file of weights: float32 parameters, names and shapes of the tensors, a little metadata."""
    return 4 * parameters + 2**20


def read_sizes(config: Mapping[str, Any], most: Mapping[str, int]) -> dict[str, int]:
    """Sizes of a network from its config.

    Args:
        config: of the model.
        most: the fields that it must have, with the largest value of each.

    Raises:
        ValueError: for a field that is no whole number from 1 to the largest value.
    """
    for name, largest in most.items():
        value = config.get(name)
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"{CONFIG}: {name}: expected a whole number from 1 to {largest}, got {value!r:.60}")
    return {name: config[name] for name in most}


def _folder_files(
    folder: Path, limit: Callable[[Path], int], metadata: tuple[str, ...], weights: tuple[str, ...]
) -> ModelFiles:
    """Check a folder's files and compute the sha256 of its weights."""
    present = [folder / name for name in weights if (folder / name).is_file()]
    if not present and (folder / _SHARDS).is_file():
        raise _sharded()
    missing = [name for name in metadata if not (folder / name).is_file()] + ([] if present else [weights[0]])
    if missing:
        raise ValueError(f"expected {', '.join(metadata)} and {weights[0]} in the folder, missing {missing}")
    for name in metadata:
        check_size(folder / name, JSON_BYTES)
    check_size(present[0], limit(folder))
    return ModelFiles(folder, present[0], file_sha256(present[0]))


def _hub_files(
    model: str, revision: str, limit: Callable[[Path], int], metadata: tuple[str, ...], weights: tuple[str, ...]
) -> ModelFiles:
    """Download a model's files where they are not cached."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) is None:
        raise ValueError("expected an existing folder, a bundled name, or owner/name on the Hub")
    from huggingface_hub import try_to_load_from_cache

    cached = [name for name in weights if isinstance(try_to_load_from_cache(model, name, revision=revision), str)]
    candidates = cached or weights
    fetch = hub_source(model, revision, (*metadata, candidates[0]))
    for name in metadata:
        folder = fetch(name, JSON_BYTES).parent  # snapshots/<commit>
    most = limit(folder)
    for name in candidates:
        try:
            return ModelFiles(folder, fetch(name, most), folder.name)
        except ValueError as error:
            if not is_absent(error.__cause__):
                raise
            absent = error
    raise _sharded() if _has(fetch, _SHARDS) else absent


def _has(fetch: Fetch, file: str) -> bool:
    try:
        fetch(file, JSON_BYTES)
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
