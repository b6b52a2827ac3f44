"""The ``unisync`` program. Exit codes: 0 done; 1 faulty input, with one line on stderr; 2 wrong usage.

Of ``doctor``: 0 clean; 1 problems found; 2 no readable input. 143: ended by SIGTERM, with a line on stderr.
"""

import io
import os
import signal
import sys
from types import FrameType

# importing a module of commands adds them to the application
from unisync_loss.cli import data, info, measure, train
from unisync_loss.cli.app import INPUT_ERRORS, app

__all__ = ["app", "data", "info", "main", "measure", "train"]


def main() -> None:
    """Run the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the console cannot show must not end the program
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except INPUT_ERRORS as error:
        sys.exit(f"unisync: {error}")


def _end(number: int, frame: FrameType | None) -> None:
    """Leave as on an error, so that nothing half-written stays behind."""
    os.write(2, b"unisync: terminated\n")
    sys.exit(128 + number)
