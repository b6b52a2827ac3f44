"""Files of a repository on the Hugging Face Hub, from the cache or the network, or one clear error within seconds."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_SECONDS = 4.0  # for the Hub's first answer; by default, its client retries for 23 s to 47 s
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


def hub_source(repo: str, revision: str, files: tuple[str, ...]) -> Callable[[str], Path]:
    """Build a function that gets files of a repository, all of one commit, from the cache or the Hub.

    Args:
        repo: ``owner/name``.
        revision: commit, tag or branch; a full commit needs no network once all files are cached.
        files: the names that will be asked for.

    Returns:
        File name → path in the cache.

    Raises:
        ValueError: where the Hub refuses, or gives no answer and not all files are cached.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(repo, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    commit = revision

    def download(file: str) -> Path:
        nonlocal commit
        path = _download(repo, commit, file)
        commit = path.parent.name  # snapshots/<commit>/<file>: a push between two files cannot mix them
        return path

    held = {file: path for file in files if (path := cached(file))}
    if len(held) == len(files) and COMMIT.fullmatch(revision):
        return held.__getitem__
    problem = _hub_problem(repo, revision, files[0])
    if problem is None:
        return download
    if len(held) == len(files):
        logger.warning("%s@%s: using the cached copy, the Hub gave no answer (%s)", repo, revision, problem)
        return held.__getitem__
    raise ValueError(
        f"the Hub at {constants.ENDPOINT} gave no answer ({problem}) and no copy is cached; pass a folder, or run "
        f"`hf download {repo} --revision {revision}` where there is a network"
    )


def _hub_problem(repo: str, revision: str, file: str) -> str | None:
    """Reason why the Hub cannot be used now, or None if it can; raises where it refuses.

    One request, never repeated, in a thread, because name resolution and slow answers outlast a client's timeouts.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    chosen = constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT  # by the user, for a slow network
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT) if chosen else _HUB_SECONDS
    url = hf_hub_url(repo, file, revision=revision)
    try:
        metadata = _within(seconds + 0.3, lambda: get_hf_file_metadata(url, timeout=seconds))
    except Exception as error:  # of httpx2, httpx or requests, depending on the client's version
        if (refusal := _refusal(error, file)) is not None:
            raise ValueError(refusal) from error
        return _brief(error) if str(error) else f"nothing within {seconds:g} s"
    return None if metadata.commit_hash else "the server there is not a Hub, or a proxy or sign-in page answers for it"


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # not an executor: the interpreter waits for those at exit
    return future.result(timeout=seconds)


def _download(repo: str, revision: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        advice = f"try again, or run `hf download {repo}` and pass the folder"
        problem = _refusal(error, file) or f"{file} could not be downloaded ({_brief(error)}); {advice}"
        raise ValueError(problem) from error


def _refusal(error: Exception, file: str) -> str | None:
    """Message for an answer that a cached copy must not hide, or None."""
    from huggingface_hub import utils

    # the first class is a subclass of the second
    if isinstance(error, utils.GatedRepoError):
        return "access is gated: accept its terms on the Hub, then run `hf auth login`"
    if isinstance(error, utils.RepositoryNotFoundError):
        return "no such repository on the Hub (a private one needs `hf auth login`), nor such a folder"
    if isinstance(error, utils.RevisionNotFoundError):
        return "no such revision in that repository"
    if is_absent(error):
        return f"no {file} in that repository; pickles (pytorch_model.bin, …) are never loaded instead"
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"access denied (HTTP {status}): run `hf auth login`" if status in (401, 403) else None


def is_absent(error: BaseException | None) -> bool:
    """Whether an error is the Hub's answer that a repository has no such file."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    # the second, a subclass of the first, is raised without an answer
    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
