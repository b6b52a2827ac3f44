"""The first cases of every kind that starts no program; `make faults` runs all."""

import os
import signal
import sys
import time

import pytest
from faults import runner
from faults.__main__ import main
from faults.cases import KINDS, guarded
from faults.processes import Fault


@pytest.mark.parametrize(("kind", "count"), [("checkpoints", 60), ("containers", 30), ("tables", 80), ("stores", 50)])
def test_damaged_input_is_read_or_refused(kind, count):
    ends, wrong = runner.run(kind, seed=1, count=count)
    assert wrong == []
    assert sum(ends.values()) == count
    assert len(ends) == 2, "some are read, some refused"


class Broken:
    """A kind whose cases go wrong in every way."""

    def make(self, folder):
        self.folder = folder

    def run(self, rng, folder):
        number = int(folder.name)
        if number == 1:
            guarded(lambda: {}["key"])
        if number == 2:
            guarded(lambda: int("x"))  # a ValueError, but of Python
        if number == 3:
            os.kill(os.getpid(), signal.SIGSYS)
        if number == 4:
            time.sleep(600)
        if number == 5:
            raise Fault("said so")
        return "right"


def test_the_suite_finds_what_is_wrong(monkeypatch):
    monkeypatch.setitem(KINDS, "broken", Broken)
    monkeypatch.setattr(runner, "SECONDS", 2)
    ends, wrong = runner.run("broken", seed=0, count=7)
    assert ends == {"right": 2, "fault": 3, "crash": 1, "hang": 1}
    assert [number for number, _ in wrong] == [1, 2, 3, 4, 5]
    assert "raw KeyError" in wrong[0][1]
    assert "raw ValueError" in wrong[1][1]
    assert signal.SIGSYS.name in wrong[2][1]


def test_a_case_can_be_run_alone(monkeypatch, capsys):
    first = runner.run("tables", seed=3, count=6)[0]
    apart = sum((runner.run("tables", seed=3, count=3, start=start)[0] for start in (0, 3)), start=type(first)())
    assert first == apart
    monkeypatch.setattr(sys, "argv", ["", "--kind", "tables", "--seed", "3", "--start", "2", "--count", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "tables, seed 3, 1 cases" in capsys.readouterr().out
