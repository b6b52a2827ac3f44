"""Iterators that run ahead in threads, so that decoding, face detection and networks overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

_AHEAD = 8  # items that an iterator may be ahead

Item = TypeVar("Item")


@contextmanager
def prefetch(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread of its own, up to eight items ahead.

    Args:
        items: slow to produce, such as decoded frames; an error in it is raised where the items are consumed.

    Yields:
        The items in their order. The thread ends with the block.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(more: bool, item: object) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put((more, item), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(True, item)
                if stop.is_set():
                    return
            put(False, None)
        except BaseException as error:  # raised again where the items are consumed
            put(False, error)

    def take() -> Iterator[Item]:
        while (got := ready.get())[0]:
            yield got[1]
        if got[1] is not None:
            raise got[1]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stop.set()
        thread.join()
