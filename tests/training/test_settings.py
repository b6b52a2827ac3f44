"""Settings of a run from presets, files, options and KEY=VALUE."""

import pytest
import yaml

from unisync_loss import UniSyncExpert, save_pretrained
from unisync_loss.config import UniSyncConfig
from unisync_loss.training.config import ContrastRecipe, MouthFirstRecipe, RandomPairsRecipe
from unisync_loss.training.settings import MOVED, resolve, to_yaml

GIVEN = {"folders": ["clips"], "out": "run"}


def test_fast_is_what_the_bundled_expert_was_trained_with():
    config, expert = resolve(GIVEN)
    assert (config.recipe, config.optimiser.kind) == (MouthFirstRecipe(), "adamw")
    assert (config.recipe.learning_rate, config.recipe.joint_learning_rate) == (1e-3, 7e-4)
    assert (expert.name, expert.architecture) == ("mel-rgb", "small")


@pytest.mark.parametrize(("audio", "margins"), [("mel", (0.1, 0.3)), ("hubert", (0.3, 0.7)), ("whisper", (0.1, 0.3))])
def test_paper_is_the_papers_recipe(audio, margins):
    config, expert = resolve({**GIVEN, "preset": "paper", "audio": audio})
    optimiser = config.optimiser
    assert config.recipe == RandomPairsRecipe(learning_rate=1e-4, skip_silence=False)
    assert (config.recipe.batch, config.recipe.positive_share, config.recipe.cross_share) == (64, 0.5, 0.2)
    assert (optimiser.kind, optimiser.betas, optimiser.weight_decay) == ("adam", (0.5, 0.999), 1e-4)
    assert (optimiser.schedule, optimiser.ema, optimiser.clip_norm) == ("constant", 0.0, 0.0)
    assert (expert.margin_same, expert.margin_cross) == margins
    assert expert.architecture == "paper"
    assert not config.data.augment


def test_the_recipe_follows_from_the_expert():
    assert resolve({**GIVEN, "visual": "landmarks"})[0].recipe == ContrastRecipe()
    assert resolve(GIVEN, None, ["expert.architecture=paper"])[0].recipe == ContrastRecipe()
    started = resolve({**GIVEN, "init": ["mel-rgb"]})[0].recipe
    assert started == ContrastRecipe(learning_rate=7e-4)  # that of the joint stage
    paper = ["expert.architecture=small"]
    assert resolve({**GIVEN, "preset": "paper"}, None, paper)[0].recipe.aligner_steps == 3000
    assert resolve({**GIVEN, "preset": "paper", "visual": "landmarks"})[0].recipe.aligner_steps == 0


def test_what_is_saved_resolves_to_itself(tmp_path):
    for changes in ({"preset": "paper", "visual": "3dmm"}, {}, {"visual": "landmarks"}, {"init": ["mel-rgb"]}):
        resolved = resolve({**GIVEN, **changes}, None, ["run.seed=3", "expert.embedding=64"] if not changes else [])
        (tmp_path / "config.yaml").write_text(to_yaml(*resolved))
        assert resolve({}, tmp_path / "config.yaml") == resolved
    assert yaml.safe_load(to_yaml(*resolved))["data"]["folders"] == ["clips"]


