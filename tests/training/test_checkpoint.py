"""State of a run, and its best and last checkpoints."""

import pytest
import torch
from helpers.training import run, trainer

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert
from unisync_loss.training.checkpoint import CheckpointKeeper


def test_the_best_checkpoint_is_the_one_of_the_highest_auc(tmp_path):
    keeper, expert = CheckpointKeeper(tmp_path), UniSyncExpert(UniSyncConfig(embedding=8))
    for auc, threshold in ((0.6, 0.3), (0.8, 0.4), (0.7, 0.5)):
        keeper.keep(expert, {"val_auc": auc, "threshold": threshold, "temperature": auc / 10, "midpoint": 0.4})
    assert load_expert(tmp_path / "best").config.temperature == 0.08
    assert [load_expert(tmp_path / name).config.threshold for name in ("last", "best")] == [0.5, 0.4]
    assert keeper.best == 0.8


def test_without_validation_there_is_no_best(tmp_path):
    keeper = CheckpointKeeper(tmp_path)
    keeper.keep(UniSyncExpert(UniSyncConfig(embedding=8, threshold=0.3)), None)
    assert load_expert(tmp_path / "last").config.threshold == 0.5
    assert not keeper.has_best


def test_a_state_of_something_else_is_named(folder, cache, tmp_path):
    run(folder, cache, tmp_path, "recipe.steps=1")
    with pytest.raises(ValueError, match=r"state\.safetensors: expected the state of a run of these networks"):
        run(folder, cache, tmp_path, "recipe.steps=1", "expert.embedding=16", resume=True)
    (tmp_path / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"state\.safetensors: expected the state of a run of these networks"):
        run(folder, cache, tmp_path, "recipe.steps=1", resume=True)


def test_the_scale_of_half_floats_is_gone_on_with(folder, cache, tmp_path):
    scales = []
    for resume in (False, True):
        one = trainer(folder, cache, tmp_path, "optimiser.precision=fp16")
        one.begin(resume=resume)
        scales.append(one.stepper.scaler.get_scale())
        one.stepper.scaler.load_state_dict(one.stepper.scaler.state_dict() | {"scale": 1024.0})
        one.save()
        one.close()
    assert scales == [65536.0, 1024.0]


def test_weights_that_are_no_numbers_are_not_saved(folder, cache, tmp_path):
    one = trainer(folder, cache, tmp_path)
    one.begin(resume=False)
    one.save()
    before = (tmp_path / "state.safetensors").read_bytes()
    with torch.no_grad():
        one.stepper.model.log_scale.fill_(torch.nan)
    one.save()
    one.close()
    assert (tmp_path / "state.safetensors").read_bytes() == before
