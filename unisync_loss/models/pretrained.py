"""Checkpoints of experts: folders, released names and repositories of the Hugging Face Hub.

A checkpoint is a folder of ``config.json``, ``model.safetensors`` and ``README.md``. Bundled experts share the files of
their towers instead, see :mod:`unisync_loss.models.released`. Loading is strict, because random layers in a frozen loss
would go unnoticed: no pickle is read, no key may be missing or left over, and no field of the config has a default.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from unisync_loss.config import UniSyncConfig, current_fields
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.released import PretrainedInfo, list_pretrained, tower_state
from unisync_loss.utils.files import recognise
from unisync_loss.utils.hub import Fetch, check_size, hub_source
from unisync_loss.utils.model_files import JSON_BYTES, most_bytes
from unisync_loss.utils.tensors import describe, match_weights

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
UNSTATED = "Data, licence and scores: not stated."

_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_REPOSITORY = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", re.ASCII)


def load_expert(name: str | os.PathLike[str], *, device: str | torch.device | None = None) -> UniSyncExpert:
    """Load an expert in eval mode and float32.

    Args:
        name: an existing folder, a released name, or ``owner/name[@revision]`` on the Hugging Face Hub, tried in this
            order. A :class:`~pathlib.Path` is always a folder. The towers of released names are checked against their
            sha256. A revision that is a full commit needs no network once cached; for any other the Hub is asked
            first, and the cached copy is used if it does not answer.
        device: of the expert; None leaves it where modules are created.

    Returns:
        The expert; the state of the random generators is unchanged.

    Raises:
        ValueError: for an unknown name, a checkpoint with any deviation, or a Hub that refuses or gives no answer.

    Example:
        >>> round(load_expert("mel-rgb").config.threshold, 3)
        0.433
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"name: expected a name or a path, got {describe(name)}")
    try:
        device = None if device is None else torch.device(device)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f'device: expected a device, such as "cuda", got {device!r}') from error
    text = os.fspath(name)
    if not isinstance(name, str) or (text and os.path.isdir(text)):
        return _load(partial(_folder_file, Path(text), (CONFIG, WEIGHTS)), device)
    released = list_pretrained()
    info = released.get(text)
    if info is not None and info.path is not None:
        return _load(partial(_folder_file, info.path, (CONFIG,)), device, info)
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
        ValueError: for the expert of a loss, whose batch norms are folded; for weights that are not finite, before or
            after the cast.
        OSError: when the disk is full, and an earlier checkpoint stays as it is, or the folder cannot be written.
    """
    if not isinstance(expert, UniSyncExpert):
        raise ValueError(f"expert: expected a UniSyncExpert, got {describe(expert)}")
    folder = Path(folder)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype: expected a floating-point type, got {dtype!r}")
    with torch.device("meta"):
        expected = UniSyncExpert(expert.config).state_dict()
    if expert.state_dict().keys() != expected.keys():
        raise ValueError(
            "expert: expected the weights of an expert, got others, as in a loss, where batch norms are folded: "
            "save the expert that the loss was made of"
        )
    contents = {WEIGHTS: serialise(expert.state_dict(), dtype), CONFIG: expert.config.to_json().encode()}
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


def serialise(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> bytes:
    """Content of a safetensors file of weights: the same bytes for equal weights.

    Args:
        state: all or part of an expert's ``state_dict()``.
        dtype: of the stored floating-point numbers; None keeps theirs.

    Raises:
        ValueError: for weights that are not finite in that type.
    """
    tensors = {}
    for key, value in state.items():
        kept = dtype if dtype is not None and value.is_floating_point() else value.dtype
        stored = value.detach().to("cpu", kept).contiguous()
        tensors[key] = stored.masked_fill(stored == 0, 0)  # -0 becomes 0, as weight averaging does to a frozen tower
        if not torch.isfinite(tensors[key]).all():
            raise ValueError(f"{key}: expected values that are finite in {kept}, got NaN or infinity")
    return to_safetensors(tensors, metadata={"format": "pt"})


def _load(fetch: Fetch, device: str | torch.device | None, released: PretrainedInfo | None = None) -> UniSyncExpert:
    path = fetch(CONFIG, JSON_BYTES)
    config = _read_config(path)
    if released is not None and config != released.config:
        raise ValueError(f"{path}: expected the config released as {released.name!r}, got another: install it again")
    try:
        with torch.device("meta"):  # shapes first: a config may ask for more memory than there is
            expected = UniSyncExpert(config).state_dict()
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: expected the config of an expert, got one that cannot be built ({error})") from error
    # not before: a repository of another project is refused by its config, without a download
    if released is not None and released.path is not None:
        tensors = _read_towers(released, expected)
    else:
        # whole numbers count twice, as int64
        numbers = sum(value.numel() * (1 if value.is_floating_point() else 2) for value in expected.values())
        tensors = _read_weights(fetch(WEIGHTS, most_bytes(numbers)), expected, released)
    with torch.random.fork_rng(devices=[]):
        expert = UniSyncExpert(config).float()
    expert.load_state_dict(tensors)
    expert = expert.eval()
    return expert if device is None else expert.to(device)


def _read_towers(info: PretrainedInfo, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an expert of the installed package, from the files of its two towers."""
    weights: dict[str, Tensor] = {}
    for side, tower in info.towers.items():
        if not tower.path.is_file():
            raise ValueError(f"{tower.path}: expected the {side} tower of {info.name!r}, got no file: install it again")
        content = tower.path.read_bytes()  # once: the bytes that are checked are those that are loaded
        tower.check(content, tower.path)
        weights |= _match(_parse(content, tower.path), tower_state(expected, side), tower.path)
    return weights


