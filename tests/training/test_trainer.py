"""Runs: what they leave, how they stop and resume, what they start from."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from helpers.training import run, trainer

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert, save_pretrained
from unisync_loss.data.clips import list_clips
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.training.data.cache import load
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.face_features import features_of_mesh
from unisync_loss.training.settings import MARGINS
from unisync_loss.training.step import Stepper
from unisync_loss.utils.distributed import ProcessGroup

STEPS = {"aligner": 1, "geometry": 1, "sync": 2, "joint": 2}


def mouth_first(**changes):
    """Overrides of a short run of four stages."""
    return ["recipe.clips=3", *(f"recipe.{name}_steps={steps}" for name, steps in {**STEPS, **changes}.items())]


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(ours, theirs):
    """Whether two checkpoints are equal to the bit."""
    ours, theirs = load_expert(ours).state_dict(), load_expert(theirs).state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def finished(folder, cache, tmp_path_factory):
    """An undisturbed run on rgb: its folder and its lines of progress."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run(folder, cache, out, *mouth_first(), visual="rgb", val=str(folder), curves=True)


class TestFolder:
    def test_a_run_with_validation(self, finished):
        out, lines = finished
        names = {path.name for path in out.iterdir()}
        assert {"last", "best", "log.jsonl", "curves.png", "config.yaml", "state.safetensors"} <= names
        expert = load_expert(out / "last")
        assert expert(torch.rand(1, 5, 3, 96, 96), torch.rand(1, 3200)).shape == (1, 1)
        log = read_log(out)
        assert {record["stage"] for record in log} == {"align", "geometry", "sync", "joint"}
        assert any("val_auc" in record for record in log)
        assert any("choosing the threshold" in line for line in lines)

    def test_a_run_without_validation(self, folder, cache, tmp_path):
        run(folder, cache, tmp_path, "recipe.steps=1")
        names = {path.name for path in tmp_path.iterdir()}
        assert {"last", "log.jsonl", "log.csv", "config.yaml"} <= names
        assert "best" not in names

    def test_an_existing_run_is_not_overwritten(self, folder, cache, tmp_path):
        (tmp_path / "log.jsonl").touch()
        with pytest.raises(FileExistsError, match="--resume"):
            run(folder, cache, tmp_path)

    def test_two_runs_do_not_share_a_folder(self, folder, cache, tmp_path):
        first, second = (trainer(folder, cache, tmp_path, "recipe.steps=1") for _ in range(2))
        first.begin(resume=False)
        with pytest.raises(FileExistsError, match="another process trains in this folder"):
            second.begin(resume=True)
        first.run()
        second.begin(resume=True)

    def test_the_paper_architecture_on_rgb(self, folder, cache, tmp_path):
        few = ["recipe.steps=1", "recipe.clips=2", "recipe.segments=1", "recipe.frames=5"]
        run(folder, cache, tmp_path, "expert.architecture=paper", *few, visual="rgb")
        expert = load_expert(tmp_path / "last")
        assert expert(torch.rand(1, 5, 3, 96, 96), torch.rand(1, 3200)).shape == (1, 1)

    @pytest.mark.parametrize("visual", ["3dmm", "parsing"])
    def test_experts_on_other_representations(self, folder, cache, tmp_path, visual):
        run(folder, cache, tmp_path, "recipe.steps=2", "recipe.clips=3", visual=visual, val=str(folder))
        expert = load_expert(tmp_path / "best")
        assert expert.config.visual == visual
        assert {record["stage"] for record in read_log(tmp_path)} == {"sync"}
        clip = next(embed_clips(expert, list_clips(folder)[:1]))
        assert clip.visual.shape == clip.audio.shape == (26, 512)
        if visual == "3dmm":  # standardised by the training clips
            stored = [load(entry, cache, "mesh") for entry in list_clips(folder)]
            values = [features_of_mesh(expert.config, clip["mesh"], clip["size"])[:, 0] for clip in stored]
            mean, deviation = np.concatenate(values).mean(0), np.concatenate(values).std(0, ddof=1)
            assert np.allclose(expert.visual_input.mean.numpy(), mean, atol=1e-4)
            assert np.allclose(expert.visual_input.deviation.numpy(), deviation, rtol=1e-3)

    def test_stages_without_steps_are_skipped(self, folder, cache, tmp_path):
        steps = mouth_first(aligner=0, sync=0, joint=1)
        lines = run(folder, cache, tmp_path, *steps, visual="rgb", val=str(folder))
        assert list(dict.fromkeys(record["stage"] for record in read_log(tmp_path))) == ["geometry", "joint"]
        # an untrained aligner cannot cut the mouths of the files
        assert not any("choosing the threshold" in line for line in lines)


class TestAudioModel:
    @pytest.mark.parametrize(("audio", "visual"), [("hubert", "landmarks"), ("hubert", "rgb"), ("whisper", "rgb")])
    def test_the_model_is_stored_in_the_expert(self, folder, cache, audio_models, tmp_path, audio, visual):
        model = audio_models[audio]["audio_model"]
        steps = mouth_first(aligner=0, geometry=0, sync=0, joint=1) if visual == "rgb" else ["recipe.steps=1"]
        run(folder, cache, tmp_path, *steps, visual=visual, audio=audio, audio_model=model)
        expert = load_expert(tmp_path / "last")
        config = expert.config
        assert (config.audio, config.audio_features, config.audio_model) == (audio, 32, model)
        assert len(config.audio_revision) == 64  # a folder is identified by the sha256 of its weights
        assert (config.margin_same, config.margin_cross) == MARGINS[audio]
        assert len(list((cache / audio).iterdir())) == 6
        clip = next(embed_clips(expert, list_clips(folder)[:1]))
        assert clip.visual.shape == clip.audio.shape == (26, 512)

    def test_a_model_for_mel_is_refused(self, folder, cache, tiny_hubert, tmp_path):
        with pytest.raises(ValueError, match=r"data\.audio_model: expected none for an expert on mel, got"):
            run(folder, cache, tmp_path / "run", audio_model=str(tiny_hubert))
        assert not (tmp_path / "run").exists()


