"""``unisync prepare``: videos to a clip store, on several cores, restartable."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from unisync_loss.config import FPS
from unisync_loss.data.datasets import Source, keep_apart, list_sources
from unisync_loss.data.face_clips import Outcome, clips_of
from unisync_loss.data.store import is_store, read_lines
from unisync_loss.data.store_writer import (
    SHARD_BYTES,
    ShardWriter,
    StagedInput,
    check_store,
    open_store,
    read_staged,
    write_manifest,
)
from unisync_loss.utils.files import load_hook
from unisync_loss.utils.process_pool import run_tasks
from unisync_loss.utils.progress import Progress
from unisync_loss.video.encoding import encode_frames, encode_wav

_MOST_DROPPED = 20  # skipped segments listed in the manifest per input
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Task:
    """One input for a worker.

    Attributes:
        source: the input.
        staging: folder that its clips are staged in.
        provider: ``module:function`` of further features.
        threads: decode on several cores.
    """

    source: Source
    staging: str
    provider: str | None
    threads: bool

    @property
    def name(self) -> str:
        """Name of the staged input."""
        return staged_name(self.source.path)


#: distributes inputs: takes the tasks, the function that does one, the one that reports a task whose process crashed,
#: and the number of processes; yields the names of staged inputs in any order, and None when there is time to report
Engine = Callable[[Iterable[Task], Callable[[Task], str], Callable[[Task, str], str], int], Iterator[str | None]]


def staged_name(path: str) -> str:
    """Name under which an input is staged, from its path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:24]


