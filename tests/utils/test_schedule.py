"""Warm-up and cosine of the learning rate."""

import numpy as np
import pytest

from unisync_loss.utils.schedule import linear_warm_up, warm_up_cosine


def test_warm_up_then_cosine_down_to_its_lower_bound():
    shares = [warm_up_cosine(step, 2000, warm_up=100) for step in (0, 99, 1000, 1999)]
    assert shares == pytest.approx([0.01, 0.994, 0.5, 0.01], abs=1e-3)
    assert warm_up_cosine(1999, 2000, warm_up=0, lowest=0.05) == 0.05


def test_the_warm_up_reaches_one_at_its_last_step():
    assert [linear_warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert np.allclose([linear_warm_up(step, 0) for step in range(3)], 1)
