"""Recipes and the stages that follow from them."""

import pytest

from unisync_loss.config import UniSyncConfig
from unisync_loss.training.mouth_stages import GeometryStage, JointStage, MouthAlignerStage, SyncStage
from unisync_loss.training.settings import resolve
from unisync_loss.training.stages import ContrastStage, RandomPairStage, StageSpec

GIVEN = {"folders": ["clips"], "out": "run"}


def stages(*overrides, **options):
    config, expert = resolve({**GIVEN, **options}, None, overrides)
    return config.stages(expert)


def test_mouth_first_has_four_stages():
    specs = stages()
    assert [(spec.name, spec.steps) for spec in specs] == [
        ("align", 3000),
        ("geometry", 800),
        ("sync", 1000),
        ("joint", 3000),
    ]
    assert [type(spec.objective) for spec in specs] == [MouthAlignerStage, GeometryStage, SyncStage, JointStage]
    assert [spec.objective.learns_sync for spec in specs] == [False, False, True, True]
    assert [spec.learning_rate for spec in specs] == [1e-3, 1e-3, 1e-3, 7e-4]


@pytest.mark.parametrize(
    ("options", "name", "kind"),
    [
        ({"visual": "landmarks"}, "sync", ContrastStage),
        ({"init": ["mel-rgb"]}, "joint", JointStage),
        ({"preset": "paper"}, "pairs", RandomPairStage),
        ({"preset": "paper", "init": ["mel-rgb"]}, "pairs", RandomPairStage),
    ],
)
def test_all_other_experts_have_one_stage(options, name, kind):
    [spec] = stages("recipe.steps=7", **options)
    assert (spec.name, type(spec.objective), spec.steps) == (name, kind, 7)
    assert spec.objective.learns_sync


def test_a_new_small_expert_on_rgb_learns_the_pose_before_random_pairs():
    specs = stages("expert.architecture=small", "recipe.aligner_steps=5", preset="paper")
    assert [(spec.name, spec.steps, spec.learning_rate) for spec in specs] == [
        ("align", 5, 1e-3),
        ("pairs", 3000, 1e-4),
    ]


def test_settings_reach_the_batch():
    [spec] = stages(
        "recipe.clips=3", "recipe.min_shift=4", "recipe.cross_share=0.5", "data.augment=false", visual="3dmm"
    )
    assert isinstance(spec, StageSpec)
    batch = spec.objective.batch
    assert (batch.clips, batch.min_shift, batch.cross_share, batch.augment, batch.shuffled) == (3, 4, 0.5, False, False)


def test_shuffled_stages():
    for options in ({"visual": "landmarks"}, {"visual": "landmarks", "preset": "paper"}):
        config, expert = resolve({**GIVEN, **options})
        objective = config.stages(expert, shuffled=True)[-1].objective
        assert (objective.batch if isinstance(objective, ContrastStage) else objective).shuffled


def test_the_expert_decides_which_recipe_fits():
    config, _ = resolve(GIVEN)
    with pytest.raises(ValueError, match="expected contrast or random_pairs for a small expert on landmarks"):
        config.check(UniSyncConfig(visual="landmarks"))
