"""Checkpoints: a released name, a folder, or a repository of the Hugging Face Hub → an expert, strictly.

A checkpoint folder holds ``config.json``, ``model.safetensors`` and ``README.md``. No pickle is ever read, no key may be
missing or left over: a frozen loss with random layers would pass unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
BUNDLED = Path(__file__).parent / "weights"
#: sha256 of the weights of every released name
RELEASED = "released.json"
_CONNECT_SECONDS = 3.0


def list_pretrained() -> list[str]:
    """Names that load from the installed package, without network.

    Returns:
        Such as ``["mel-rgb"]``.
    """
    return sorted(_released())


def load_expert(name: str | os.PathLike[str]) -> UniSyncExpert:
    """Load an expert in eval mode and float32.

    Args:
        name: a checkpoint folder, a released name, or ``owner/name[@revision]`` on the Hub; looked for in this order.

    Returns:
        The expert.

    Raises:
        ValueError: for an unknown name, a Hub that cannot be reached, or a checkpoint that is not exactly right.
    """
    text = os.fspath(name)
    if Path(text).is_dir():
        return load_folder(Path(text))
    released = _released()
    if text in released:
        return load_folder(BUNDLED / text, sha256=released[text])
    owner, slash, rest = text.partition("/")
    if not (slash and owner and rest) or "/" in rest or owner in (".", "..", "~") or "\\" in text:
        known = ", ".join(sorted(released)) or "none"
        raise ValueError(f"{text!r}: expected a released name ({known}), an existing folder, or owner/name[@revision]")
    repo, _, revision = text.partition("@")
    return load_folder(_download(repo, revision or "main"))


def load_folder(folder: Path, *, sha256: str | None = None) -> UniSyncExpert:
    """Load a checkpoint folder.

    Args:
        folder: with ``config.json`` and ``model.safetensors``.
        sha256: of the weights; checked where given.

    Raises:
        ValueError: for a missing, damaged, foreign or changed file.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise ValueError(f"{folder}: expected {CONFIG} and {WEIGHTS} (pickles are never read), got {found or 'nothing'}")
    try:
        config = UniSyncConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    path = folder / WEIGHTS
    if sha256 is not None and (actual := _sha256(path)) != sha256:
        raise ValueError(f"{path}: expected sha256 {sha256}, got {actual}: the file was changed, install the package again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got one that cannot be read ({error})") from error
    expert = UniSyncExpert(config)
    _fill(expert, tensors, path)
    return expert.eval()


def save_pretrained(
    expert: UniSyncExpert, folder: str | os.PathLike[str], *, card: str | None = None, half: bool = False
) -> None:
    """Write a checkpoint folder, each file under a temporary name and then renamed.

    Args:
        expert: to be saved.
        folder: made if missing; files of an earlier checkpoint are replaced.
        card: text of ``README.md``; None leaves that file as it is.
        half: store floating-point weights as float16.

    Raises:
        OSError: when the disk is full or the folder cannot be written; an earlier checkpoint stays whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: value.detach().to("cpu", torch.float16 if half and value.is_floating_point() else value.dtype).contiguous()
        for key, value in expert.state_dict().items()
    }
    files = {WEIGHTS: to_safetensors(tensors), CONFIG: expert.config.to_json().encode()}
    if card is not None:
        files[CARD] = card.encode()
    temporary = {file: folder / f".{file}.{os.getpid()}" for file in files}
    try:
        for file, content in files.items():
            temporary[file].write_bytes(content)
        for file in files:
            temporary[file].replace(folder / file)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _released() -> dict[str, str]:
    table: dict[str, str] = json.loads((BUNDLED / RELEASED).read_text(encoding="utf-8"))
    return table


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file.read())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()  # Python 3.10 has no file_digest


def _fill(expert: UniSyncExpert, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy the tensors into the expert if every key and shape is as expected."""
    expected = expert.state_dict()
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems += [f"{key} is not finite" for key, value in tensors.items() if not torch.isfinite(value).all()]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"{path}: does not fit its config: {shown}")
    expert.load_state_dict(tensors)


def _download(repo: str, revision: str) -> Path:
    """Fetch a checkpoint from the Hub, the cache first where it is enough."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    where = f"{repo}@{revision}"
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            if len(revision) == 40 or not _reachable():  # a commit does not change; without a hub the cache must do
                paths = [hf_hub_download(repo, file, revision=revision, local_files_only=True) for file in (CONFIG, WEIGHTS)]
                return Path(paths[0]).parent
        if not _reachable():
            raise ValueError(
                f"{where}: the Hub cannot be reached and the checkpoint is not cached; "
                f"run `hf download {repo}` with a network, or pass a folder"
            )
        paths = [hf_hub_download(repo, file, revision=revision, etag_timeout=_CONNECT_SECONDS) for file in (CONFIG, WEIGHTS)]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{where}: cannot be fetched from the Hub ({type(error).__name__}: {error})") from error
    return Path(paths[0]).parent


def _reachable() -> bool:
    """Whether the Hub's host takes a connection: the Hub's own client would retry for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    with _quick_socket(address.hostname or "", port) as connected:
        return connected


@contextlib.contextmanager
def _quick_socket(host: str, port: int) -> Iterator[bool]:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            yield True
    except OSError:
        yield False
