"""The ``unisync`` program. Exit codes: 0 done; 1 faulty input, with one line on stderr; 2 wrong usage.

Of ``doctor``: 0 clean; 1 problems found; 2 no readable input.
"""

import sys

# importing a module of commands adds them to the application
from unisync_loss.cli import data, info, measure, train
from unisync_loss.cli.app import INPUT_ERRORS, app

__all__ = ["app", "data", "info", "main", "measure", "train"]


def main() -> None:
    """Run the program."""
    try:
        app()
    except INPUT_ERRORS as error:
        sys.exit(f"unisync: {error}")
