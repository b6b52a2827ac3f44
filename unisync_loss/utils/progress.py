"""Progress lines with the time left, and file names fit for a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable


def printable(text: str) -> str:
    """Return a file name unchanged, or escaped where it holds control characters or is not valid text."""
    return text if text.isprintable() else ascii(text)


class Progress:
    """Logs a line at most every few seconds while work goes on, with the time left. The clock starts at construction.

    Args:
        log: takes the lines.
        total: amount of work, in any unit.
        unit: follows the counts, such as ``clips``.
        done: amount that was done before and took no time.
        interval: seconds between lines; work that takes less logs nothing.
    """

    def __init__(
        self, log: Callable[[str], None], total: float, unit: str = "", *, done: float = 0, interval: float = 5.0
    ) -> None:
        self._log, self._total, self._unit, self._first, self._interval = log, total, unit, done, interval
        self._started = self._last = time.monotonic()

    def update(self, done: float, text: str | None = None) -> None:
        """Log the amount done, or ``text`` in its place, unless a line was logged just now or nothing is done yet."""
        now = time.monotonic()
        if now - self._last <= self._interval or done <= self._first:
            return
        self._last = now
        count = f"{done:.1f}" if isinstance(done, float) else done
        self._log(f"{text or f'{count}/{self._total} {self._unit}'}, {self.seconds_left(done):.0f} s left")

    def seconds_left(self, done: float) -> float:
        """Time left at the mean rate since the start; ``done`` must be above what was done before."""
        return (time.monotonic() - self._started) / (done - self._first) * (self._total - done)