def test_later_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("preset: paper\nrun: {seed: 1}\nrecipe: {batch: 8, learning_rate: 3e-5}\n")
    overrides = ["recipe.batch=4", "expert.architecture=small"]
    config, expert = resolve({**GIVEN, "seed": 2}, tmp_path / "a.yaml", overrides)
    assert (config.run.seed, config.recipe.batch, config.recipe.learning_rate) == (2, 4, 3e-5)
    assert (config.optimiser.betas, expert.architecture) == ((0.5, 0.999), "small")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speed=9", "speed: expected a key of data, optimiser, run, expert, recipe, got speed=9"),
        ("recipe.stpes=9", r"recipe\.stpes: unknown setting, expected one of .*; did you mean steps\?"),
        ("recipes.clips=9", r"did you mean recipe\.clips\?"),
        ("expert.size=9", r"expert\.size: unknown setting, expected one of audio, visual"),
        ("steps=10", r"steps: steps is recipe\.steps now, got steps=10"),
        ("align_steps=10", r"align_steps is recipe\.aligner_steps now"),
        ("recipe.align_steps=10", r"align_steps is recipe\.aligner_steps now"),
        ("optimiser.steps=10", r"optimiser\.steps: steps is recipe\.steps now"),
        ("recipe.steps=10", "for the recipe mouth_first, got a setting of contrast and random_pairs"),
        ("recipe.batch=10", "for the recipe mouth_first, got a setting of random_pairs"),
        ("recipe.clips=many", "recipe.clips: expected int, got 'many'"),
        ("recipe.clips=2.5", "recipe.clips: expected int, got 2.5"),
        ("recipe.learning_rate=fast", "recipe.learning_rate: expected float, got 'fast'"),
        ("data.augment=1", "data.augment: expected bool, got 1"),
        ("clips", "expected section.key=value, got 'clips'"),
        ("optimiser.precision=fp8", "optimiser.precision: expected one of fp32, bf16, fp16"),
        ("recipe.cross_share=2", "cross_share: expected a share"),
        ("recipe.perturbation=4", "recipe.perturbation: expected a share in .0, 1., got 4"),
        ("recipe.min_shift=1", "recipe.min_shift: expected 2 to 4 frames, got 1"),
        ("recipe.joint_steps=-1", "recipe.joint_steps: expected 0 or more, got -1"),
        ("run.freeze=both", "run.freeze: expected one of None, visual, audio, got 'both'"),
        ("run.freeze=audio", r"run\.freeze: expected an expert to take the audio tower from"),
        ("hold=audio", "hold is run.freeze now"),
        ("data.hubert=hubert-small", r"data\.hubert: hubert is data\.audio_model now"),
        ("hubert=hubert-small", r"hubert is data\.audio_model now"),
        ("audio_model=whisper-base", r"audio_model is data\.audio_model now"),
        ("expert.hubert_layer=4", r"expert\.hubert_layer: hubert_layer is expert\.audio_layer now"),
        ("overfit=64", "is the command `unisync check-training` now"),
        ("mix=[]", "mix was removed"),
        ("expert.crop=face", "crop was removed"),
        ("expert.audio=mfcc", "audio: expected one of mel, hubert"),
        ("recipe.frames=4", "recipe.frames: expected 5 or more"),
        ("optimiser.betas=0.9", r"optimiser.betas: expected two numbers in \[0, 1\), got \[0\.9\]"),
        ("recipe.name=contrast", "expected mouth_first or random_pairs for a small expert on rgb from scratch"),
        ("recipe.name=paper", "recipe.name: expected one of contrast, mouth_first, random_pairs"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        resolve(GIVEN, None, [override])


def test_settings_without_effect_are_refused():
    points = {**GIVEN, "visual": "landmarks"}
    with pytest.raises(ValueError, match="expected 0 for an expert without a mouth aligner to train, got 5"):
        resolve({**points, "preset": "paper"}, None, ["recipe.aligner_steps=5"])
    with pytest.raises(ValueError, match=r"recipe\.perturbation: expected 0 for a small expert on landmarks"):
        resolve(points, None, ["recipe.perturbation=0.01"])
    with pytest.raises(ValueError, match="for the recipe contrast, got a setting of mouth_first"):
        resolve(points, None, ["recipe.joint_steps=5"])
    with pytest.raises(ValueError, match=r"expected contrast or random_pairs .* on landmarks from scratch"):
        resolve(points, None, ["recipe.name=mouth_first"])
    with pytest.raises(ValueError, match="that starts from --init, got mouth_first"):
        resolve({**GIVEN, "init": ["mel-rgb"]}, None, ["recipe.name=mouth_first"])
    with pytest.raises(ValueError, match=r"recipe\.joint_steps: expected 1 or more where sync_steps is 0"):
        resolve(GIVEN, None, ["recipe.joint_steps=0", "recipe.sync_steps=0"])


def test_the_preset_is_checked():
    with pytest.raises(ValueError, match="preset: expected one of fast, paper, got 'slow'"):
        resolve({**GIVEN, "preset": "slow"})


def test_an_expert_is_like_the_one_it_starts_from(tmp_path):
    values = {"embedding": 16, "audio_model": "tiny/hubert", "audio_features": 32, "audio_layer": 2}
    start = UniSyncConfig(audio="hubert", visual="landmarks", visual_features=60, **values)
    save_pretrained(UniSyncExpert(start), tmp_path)
    _, expert = resolve({**GIVEN, "init": str(tmp_path)})
    assert (expert.name, expert.visual_features, expert.margin_same) == ("hubert-landmarks", 60, 0.3)
    assert {name: getattr(expert, name) for name in values} == values
    _, expert = resolve({**GIVEN, "init": str(tmp_path), "audio": "mel"}, None, ["expert.embedding=8"])
    sizes = expert.visual_features, expert.audio_features, expert.embedding
    assert (expert.name, sizes) == ("mel-landmarks", (60, 80, 8))


def test_a_file_of_an_earlier_version_names_what_became_of_its_settings(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {mix: [], hold: null, steps: 15, keep: 3}\nexpert: {}\n")
    message = f"mix {MOVED['mix']}, hold is run.freeze now, steps is recipe.steps now, keep was removed"
    with pytest.raises(ValueError, match=message):
        resolve(GIVEN, tmp_path / "a.yaml")


def test_other_files_are_refused(tmp_path):
    for text in ("model: {}", "[1, 2]", "a: b: c", "run: 3"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"a\.yaml: expected"):
            resolve(GIVEN, tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="expected --data"):
        resolve({"out": "run"})


def test_a_preset_beside_a_file_of_another_is_refused(tmp_path):
    """A run's own file holds every value: the preset would change nothing."""
    (tmp_path / "a.yaml").write_text("preset: fast\n")
    assert resolve({**GIVEN, "preset": "fast"}, tmp_path / "a.yaml") == resolve(GIVEN, tmp_path / "a.yaml")
    with pytest.raises(ValueError, match=r"preset: expected fast, the preset of .*a\.yaml, or none, got paper"):
        resolve({**GIVEN, "preset": "paper"}, tmp_path / "a.yaml")


def test_a_list_in_place_of_a_name():
    options = {"folders": ["clips"], "out": "out"}
    with pytest.raises(ValueError, match=r"audio: expected one of mel, hubert, whisper, got \[\]"):
        resolve(options, overrides=["expert.audio=[]"])


def test_aliases_are_refused(tmp_path):
    """Nested, a hundred bytes of them are gigabytes."""
    bomb = "data: &a [x]\n" + "".join(f"k{number}: &b{number} [*a, *a]\n" for number in range(3))
    (tmp_path / "config.yaml").write_text(bomb)
    with pytest.raises(ValueError, match=r"config\.yaml: expected YAML.*aliases"):
        resolve({}, tmp_path / "config.yaml")
