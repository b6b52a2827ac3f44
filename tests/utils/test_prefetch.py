"""Iterators that run ahead in threads."""

import threading
import time

import pytest

from unisync_loss.utils.prefetch import prefetch


def test_items_come_in_order():
    with prefetch(iter(range(100))) as items:
        assert list(items) == list(range(100))


def test_an_error_is_raised_after_the_items_before_it():
    def damaged():
        yield from range(3)
        raise ValueError("damaged")

    with prefetch(damaged()) as items:
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="damaged"):
            next(items)


def test_it_runs_ahead_but_not_far():
    made = []

    def slow():
        for number in range(100):
            made.append(number)
            yield number

    with prefetch(slow()) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 5
        while len(made) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert 9 <= len(made) <= 11  # the one taken, eight that wait, and those about to
    assert len(made) <= 11


def test_the_thread_ends_with_the_block():
    before = threading.active_count()
    with prefetch(iter(range(1000))) as items:
        next(items)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
