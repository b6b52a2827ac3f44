"""Files of a repository on the Hugging Face Hub, from the cache or the network, or one clear error.

A download runs in a process of its own, this file as a program, because nothing else can be stopped at any moment: the
client has no limit on size or time of its own, and a thread that reads from a socket cannot be ended.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: (file name, most bytes that it may have) → path
Fetch = Callable[[str, int], Path]
_HUB_SECONDS = 4.0  # for the Hub's first answer; by default, its client retries for 23 s to 47 s
#: a download that brings fewer bytes a second than this over this many seconds is given up; a modem brings 5,000
SLOWEST, PATIENCE = 1024, 60.0
_CHUNK = 2**14  # bytes that the client writes at once; its own 10 MiB would hide the pace of a slow connection
#: settings of the client that a program may have changed after importing it
_SETTINGS = ("HF_HUB_CACHE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT")
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


def hub_source(repo: str, revision: str, files: tuple[str, ...]) -> Fetch:
    """Build a function that gets files of a repository, all of one commit, from the cache or the Hub.

    Args:
        repo: ``owner/name``.
        revision: commit, tag or branch; a full commit needs no network once all files are cached.
        files: the names that will be asked for.

    Returns:
        A function that raises ValueError for a file that is larger, or that arrives too slowly, see :data:`SLOWEST`.

    Raises:
        ValueError: where the Hub refuses, or gives no answer and not all files are cached.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    def cached(file: str, revision: str) -> Path | None:
        found = try_to_load_from_cache(repo, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    held = {file: path for file in files if (path := cached(file, revision))}

    def take(file: str, limit: int) -> Path:
        return check_size(held[file], limit)

    if len(held) == len(files) and COMMIT.fullmatch(revision):
        return take
    first = _metadata(repo, revision, files[0])
    if isinstance(first, str):
        if len(held) == len(files):
            logger.warning("%s@%s: using the cached copy, the Hub gave no answer (%s)", repo, revision, first)
            return take
        raise ValueError(
            f"the Hub at {constants.ENDPOINT} gave no answer ({first}) and no copy is cached; pass a folder, or run "
            f"`{hub_command(f'download {repo} --revision {revision}')}` where there is a network"
        )
    commit, asked = revision, {files[0]: first}

    def fetch(file: str, limit: int) -> Path:
        nonlocal commit
        known = asked.pop(file, None) or _metadata(repo, commit, file)
        if isinstance(known, str):
            raise ValueError(f"{file} could not be downloaded ({known}); {_advice(repo)}")
        path = cached(file, known.commit_hash or commit)
        if path is None:
            if known.size is not None and known.size > limit:
                raise too_large(file, limit, f"{known.size:,}, as the Hub says")
            path = _download(repo, commit, file, limit)
            _check_content(path, known.etag)
        commit = path.parent.name  # snapshots/<commit>/<file>: a push between two files cannot mix them
        return check_size(path, limit)

    return fetch


def check_size(path: Path, limit: int) -> Path:
    """Return the path of a file that is no larger than ``limit`` bytes.

    Raises:
        ValueError: for a larger one.
    """
    if (size := path.stat().st_size) > limit:
        raise too_large(str(path), limit, f"{size:,}")
    return path


def _check_content(path: Path, etag: str | None) -> None:
    """Remove a file from the cache that has not the sha256 by which the Hub names it, as it does all large ones."""
    if etag is None or _SHA256.fullmatch(etag) is None:
        return
    found = file_sha256(path)
    if found != etag:
        for name in {path.resolve(), path}:
            name.unlink()
        raise ValueError(f"{path.name}: expected a file of sha256 {etag}, got {found}: changed on its way")


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal digits; the file is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def too_large(file: str, limit: int, size: str) -> ValueError:
    """Error for a file of more bytes than its config asks for."""
    return ValueError(f"{file}: expected at most {limit:,} bytes, got {size}")


def _metadata(repo: str, revision: str, file: str) -> HfFileMetadata | str:
    """Commit and size of a file, or the reason why the Hub cannot be used now; raises where it refuses.

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
    if not metadata.commit_hash:
        return "the server there is not a Hub, or a proxy or sign-in page answers for it"
    return metadata


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # not an executor: the interpreter waits for those at exit
    return future.result(timeout=seconds)


def _download(repo: str, revision: str, file: str, limit: int) -> Path:
    """Download a file in a process that is ended when it brings too little."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "blobs")
    settings = {name: str(getattr(constants, name)) for name in _SETTINGS} | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_DISABLE_XET": "1",  # and the next: native code that writes unseen and at once
        "HF_HUB_ENABLE_HF_TRANSFER": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, __file__, repo, revision, file, str(limit), str(os.getpid())]
    process = subprocess.Popen(
        command, env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        answer = _wait(process, blobs)
    finally:
        _end(process)
    found = (
        json.loads(answer.splitlines()[-1])
        if answer
        else {"error": f"the process that downloads ended with {process.returncode}"}
    )
    if found.get("path"):
        return Path(found["path"])
    if found.get("large"):
        raise too_large(file, limit, "more")
    raise ValueError(f"{file} could not be downloaded ({found['error']}); {_advice(repo)}")


def _wait(process: subprocess.Popen[str], blobs: Path) -> str:
    """Answer of the process that downloads, or of this one for a download that makes no progress."""
    since, before = time.monotonic(), 0
    while True:
        try:
            return process.communicate(timeout=0.1)[0]
        except subprocess.TimeoutExpired:
            now, received = time.monotonic(), 0
            for part in blobs.glob("*.incomplete"):
                with contextlib.suppress(OSError):  # it is complete
                    received += part.stat().st_size
            if not before <= received < before + SLOWEST * PATIENCE:
                since, before = now, received
            elif now - since > PATIENCE:
                return json.dumps({"error": f"less than {SLOWEST} bytes a second for {PATIENCE:g} s"})


def _end(process: subprocess.Popen[str]) -> None:
    """End the process if it runs, first by a signal after which the client removes what is incomplete."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout:
        process.stdout.close()


def _advice(repo: str) -> str:
    return f"try again, or run `{hub_command(f'download {repo}')}` and pass the folder"


def _refusal(error: Exception, file: str) -> str | None:
    """Message for an answer that a cached copy must not hide, or None."""
    from huggingface_hub import utils

    # the first class is a subclass of the second
    if isinstance(error, utils.GatedRepoError):
        return f"access is gated: accept its terms on the Hub, then run `{hub_command('auth login')}`"
    if isinstance(error, utils.RepositoryNotFoundError):
        return f"no such repository on the Hub (a private one needs `{hub_command('auth login')}`), nor such a folder"
    if isinstance(error, utils.RevisionNotFoundError):
        return "no such revision in that repository"
    if is_absent(error):
        return f"no {file} in that repository; pickles (pytorch_model.bin, …) are never loaded instead"
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"access denied (HTTP {status}): run `{hub_command('auth login')}`" if status in (401, 403) else None


def hub_command(arguments: str) -> str:
    """Command line of the installed huggingface_hub, for messages: ``hf`` since 0.34, ``huggingface-cli`` before.

    Args:
        arguments: of ``hf``, such as ``"auth login"``.
    """
    if "hf" in {entry.name for entry in distribution("huggingface-hub").entry_points}:
        return f"hf {arguments}"
    return f"huggingface-cli {arguments.removeprefix('auth ')}"


def is_absent(error: BaseException | None) -> bool:
    """Whether an error is the Hub's answer that a repository has no such file."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    # the second, a subclass of the first, is raised without an answer
    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _download_here(repo: str, revision: str, file: str, limit: int) -> dict[str, object]:
    """Download a file in this process, which may then write no file of more than ``limit`` bytes."""
    from huggingface_hub import constants, file_download

    name = "DOWNLOAD_CHUNK_SIZE"
    for module in (constants, file_download):  # older versions copy the name
        if hasattr(module, name):
            setattr(module, name, _CHUNK)
    with contextlib.suppress(ImportError, OSError):  # Windows has no such limit; standard error may be closed
        import resource

        log = os.fstat(2).st_size  # the progress bar may be appended to a file
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        soft = limit + log if hard == resource.RLIM_INFINITY else min(limit + log, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    try:
        return {"path": file_download.hf_hub_download(repo, file, revision=revision)}
    except Exception as error:
        return {"error": _brief(error), "large": isinstance(error, OSError) and error.errno == errno.EFBIG}


def _main(repo: str, revision: str, file: str, limit: str, parent: str) -> None:
    """Program of the process that downloads: prints one line of JSON."""

    def follow() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os._exit(1)  # nobody waits for the file any more

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it answers Ctrl-C
    threading.Thread(target=follow, daemon=True).start()
    print(json.dumps(_download_here(repo, revision, file, int(limit))))


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules are no top-level ones
    _main(*sys.argv[1:])
