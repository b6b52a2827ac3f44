"""Process pool: results, errors of tasks, crashed workers."""

import os
import signal

import pytest

from unisync_loss.utils.process_pool import run_tasks


def work(task):
    """Square of a number; -1 crashes the process, -2 exits, -3 raises."""
    if task == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == -2:
        os._exit(3)
    if task == -3:
        raise ValueError("no square of -3")
    return task * task


def died(task, cause):
    return task, cause


def results(tasks, workers=1):
    return [result for result in run_tasks(tasks, work, died, workers) if result is not None]


def test_every_task_is_done_once():
    assert sorted(results(range(20), 2)) == [number * number for number in range(20)]


def test_a_crashed_worker_is_replaced_and_its_task_reported():
    assert results([2, -1, 3, -2, 4]) == [4, (-1, "Killed"), 9, (-2, "exit code 3"), 16]


def test_an_error_of_a_task_is_raised():
    with pytest.raises(ValueError, match="no square of -3"):
        results([1, -3, 2])


def test_tasks_are_taken_as_workers_become_free():
    taken = []

    def tasks():
        for number in range(10):
            taken.append(number)
            yield number

    running = run_tasks(tasks(), work, died, 1)
    assert next(running) == 0
    assert len(taken) == 2
    running.close()