def _read_weights(path: Path, expected: Mapping[str, Tensor], released: PretrainedInfo | None) -> dict[str, Tensor]:
    """Weights of a checkpoint; those of a released expert must be its towers, bit by bit."""
    tensors = _parse(path.read_bytes(), path)
    if released is not None:
        for side, tower in released.towers.items():
            tower.check(serialise(tower_state(tensors, side), None), path)
    return _match(tensors, expected, path)


def _match(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    try:
        return match_weights(tensors, expected)
    except ValueError as error:
        raise ValueError(f"{path}: does not fit {CONFIG}: {error}") from error


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
        raise ValueError(f"{path}: expected a whole safetensors file, got {recognise(content) or found}") from error


def _folder_file(folder: Path, files: tuple[str, ...], file: str, limit: int) -> Path:
    """Path of one of the files that a folder must have, of at most ``limit`` bytes."""
    path = folder / file
    if path.is_file():
        return check_size(path, limit)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: expected a checkpoint folder, got {found}")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    found = ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "an empty folder"
    raise ValueError(f"{folder}: expected {' and '.join(files)}, got {found}{_advice(folder.resolve(), names, file)}")


def _advice(folder: Path, names: list[str], missing: str) -> str:
    if any(name.endswith(_PICKLES) for name in names):
        return "; pickles are never loaded, convert the weights to safetensors"
    bundled = list_pretrained().get(folder.name)
    if missing == WEIGHTS and bundled is not None and bundled.path is not None and bundled.path.resolve() == folder:
        return f"; a bundled expert is loaded by its name, {folder.name!r}, from outside {folder.parent}"
    return ""


def _default_card(config: UniSyncConfig) -> str:
    return (
        "---\nlibrary_name: unisync_loss\npipeline_tag: video-classification\ntags:\n- lip-sync\n---\n\n"
        f"# UniSync expert, {config.name}\n\n"
        f"Audio-visual synchronisation expert (arXiv 2503.16357), architecture {config.architecture!r}, decision "
        f"threshold {config.threshold}.\n{UNSTATED}\n\n"
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
