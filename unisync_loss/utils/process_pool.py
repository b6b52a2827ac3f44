"""Process pool that survives crashes: a crashed worker is replaced and its task reported as failed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    tasks: Iterable[Task], do: Callable[[Task], Result], died: Callable[[Task, str], Result], workers: int
) -> Iterator[Result | None]:
    """Run tasks in worker processes.

    Args:
        tasks: taken as workers become free.
        do: a top-level function of a module.
        died: gives the result of a task whose process crashed, from the task and the cause.
        workers: number of processes.

    Yields:
        Results in the order of completion; None after five seconds without one.

    Raises:
        Exception: what ``do`` raised.
    """
    todo = iter(tasks)
    pool = [_Worker(do) for _ in range(workers)]
    try:
        for worker in pool:
            worker.give(next(todo, None))
        while busy := [worker for worker in pool if worker.task is not None]:
            ready = wait([worker.connection for worker in busy], timeout=5)
            if not ready:
                yield None
            for index, worker in enumerate(pool):
                if worker.connection in ready:
                    task = worker.task
                    try:
                        result, error = worker.connection.recv()
                    except (EOFError, OSError):
                        result, error = died(task, worker.end()), None
                        pool[index] = worker = _Worker(do)
                    if error is not None:
                        raise error
                    worker.give(next(todo, None))
                    yield result
    finally:
        for worker in pool:
            worker.end(stop=True)


# MediaPipe's and PyTorch's threads do not survive a fork. A fork server has no threads and has imported what the tasks
# need, so that a new worker takes milliseconds instead of seconds; Windows has none.
_FORK_SERVER = "forkserver" in get_all_start_methods()


class _Worker:
    def __init__(self, do: Callable[[Any], Any]) -> None:
        context = get_context("forkserver") if _FORK_SERVER else get_context("spawn")
        if _FORK_SERVER:
            context.set_forkserver_preload([do.__module__])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, do), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None

    def give(self, task: Any) -> None:  # noqa: ANN401 - tasks of any type
        self.task = task
        if task is not None:
            with suppress(BrokenPipeError):  # it died while idle, which is noticed when its result is awaited
                self.connection.send(task)

    def end(self, *, stop: bool = False) -> str:
        """Wait for the process, terminated first if ``stop``; returns the cause of its end."""
        self.connection.close()
        if stop:
            self.process.terminate()
        self.process.join()
        code = self.process.exitcode or 0
        return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}"


def _serve(connection: Connection, do: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # MediaPipe writes thousands of warnings there
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            task = connection.recv()
            try:
                connection.send((do(task), None))
            except Exception as error:  # the parent raises it
                connection.send((None, error))


def _exit_with_parent() -> None:
    """Exit with the parent: one that was killed cannot stop its workers."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
