"""The clock is faked: nothing here waits."""

import pytest

from unisync_loss.utils import progress
from unisync_loss.utils.progress import Progress, printable


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_five_seconds_with_the_time_left(clock):
    lines = []
    progress = Progress(lines.append, 40, "clips")
    for done in range(1, 13):
        clock.now += 1
        progress.update(done)
    assert lines == ["6/40 clips, 34 s left", "12/40 clips, 28 s left"]


def test_what_was_done_before_took_no_time(clock):
    lines = []
    progress = Progress(lines.append, 100, "clips", done=90)
    clock.now += 20
    progress.update(90)
    progress.update(95)
    assert lines == ["95/100 clips, 20 s left"]
    assert progress.seconds_left(98) == 5


def test_part_of_a_unit_and_a_text_of_the_caller(clock):
    lines = []
    progress = Progress(lines.append, 2, "videos")
    clock.now += 6
    progress.update(0.5)
    clock.now += 6
    progress.update(1.0, "a.mp4: 5 of 10 s")
    assert lines == ["0.5/2 videos, 18 s left", "a.mp4: 5 of 10 s, 12 s left"]


def test_another_interval(clock):
    lines = []
    progress = Progress(lines.append, 4, "steps", interval=0.5)
    clock.now += 1
    progress.update(1)
    assert lines == ["1/4 steps, 3 s left"]


def test_names_are_escaped_only_where_they_would_spoil_a_terminal():
    assert printable("Zoë 1.mp4") == "Zoë 1.mp4"
    assert printable("a\nb\udcff") == "'a\\nb\\udcff'"
