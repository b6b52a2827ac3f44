"""Checkpoints of experts: folders, released names and repositories of the Hugging Face Hub.

A checkpoint is a folder of ``config.json``, ``model.safetensors`` and ``README.md``. Loading is strict, because random
layers in a frozen loss would go unnoticed: no pickle is read, no key may be missing or left over, and no field of the
config has a default.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from unisync_loss.config import UniSyncConfig, current_fields
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import BUNDLED
from unisync_loss.utils.hub import hub_source
from unisync_loss.utils.tensors import match_weights

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
RELEASED = "released.json"  # table of the bundled checkpoints

_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_REPOSITORY = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PretrainedInfo:
    """A released checkpoint, as pinned in ``weights/released.json``."""

    name: str
    config: UniSyncConfig  # audio, visual, architecture, threshold and the rest of the input contract
    parameters: int
    size: int  # bytes of model.safetensors
    sha256: str  # of model.safetensors
    path: Path | None  # folder in the installed package; None where only the Hub has it
    repo: str | None = None  # owner/name on the Hub, if published there
    revision: str | None = None  # commit of that repository


def list_pretrained() -> dict[str, PretrainedInfo]:
    """List the released checkpoints; reads one small file, no weights, and uses no network.

    Returns:
        Information by name, in alphabetical order.
    """
    released = {}
    for name, entry in sorted(_released().items()):
        local = (BUNDLED / name).is_dir() or "repo" not in entry
        values = {**entry, "name": name, "path": BUNDLED / name if local else None}
        released[name] = PretrainedInfo(**{**values, "config": UniSyncConfig.from_dict(entry["config"])})
    return released


def load_expert(name: str | os.PathLike[str], *, device: str | torch.device | None = None) -> UniSyncExpert:
    """Load an expert in eval mode and float32.

    Args:
        name: an existing folder, a released name, or ``owner/name[@revision]`` on the Hugging Face Hub, tried in this
            order. A :class:`~pathlib.Path` is always a folder. The weights of released names are checked against their
            sha256. A revision that is a full commit needs no network once cached; for any other the Hub is asked
            first, and the cached copy is used if it does not answer.
        device: of the expert; None leaves it where modules are created.

    Returns:
        The expert; the state of the random generators is unchanged.

    Raises:
        ValueError: for an unknown name, a checkpoint with any deviation, or a Hub that refuses or gives no answer.

    Example:
        >>> round(load_expert("mel-rgb").config.threshold, 3)
        0.528
    """
    text = os.fspath(name)
    if not isinstance(name, str) or (text and os.path.isdir(text)):
        return _load(partial(_folder_file, Path(text)), device)
    released = list_pretrained()
    info = released.get(text)
    if info is not None and info.path is not None:
        return _load(partial(_folder_file, info.path), device, info)
    match = _REPOSITORY.fullmatch(text if info is None else f"{info.repo}@{info.revision}")
    if match is None:
        expected = f"a released name ({', '.join(released) or 'none in this installation'}), an existing folder"
        raise ValueError(f"expected {expected} or owner/name[@revision] on the Hub, got {text!r}")
    repo, revision = match[1], match[2] or "main"
    try:
        return _load(hub_source(repo, revision, (CONFIG, WEIGHTS)), device, info)
    except ValueError as error:
        raise ValueError(f"{repo}@{revision}: {error}") from error


def save_pretrained(
    expert: UniSyncExpert, folder: str | os.PathLike[str], *, card: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a checkpoint folder.

    All files are complete on disk before the first replaces an earlier one. If the process dies between the
    replacements, the folder has no config and does not load, rather than a mixture of two checkpoints.

    Args:
        expert: to be saved.
        folder: created if missing; an earlier checkpoint in it is replaced.
        card: text of ``README.md``; None keeps an existing card, or writes a few lines from the config.
        dtype: of the stored floating-point numbers, such as ``torch.float16``; None keeps the expert's.

    Raises:
        ValueError: for weights that are not finite, before or after the cast.
        OSError: when the disk is full, and an earlier checkpoint stays as it is, or the folder cannot be written.
    """
    folder = Path(folder)
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point type, got {dtype}")
    contents = {WEIGHTS: _serialise(expert, dtype), CONFIG: expert.config.to_json().encode()}
    if card is not None or not (folder / CARD).exists():
        contents[CARD] = (card if card is not None else _default_card(expert.config)).encode()
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write(folder, contents)
    except BaseException:
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _released() -> dict[str, Any]:
    path = BUNDLED / RELEASED
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return table


