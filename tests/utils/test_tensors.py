import numpy as np
import pytest
import torch

from unisync_loss.utils.tensors import match_weights, whole_number

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


@pytest.mark.parametrize("value", [2.5, "3", None, float("nan"), torch.tensor(1.0)])
def test_whole_number(value):
    assert [whole_number("stride", number) for number in (3, np.int64(3), torch.tensor(3))] == [3, 3, 3]
    with pytest.raises(ValueError, match="stride: expected a whole number, got "):
        whole_number("stride", value)
