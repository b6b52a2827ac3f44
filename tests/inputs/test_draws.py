import pytest
import torch

from unisync_loss.inputs.draws import draw_gradient_frames, draw_windows

CPU = torch.device("cpu")


def test_windows_are_some_of_all_in_order():
    drawn = [tuple(draw_windows(6, 2, CPU).tolist()) for _ in range(200)]
    assert set(drawn) == {(a, b) for a in range(6) for b in range(a + 1, 6)}
    assert draw_windows(6, 6, CPU) is draw_windows(6, None, CPU) is None


def test_a_run_of_frames_begins_anywhere_and_leaves_none_out():
    firsts = set()
    for _ in range(100):
        order, count = draw_gradient_frames(7, 3, CPU)
        first, *others = order[:count].tolist()
        assert others == [first + 1, first + 2]
        assert sorted(order.tolist()) == list(range(7))
        firsts.add(first)
    assert firsts == {0, 1, 2, 3, 4}


def test_a_run_that_is_given():
    order, count = draw_gradient_frames(7, range(4, 6), CPU)
    assert order[:count].tolist() == [4, 5]


def test_all_frames_are_no_choice():
    assert all(draw_gradient_frames(7, value, CPU) is None for value in (None, 7, 9, range(7)))


@pytest.mark.parametrize("wrong", [0, -1, range(3, 3), range(-1, 2), range(5, 8), range(0, 6, 2)])
def test_other_frames_are_refused(wrong):
    with pytest.raises(ValueError, match=r"grad_frames: expected 1 frame or more of T = 7"):
        draw_gradient_frames(7, wrong, CPU)
