"""HuBERT models of ``transformers``: bundled, in a folder or on the Hub, loaded with all weights or not at all.

A model is three files of one commit, or of one folder: ``config.json``, ``preprocessor_config.json`` and
``model.safetensors``. Older repositories (such as ``facebook/hubert-*``) have ``pytorch_model.bin`` instead; PyTorch
reads it with its restricted unpickler, which runs no code of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unisync_loss.utils.files import BUNDLED
from unisync_loss.utils.hub import hub_source

if TYPE_CHECKING:
    from transformers import HubertModel

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_SHA256 = re.compile("[0-9a-f]{64}")


class LoadedModel(NamedTuple):
    """A model and its files' metadata.

    Attributes:
        model: of transformers, with its weights.
        preprocessor: content of ``preprocessor_config.json``.
        identity: identifier of the weights: the commit, or the sha256 of a folder's weights.
    """

    model: HubertModel
    preprocessor: dict[str, Any]
    identity: str


def load_model(name: str | os.PathLike[str], revision: str) -> LoadedModel:
    """Load a model that is bundled, in a folder or on the Hub (from the cache if the revision is a full commit).

    Args:
        name: a folder, a bundled name, or ``owner/name`` on the Hub, tried in this order.
        revision: on the Hub; for files on this disk optionally the sha256 that their weights must have.

    Raises:
        ValueError: for another kind of model, missing weights or another sha256, or a model that is neither on this
            disk nor available from the Hub; within seconds, with the command that downloads it.
        ImportError: without transformers.
    """
    text = os.fspath(name)
    try:
        folder, identity = _find(text, revision)
        return LoadedModel(_load(folder), _read_json(folder / _PREPROCESSOR), identity)
    except ValueError as error:
        raise ValueError(f"HuBERT {text}@{revision}: {error}") from error


def _find(name: str, revision: str) -> tuple[Path, str]:
    """Folder of a model's files and identifier of its weights."""
    bundled = BUNDLED / name
    here = Path(name) if os.path.isdir(name) else bundled if (bundled / _PREPROCESSOR).is_file() else None
    if here is None:
        return _hub_files(name, revision)
    folder, identity = _folder_files(here)
    if _SHA256.fullmatch(revision) and identity != revision:
        raise ValueError(f"expected weights of sha256 {revision}, got {identity}: another model's, or changed")
    return folder, identity


def _folder_files(folder: Path) -> tuple[Path, str]:
    """Check a folder's files: the folder and the sha256 of its weights."""
    weights = [folder / name for name in (_WEIGHTS, _OLD_WEIGHTS) if (folder / name).is_file()]
    missing = [name for name in (_CONFIG, _PREPROCESSOR) if not (folder / name).is_file()]
    missing += [] if weights else [_WEIGHTS]
    if missing:
        raise ValueError(f"expected {_CONFIG}, {_PREPROCESSOR} and {_WEIGHTS} in the folder, missing {missing}")
    digest = hashlib.sha256()
    with weights[0].open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return folder, digest.hexdigest()


def _hub_files(model: str, revision: str) -> tuple[Path, str]:
    """Download a model's files where they are not cached: the folder in the cache and its commit."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) is None:
        raise ValueError("expected an existing folder, a bundled name, or owner/name on the Hub")
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    old = isinstance(try_to_load_from_cache(model, _OLD_WEIGHTS, revision=revision), str)
    fetch = hub_source(model, revision, (_CONFIG, _PREPROCESSOR, _OLD_WEIGHTS if old else _WEIGHTS))
    folder = fetch(_CONFIG).parent
    fetch(_PREPROCESSOR)
    try:
        fetch(_OLD_WEIGHTS if old else _WEIGHTS)
    except ValueError as error:
        if old or not isinstance(error.__cause__, RemoteEntryNotFoundError):
            raise
        fetch(_OLD_WEIGHTS)
    return folder, folder.name  # snapshots/<commit>


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: expected a JSON object, got something else ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: expected a JSON object, got {type(values).__name__}")
    return values


def _load(folder: Path) -> HubertModel:
    """Build the model from local files, which must contain every weight."""
    kind = _read_json(folder / _CONFIG).get("model_type")
    if kind != "hubert":
        raise ValueError(f"{_CONFIG}: expected a model of type 'hubert', got {kind!r}")
    try:
        from transformers import HubertModel
    except ImportError as error:
        raise ImportError("HuBERT needs transformers: pip install 'transformers>=5,<6'") from error
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            model, found = HubertModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except Exception as error:  # the parsers of weights and config raise their own types
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"cannot be loaded ({type(error).__name__}: {problem})") from error
    # transformers fills gaps with random weights; names and shapes differ between its versions, so it matches them
    missing = sorted(set(found["missing_keys"]) - {"masked_spec_embed"})  # used in pre-training only
    if missing:
        raise ValueError(f"{folder}: lacks {len(missing)} weights of the model, such as {missing[0]}")
    loaded: HubertModel = model
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and reports of loading; the missing keys are checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
