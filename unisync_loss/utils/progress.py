"""Lines for people: how far work is, every five seconds at most, with the time left; names of files."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]

_EVERY = 5.0  # s


def printable(text: str) -> str:
    """Names of files as they are, but for what would spoil a terminal or is no text."""
    return text if text.isprintable() else ascii(text)


class Pace:
    """The clock of one piece of work, from when it is made.

    Args:
        say: takes the lines.
        total: how much there is to do, in any unit.
        done: how much of it was done before.
    """

    def __init__(self, say: Callable[[str], None], total: float, done: float = 0) -> None:
        """Start the clock."""
        self._say, self._total, self._first = say, total, done
        self._started = self._last = time.monotonic()

    def tell(self, done: float, text: str) -> None:
        """Say the text and the time left, unless there was a line just now or nothing is done yet."""
        now = time.monotonic()
        if now - self._last > _EVERY and done > self._first:
            self._last = now
            left = (now - self._started) / (done - self._first) * (self._total - done)
            self._say(f"{text}, {left:.0f} s left")
