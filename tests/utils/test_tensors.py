import numpy as np
import pytest
import torch

from unisync_loss.utils.tensors import check_choice, flag, match_weights, real_number, whole_number

EXPECTED = {"weight": torch.empty(2, 3, device="meta"), "count": torch.empty((), dtype=torch.int64, device="meta")}


def given(**changes):
    tensors = {"weight": torch.ones(2, 3, dtype=torch.float16), "count": torch.tensor(7), **changes}
    return {key: value for key, value in tensors.items() if value is not None}


def test_types_are_those_of_the_network():
    matched = match_weights(given(count=torch.tensor(7, dtype=torch.int32)), EXPECTED)
    assert {key: value.dtype for key, value in matched.items()} == {"weight": torch.float32, "count": torch.int64}
    assert matched["weight"].tolist() == [[1.0] * 3] * 2


def test_optional_keys_may_be_missing():
    assert list(match_weights(given(count=None), EXPECTED, optional=frozenset({"count"}))) == ["weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, "^missing count$"),
        ({"more": torch.zeros(1)}, "^unexpected more$"),
        ({"weight": torch.ones(3, 2)}, r"^weight: expected shape \(2, 3\), got \(3, 2\)$"),
        ({"weight": torch.ones(2, 3, dtype=torch.int64)}, "^weight: expected torch.float32, got torch.int64$"),
        ({"count": torch.tensor(True)}, "^count: expected torch.int64, got torch.bool$"),
        ({"weight": torch.full((2, 3), torch.inf)}, "^weight: expected finite values, got NaN or infinity$"),
        ({f"x{i}": torch.zeros(1) for i in range(8)}, "; and 2 more$"),
    ],
)
def test_any_deviation_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        match_weights(given(**changes), EXPECTED)


#: what is no number at all
NO_NUMBERS = [
    "3",
    b"3",
    None,
    True,
    np.True_,
    torch.tensor(True),
    1j,
    [3],
    np.array([3]),
    torch.tensor([3]),
    torch.zeros(0),
    torch.tensor(3, device="meta"),
    float("nan"),
]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.5, torch.tensor(1.0), 2**31])
def test_whole_number(value):
    numbers = [whole_number("stride", number) for number in (3, np.int64(3), np.array(3), torch.tensor(3))]
    assert numbers == [3] * 4
    assert {type(number) for number in numbers} == {int}
    with pytest.raises(ValueError, match="stride: expected a whole number, got "):
        whole_number("stride", value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, torch.tensor(1j), 10**400])
def test_real_number(value):
    numbers = [real_number("weight", number) for number in (2.5, np.float32(2.5), torch.tensor(2.5), 3, float("inf"))]
    assert numbers == [2.5, 2.5, 2.5, 3.0, float("inf")]
    assert {type(number) for number in numbers} == {float}
    with pytest.raises(ValueError, match="weight: expected a number, got "):
        real_number("weight", value)


@pytest.mark.parametrize("value", ["max", None, 0, True, ["sum"], np.array(["sum", "mean"]), torch.zeros(2, 3)])
def test_choice_and_flag(value):
    check_choice("reduction", "sum", "mean", "sum", "none")
    assert [flag("per_window", chosen) for chosen in (True, False)] == [True, False]
    with pytest.raises(ValueError, match=r'reduction: expected "mean", "sum" or "none", got '):
        check_choice("reduction", value, "mean", "sum", "none")
    with pytest.raises(ValueError, match="per_window: expected True or False, got "):
        flag("per_window", 1 if value is True else value)


def test_arrays_in_a_message_are_described():
    with pytest.raises(ValueError, match=r"got \(2, 3\) torch.float32$"):
        whole_number("stride", torch.zeros(2, 3))