def prepare(
    roots: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    speakers: str | None = None,
    provider: str | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 1,
    shard_bytes: int = SHARD_BYTES,
    engine: Engine = run_tasks,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Turn video files, folders and other stores into a clip store, or continue one.

    Args:
        roots: video files, folders (layouts in `unisync_loss.data.datasets`), and stores, whose clips are copied.
        out: the store.
        speakers: CSV file or ``module:function`` that names speakers, see `unisync_loss.data.datasets.list_sources`.
        provider: ``module:function`` of further features, see `unisync_loss.data.face_clips.clips_of`.
        shard: ``(i, n)``: do the i-th of n shards of the inputs.
        workers: number of processes.
        shard_bytes: size at which a shard of the store is closed.
        engine: runs the tasks, see `Engine`; ``examples/prepare_with_ray.py`` has one for several machines.
        log: takes lines of progress.

    Returns:
        ``inputs``, ``ok``, ``skipped``, ``error``, ``clips``, ``seconds``, ``speakers``, ``bytes``, and ``left_out``:
        the inputs that could not be used, or only in part, with the reason.

    Raises:
        FileNotFoundError: for a root that does not exist.
        ValueError: for a store with other settings or in use, stores with equal keys, a hook that cannot be imported.
        ImportError: without PyAV, or without MediaPipe where faces have to be found.
        OSError: when the disk is full; finished clips stay, and the next run continues.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard: expected i/n with 0 <= i < n, got {index}/{count}")
    if provider:
        load_hook(provider)  # fails before any work
    out, paths = Path(out), [Path(root) for root in roots]
    stores = [root for root in paths if is_store(root)]
    sources = list_sources([root for root in paths if root not in stores], speakers)
    for root in stores:
        check_store(root, {"provider": provider})
    open_store(out, {"provider": provider})
    with _locked(out, index, count):
        name = "" if count == 1 else f"{index}-of-{count}-"
        staging = out / f"{name}parts"
        writer = ShardWriter(out, name, shard_bytes)
        own = [source for source in sources if _shard_of(source, count) == index]
        tasks = [Task(each, str(staging), provider, workers == 1) for each in _unprepared(own, [out, *stores])]
        with _cleaned_up(out, staging, writer):
            if index == 0:
                _copy_stores(stores, out, writer)
            _prepare_all(tasks, len(sources) - len(tasks), writer, workers, engine, log)
            writer.close()
        shutil.rmtree(staging)
        return _summary(write_manifest(out), out)


@contextmanager
def _cleaned_up(out: Path, staging: Path, writer: ShardWriter) -> Iterator[None]:
    """Remove unfinished files whenever a run ends, and name the store when the disk is full."""
    staging.mkdir(exist_ok=True)
    try:
        yield
    except BaseException as error:
        writer.abandon()
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise OSError(error.errno, f"{out}: no room ({error.strerror}); finished clips stay") from error
        raise
    finally:
        for path in staging.glob(".*"):
            path.unlink(missing_ok=True)


def _shard_of(source: Source, count: int) -> int:
    """Shard of an input by its path, so that a folder that grows does not move its inputs between shards."""
    return int(staged_name(source.path), 16) % count


def _unprepared(sources: list[Source], roots: Iterable[Path]) -> list[Source]:
    """Inputs that are in none of the stores, with keys that none of them has."""
    done: dict[str, tuple[int, list[int]]] = {}  # clips and stamp of each input
    owner: dict[str, str] = {}  # input that a key belongs to
    for root in roots:
        for _, line in read_lines(root):
            if line["clips"] >= done.get(line["source"], (0, []))[0]:
                done[line["source"]] = line["clips"], line["stamp"]
            owner |= {record["key"].rpartition("_")[0]: line["source"] for record in line["records"]}
    return keep_apart([source for source in sources if not _is_done(source, done, owner)], owner)


def _is_done(source: Source, done: dict[str, tuple[int, list[int]]], owner: dict[str, str]) -> bool:
    """Whether an input needs no work: it has clips, or has none and is unchanged, or was only moved."""
    clips, stamp = done.get(source.path, (0, None))
    _, moved = done.get(owner.get(source.key, ""), (0, None))
    return clips > 0 or _stamp(source) in (stamp, moved)


def _stamp(source: Source) -> list[int]:
    """Size and modification time; empty for a file that cannot be read."""
    try:
        status = os.stat(source.path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def _locked(out: Path, index: int, count: int) -> Iterator[None]:
    """Hold the lock of one share of a store; the system frees it when the process ends, however it ends."""
    with (out / f".lock-{index}-of-{count}").open("w") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"{out}: another run is writing this store") from error
        yield


def _copy_stores(stores: list[Path], out: Path, writer: ShardWriter) -> None:
    """Copy the clips of other stores input by input, except inputs that ``out`` has already."""
    clips: dict[str, int] = {}
    keys: set[str] = set()
    for root in [out, *stores] if stores else []:
        for tar, line in read_lines(root):
            here = {record["key"] for record in line["records"]}
            if root != out:
                if line["clips"] <= clips.get(line["source"], -1):
                    continue
                if keys & here:
                    raise ValueError(f"{root}: expected keys that no other store has, got {min(keys & here)} again")
                writer.append(line, tar)
            keys |= here
            clips[line["source"]] = line["clips"]


def _prepare_all(
    tasks: list[Task], already: int, writer: ShardWriter, workers: int, engine: Engine, log: Callable[[str], None]
) -> None:
    """Prepare inputs in any order and append them to shards in the order of ``tasks``."""
    if not tasks:
        return
    staging = Path(tasks[0].staging)
    ready = {task.name for task in tasks if read_staged(staging, task.name) is not None}
    missing = [task for task in tasks if task.name not in ready]
    # inputs differ in length, so the time left goes by their bytes
    sizes = {task.name: (_stamp(task.source) or [1])[0] for task in missing}
    progress, done, read = Progress(log, sum(sizes.values())), already + len(ready), 0
    total = done + len(missing)
    waiting = iter(tasks)
    head = next(waiting, None)
    # None first appends what an interrupted run has staged
    for name in chain([None], engine(missing, prepare_one, _died, min(workers, len(missing)))):
        if name:
            ready.add(name)
            done, read = done + 1, read + sizes[name]
            progress.update(read, f"{done}/{total} inputs")
        while head is not None and head.name in ready:
            line = read_staged(staging, head.name)
            assert line is not None
            files = [staging / f"{head.name}.tar", staging / f"{head.name}.json"]
            writer.append(line, files[0], files)
            head = next(waiting, None)


def prepare_one(task: Task) -> str:
    """Stage the clips of one input; what is wrong with the input is staged as its reason.

    Returns:
        Name of the staged input.

    Raises:
        OSError: when the disk is full.
        ImportError: without PyAV or MediaPipe.
    """
    source, outcome = task.source, Outcome()
    staged = StagedInput(Path(task.staging), task.name)
    try:
        try:
            for number, face_clip in enumerate(clips_of(source, outcome, task.provider, threads=task.threads)):
                facts = {
                    "key": f"{source.key}_{number:03d}",
                    "corpus": source.key.split("/")[0],
                    "speaker": "/".join(source.key.split("/")[:2]),
                    "split": source.split,
                    "source": source.path,
                    **face_clip.facts,
                }
                video, audio = encode_frames(face_clip.clip.frames), encode_wav(face_clip.clip.waveform)
                staged.add(facts, {"mp4": video, "wav": audio, "safetensors": save(face_clip.features)})
        except ImportError:  # no input could be prepared
            raise
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise
            outcome.problem, outcome.transient = str(error), isinstance(error, OSError)
        except Exception as error:
            outcome.problem, outcome.transient = f"defect: {type(error).__name__}: {error}", True
            staged.abandon()
            staged = StagedInput(Path(task.staging), task.name)
        staged.finish(_line(source, outcome, staged.records))
    except BaseException:
        staged.abandon()
        raise
    return task.name


def _died(task: Task, how: str) -> str:
    for path in Path(task.staging).glob(f".{task.name}.*"):
        path.unlink(missing_ok=True)
    staged = StagedInput(Path(task.staging), task.name)
    staged.finish(_line(task.source, Outcome(f"the process that read it {how}", transient=True), []))
    return task.name


def _line(source: Source, outcome: Outcome, records: list[dict[str, Any]]) -> dict[str, Any]:
    status = "ok" if records else "error" if outcome.problem else "skipped"
    reason = outcome.problem
    if not records and not reason:
        reason = "; ".join(outcome.dropped[:3]) or "no face found"
    more = len(outcome.dropped) - _MOST_DROPPED
    return {
        "source": source.path,
        "status": status,
        "reason": reason,
        "clips": len(records),
        "seconds": round(sum(record["frames"] for record in records) / FPS, 2),
        "speaker": "/".join(source.key.split("/")[:2]),
        "split": source.split,
        "layout": source.layout,
        "dropped": outcome.dropped[:_MOST_DROPPED] + ([f"and {more} more"] if more > 0 else []),
        "stamp": [] if outcome.transient else _stamp(source),
        "file": outcome.facts,
    }


def _summary(rows: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    return {
        "store": str(out),
        "inputs": len(rows),
        **{status: sum(row["status"] == status for row in rows) for status in ("ok", "skipped", "error")},
        "clips": sum(row["clips"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "speakers": len({row["speaker"] for row in rows if row["clips"]}),
        "bytes": sum(path.stat().st_size for path in (out / "shards").iterdir()),
        "left_out": [{key: row[key] for key in ("source", "status", "reason")} for row in rows if row["reason"]],
    }