class TestResume:
    def test_a_stopped_run_ends_as_an_undisturbed_one(self, folder, cache, finished, tmp_path, monkeypatch):
        """SIGTERM after every second step, in every stage."""
        count = 0

        def counted(function):
            def wrapper(*arguments, **options):
                nonlocal count
                count += 1
                if count == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                return function(*arguments, **options)

            return wrapper

        for name in ("draw", "draw_views"):
            monkeypatch.setattr(CachedClipDataset, name, counted(getattr(CachedClipDataset, name)))
        for attempt in range(20):
            count = 0
            options = {"visual": "rgb", "val": str(folder), "resume": attempt > 0}
            lines = run(folder, cache, tmp_path / "parts", *mouth_first(), **options)
            if not any("stopped" in line for line in lines):
                break
        assert attempt > 1
        assert equal(tmp_path / "parts" / "last", finished[0] / "last")

    def test_a_killed_run_ends_as_an_undisturbed_one(self, folder, cache, tmp_path, monkeypatch):
        settings = "recipe.name=random_pairs", "recipe.batch=16", "recipe.steps=4", "run.save_minutes=0"
        run(folder, cache, tmp_path / "whole", *settings, val=str(folder))
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / ".state.123.safetensors").write_bytes(b"half")  # killed while writing
        step, count = Stepper.step, 0

        def dying(self, *arguments):
            nonlocal count
            count += 1
            if count in (3, 5):  # as if killed: everything since the last save is lost
                raise KeyboardInterrupt
            return step(self, *arguments)

        monkeypatch.setattr(Stepper, "step", dying)
        for attempt in range(3):
            try:
                run(folder, cache, tmp_path / "broken", *settings, val=str(folder), resume=attempt > 0)
            except KeyboardInterrupt:
                continue
        assert count > 5
        assert not list((tmp_path / "broken").glob(".state*"))
        assert equal(tmp_path / "broken" / "best", tmp_path / "whole" / "best")
        logs = [(tmp_path / name / "log.jsonl").read_text().count("val_auc") for name in ("broken", "whole")]
        assert logs == [2, 2]

    def test_a_run_killed_before_its_first_state_starts_again(self, folder, cache, tmp_path):
        (tmp_path / "log.jsonl").write_text('{"stage": "sync", "step": 1}\n{"stage": "sync", "st')
        run(folder, cache, tmp_path, "recipe.steps=1", resume=True)
        [record] = read_log(tmp_path)
        assert "loss" in record

    def test_all_processes_stop_after_the_same_step(self, folder, cache, tmp_path):
        """A process that is asked to stop continues until the others know, or they would wait for it forever."""
        one, flags = trainer(folder, cache, tmp_path), []

        class Two(ProcessGroup):
            def any(self, flag, device):
                flags.append(flag)
                return len(flags) == 3

        one.group = Two()
        one.begin(resume=False)
        one._ask_to_stop(15, None)
        one.run()
        assert flags == [True] * 3
        assert one.step == 3


class TestStart:
    def test_on_rgb_only_the_joint_stage_is_left(self, folder, cache, tmp_path):
        few = ["recipe.steps=1", "recipe.clips=3"]
        lines = run(folder, cache, tmp_path, *few, visual="rgb", init=("mel-rgb",))
        assert {record["stage"] for record in read_log(tmp_path)} == {"joint"}
        assert any("copied from mel-rgb: audio and visual" in line for line in lines)

    def test_an_audio_tower_alone_has_no_mouth_aligner(self, folder, cache, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig(visual="landmarks")), tmp_path / "start")
        with pytest.raises(ValueError, match="expected an expert on rgb among them, whose mouth aligner is copied"):
            run(folder, cache, tmp_path / "run", visual="rgb", init=(str(tmp_path / "start"),))
        assert not (tmp_path / "run").exists()

    def test_audio_of_one_and_visual_of_another_with_audio_frozen(self, folder, cache, tmp_path):
        """The frozen tower stays the same to the bit, batch norm statistics included; the other tower learns."""
        for visual in ("rgb", "landmarks"):
            save_pretrained(UniSyncExpert(UniSyncConfig(visual=visual)), tmp_path / visual)
        both = (str(tmp_path / "rgb"), str(tmp_path / "landmarks"))
        lines = run(folder, cache, tmp_path / "run", "run.freeze=audio", "optimiser.ema=0.0", init=both)
        assert any("rgb: audio" in line for line in lines)
        assert any("landmarks: audio and visual" in line for line in lines)
        trained, start = load_expert(tmp_path / "run" / "last").state_dict(), load_expert(both[1]).state_dict()
        changed = {key.split("_")[0] for key, value in trained.items() if not torch.equal(value, start[key])}
        assert changed == {"visual"}

    def test_a_tower_without_a_start_cannot_be_frozen(self, folder, cache, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig()), tmp_path / "start")
        with pytest.raises(ValueError, match=r"freeze: expected a copied tower \(audio\), got visual"):
            run(folder, cache, tmp_path / "run", "run.freeze=visual", init=(str(tmp_path / "start"),))
