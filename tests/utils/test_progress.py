"""Times are made up: nothing here waits."""

import pytest

from unisync_loss.utils import progress
from unisync_loss.utils.progress import Pace


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
    pace = Pace(lines.append, 40)
    for done in range(1, 13):
        clock.now += 1
        pace.tell(done, f"{done}/40 clips")
    assert lines == ["6/40 clips, 34 s left", "12/40 clips, 28 s left"]


def test_what_was_done_before_took_no_time(clock):
    lines = []
    pace = Pace(lines.append, 100, done=90)
    clock.now += 20
    pace.tell(90, "nothing yet")
    pace.tell(95, "speech: 95/100")
    assert lines == ["speech: 95/100, 20 s left"]


def test_parts_of_a_unit(clock):
    lines = []
    pace = Pace(lines.append, 2)
    clock.now += 6
    pace.tell(0.5, "1/2 a.mp4: 5 of 10 s")
    assert lines == ["1/2 a.mp4: 5 of 10 s, 18 s left"]
