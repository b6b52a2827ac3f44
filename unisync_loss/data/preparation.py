"""``unisync prepare``: inputs to a clip store, on several cores, again and again until all of it is there."""

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

_MOST_DROPPED = 20  # stretches left out that the manifest names per input
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Task:
    """One input to be prepared: what a worker needs, and nothing else."""

    source: Source
    parts: str
    provider: str | None
    threads: bool

    @property
    def name(self) -> str:
        """Of its part."""
        return staged_name(self.source.path)


#: how inputs are shared out: takes the tasks, what does one, what stands in for one whose process died, and the number
#: of processes; gives the names of parts as they come, and None when there is time to report
Engine = Callable[[Iterable[Task], Callable[[Task], str], Callable[[Task, str], str], int], Iterator[str | None]]


def staged_name(path: str) -> str:
    """Name of an input's part."""
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
    """Turn video files, folders and other stores into a clip store, or go on with one.

    Args:
        roots: video files, folders as `unisync_loss.data.datasets` knows them, and stores, whose clips are taken over.
        out: the store.
        speakers: CSV file or ``module:function`` that names speakers, see `unisync_loss.data.datasets.list_sources`.
        provider: ``module:function`` of further features, see `unisync_loss.data.face_clips.clips_of`.
        shard: do the i-th of n shares of the inputs.
        workers: processes.
        shard_bytes: size from which on a shard is closed.
        engine: does the inputs, see `Engine`; ``examples/prepare_with_ray.py`` brings one for several machines.
        log: takes lines of progress.

    Returns:
        ``inputs``, ``ok``, ``skipped``, ``error``, ``clips``, ``seconds``, ``speakers``, ``bytes``, and ``left_out``:
        the inputs of which something, or all, could not be used, with the reason.

    Raises:
        FileNotFoundError: for a root that does not exist.
        ValueError: for a store made otherwise, one that another run is writing, stores with the same keys, wrong hooks.
        ImportError: without PyAV, or without MediaPipe where faces have to be found.
        OSError: when the disk is full; what is finished stays, and the next run goes on.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard: expected i/n with 0 <= i < n, got {index}/{count}")
    if provider:
        load_hook(provider)  # wrong ones are found before work is lost
    out, given = Path(out), [Path(root) for root in roots]
    stores = [root for root in given if is_store(root)]
    sources = list_sources([root for root in given if root not in stores], speakers)
    for root in stores:
        check_store(root, {"provider": provider})
    open_store(out, {"provider": provider})
    with _alone(out, index, count):
        name = "" if count == 1 else f"{index}-of-{count}-"
        parts = out / f"{name}parts"
        gatherer = ShardWriter(out, name, shard_bytes)
        mine = _undone([source for source in sources if _mine(source, index, count)], [out, *stores])
        tasks = [Task(source, str(parts), provider, workers == 1) for source in mine]
        with _whole_or_later(out, parts, gatherer):
            if index == 0:
                _take_over(stores, out, gatherer)
            _prepare_all(tasks, len(sources) - len(tasks), gatherer, workers, engine, log)
            gatherer.close()
        shutil.rmtree(parts)
        return _summary(write_manifest(out), out)


@contextmanager
def _whole_or_later(out: Path, parts: Path, gatherer: ShardWriter) -> Iterator[None]:
    """Leave only what is whole, whatever happens, and say when the disk is full."""
    parts.mkdir(exist_ok=True)
    try:
        yield
    except BaseException as error:
        gatherer.abandon()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(error.errno, f"{out}: no room ({error.strerror}); what is finished stays") from error
        raise
    finally:
        for path in parts.glob(".*"):
            path.unlink(missing_ok=True)


def _mine(source: Source, index: int, count: int) -> bool:
    """Shares go by the path, so that a folder that grows does not move its inputs from one to another."""
    return int(staged_name(source.path), 16) % count == index


def _undone(sources: list[Source], roots: Iterable[Path]) -> list[Source]:
    """Inputs that no store has yet, with keys that none has."""
    done: dict[str, tuple[int, list[int]]] = {}  # clips and stamp of each input
    owner: dict[str, str] = {}  # which of them a key belongs to
    for root in roots:
        for _, line in read_lines(root):
            if line["clips"] >= done.get(line["source"], (0, []))[0]:
                done[line["source"]] = line["clips"], line["stamp"]
            owner |= {record["key"].rpartition("_")[0]: line["source"] for record in line["records"]}
    return keep_apart([source for source in sources if not _is_done(source, done, owner)], owner)


def _is_done(source: Source, done: dict[str, tuple[int, list[int]]], owner: dict[str, str]) -> bool:
    """An input that gave nothing is tried again when it has changed; one that was moved is known by key and stamp."""
    clips, stamp = done.get(source.path, (0, None))
    _, moved = done.get(owner.get(source.key, ""), (0, None))
    return clips > 0 or _stamp(source) in (stamp, moved)


def _stamp(source: Source) -> list[int]:
    try:
        status = os.stat(source.path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def _alone(out: Path, index: int, count: int) -> Iterator[None]:
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


def _take_over(stores: list[Path], out: Path, gatherer: ShardWriter) -> None:
    """Copy the clips of other stores, an input at a time; inputs that are here already are left out."""
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
                gatherer.append(line, tar)
            keys |= here
            clips[line["source"]] = line["clips"]


def _prepare_all(
    tasks: list[Task], already: int, gatherer: ShardWriter, workers: int, engine: Engine, log: Callable[[str], None]
) -> None:
    """Prepare inputs in any order, gather them in theirs."""
    if not tasks:
        return
    parts = Path(tasks[0].parts)
    ready = {task.name for task in tasks if read_staged(parts, task.name) is not None}
    missing = [task for task in tasks if task.name not in ready]
    # inputs differ in length, so the time left goes by their bytes
    sizes = {task.name: (_stamp(task.source) or [1])[0] for task in missing}
    progress, done, read = Progress(log, sum(sizes.values())), already + len(ready), 0
    total = done + len(missing)
    waiting = iter(tasks)
    head = next(waiting, None)
    # an empty turn first, for parts that a killed run left behind
    for name in chain([None], engine(missing, prepare_one, _died, min(workers, len(missing)))):
        if name:
            ready.add(name)
            done, read = done + 1, read + sizes[name]
            progress.update(read, f"{done}/{total} inputs")
        while head is not None and head.name in ready:
            line = read_staged(parts, head.name)
            assert line is not None
            files = [parts / f"{head.name}.tar", parts / f"{head.name}.json"]
            gatherer.append(line, files[0], files)
            head = next(waiting, None)


def prepare_one(task: Task) -> str:
    """Prepare one input into its part; whatever is wrong with the input is written there, too.

    Returns:
        The part's name.

    Raises:
        OSError: when the disk is full.
        ImportError: without what every input needs.
    """
    source, outcome = task.source, Outcome()
    part = StagedInput(Path(task.parts), task.name)
    try:
        try:
            for number, footage in enumerate(clips_of(source, outcome, task.provider, threads=task.threads)):
                facts = {
                    "key": f"{source.key}_{number:03d}",
                    "corpus": source.key.split("/")[0],
                    "speaker": "/".join(source.key.split("/")[:2]),
                    "split": source.split,
                    "source": source.path,
                    **footage.facts,
                }
                video, sound = encode_frames(footage.clip.frames), encode_wav(footage.clip.waveform)
                part.add(facts, {"mp4": video, "wav": sound, "safetensors": save(footage.features)})
        except ImportError:  # not this input's fault: none could be prepared
            raise
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            outcome.problem, outcome.passing = str(error), isinstance(error, OSError)
        except Exception as error:
            outcome.problem, outcome.passing = f"defect: {type(error).__name__}: {error}", True
            part.abandon()
            part = StagedInput(Path(task.parts), task.name)
        part.finish(_line(source, outcome, part.records))
    except BaseException:
        part.abandon()
        raise
    return task.name


def _died(task: Task, how: str) -> str:
    for path in Path(task.parts).glob(f".{task.name}.*"):
        path.unlink(missing_ok=True)
    part = StagedInput(Path(task.parts), task.name)
    part.finish(_line(task.source, Outcome(f"its process died ({how})", passing=True), []))
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
        "stamp": [] if outcome.passing else _stamp(source),
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
