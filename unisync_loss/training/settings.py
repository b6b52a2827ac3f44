"""Settings of a run from presets, a YAML file, command line options and KEY=VALUE, in this order."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from unisync_loss.config import RENAMED_FIELDS, RETIRED_FIELDS, SIDE_FIELDS, UniSyncConfig
from unisync_loss.models.pretrained import load_expert
from unisync_loss.training.config import (
    RECIPES,
    DataConfig,
    MouthFirstRecipe,
    OptimiserConfig,
    RunConfig,
    TrainConfig,
    usual_recipe,
)
from unisync_loss.training.data.loading import stored_coefficients
from unisync_loss.video.expressions import EXPRESSIONS

Values = dict[str, dict[str, Any]]
Config = TypeVar("Config")

#: eq. 1 margins of same-speaker and of cross-speaker negatives, the paper's best by audio (Table V, without Whisper)
MARGINS = {"mel": (0.1, 0.3), "hubert": (0.3, 0.7), "whisper": (0.1, 0.3)}
#: differences from the defaults of the config classes, which are the preset ``fast``
PRESETS: dict[str, Values] = {
    "fast": {},
    "paper": {
        # UniSync, section IV-A: Adam, rate, betas and weight decay; the other settings switch off what it does not name
        "recipe": {"name": "random_pairs", "skip_silence": False, "learning_rate": 1e-4},
        "data": {"augment": False},
        "optimiser": {
            "kind": "adam",
            "betas": (0.5, 0.999),
            "weight_decay": 1e-4,  # added to the gradient: the L2 term of eq. 3
            "schedule": "constant",
            "warm_up": 0,
            "clip_norm": 0.0,
            "ema": 0.0,
        },
        "expert": {"architecture": "paper"},
    },
}
_SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "optimiser": OptimiserConfig,
    "run": RunConfig,
    "expert": UniSyncConfig,
}
_SELF_TEST = "is the command `unisync check-training` now"
_REMOVED = "was removed"
#: what became of settings of earlier versions
MOVED: dict[str, str] = {
    **{
        field.name: f"is {section}.{field.name} now"
        for section in ("data", "optimiser", "run")
        for field in fields(_SECTIONS[section])
    },
    **{field.name: f"is recipe.{field.name} now" for recipe in RECIPES.values() for field in fields(recipe)},
    "align_steps": "is recipe.aligner_steps now",
    "pairs": "is recipe.name now (contrast, mouth_first or random_pairs)",
    "data": "is data.folders now",
    "optimiser": "is optimiser.kind now",
    "hold": "is run.freeze now",
    "hubert": "is data.audio_model now",
    "preset": "is --preset now, or preset: at the top of the file",
    **{old: f"is expert.{new} now" for old, new in RENAMED_FIELDS.items()},
    **dict.fromkeys(("overfit", "shuffle_labels"), _SELF_TEST),
    **dict.fromkeys(("mix", "far_shift", "curriculum_steps", "keep", *RETIRED_FIELDS), _REMOVED),
}


def resolve(
    options: Mapping[str, Any], file: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[TrainConfig, UniSyncConfig]:
    """Merge a run's settings; later sources win.

    Args:
        options: command line options by name: ``preset``, ``audio``, ``visual`` and fields of :class:`DataConfig` and
            :class:`RunConfig`; None was not given.
        file: YAML as ``RUN/config.yaml``: ``preset:`` and the sections ``data:``, ``optimiser:``, ``run:``, ``recipe:``
            and ``expert:``, any of them.
        overrides: ``section.key=value``; the value is YAML.

    Returns:
        Settings of the run and of the expert. Whatever is not given of the expert is that of ``run.init``, if any.

    Raises:
        ValueError: for an unknown key, a key of another recipe or of an earlier version, a value of another type or out
            of range, a recipe that does not fit the expert, or missing ``data.folders`` or ``run.out``.
        FileNotFoundError: if the file does not exist.
    """
    given: Values = {name: {} for name in (*_SECTIONS, "recipe")}
    chosen = options.get("preset")
    preset = _read(file, given, chosen) if file is not None else chosen or "fast"
    for name, value in options.items():
        if value is not None and name != "preset":
            section = next(part for part, kind in _SECTIONS.items() if name in get_type_hints(kind))
            given[section][name] = value
    for override in overrides:
        _override(override, given)
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    values = {name: PRESETS[preset].get(name, {}) | part for name, part in given.items()}
    missing = [option for option, part, name in _REQUIRED if not values[part].get(name)]
    if missing:
        raise ValueError(f"expected {' and '.join(missing)}, or data.folders and run.out in --config")
    data = _build(DataConfig, "data", values["data"])
    optimiser = _build(OptimiserConfig, "optimiser", values["optimiser"])
    run = _build(RunConfig, "run", values["run"])
    inherited: dict[str, Any] = {}
    for init in run.init:
        inherited |= _inherited(init, values["expert"])
    wanted = {**inherited, **values["expert"]}
    if wanted.get("visual") == "3dmm" and "visual_features" not in wanted:
        width = stored_coefficients(data.folders)
        wanted |= {"visual_features": width} if width else {}
    expert = expert_config(**wanted)
    recipe = _recipe(values["recipe"], expert, run)
    config = TrainConfig(data=data, optimiser=optimiser, run=run, recipe=recipe)
    config.check(expert)
    return config, expert


_REQUIRED = (("--data", "data", "folders"), ("--out", "run", "out"))


def _recipe(values: dict[str, Any], expert: UniSyncConfig, run: RunConfig) -> Any:  # noqa: ANN401 - one of three types
    """Build the recipe named by its settings, by default the usual one of the expert."""
    values = {"name": usual_recipe(expert, run.init), **values}
    name = values.pop("name")
    if name not in RECIPES:
        raise ValueError(f"recipe.name: expected one of {', '.join(RECIPES)}, got {name!r}")
    usual: dict[str, Any] = {}
    if name == "random_pairs" and expert.has_mouth_aligner and not run.init:
        usual["aligner_steps"] = MouthFirstRecipe.aligner_steps
    if name == "contrast" and expert.has_mouth_aligner:  # what starts from an expert has its last stage only
        usual["learning_rate"] = MouthFirstRecipe.joint_learning_rate
    return _build(RECIPES[name], "recipe", usual | values)


def _inherited(init: str, expert: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an expert takes from the one it starts from: sizes, and the representations of both sides."""
    trained = load_expert(init).config
    values: dict[str, Any] = {"architecture": trained.architecture, "embedding": trained.embedding}
    for side, names in SIDE_FIELDS.items():
        if expert.get(side, getattr(trained, side)) == getattr(trained, side):
            values |= {name: getattr(trained, name) for name in (side, *names)}
    return values


