"""Processes that each do one task at a time; one that dies is replaced, and its task is reported instead of the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    tasks: Iterable[Task], do: Callable[[Task], Result], died: Callable[[Task, str], Result], workers: int
) -> Iterator[Result | None]:
    """Do tasks in processes of their own.

    Args:
        tasks: drawn as workers get free.
        do: a function of a module; what it raises is a defect and is raised here.
        died: gives the result for a task whose process died, and how it died.
        workers: number of processes.

    Yields:
        Results as they come; None after five seconds without one.
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


class _Worker:
    def __init__(self, do: Callable[[Any], Any]) -> None:
        # MediaPipe and PyTorch threads do not survive a fork; a server without threads, that has loaded what the
        # tasks need, does: a new worker takes milliseconds instead of seconds
        context = get_context("forkserver")
        context.set_forkserver_preload([do.__module__])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, do), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None

    def give(self, task: Any) -> None:  # noqa: ANN401 - whatever the caller's tasks are
        self.task = task
        if task is not None:
            with suppress(BrokenPipeError):  # it died while idle: found out when its answer is awaited
                self.connection.send(task)

    def end(self, *, stop: bool = False) -> str:
        """Wait for the process, stop it if told; returns how it died."""
        self.connection.close()
        if stop:
            self.process.terminate()
        self.process.join()
        code = self.process.exitcode or 0
        return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}"


def _serve(connection: Connection, do: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # MediaPipe writes thousands of warnings there
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            task = connection.recv()
            try:
                connection.send((do(task), None))
            except Exception as error:  # the parent raises it
                connection.send((None, error))


def _leave_with_parent() -> None:
    """A parent that was killed cannot stop its workers."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