def _load(
    fetch: Callable[[str], Path], device: str | torch.device | None, released: PretrainedInfo | None = None
) -> UniSyncExpert:
    path = fetch(CONFIG)
    config = _read_config(path)
    if released is not None and config != released.config:
        raise ValueError(f"{path}: expected the config released as {released.name!r}, got another: install it again")
    try:
        with torch.device("meta"):  # shapes first: a config may ask for more memory than there is
            expected = UniSyncExpert(config).state_dict()
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: expected the config of an expert, got one that cannot be built ({error})") from error
    path = fetch(WEIGHTS)  # not before: a repository of another project is refused by its config, without a download
    content = path.read_bytes()  # once: the bytes that are checked are those that are loaded
    if released is not None and (digest := hashlib.sha256(content).hexdigest()) != released.sha256:
        raise ValueError(f"{path}: expected sha256 {released.sha256}, got {digest}: changed, install it again")
    try:
        tensors = match_weights(_parse(content, path), expected)
    except ValueError as error:
        raise ValueError(f"{path}: does not fit {CONFIG}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        expert = UniSyncExpert(config).float()
    expert.load_state_dict(tensors)
    expert = expert.eval()
    return expert if device is None else expert.to(device)


def _read_config(path: Path) -> UniSyncConfig:
    try:
        text = path.read_text(encoding="utf-8")
        config = UniSyncConfig.from_json(text)
        missing = sorted({field.name for field in fields(UniSyncConfig)} - set(current_fields(json.loads(text))))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if missing:  # a default in its place would be a guess
        raise ValueError(f"{path}: expected every field of the config, got none of {', '.join(missing)}")
    return config


def _parse(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return parse_safetensors(content)
    except Exception as error:  # its own type, KeyError, ValueError …, depending on the damage
        pickled = content.startswith((b"PK", b"\x80"))  # torch.save, pickle
        found = "a pickle under its name; pickles are never loaded" if pickled else f"one that cannot be read ({error})"
        raise ValueError(
            f"{path}: expected a whole safetensors file, got {found if content else 'an empty one'}"
        ) from error


def _folder_file(folder: Path, file: str) -> Path:
    path = folder / file
    if path.is_file():
        return path
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: expected a checkpoint folder, got {found}")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    pickled = any(name.endswith(_PICKLES) for name in names)
    found = ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "an empty folder"
    advice = "; pickles are never loaded, convert the weights to safetensors" if pickled else ""
    raise ValueError(f"{folder}: expected {CONFIG} and {WEIGHTS}, got {found}{advice}")


def _serialise(expert: UniSyncExpert, dtype: torch.dtype | None) -> bytes:
    tensors = {}
    for key, value in expert.state_dict().items():
        kept = dtype if dtype is not None and value.is_floating_point() else value.dtype
        tensors[key] = value.detach().to("cpu", kept).contiguous()
        if not torch.isfinite(tensors[key]).all():
            raise ValueError(f"{key}: expected values that are finite in {kept}, got NaN or infinity")
    return to_safetensors(tensors, metadata={"format": "pt"})


def _default_card(config: UniSyncConfig) -> str:
    return (
        f"---\nlibrary_name: unisync_loss\ntags:\n- lip-sync\n---\n\n# UniSync expert, {config.name}\n\n"
        f"Audio-visual synchronisation expert (arXiv 2503.16357), architecture {config.architecture!r}, decision "
        f"threshold {config.threshold}.\nData, licence and scores: not stated.\n\n"
        '```python\nfrom unisync_loss import load_expert\n\nexpert = load_expert("this/folder")\n```\n'
    )


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files beside their final places, then rename them; unchanged ones are left alone."""
    changed = {
        file: content
        for file, content in contents.items()
        if not (folder / file).is_file() or (folder / file).read_bytes() != content
    }
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
        for file, content in changed.items():
            with Path(scratch, file).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        if {WEIGHTS, CONFIG} <= changed.keys():
            # a folder without a config does not load, so weights never load with the config of another checkpoint
            (folder / CONFIG).unlink(missing_ok=True)
        for file in sorted(changed, key=[WEIGHTS, CARD, CONFIG].index):
            os.replace(Path(scratch, file), folder / file)
