"""Process pool: results, errors of tasks, crashed workers."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT

from unisync_loss.utils import process_pool
from unisync_loss.utils.process_pool import call_isolated, iterate_isolated, run_tasks, sign_of_life


def work(task):
    """Square of a number; -1 crashes the process, -2 exits, -3 raises, -4 hangs."""
    if task == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == -2:
        os._exit(3)
    if task == -4:
        time.sleep(60)
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
    assert results([2, -1, 3, -2, 4]) == [4, (-1, "died with SIGKILL"), 9, (-2, "ended with exit code 3"), 16]


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


def items(path):
    """Items of a file that says what happens on the way."""
    for line in path.read_text().split():
        if line == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if line == "hang":
            time.sleep(60)
        if line == "slow":
            for _ in range(4):
                time.sleep(0.5)
                sign_of_life()
        if line == "defect":
            raise TypeError("'NoneType' object is not iterable")
        if line == "memory":
            np.ones(process_pool.MEMORY + 1, np.uint8)
        if line == "gone":
            raise FileNotFoundError(2, "no such file", str(path))
        yield os.getpid(), line


def lines(tmp_path, *texts):
    """What each file gives: its lines, or the error."""
    results = []
    for text in texts:
        (tmp_path / "file").write_text(text)
        try:
            results.append([line for _, line in iterate_isolated(items, tmp_path / "file")])
        except (ValueError, OSError) as error:
            results.append(f"{type(error).__name__}: {error}")
    return results


def test_a_file_that_kills_or_blocks_its_reader_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(process_pool, "PATIENCE", 1.5)
    assert lines(tmp_path, "a b", "a crash", "c", "a hang", "d", "slow e", "defect", "gone") == [
        ["a", "b"],
        "ProcessDiedError: the process that read it died with SIGSEGV",
        ["c"],
        "ProcessDiedError: the process that read it made no progress for 2 s",
        ["d"],
        ["slow", "e"],
        "ValueError: defect: TypeError: 'NoneType' object is not iterable",
        f"FileNotFoundError: [Errno 2] no such file: '{tmp_path / 'file'}'",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux")
def test_a_file_that_takes_too_much_memory_is_named(tmp_path):
    assert lines(tmp_path, "memory", "a") == ["ValueError: reading it takes more than 8 GiB of memory", ["a"]]


def test_one_process_reads_one_file_after_the_other_also_if_it_is_not_read_to_its_end(tmp_path):
    (tmp_path / "file").write_text("a b c")
    begun = iterate_isolated(items, tmp_path / "file")
    first, _ = next(begun)
    begun.close()
    whole = list(iterate_isolated(items, tmp_path / "file"))
    assert whole == [(first, "a"), (first, "b"), (first, "c")]
    assert call_isolated(os.getpid) == first


def test_two_files_are_read_at_the_same_time(tmp_path):
    (tmp_path / "file").write_text("a b c")
    pairs = list(zip(*(iterate_isolated(items, tmp_path / "file") for _ in range(2)), strict=True))
    assert [one[1] + other[1] for one, other in pairs] == ["aa", "bb", "cc"]
    assert pairs[0][0][0] != pairs[0][1][0]


def test_a_task_without_progress_is_given_up(monkeypatch):
    monkeypatch.setattr(process_pool, "TASK_PATIENCE", 1.0)
    assert results([2, -4, 3]) == [4, (-4, "made no progress for 1 s"), 9]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_reader_outlives_its_parent(tmp_path, number):
    """The parent ends while its reader hangs."""
    (tmp_path / "file").write_text("a hang")
    code = (
        "import signal, sys, pathlib\nfrom utils.test_process_pool import items\n"
        "from unisync_loss.utils.process_pool import iterate_isolated\n"
        # a shell starts what runs in the background with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n"
        "    for pid, _ in iterate_isolated(items, pathlib.Path(sys.argv[1])):\n        print(pid, flush=True)\n"
    )
    (tmp_path / "main.py").write_text(code)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, tmp_path / "main.py", tmp_path / "file"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths}
    ) as parent:
        reader = int(parent.stdout.readline())
        parent.send_signal(number)
        assert parent.wait(timeout=20) != 0
    deadline = time.monotonic() + 20
    while alive(reader) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(reader)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
