import itertools
import math

import numpy as np
import pytest
import torch

from unisync_loss.lse.mfcc import compute_mfcc


def relative(ours, theirs):
    return (np.abs(ours - theirs) / np.abs(theirs)).max()


def test_equals_python_speech_features(golden):
    ours = compute_mfcc(torch.from_numpy(golden["wav"])).numpy()
    assert ours.shape == golden["mfcc"].shape
    assert relative(ours, golden["mfcc"]) < 1e-6


@pytest.mark.parametrize("wrong", ["filled up with the last sample", "a sample late", "pre-emphasis of 0.95"])
def test_parity_can_fail(golden, monkeypatch, wrong):
    sound = golden["wav"]
    if wrong == "pre-emphasis of 0.95":
        monkeypatch.setattr("unisync_loss.lse.mfcc.PREEMPHASIS", 0.95)
    else:  # half of the last step lies beyond the end of the sound
        sound = np.pad(sound, (0, 80), mode="edge") if "filled" in wrong else sound[1:]
    with pytest.raises(AssertionError):
        test_equals_python_speech_features({**golden, "wav": sound})


def reference(samples):
    """From the definitions, step by step and sum by sum."""
    emphasised = [samples[0], *(b - 0.97 * a for a, b in itertools.pairwise(samples))]
    steps = 1 if len(samples) <= 400 else 1 + math.ceil((len(samples) - 400) / 160)
    emphasised += [0.0] * (160 * steps + 240 - len(samples))
    edges = [700 * (10 ** (m * math.log10(1 + 8000 / 700) / 27) - 1) for m in range(28)]
    edges = [math.floor(513 * hz / 16000) for hz in edges]
    turn = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    rows = []
    for step in range(steps):
        power = np.abs(turn @ np.array(emphasised[160 * step : 160 * step + 400])) ** 2 / 512
        logs = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            up = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
            down = sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))
            logs.append(math.log(up + down))
        row = [math.log(power.sum())]
        for n in range(1, 13):
            cosine = sum(value * math.cos(math.pi * n * (2 * m + 1) / 52) for m, value in enumerate(logs))
            row.append(cosine * math.sqrt(2 / 26) * (1 + 11 * math.sin(math.pi * n / 22)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("samples", [300, 400, 401, 1500])
def test_equals_the_definitions(samples):
    sound = np.random.default_rng(0).integers(-20000, 20000, samples).astype(np.int16)
    assert relative(compute_mfcc(torch.from_numpy(sound)).numpy(), reference(sound.astype(float))) < 1e-9


def test_silence_is_finite():
    assert compute_mfcc(torch.zeros(1000, dtype=torch.int16)).isfinite().all()


@pytest.mark.parametrize("samples", [torch.zeros(0), torch.zeros(1, 800)])
def test_wrong_input(samples):
    with pytest.raises(ValueError, match=r"samples: expected \(S,\) with S above 0, got"):
        compute_mfcc(samples)
