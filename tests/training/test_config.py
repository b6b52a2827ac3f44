"""Settings of a run: presets, files, overrides."""

import pytest
import yaml

from unisync_loss import UniSyncExpert, save_pretrained
from unisync_loss.config import UniSyncConfig
from unisync_loss.training.config import TrainConfig, for_overfitting, resolve, to_yaml
from unisync_loss.training.mouth_stages import JointStage
from unisync_loss.training.stages import ContrastStage, RandomPairStage

GIVEN = {"data": ["clips"], "out": "run"}


def test_fast_is_what_the_bundled_expert_was_trained_with():
    config, expert = resolve(GIVEN)
    assert (config.preset, config.pairs, config.optimiser, config.learning_rate) == ("fast", "all", "adamw", 1e-3)
    assert (expert.name, expert.architecture) == ("mel-rgb", "small")
    assert [stage[0] for stage in config.stages(expert)] == ["align", "geometry", "sync", "joint"]
    assert [stage[2] for stage in config.stages(expert)] == [3000, 800, 1000, 3000]


@pytest.mark.parametrize(("audio", "margins"), [("mel", (0.1, 0.3)), ("hubert", (0.3, 0.7))])
def test_paper_is_the_papers_recipe(audio, margins):
    config, expert = resolve({**GIVEN, "preset": "paper", "audio": audio})
    assert (config.batch, config.learning_rate, config.betas, config.weight_decay) == (64, 1e-4, (0.5, 0.999), 1e-4)
    assert (config.optimiser, config.schedule, config.ema, config.clip_norm) == ("adam", "constant", 0.0, 0.0)
    assert (config.positive_share, config.cross_share) == (0.5, 0.2)
    assert (expert.margin_same, expert.margin_cross) == margins
    assert expert.architecture == "paper"
    assert not config.augment
    [(name, stage, _, rate)] = config.stages(expert)
    assert (name, rate) == ("pairs", 1e-4)
    assert isinstance(stage, RandomPairStage)


def test_what_is_saved_resolves_to_itself(tmp_path):
    settled = resolve({**GIVEN, "preset": "paper", "visual": "3dmm"}, None, ["seed=3", "expert.embedding=64"])
    (tmp_path / "config.yaml").write_text(to_yaml(*settled))
    assert resolve({}, tmp_path / "config.yaml") == settled
    assert settled[1].visual_features == 40


def test_later_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {seed: 1, clips: 8, preset: paper, learning_rate: 3e-5}\n")
    config, expert = resolve({**GIVEN, "seed": 2}, tmp_path / "a.yaml", ["clips=4", "expert.architecture=small"])
    assert (config.seed, config.clips, config.learning_rate, config.betas) == (2, 4, 3e-5, (0.5, 0.999))
    assert expert.architecture == "small"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speed=9", "unknown settings speed"),
        ("expert.size=9", "unknown settings size"),
        ("clips=many", "clips: expected int, got 'many'"),
        ("clips=2.5", "clips: expected int, got 2.5"),
        ("learning_rate=fast", "learning_rate: expected float, got 'fast'"),
        ("augment=1", "augment: expected bool, got 1"),
        ("clips", "expected key=value, got 'clips'"),
        ("precision=fp8", "precision: expected one of fp32, bf16, fp16"),
        ("cross_share=2", "cross_share: expected a share"),
        ("preset=slow", "preset: expected one of fast, paper"),
        ("freeze=both", "freeze: expected one of None, visual, audio, got 'both'"),
        ("hold=audio", "settings of an earlier version: hold was renamed freeze"),
        ("expert.crop=face", "settings of an earlier version: crop was removed"),
        ("expert.audio=mfcc", "audio: expected one of mel, hubert"),
        ("frames=4", "frames: expected 5 or more"),
        ("betas=0.9", r"betas: expected two numbers, got \[0\.9\]"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        resolve(GIVEN, None, [override])


def test_an_expert_is_like_the_one_it_starts_from(tmp_path):
    values = {"embedding": 16, "hubert_model": "tiny/hubert", "audio_features": 32, "hubert_layer": 2}
    start = UniSyncConfig(audio="hubert", visual="landmarks", visual_features=60, **values)
    save_pretrained(UniSyncExpert(start), tmp_path)
    _, expert = resolve({**GIVEN, "init": str(tmp_path)})
    assert (expert.name, expert.visual_features, expert.margin_same) == ("hubert-landmarks", 60, 0.3)
    assert {name: getattr(expert, name) for name in values} == values
    _, expert = resolve({**GIVEN, "init": str(tmp_path), "audio": "mel"}, None, ["expert.embedding=8"])
    assert (expert.name, expert.visual_features, expert.audio_features, expert.embedding) == (
        "mel-landmarks",
        60,
        80,
        8,
    )


def test_a_file_of_an_earlier_version_names_all_its_retired_settings(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {mix: [], hold: null, far_shift: 15, curriculum_steps: 0, keep: 3}\n")
    removed = ", ".join(f"{name} was removed" for name in ("far_shift", "curriculum_steps", "keep"))
    message = f"mix was removed, hold was renamed freeze, {removed}"
    with pytest.raises(ValueError, match=f"settings of an earlier version: {message}"):
        resolve(GIVEN, tmp_path / "a.yaml")


def test_files_of_something_else_are_refused(tmp_path):
    for text in ("model: {}", "[1, 2]", "a: b: c"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"a\.yaml: expected"):
            resolve(GIVEN, tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="expected --data"):
        resolve({"out": "run"})


def test_stages_of_other_pairs():
    config = TrainConfig(**{**GIVEN, "data": ("clips",)})
    [(name, stage, steps, _)] = config.stages(UniSyncConfig(visual="landmarks"))
    assert (name, type(stage), steps) == ("sync", ContrastStage, 3000)
    [(name, stage, *_)] = config.stages(UniSyncConfig(architecture="paper"))
    assert (name, type(stage)) == ("sync", ContrastStage)
    config, expert = resolve({**GIVEN, "preset": "paper"}, None, ["expert.architecture=small"])
    assert [stage[0] for stage in config.stages(expert)] == ["align", "pairs"]


def test_overfitting_takes_one_batch_of_as_many_windows():
    config = for_overfitting(resolve({**GIVEN, "overfit": 64})[0])
    assert (config.clips * config.segments * (config.frames - 4), config.augment) == (64, False)
    stage = config.stages(UniSyncConfig())[-1][1]
    assert isinstance(stage, JointStage)
    assert not stage.batch.augment
    with pytest.raises(ValueError, match="expected 16, 24, 32"):
        for_overfitting(resolve({**GIVEN, "overfit": 20})[0])


def test_yaml_has_plain_values():
    assert yaml.safe_load(to_yaml(*resolve(GIVEN)))["train"]["data"] == ["clips"]
