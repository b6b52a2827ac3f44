"""Which calls of a loss check the values of its input, and the warnings that result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

logger = logging.getLogger(__name__)
FIRST_CALLS = 3
EVERY = 1000  # later calls: reading a value makes the program wait for a GPU
# PyTorch 2.0 has no torch.compiler
_is_compiling: Callable[[], bool] = (torch.compiler if hasattr(torch, "compiler") else torch._utils).is_compiling


class Finding(NamedTuple):
    """A doubt about an input that is not certain enough for an error.

    Attributes:
        kind: of doubt; each is logged once.
        text: of the warning.
    """

    kind: str
    text: str


class CheckedCalls:
    """Counter of calls: values are checked at the first three and at every 1000th after the first.

    A call that raises does not count, so a loop that skips failing batches fails at the next one, too. Inside
    ``torch.compile`` no value is checked, because a graph cannot depend on one.
    """

    def __init__(self) -> None:
        self.passed = 0
        self._logged: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether this call checks values."""
        return not _is_compiling() and (self.passed < FIRST_CALLS or self.passed % EVERY == 0)

    def count(self, findings: Iterable[Finding] = ()) -> None:
        """Count a call that passed; log what was found, each kind once."""
        if _is_compiling():
            return  # a number that changes at every call would be compiled again at every call
        self.passed += 1
        for kind, text in findings:
            if kind not in self._logged:
                self._logged.add(kind)
                logger.warning(text)
