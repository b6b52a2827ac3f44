"""HuBERT models: of a folder or of the Hub, whole or not at all.

A model is three files of one commit, or of one folder: ``config.json``, ``preprocessor_config.json`` and
``model.safetensors``. Older repositories (``facebook/hubert-*`` among them) hold ``pytorch_model.bin`` in its place;
PyTorch reads it by its restricted reader, which runs nothing of the file.
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

from unisync_loss.config import SAMPLE_RATE
from unisync_loss.hub import hub_source

if TYPE_CHECKING:
    from transformers import HubertModel

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"


class HubertFiles(NamedTuple):
    """A HuBERT as its files have it.

    Attributes:
        model: with its weights.
        normalize: whether it was trained on waveforms of mean 0 and deviation 1.
        identity: what tells the weights from any others: the commit, or the sha256 of a folder's weights.
    """

    model: HubertModel
    normalize: bool
    identity: str


def load_hubert(name: str | os.PathLike[str], revision: str) -> HubertFiles:
    """Load the model of a folder or of the Hub (the cache first, where the revision is a full commit).

    Raises:
        ValueError: for files that are no HuBERT, lack weights, or are neither here nor to be had from the Hub: within
            seconds, and with the command that fetches them.
        ImportError: without transformers.
    """
    text = os.fspath(name)
    try:
        folder, identity = _folder_files(Path(text)) if os.path.isdir(text) else _hub_files(text, revision)
        return HubertFiles(_load_model(folder), _reads_normalized(folder / _PREPROCESSOR), identity)
    except ValueError as error:
        raise ValueError(f"HuBERT {text}@{revision}: {error}") from error


def _folder_files(folder: Path) -> tuple[Path, str]:
    """The folder and the sha256 of its weights."""
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
    """The folder in the Hub's cache, filled if need be, and its commit."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) is None:
        raise ValueError("expected an existing folder, or owner/name on the Hub")
    from huggingface_hub import try_to_load_from_cache

    old = isinstance(try_to_load_from_cache(model, _OLD_WEIGHTS, revision=revision), str)
    fetch = hub_source(model, revision, (_CONFIG, _PREPROCESSOR, _OLD_WEIGHTS if old else _WEIGHTS))
    folder = fetch(_CONFIG).parent
    fetch(_PREPROCESSOR)
    try:
        fetch(_OLD_WEIGHTS if old else _WEIGHTS)
    except ValueError as error:
        if old or type(error.__cause__).__name__ != "RemoteEntryNotFoundError":
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


def _reads_normalized(path: Path) -> bool:
    values = _read_json(path)
    if values.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise ValueError(f"{path.name}: expected a model of 16000 Hz, got {values['sampling_rate']}")
    return bool(values.get("do_normalize", True))


def _load_model(folder: Path) -> HubertModel:
    """Build the model from local files only; every weight must be in them."""
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
        except Exception as error:  # the parsers of weights and config raise types of their own
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"cannot be loaded ({type(error).__name__}: {problem})") from error
    missing = sorted(set(found["missing_keys"]) - {"masked_spec_embed"})  # of pre-training alone
    if missing:
        raise ValueError(f"{folder}: lacks {len(missing)} weights of the model, such as {missing[0]}")
    loaded: HubertModel = model
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of loading; what matters in them is checked."""
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