def expert_config(audio: str = "mel", visual: str = "rgb", **values: object) -> UniSyncConfig:
    """Config of an expert trained from video files: margins by audio, coefficients of our own face model.

    Raises:
        ValueError: for an unknown field or representation.
    """
    same, cross = MARGINS.get(str(audio), MARGINS["mel"])  # of whatever a file says: the config checks it
    usual: dict[str, Any] = {"margin_same": same, "margin_cross": cross}
    if visual == "3dmm":
        usual["visual_features"] = EXPRESSIONS
    return _build(UniSyncConfig, "expert", {"audio": audio, "visual": visual, **usual, **values})


def to_yaml(config: TrainConfig, expert: UniSyncConfig) -> str:
    """Write settings as a file that :func:`resolve` reads."""
    import yaml

    values = as_dict(config) | {"expert": asdict(expert)}
    plain = {part: {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for part, row in values.items()}
    return yaml.safe_dump(plain, sort_keys=False)


def as_dict(config: TrainConfig) -> Values:
    """Settings by section, with the name of the recipe."""
    values = asdict(config)
    return values | {"recipe": {"name": config.recipe.name, **values["recipe"]}}


def _read(file: Path, given: Values, chosen: str | None) -> str:
    """Read a file's settings into ``given``; returns the preset, the file's or the chosen one."""
    import yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("aliases (*name), by which a small file can grow without bounds")
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the second for bytes, dates and numbers
        raise ValueError(f"{file}: expected YAML, got text that does not parse ({error})") from error
    if isinstance(values, dict) and isinstance(values.get("train"), dict):
        moved = ", ".join(f"{key} {MOVED.get(key, _REMOVED)}" for key in values["train"])
        raise ValueError(f"{file}: expected the sections {', '.join(given)}, got train: of an earlier version: {moved}")
    if not isinstance(values, dict) or not set(values) <= {*given, "preset"}:
        raise ValueError(f"{file}: expected preset and the sections {', '.join(given)}, got {values or 'nothing'}")
    preset = str(values.pop("preset", chosen or "fast"))
    if chosen not in (None, preset):
        # a run's file holds every value, so that another preset would change nothing
        raise ValueError(f"preset: expected {preset}, the preset of {file}, or none, got {chosen}")
    for section, part in values.items():
        if part is not None and not isinstance(part, dict):
            raise ValueError(f"{file}: expected {section}: to have settings, got {part!r}")
        given[section].update(part or {})
    return preset


def _override(override: str, given: Values) -> None:
    """Set one ``section.key=value``."""
    import yaml

    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not equals:
        raise ValueError(f"expected section.key=value, got {override!r}")
    if not dot and key in MOVED:
        raise ValueError(f"{key}: {key} {MOVED[key]}, got {override}")
    if not dot or section not in given:
        known = [f"{part}.{name}" for part in given for name in _known(part)]
        raise ValueError(f"{key}: expected a key of {', '.join(given)}, got {override}{_did_you_mean(key, known)}")
    try:
        given[section][name] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{key}: expected a value in YAML, got {text!r}") from error


def _known(section: str) -> list[str]:
    """Keys of a section; of the recipe, those of all recipes."""
    kinds = RECIPES.values() if section == "recipe" else [_SECTIONS[section]]
    return list(dict.fromkeys(name for kind in kinds for name in _types(kind)))


def _types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    """Suggest the nearest known key, also for a key without its section."""
    plain = {name.rpartition(".")[2]: name for name in known}
    near = get_close_matches(key, known, 1) or [plain[name] for name in get_close_matches(key, plain, 1)]
    return f"; did you mean {near[0]}?" if near else ""


def _build(kind: type[Config], section: str, values: Mapping[str, Any]) -> Config:
    """Build the config of a section, numbers as YAML writes them."""
    types = _types(kind)
    for name in values:
        if name in types:
            continue
        key, expected = f"{section}.{name}", f"one of {', '.join(types)}"
        owners = [recipe for recipe, other in RECIPES.items() if name in _types(other)] if section == "recipe" else []
        if owners:
            recipe = next(recipe for recipe, other in RECIPES.items() if other is kind)
            raise ValueError(
                f"{key}: expected {expected} for the recipe {recipe}, got a setting of {' and '.join(owners)}"
            )
        if name in MOVED:
            raise ValueError(f"{key}: {name} {MOVED[name]}")
        raise ValueError(f"{key}: unknown setting, expected {expected}{_did_you_mean(name, _known(section))}")
    return kind(**{name: _cast(f"{section}.{name}", value, types[name]) for name, value in values.items()})


def _cast(name: str, value: object, hint: object) -> object:
    if value is None and type(None) in get_args(hint):
        return None
    wanted = next((part for part in get_args(hint) if part is not type(None)), hint) if get_args(hint) else hint
    if get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_cast(name, item, get_args(hint)[0]) for item in items)
    if wanted not in (str, bool, int, float):
        return value  # a choice of the expert's config, which checks it
    if wanted is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)  # YAML reads 1e-4 as text
    if type(value) is wanted:
        return value
    raise ValueError(f"{name}: expected {wanted.__name__}, got {value!r}")
