"""Processes that survive crashes: a worker that crashes or hangs is replaced, and only its task is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

PATIENCE = 120.0  # s without a sign of life after which a process of `iterate_isolated` is stopped
TASK_PATIENCE = 900.0  # s of one of `run_tasks`, whose tasks may call functions of the user
MEMORY = 8 * 2**30  # bytes that a process of `iterate_isolated` may allocate; enforced on Linux
_BEAT = 1.0  # s between two signs of life
_STOP = 1.0  # s in which a process must have stopped iterating, or it is replaced


class ProcessDiedError(ValueError):
    """A process died or was stopped while it worked; the message is the cause."""


def run_tasks(
    tasks: Iterable[Task], do: Callable[[Task], Result], died: Callable[[Task, str], Result], workers: int
) -> Iterator[Result | None]:
    """Run tasks in worker processes.

    Args:
        tasks: taken as workers become free.
        do: a top-level function of a module.
        died: gives the result of a task whose process crashed, or gave no :func:`sign_of_life` for a quarter of an
            hour, from the task and the cause.
        workers: number of processes.

    Yields:
        Results in the order of completion; None every few seconds without one.

    Raises:
        Exception: what ``do`` raised.
    """
    todo = iter(tasks)
    pool = [_Worker(do.__module__) for _ in range(workers)]
    try:
        for worker in pool:
            worker.give_next(do, todo)
        while busy := [worker for worker in pool if worker.busy]:
            ready = wait([worker.connection for worker in busy], timeout=min(5.0, TASK_PATIENCE))
            if not ready:
                yield None
            for index, worker in enumerate(pool):
                if worker.connection not in ready and not worker.silent_for(TASK_PATIENCE):
                    continue
                try:
                    kind, value = worker.receive(0)
                except ProcessDiedError as error:
                    kind, value = "end", died(worker.task, str(error))
                    pool[index] = worker = _Worker(do.__module__)
                if kind == "error":
                    raise value
                if kind == "end":
                    worker.give_next(do, todo)
                    yield value
    finally:
        for worker in pool:
            worker.end(stop=True)


_idle: list[_Worker] = []  # of iterate_isolated


def iterate_isolated(do: Callable[..., Generator[Result, None, None]], *given: object) -> Generator[Result, None, None]:
    """Iterate a generator in another process, so that a file that kills or blocks its decoder costs that file alone.

    A process serves one call after the other and is replaced when it died. It ends with this process, also where this
    one is killed. As with all of `multiprocessing`, a script that calls this needs its ``if __name__ == "__main__":``.

    Args:
        do: a top-level generator function of a module.
        given: its arguments.

    Yields:
        Its items.

    Raises:
        ProcessDiedError: when the process died, or gave no item and no :func:`sign_of_life` for two minutes.
        ValueError: also in place of an error that is none of the others, a defect, and when memory ran out.
        OSError: what ``do`` raised.
        ImportError: likewise.
    """
    worker = _take(do.__module__)
    worker.give(do, given)
    try:
        while True:
            try:
                kind, value = worker.receive(PATIENCE)
            except ProcessDiedError as error:
                raise ProcessDiedError(f"the process that read it {error}") from error
            if kind == "item":
                yield value
            elif kind == "error":
                raise _named(value)
            elif kind == "end":
                return
    finally:
        if worker.stop():
            _idle.append(worker)
        else:
            worker.end(stop=True)


def iterate(
    do: Callable[..., Generator[Result, None, None]], *given: object, isolated: bool
) -> Generator[Result, None, None]:
    """Iterate a generator here, or, ``isolated``, as :func:`iterate_isolated` does."""
    return iterate_isolated(do, *given) if isolated else do(*given)


def call_isolated(do: Callable[..., Result], *given: object) -> Result:
    """Call a top-level function in another process; see :func:`iterate_isolated`."""
    (result,) = iterate_isolated(_once, do, *given)
    return result


def _once(do: Callable[..., Result], *given: object) -> Generator[Result, None, None]:
    yield do(*given)


def _take(module: str) -> _Worker:
    """A process that waits, or a new one."""
    while _idle:
        worker = _idle.pop()
        if worker.process.is_alive():
            return worker
        worker.end()
    return _Worker(module, MEMORY)


def _named(error: Exception) -> Exception:
    """The error of a file, also where a library or our code failed in an unforeseen way."""
    if isinstance(error, MemoryError):
        return ValueError(f"reading it takes more than {MEMORY / 2**30:g} GiB of memory")
    expected = isinstance(error, (ValueError, OSError, ImportError))
    return error if expected else ValueError(f"defect: {type(error).__name__}: {error}")


# MediaPipe's and PyTorch's threads do not survive a fork. A fork server has no threads and has imported what the tasks
# need, so that a new worker takes milliseconds instead of seconds; Windows has none.
_FORK_SERVER = "forkserver" in get_all_start_methods()


class _Worker:
    """A process, and what it was given."""

    def __init__(self, module: str, memory: int | None = None) -> None:
        context = get_context("forkserver") if _FORK_SERVER else get_context("spawn")
        if _FORK_SERVER:
            context.set_forkserver_preload([module])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, memory), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None
        self.busy = False
        self._heard = time.monotonic()

    def give(self, do: Callable[..., Any], given: tuple[Any, ...]) -> None:
        """Start a call."""
        self.busy, self._heard = True, time.monotonic()
        with suppress(BrokenPipeError):  # it died while idle, which is noticed when its result is awaited
            self.connection.send((do, given))

    def give_next(self, do: Callable[..., Any], todo: Iterator[Any]) -> None:
        """Start the next task, if there is one."""
        self.busy = False
        for self.task in todo:
            self.give(do, (self.task,))
            return

    def silent_for(self, seconds: float) -> bool:
        """Whether a call gave no message for so long."""
        return self.busy and time.monotonic() - self._heard > seconds

    def receive(self, patience: float) -> tuple[str, Any]:
        """The next message: ``item``, ``alive``, ``end`` or ``error``, and its value.

        Raises:
            ProcessDiedError: when it died, or is stopped because it said nothing for ``patience`` seconds.
        """
        try:
            if not self.connection.poll(patience):
                silent = time.monotonic() - self._heard
                self.process.kill()
                self.end()
                raise ProcessDiedError(f"made no progress for {silent:.0f} s")
            kind, value = self.connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessDiedError(self.end()) from error
        self._heard = time.monotonic()
        self.busy = kind in ("item", "alive")
        return kind, value

    def stop(self) -> bool:
        """Stop the iteration; whether the process is ready for the next one."""
        if not self.busy:
            return True
        with suppress(ProcessDiedError, OSError):
            self.connection.send(None)
            until = time.monotonic() + _STOP
            while self.busy and time.monotonic() < until and self.connection.poll(_STOP):
                self.receive(0)
            return not self.busy
        return False

    def end(self, *, stop: bool = False) -> str:
        """Wait for the process, terminated first if ``stop``; returns the cause of its end."""
        self.connection.close()
        if stop:
            self.process.terminate()
        self.process.join()
        code = self.process.exitcode or 0
        return f"died with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class _Line:
    """Messages to the parent, of any thread."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock, self.last = connection, threading.Lock(), 0.0

    def send(self, kind: str, value: object) -> None:
        with self.lock:
            self.connection.send((kind, value))
            self.last = time.monotonic()

    def beat(self) -> None:
        """Say that there is progress, unless another message is on its way or was just sent."""
        if time.monotonic() - self.last > _BEAT and self.lock.acquire(blocking=False):
            with suppress(OSError):  # the parent is gone
                self.connection.send(("alive", None))
            self.last = time.monotonic()
            self.lock.release()


