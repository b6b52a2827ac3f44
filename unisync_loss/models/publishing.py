"""Checkpoints as repositories of the Hugging Face Hub: what belongs into one, and the upload."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch

from unisync_loss.models.pretrained import CARD, CONFIG, UNSTATED, WEIGHTS, load_expert, save_pretrained
from unisync_loss.models.released import list_pretrained
from unisync_loss.utils.hub import hub_command

FILES = (CARD, CONFIG, WEIGHTS)
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?:|#)[^)]*\)")
_FIELDS = ("library_name", "license", "pipeline_tag")


def prepare_repository(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, int]:
    """Write the files of an expert's repository: a card, the config, and the weights in one file.

    Args:
        source: checkpoint folder or released name; the weights of the latter are written in float16, as stored.
        folder: created if missing, and empty.

    Returns:
        Bytes by file name.

    Raises:
        ValueError: for a checkpoint that does not load, one whose audio features come from a model on this disk, or a
            card whose front matter is not valid, or does not name a licence.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: expected a new or an empty folder")
    expert = load_expert(source)
    model = expert.config.audio_model
    if model and Path(model).exists():
        raise ValueError(
            f"{source}: its audio features come from {model} on this disk, which others do not have: push that "
            f"model as a repository of its own, and put OWNER/NAME and its commit into {CONFIG}"
        )
    released = list_pretrained().get(os.fspath(source)) if isinstance(source, str) else None
    origin = Path(source) if released is None or released.path is None else released.path
    card = portable_card(_read_card(origin / CARD))
    if released is None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(origin / name, folder / name)
        (folder / CARD).write_text(card, encoding="utf-8")
    else:
        save_pretrained(expert, folder, card=card, dtype=torch.float16)
    return {name: (folder / name).stat().st_size for name in FILES}


def portable_card(text: str) -> str:
    """A card without links to files beside it, which its repository does not have; the words of the links stay."""
    return _LINK.sub(r"\1", text)


def push_folder(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Upload the files of a folder as one commit of a repository on the Hub, which is created if it is missing.

    Args:
        folder: see :func:`prepare_repository`; files in folders of it are left out.
        repo: ``owner/name``.
        private: whether a repository that is created is private.

    Returns:
        The commit, 40 hex digits.

    Raises:
        ValueError: for a name that is not ``owner/name``, or a Hub that refuses or cannot be reached. Without the
            commit, others see nothing of what was uploaded.
    """
    from huggingface_hub import HfApi, constants

    check_repository(repo)
    api = HfApi(endpoint=constants.ENDPOINT)
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_file())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=Path(folder), allow_patterns=names, commit_message="Upload of unisync_loss"
        )
    except Exception as error:  # of httpx2, httpx or requests, depending on the client's version
        raise ValueError(f"{repo}: not uploaded ({_reason(error)})") from error
    return str(commit.oid)


def check_repository(repo: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: for anything but ``owner/name``.
    """
    if _REPOSITORY.fullmatch(repo) is None:
        raise ValueError(f"repository: expected OWNER/NAME, got {repo!r}")


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"access denied, HTTP {status}: run `{hub_command('auth login')}` with a token that may write there"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _read_card(path: Path) -> str:
    """Text of a card that says what people must know before they use the weights."""
    from huggingface_hub import ModelCard

    if not path.is_file():
        raise ValueError(f"{path}: expected a card with licence, data and scores, got no file")
    text = path.read_text(encoding="utf-8")
    try:
        data = ModelCard(text).data
    except Exception as error:  # of the YAML parser, or of the client for a wrong model-index
        raise ValueError(f"{path}: expected front matter that the Hub accepts ({error})") from error
    missing = [name for name in _FIELDS if not getattr(data, name, None)]
    if missing:
        raise ValueError(f"{path}: expected {', '.join(missing)} in the front matter")
    if UNSTATED in text:
        raise ValueError(f"{path}: expected data, licence and scores in place of {UNSTATED!r}")
    return text
