"""Overfitting a few windows, and shuffled labels."""

import pytest
from helpers.training import quiet, settings

from unisync_loss.training.mouth_stages import JointStage
from unisync_loss.training.sanity_checks import for_overfitting, overfit, shuffled


def test_a_failure_names_causes_and_leaves_the_run_in_its_folder(folder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("unisync_loss.training.sanity_checks.STEPS", 10)
    (tmp_path / "config.yaml").write_text("a run's")
    config, expert = settings(folder, cache, tmp_path, "recipe.learning_rate=0")
    with pytest.raises(ValueError, match=r"expected an accuracy above 0\.99 after 10 steps.*unisync doctor"):
        overfit(config, expert, 16, quiet)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a run's"]


def test_few_windows_are_overfitted(folder, cache, tmp_path):
    config, expert = settings(folder, cache, tmp_path)
    report = overfit(config, expert, 16, quiet)
    assert report["accuracy"] > 0.99
    assert report["steps"] <= 300


@pytest.mark.parametrize("recipe", [["recipe.clips=4"], ["recipe.name=random_pairs", "recipe.batch=16"]])
def test_nothing_is_learnt_from_shuffled_labels(folder, cache, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr("unisync_loss.training.sanity_checks.STEPS", 20)
    config, expert = settings(folder, cache, tmp_path, *recipe)
    report = shuffled(config, expert, quiet)
    assert report["margin"] > 0.97 * report["plateau"]


def test_overfitting_takes_one_batch_of_the_given_windows(folder, cache, tmp_path):
    config, expert = settings(folder, cache, tmp_path, visual="rgb")
    config = for_overfitting(config, 64)
    batch = config.stages(expert)[-1].objective.batch
    assert isinstance(config.stages(expert)[-1].objective, JointStage)
    assert (batch.clips * batch.segments * (batch.frames - 4), batch.augment) == (64, False)
    pairs, _ = settings(folder, cache, tmp_path, "recipe.name=random_pairs")
    assert for_overfitting(pairs, 64).recipe.batch == 64
    with pytest.raises(ValueError, match="expected 16, 24, 32"):
        for_overfitting(config, 20)