_line: _Line | None = None  # of a worker


def sign_of_life() -> None:
    """Say in a worker process that its task advances; elsewhere nothing happens."""
    if _line is not None:
        _line.beat()


def _serve(connection: Connection, memory: int | None) -> None:
    global _line
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # MediaPipe writes thousands of warnings there
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    if memory is not None and sys.platform == "linux":  # elsewhere the limit is not kept, or not there
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    line = _line = _Line(connection)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            call = connection.recv()
            if call is None:  # to stop a call that had ended by itself
                continue
            do, given = call
            try:
                result = do(*given)
                if isinstance(result, Generator):
                    _send_all(result, line)
                    result = None
                line.send("end", result)
            except Exception as error:  # the parent raises it
                line.send("error", _plain(error))


def _plain(error: Exception) -> Exception:
    """The error as one of Python's own: others may not survive the way."""
    if isinstance(error, MemoryError):
        return MemoryError(str(error))
    return error if type(error).__module__ == "builtins" else ValueError(f"{type(error).__name__}: {error}")


def _send_all(items: Generator[Any, None, None], line: _Line) -> None:
    for item in items:
        line.send("item", item)
        if line.connection.poll():  # the parent wants no more
            line.connection.recv()
            items.close()


def _exit_with_parent() -> None:
    """Exit with the parent: one that was killed cannot stop its workers."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
