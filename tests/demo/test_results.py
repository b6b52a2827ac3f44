"""Verdict of the demonstration."""

import json

import pytest

from unisync_loss.demo.results import LIPS, PICTURE, Comparison, DemoResult, DemoSettings, Measure


def comparison(change, spread=0.01):
    return Comparison(Measure(0.5, 0.4, 0.6), Measure(0.6, 0.5, 0.7), Measure(change, change - spread, change + spread))


def result(gain=0.3, colour=1.0, error=1.0, detail=1.0):
    changes = {"error": error, "colour": colour, "detail": detail}
    return DemoResult(
        clip="a.mp4", expert="mel-rgb (small)", settings=DemoSettings(40, 20, 0.03, 0), first_loss=[0.1], parameters=7,
        frames=100, train=(0, 70), held=(75, 100), lips={name: comparison(gain, 0.2) for name in LIPS},
        picture={name: comparison(changes[name]) for name in PICTURE},
        probability={"unisync": Measure(0.9, 0.8, 1.0)}, truth_offset_frames=0, runs={}, series={}, seconds=1.0,
        notes=["a note"],
    )  # fmt: skip


def test_good():
    found = result()
    assert found.headline == "Lips follow the audio better; picture no worse than by reconstruction alone"
    assert found.advice == []
    lines = found.table().splitlines()
    assert lines[-2:] == ["a note", found.headline]
    assert any(line.split() == "lip opening, correlation 0.50 0.60 +0.30 +0.10 to +0.50".split() for line in lines)
    assert json.loads(found.to_json())["picture_worse"] == []


@pytest.mark.parametrize("measure", PICTURE)
def test_a_worse_picture_is_the_verdict_whatever_the_lips_and_the_expert_say(measure):
    found = result(**{measure: 1.8})
    assert found.lips_better
    assert found.headline == (
        f"Lips follow the audio better; PICTURE WORSE than by reconstruction alone: {PICTURE[measure]} × 1.80"
    )
    (advice,) = found.advice
    for option in ("--weight 0.01", "--model", "--first-steps 80"):
        assert option in advice
    assert found.table().splitlines()[-1] == advice
    assert json.loads(found.to_json())["picture_worse"] == [measure]


@pytest.mark.parametrize(("ratio", "worse"), [(0.7, False), (1.05, False), (1.06, True), (float("nan"), True)])
def test_five_percent_count_as_no_worse(ratio, worse):
    assert (result(colour=ratio).worse == ["colour"]) is worse


def test_lips_need_an_interval_above_zero():
    found = result(gain=0.15)  # from -0.05
    assert not found.lips_better
    assert found.headline == "Lips do not follow the audio better; picture no worse than by reconstruction alone"
    assert "--steps 40" in found.advice[0]


@pytest.mark.parametrize("values", [(0, 1, 0.03, 0), (1, 0, 0.03, 0), (1, 1, -0.1, 0), (1, 1, float("nan"), 0)])
def test_settings_that_cannot_be_used(values):
    with pytest.raises(ValueError, match=r"expected at least 1 step, got 0|expected a weight of at least 0, got"):
        DemoSettings(*values)
