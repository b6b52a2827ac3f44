"""The engine: many processes as one, many batches as one, precision, what is saved when a loss is not a number."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from helpers.joint_worker import STAGES, gradients
from helpers.paths import ROOT
from safetensors.torch import load_file

from unisync_loss import load_expert
from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.functional import sync_probability
from unisync_loss.training.config import TrainConfig, expert_config
from unisync_loss.training.data.cache import cache_path
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.loading import load_clips
from unisync_loss.training.data.pairs import POSITIVE, PairSampling
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.training.sanity_checks import overfit, shuffled
from unisync_loss.training.stages import RandomPairStage
from unisync_loss.training.step import Engine, learning_share, make_optimiser
from unisync_loss.training.trainer import prepare_run, train
from unisync_loss.utils.distributed import ALONE, ProcessGroup, convert_batch_norms

CONFIG = UniSyncConfig(visual="landmarks", embedding=16)


def settings(folder, cache, out, **changes):
    values = {"data": (str(folder),), "out": str(out), "cache": str(cache), "clips": 4, "workers": 1, "steps": 4}
    return TrainConfig(**{**values, "save_minutes": 0.0, **changes})


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, CONFIG, 13)


@pytest.fixture
def engine(folder, cache, tmp_path, data):
    config = settings(folder, cache, tmp_path, augment=False)
    engine = Engine(config, TrainingModel(CONFIG), data, ALONE)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def joint(folder, cache, tmp_path_factory):
    """Losses and gradients of two processes that share a batch."""
    out = tmp_path_factory.mktemp("joint")
    worker = ROOT / "tests/helpers/joint_worker.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", worker]
    done = subprocess.run(
        [*map(str, command), str(folder), str(cache), str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


class TestProcesses:
    @pytest.mark.parametrize("name", STAGES)
    def test_two_processes_are_one(self, joint, data, name):
        ours, theirs = gradients(data, ALONE, name), load_file(joint / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert theirs["loss"].item() == pytest.approx(ours["loss"].item(), rel=1e-9)
        for key, value in ours.items():
            assert torch.allclose(value, theirs[key], atol=1e-8, rtol=1e-6), key

    def test_devices(self):
        assert ProcessGroup.init("cpu") == (ALONE, torch.device("cpu"))
        with pytest.raises(ValueError, match="expected cpu, or cuda if there is a GPU, got 'tpu'"):
            ProcessGroup.init("tpu")

    def test_parts_are_even(self):
        rows = np.arange(6)
        assert [ProcessGroup(rank, 3).shard(rows).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
        with pytest.raises(ValueError, match="expected a batch size divisible by 4 processes, got 6"):
            ProcessGroup(0, 4).shard(rows)


class TestCompiled:
    def test_joint_norms_have_the_gradients_of_plain_ones(self):
        """Without a C++ compiler: it is in capturing the graph that a joint sum can lose its gradient."""
        plain = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 1), torch.nn.BatchNorm1d(8), torch.nn.Conv1d(8, 8, 3))
        joint, video = copy.deepcopy(plain), torch.randn(3, 4, 9)
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
        try:
            convert_batch_norms(joint)
            joint.compile(backend="aot_eager", dynamic=False)
            for network in (plain, joint):
                network(video).relu().square().sum().backward()
        finally:
            torch.distributed.destroy_process_group()
        for ours, theirs in zip(joint.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)

    def test_networks_take_the_same_step(self, engine, monkeypatch):
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

        stage = engine.config.stages(CONFIG)[0][1]
        engine.prepare(stage, 0.0)
        plain = engine.step(stage, (0, 0), 4, 0.0)
        compile_it = torch.nn.Module.compile
        monkeypatch.setattr(
            torch.nn.Module, "compile", lambda self, **named: compile_it(self, backend=backend, **named)
        )
        engine.config = replace(engine.config, compile=True)
        engine.prepare(stage, 0.0)
        compiled = engine.step(stage, (0, 0), 4, 0.0)
        assert len(graphs) >= 2  # of what is seen, of what is heard
        assert compiled["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-5)
        assert engine.learner.state_dict().keys() == engine.average.state_dict().keys()

    def test_without_a_compiler_nothing_is_begun(self, tmp_path):
        config = settings("nowhere", tmp_path / "cache", tmp_path / "run", compile=True, device="cpu")
        with (
            torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
            pytest.raises(
                ValueError, match=r"compile: expected a C\+\+ compiler such as g\+\+ that works, got: .+ompiler"
            ),
        ):
            train(config, expert_config("mel", "landmarks"), resume=False, log=lambda line: None)
        assert list(tmp_path.iterdir()) == []


class TestStep:
    def test_two_batches_are_their_mean(self, engine):
        stage = engine.config.stages(CONFIG)[0][1]
        engine.prepare(stage, 0.0)
        losses = []
        for number in range(2):
            batch = stage.draw(engine.data, engine.generator(0, number)[0])
            losses.append(stage.loss(engine.learner, batch)["loss"].item())
        engine.config = replace(engine.config, accumulate=2)
        terms = engine.step(stage, (0, 0), 4, 0.0)
        assert terms["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert engine.windows == 2 * 4 * 2 * 9

    def test_the_probability_is_exact_in_any_precision(self, engine):
        stage = engine.config.stages(CONFIG)[0][1]
        engine.prepare(stage, 0.0)
        exact = engine.step(stage, (0, 0), 4, 0.0)
        engine.config = replace(engine.config, precision="bf16")
        rough = engine.step(stage, (0, 0), 4, 0.0)
        assert rough["p_positive"].dtype == torch.float32
        assert rough["p_positive"] != exact["p_positive"]
        assert rough["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)

    def test_gradients_beyond_half_floats_are_passed_over(self, folder, cache, tmp_path, data):
        """As GradScaler does: the weights stay, and the next loss is scaled by half as much, until it fits."""
        few = {"clips": 2, "segments": 1, "frames": 9}  # half floats are slow on a CPU
        engine = Engine(settings(folder, cache, tmp_path, precision="fp16", **few), TrainingModel(CONFIG), data, ALONE)
        stage = engine.config.stages(CONFIG)[0][1]
        engine.prepare(stage, 1e-3)
        engine.scaler.load_state_dict(engine.scaler.state_dict() | {"scale": 2.0**127})
        before = [weights.clone() for weights in engine.learner.parameters()]
        engine.step(stage, (0, 0), 4, 1e-3)
        assert all(map(torch.equal, before, engine.learner.parameters()))
        assert engine.scaler.get_scale() == 2.0**126
        engine.scaler.load_state_dict(engine.scaler.state_dict() | {"scale": 16.0})
        engine.step(stage, (0, 1), 4, 1e-3)
        assert not all(map(torch.equal, before, engine.learner.parameters()))
        assert all(weights.isfinite().all() for weights in engine.learner.parameters())
        engine.close()

    def test_negatives_of_two_silences_have_no_weight(self, engine):
        stage = RandomPairStage(PairSampling(), 16, augment=False, skip_silence=True)
        batch = stage.draw(engine.data, engine.generator(0, 0)[0])
        batch = replace(batch, silent=torch.ones(16, dtype=torch.bool))
        learner = engine.learner.eval()
        with torch.no_grad():
            seen, heard = (
                encode_visual_batch(learner, batch, augmented=False)[:, 0],
                encode_audio_batch(learner, batch, augmented=False)[:, 0],
            )
            matches = sync_probability(heard, seen)[batch.kind == POSITIVE]
            assert stage.loss(learner, batch)["loss"].item() == pytest.approx(-matches.log().mean().item(), rel=1e-5)
            everything = replace(stage, skip_silence=False).loss(learner, batch)["loss"].item()
        assert everything != pytest.approx(-matches.log().mean().item(), rel=1e-3)

    def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(self, engine, monkeypatch):
        stage = engine.config.stages(CONFIG)[0][1]
        engine.prepare(stage, 1e-3)
        batch = stage.draw(engine.data, engine.generator(0, 0)[0])
        monkeypatch.setattr(type(stage), "loss", lambda *_: {"loss": torch.tensor(torch.nan)})
        with pytest.raises(FloatingPointError, match="expected a finite loss, got loss nan; the batch is in"):
            engine.step(stage, (0, 0), 4, 1e-3)
        [path] = Path(engine.config.out).glob("bad-batch-*.safetensors")
        saved = load_file(path)
        assert torch.equal(saved["audio"], batch.audio)
        assert torch.equal(saved["per_frame"], batch.visual.per_frame)

    def test_without_an_average_the_weights_themselves_are_kept(self, engine):
        stage = engine.config.stages(CONFIG)[0][1]
        engine.config = replace(engine.config, ema=0.0)
        engine.prepare(stage, 1e-3)
        engine.step(stage, (0, 0), 4, 1e-3)
        pairs = zip(engine.average.state_dict().values(), engine.learner.state_dict().values(), strict=True)
        assert all(torch.equal(mean, value) for mean, value in pairs)

    def test_optimisers(self):
        weights = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
        config = TrainConfig(data=("a",), out="b", optimiser="adam", weight_decay=0.5)
        adam = make_optimiser(weights, config, 0.1)
        assert [group["weight_decay"] for group in adam.param_groups] == [0.5]  # of everything, coupled
        adamw = make_optimiser(weights, replace(config, optimiser="adamw"), 0.1)
        assert [(len(group["params"]), group["weight_decay"]) for group in adamw.param_groups] == [(1, 0.5), (1, 0.0)]

    def test_schedules(self):
        config = TrainConfig(data=("a",), out="b")
        shares = [learning_share(step, 2000, config) for step in (0, 99, 1000, 1999)]
        assert shares == pytest.approx([0.01, 0.994, 0.5, 0.01], abs=1e-3)
        constant = replace(config, schedule="constant", warm_up=0)
        assert {learning_share(step, 2000, constant) for step in (0, 1999)} == {1.0}


class TestRun:
    @pytest.mark.parametrize("pairs", ["all", "random"])
    def test_a_killed_run_ends_as_an_undisturbed_one(self, folder, cache, tmp_path, pairs, monkeypatch):
        changes = {"pairs": pairs, "batch": 16, "val": str(folder), "val_every": 2}
        whole, broken = (settings(folder, cache, tmp_path / name, **changes) for name in ("whole", "broken"))
        train(whole, expert_config("mel", "landmarks"), resume=False, log=lambda line: None)
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / ".state.123.safetensors").write_bytes(b"half")  # killed while it wrote
        step, count = Engine.step, 0

        def dying(self, *arguments):
            nonlocal count
            count += 1
            if count in (3, 5):  # as if killed: what was not saved is lost
                raise KeyboardInterrupt
            return step(self, *arguments)

        monkeypatch.setattr(Engine, "step", dying)
        for attempt in range(3):
            try:
                train(broken, expert_config("mel", "landmarks"), resume=attempt > 0, log=lambda line: None)
            except KeyboardInterrupt:
                continue
        ours, theirs = (load_expert(tmp_path / run / "best").state_dict() for run in ("broken", "whole"))
        assert count > 5
        assert not list((tmp_path / "broken").glob(".state*"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        logs = [(tmp_path / run / "log.jsonl").read_text().count("val_auc") for run in ("broken", "whole")]
        assert logs == [2, 2]

    def test_paper_architecture_on_rgb(self, folder, cache, tmp_path):
        config = settings(folder, cache, tmp_path, steps=1, clips=2, segments=1, frames=5)
        train(config, UniSyncConfig(architecture="paper"), resume=False, log=lambda line: None)
        assert load_expert(tmp_path / "last")(torch.rand(1, 5, 3, 96, 96), torch.rand(1, 3200)).shape == (1, 1)

    def test_clips_that_cannot_be_read_are_named(self, folder, cache, tmp_path):
        entries, lines = list_clips(folder), []
        for entry in entries[:-1]:
            path = cache_path(entry, cache, "mesh")
            (tmp_path / path.name).write_bytes(path.read_bytes() if entry is not entries[0] else b"broken")
        (tmp_path / cache_path(entries[-1], cache, "mesh").name).write_bytes(b"")
        data = load_clips([str(folder)], tmp_path, CONFIG, 13, 1, None, lines.append)
        assert len(data) == 4
        assert any("left out drawn/s0/0.mp4" in line for line in lines)
        assert any("left out: 2 that cannot be used" in line for line in lines)

    def test_what_is_left_without_a_validation(self, folder, cache, tmp_path):
        train(settings(folder, cache, tmp_path), expert_config("mel", "landmarks"), resume=False, log=lambda line: None)
        assert {"last", "log.jsonl", "log.csv", "curves.png", "config.yaml"} <= {
            path.name for path in tmp_path.iterdir()
        }

    def test_killed_before_the_first_state_it_begins_anew(self, folder, cache, tmp_path):
        (tmp_path / "log.jsonl").write_text('{"stage": "sync", "step": 1}\n{"stage": "sync", "st')
        config = settings(folder, cache, tmp_path, steps=1)
        train(config, expert_config("mel", "landmarks"), resume=True, log=lambda line: None)
        [record] = (tmp_path / "log.jsonl").read_text().splitlines()
        assert "loss" in record

    def test_a_state_of_something_else_is_named(self, folder, cache, tmp_path):
        config = settings(folder, cache, tmp_path, steps=1)
        train(config, expert_config("mel", "landmarks"), resume=False, log=lambda line: None)
        with pytest.raises(ValueError, match=r"state\.safetensors: expected the state of a run of these networks"):
            train(config, expert_config("mel", "landmarks", embedding=16), resume=True, log=lambda line: None)
        (tmp_path / "state.safetensors").write_bytes(b"broken")
        with pytest.raises(ValueError, match=r"state\.safetensors: expected the state of a run of these networks"):
            train(config, expert_config("mel", "landmarks"), resume=True, log=lambda line: None)

    def test_all_processes_stop_after_the_same_step(self, folder, cache, tmp_path):
        """One that is asked goes on until it has told the others, or they would wait for it for ever."""
        run = prepare_run(settings(folder, cache, tmp_path), expert_config("mel", "landmarks"), lambda line: None)
        told = []

        class Two(ProcessGroup):
            def any(self, flag, device):
                told.append(flag)
                return len(told) == 3

        run.group = Two()
        run.begin(resume=False)
        run._stop(15, None)
        run.go()
        assert told == [True] * 3
        assert run.step == 3

    def test_the_scale_of_half_floats_is_gone_on_with(self, folder, cache, tmp_path):
        config = settings(folder, cache, tmp_path, precision="fp16")
        scales = []
        for resume in (False, True):
            run = prepare_run(config, expert_config("mel", "landmarks"), lambda line: None)
            run.begin(resume=resume)
            scales.append(run.engine.scaler.get_scale())
            run.engine.scaler.load_state_dict(run.engine.scaler.state_dict() | {"scale": 1024.0})
            run.save()
            run.engine.close()
        assert scales == [65536.0, 1024.0]

    def test_weights_that_are_no_numbers_are_not_saved(self, folder, cache, tmp_path):
        run = prepare_run(settings(folder, cache, tmp_path), expert_config("mel", "landmarks"), lambda line: None)
        run.begin(resume=False)
        run.save()
        before = (tmp_path / "state.safetensors").read_bytes()
        with torch.no_grad():
            run.engine.learner.log_scale.fill_(torch.nan)
        run.save()
        run.engine.close()
        assert (tmp_path / "state.safetensors").read_bytes() == before


class TestSelf:
    def test_a_run_in_the_same_folder_stays_as_it_is(self, folder, cache, tmp_path, monkeypatch):
        monkeypatch.setattr("unisync_loss.training.sanity_checks.STEPS", 10)
        (tmp_path / "config.yaml").write_text("a run's")
        config = settings(folder, cache, tmp_path, overfit=16, learning_rate=0.0)
        with pytest.raises(ValueError, match="expected an accuracy above"):
            overfit(config, expert_config("mel", "landmarks"), lambda line: None)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["a run's"]

    def test_few_windows_are_learnt_by_heart(self, folder, cache, tmp_path):
        config = settings(folder, cache, tmp_path, overfit=16)
        report = overfit(config, expert_config("mel", "landmarks"), lambda line: None)
        assert report["accuracy"] > 0.99
        assert report["steps"] <= 300

    def test_why_they_are_not(self, folder, cache, tmp_path, monkeypatch):
        monkeypatch.setattr("unisync_loss.training.sanity_checks.STEPS", 10)
        config = settings(folder, cache, tmp_path, overfit=16, learning_rate=0.0)
        with pytest.raises(ValueError, match=r"expected an accuracy above 0\.99 after 10 steps.*unisync doctor"):
            overfit(config, expert_config("mel", "landmarks"), lambda line: None)

    @pytest.mark.parametrize("pairs", ["all", "random"])
    def test_nothing_is_learnt_from_shuffled_labels(self, folder, cache, tmp_path, monkeypatch, pairs):
        monkeypatch.setattr("unisync_loss.training.sanity_checks.STEPS", 20)
        config = settings(folder, cache, tmp_path, pairs=pairs, batch=16)
        report = shuffled(config, expert_config("mel", "landmarks"), lambda line: None)
        assert report["margin"] > 0.97 * report["plateau"]
