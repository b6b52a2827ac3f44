"""Optimiser steps: many batches as one, precision, compiled networks, losses that are not finite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from helpers.training import run, settings
from safetensors.torch import load_file

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.config import OptimiserConfig
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import TrainingModel
from unisync_loss.training.step import Stepper, learning_share, make_optimiser
from unisync_loss.utils.distributed import ALONE

CONFIG = UniSyncConfig(visual="landmarks", embedding=16)


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, CONFIG, 13)


@pytest.fixture
def stepper(folder, cache, tmp_path, data):
    config, _ = settings(folder, cache, tmp_path, "data.augment=false")
    stepper = Stepper(config, TrainingModel(CONFIG), data)
    yield stepper
    stepper.close()


def prepared(stepper, rate=0.0):
    """The one stage of landmarks, prepared."""
    spec = replace(stepper.config.stages(CONFIG)[0], learning_rate=rate)
    stepper.prepare(spec)
    return spec


def change(stepper, **changes):
    """Change optimiser settings."""
    stepper.config = replace(stepper.config, optimiser=replace(stepper.config.optimiser, **changes))


def test_networks_take_the_same_step(stepper, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    spec = prepared(stepper)
    plain = stepper.step(spec, (0, 0))
    compile_it = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **named: compile_it(self, backend=backend, **named))
    change(stepper, compile=True)
    stepper.prepare(spec)
    compiled = stepper.step(spec, (0, 0))
    assert len(graphs) >= 2  # one per tower
    assert compiled["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-5)
    assert stepper.model.state_dict().keys() == stepper.average.state_dict().keys()


def test_without_a_compiler_nothing_is_begun(folder, tmp_path):
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(ValueError, match=r"compile: expected a C\+\+ compiler such as g\+\+ that works, got: .+ompiler"),
    ):
        run(folder, tmp_path / "cache", tmp_path / "run", "optimiser.compile=true", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_two_batches_are_their_mean(stepper):
    spec = prepared(stepper)
    losses = []
    for number in range(2):
        batch = spec.objective.draw(stepper.data, stepper.rng(0, number)[0], ALONE)
        losses.append(spec.objective.loss(stepper.model, batch)["loss"].item())
    change(stepper, accumulate=2)
    terms = stepper.step(spec, (0, 0))
    assert terms["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert stepper.windows == 2 * 4 * 2 * 9


def test_the_probability_is_exact_in_any_precision(stepper):
    spec = prepared(stepper)
    exact = stepper.step(spec, (0, 0))
    change(stepper, precision="bf16")
    rough = stepper.step(spec, (0, 0))
    assert rough["p_positive"].dtype == torch.float32
    assert rough["p_positive"] != exact["p_positive"]
    assert rough["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)


def test_gradients_beyond_half_floats_are_passed_over(folder, cache, tmp_path, data):
    """As GradScaler does: the weights stay, and the scale is halved until the gradients are finite."""
    few = ["recipe.clips=2", "recipe.segments=1", "recipe.frames=9"]  # half floats are slow on a CPU
    config, _ = settings(folder, cache, tmp_path, "optimiser.precision=fp16", *few)
    stepper = Stepper(config, TrainingModel(CONFIG), data)
    spec = prepared(stepper, 1e-3)
    stepper.scaler.load_state_dict(stepper.scaler.state_dict() | {"scale": 2.0**127})
    before = [weights.clone() for weights in stepper.model.parameters()]
    stepper.step(spec, (0, 0))
    assert all(map(torch.equal, before, stepper.model.parameters()))
    assert stepper.scaler.get_scale() == 2.0**126
    stepper.scaler.load_state_dict(stepper.scaler.state_dict() | {"scale": 16.0})
    stepper.step(spec, (0, 1))
    assert not all(map(torch.equal, before, stepper.model.parameters()))
    assert all(weights.isfinite().all() for weights in stepper.model.parameters())
    stepper.close()


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(stepper, monkeypatch):
    spec = prepared(stepper, 1e-3)
    batch = spec.objective.draw(stepper.data, stepper.rng(0, 0)[0], ALONE)
    monkeypatch.setattr(type(spec.objective), "loss", lambda *_: {"loss": torch.tensor(torch.nan)})
    with pytest.raises(FloatingPointError, match="expected a finite loss, got loss nan; the batch is in"):
        stepper.step(spec, (0, 0))
    [path] = Path(stepper.config.run.out).glob("bad-batch-*.safetensors")
    saved = load_file(path)
    assert torch.equal(saved["audio"], batch.audio)
    assert torch.equal(saved["per_frame"], batch.visual.per_frame)


def test_without_an_average_the_weights_themselves_are_kept(stepper):
    change(stepper, ema=0.0)
    spec = prepared(stepper, 1e-3)
    stepper.step(spec, (0, 0))
    pairs = zip(stepper.average.state_dict().values(), stepper.model.state_dict().values(), strict=True)
    assert all(torch.equal(mean, value) for mean, value in pairs)


def test_optimisers():
    weights = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    config = OptimiserConfig(kind="adam", weight_decay=0.5)
    adam = make_optimiser(weights, config, 0.1)
    assert [group["weight_decay"] for group in adam.param_groups] == [0.5]  # of everything, coupled
    adamw = make_optimiser(weights, replace(config, kind="adamw"), 0.1)
    assert [(len(group["params"]), group["weight_decay"]) for group in adamw.param_groups] == [(1, 0.5), (1, 0.0)]


def test_schedules():
    config = OptimiserConfig()
    shares = [learning_share(step, 2000, config) for step in (0, 99, 1000, 1999)]
    assert shares == pytest.approx([0.01, 0.994, 0.5, 0.01], abs=1e-3)
    constant = replace(config, schedule="constant", warm_up=0)
    assert {learning_share(step, 2000, constant) for step in (0, 1999)} == {1.0}
