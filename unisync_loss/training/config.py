"""What a training run depends on: presets, a YAML file, ``key=value``; and the stages that follow from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from unisync_loss.config import RETIRED_FIELDS, UniSyncConfig
from unisync_loss.models.pretrained import load_expert
from unisync_loss.training.data.loading import stored_coefficients
from unisync_loss.training.data.pairs import PairSampling
from unisync_loss.training.mouth_stages import GeometryStage, JointStage, MouthAlignerStage, SyncStage
from unisync_loss.training.stages import BatchSize, ContrastStage, RandomPairStage, Stage
from unisync_loss.video.expressions import EXPRESSIONS

#: eq. 1 margins of same-speaker and of cross-speaker negatives, the paper's best by audio (Table V)
MARGINS = {"mel": (0.1, 0.3), "hubert": (0.3, 0.7)}
#: what differs from the defaults of :class:`TrainConfig`, which are the preset ``fast``
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "pairs": "random",
        "skip_silence": False,
        "augment": False,  # the paper names none
        "learning_rate": 1e-4,
        "optimiser": "adam",
        "betas": (0.5, 0.999),
        "weight_decay": 1e-4,
        "schedule": "constant",
        "warm_up": 0,
        "clip_norm": 0.0,
        "ema": 0.0,
    },
}
_CHOICES = {
    "preset": tuple(PRESETS),
    "freeze": (None, "visual", "audio"),
    "pairs": ("all", "random"),
    "optimiser": ("adamw", "adam"),
    "schedule": ("cosine", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
}
#: settings that a ``config.yaml`` of an earlier version may have, with what became of each
_RETIRED = {
    "hold": "was renamed freeze",
    "mix": "was removed",
    "far_shift": "was removed",
    "curriculum_steps": "was removed",
    "keep": "was removed",
    **{name: "was removed" for name in RETIRED_FIELDS},
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PairSampling):
    """Everything that a run depends on beside the expert's own config; saved as ``RUN/config.yaml``.

    The settings of random pairs are those of :class:`PairSampling`; of all pairs, ``cross_share`` weighs
    negatives, and ``min_shift`` (2 at least) says how near those of a clip may be.

    Args:
        data: training folders or stores.
        out: folder of the run.
        val: validation folder; none stops the run from keeping a best checkpoint and choosing a threshold.
        cache: folder of the clip cache, shared by runs; default ``OUT/cache``.
        init: experts to start from, as ``load_expert`` takes them: each gives the towers that see or hear the same, the
            last one's count; others start at random.
        freeze: ``"visual"`` or ``"audio"``: that tower, taken over by ``init``, is not trained.
        hubert: HuBERT of the features, ``owner/name[@revision]`` or a folder; None is the expert's.
        preset: ``"fast"`` or ``"paper"``, already applied to the values here.
        seed: of everything drawn.
        align_steps: steps of the aligner stage (small experts on rgb); with 0, the threshold is that of mouths cut by
            landmarks.
        geometry_steps: steps of the mouth-motion stage (the same, preset fast).
        sync_steps: steps of contrast on the measured motion (the same).
        joint_steps: steps of contrast with everything unfrozen (the same).
        steps: steps of the one stage of all others.
        pairs: ``"all"`` of a batch of segments, or ``"random"`` ones, see :class:`PairSampling`.
        clips: clips of a batch of all pairs.
        segments: segments of each clip.
        frames: frames of a segment.
        batch: random pairs of a batch.
        skip_silence: two silent windows are no negative.
        learning_rate: peak of the schedule.
        joint_learning_rate: the same for the joint stage.
        optimiser: ``"adamw"`` (decay of weights with more than one axis) or ``"adam"`` (coupled, of everything).
        betas: of the optimiser.
        weight_decay: of the optimiser.
        schedule: ``"cosine"`` or ``"constant"``.
        warm_up: steps; None is a tenth of the stage, at most 100.
        clip_norm: largest norm of the gradient; 0 leaves it as it is.
        accumulate: batches a step.
        ema: decay of the averaged weights that are validated and saved; 0 saves the weights themselves.
        augment: augmentation and dropout.
        shuffle_labels: self-test: nothing can be learnt, the loss must stay on the plateau.
        overfit: self-test: so many windows and no others, without augmentation; 0 trains.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` autocast; the probability is always fp32.
        compile: compile the networks.
        device: ``"cpu"``, ``"cuda"``; None is a GPU where there is one.
        val_every: steps between validations.
        plateau_steps: steps on the plateau before a diagnosis.
        save_minutes: minutes between saves of the state.
        workers: processes that fill the cache.

    Raises:
        ValueError: for a value outside its choices or range.
    """

    data: tuple[str, ...]
    out: str
    val: str | None = None
    cache: str | None = None
    init: tuple[str, ...] = ()
    freeze: str | None = None
    hubert: str | None = None
    preset: str = "fast"
    seed: int = 0
    align_steps: int = 3000
    geometry_steps: int = 800
    sync_steps: int = 1000
    joint_steps: int = 3000
    steps: int = 3000
    pairs: str = "all"
    clips: int = 32
    segments: int = 2
    frames: int = 13
    batch: int = 64
    skip_silence: bool = True
    learning_rate: float = 1e-3
    joint_learning_rate: float = 7e-4
    optimiser: str = "adamw"
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.2
    schedule: str = "cosine"
    warm_up: int | None = None
    clip_norm: float = 5.0
    accumulate: int = 1
    ema: float = 0.998
    augment: bool = True
    shuffle_labels: bool = False
    overfit: int = 0
    precision: str = "fp32"
    compile: bool = False
    device: str | None = None
    val_every: int = 200
    plateau_steps: int = 1000
    save_minutes: float = 3.0
    workers: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        """Check what no type says."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {getattr(self, name)!r}")
        for name in ("clips", "segments", "batch", "accumulate", "val_every", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("align_steps", "geometry_steps", "sync_steps", "joint_steps", "steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.frames < 5:
            raise ValueError(f"frames: expected 5 or more, got {self.frames}")
        if len(self.betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {list(self.betas)}")
        if self.freeze and not self.init:
            raise ValueError(f"freeze: expected an expert to take the {self.freeze} tower from (init), got none")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected a number in [0, 1), got {self.ema}")
        super().__post_init__()

    def stages(self, expert: UniSyncConfig) -> list[tuple[str, Stage[Any], int, float]]:
        """Name, objective, steps and learning rate of every stage.

        Args:
            expert: small experts on rgb have stages of their own, of which a run that starts from an expert (``init``)
                has the last one only.
        """
        augment, shuffled = self.augment, self.shuffle_labels
        size = BatchSize(self.clips, self.segments, self.frames, self, self.skip_silence, augment, shuffled)
        align: tuple[str, Stage[Any], int, float] = ("align", MouthAlignerStage(), self.align_steps, 1e-3)
        if self.pairs == "random":
            pairs = RandomPairStage(self, self.batch, augment, self.skip_silence, shuffled)
            before = [align] if expert.has_mouth_aligner and not self.init else []
            return [*before, ("pairs", pairs, self.steps, self.learning_rate)]
        if not expert.has_mouth_aligner:
            return [("sync", ContrastStage(size), self.steps, self.learning_rate)]
        joint: tuple[str, Stage[Any], int, float] = (
            "joint",
            JointStage(size),
            self.joint_steps,
            self.joint_learning_rate,
        )
        if self.init:
            return [joint]
        return [
            ("align", MouthAlignerStage(), self.align_steps, self.learning_rate),
            ("geometry", GeometryStage(size), self.geometry_steps, self.learning_rate),
            ("sync", SyncStage(size), self.sync_steps, self.learning_rate),
            joint,
        ]


def resolve(
    options: Mapping[str, Any], file: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[TrainConfig, UniSyncConfig]:
    """Put a run's settings together: the preset's, then the file's, then the options', then ``key=value``.

    Args:
        options: of the command line by name, among them ``audio``, ``visual`` and ``preset``; None was not given. Where
            there is an ``init``, the expert is like it in all that is not said.
        file: YAML as ``RUN/config.yaml``: ``train:`` and ``expert:`` with the fields of :class:`TrainConfig` and
            :class:`UniSyncConfig`, any of them.
        overrides: ``key=value``, ``expert.key=value`` for the expert's; the value is YAML.

    Returns:
        Settings of the run and of the expert.

    Raises:
        ValueError: for an unknown key, a value of another type or out of range, no data or no folder of the run.
        FileNotFoundError: without the file.
    """
    train, expert = _read(file) if file is not None else ({}, {})
    for name, value in options.items():
        if value is not None:
            (expert if name in ("audio", "visual") else train)[name] = value
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, got {override!r}")
        target, name = (expert, key.removeprefix("expert.")) if key.startswith("expert.") else (train, key)
        try:
            target[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{key}: expected a value in YAML, got {text!r}") from error
    preset = str(train.get("preset", "fast"))
    # a preset that a file was resolved from is in its values already
    train = {**PRESETS.get(preset, {}), **train}
    missing = [name for name in ("data", "out") if not train.get(name)]
    if missing:
        raise ValueError(f"expected {' and '.join(f'--{name}' for name in missing)}, or {missing[0]}: in --config")
    if preset == "paper":
        expert = {"architecture": "paper", **expert}
    config = TrainConfig(**_typed(TrainConfig, train))
    inherited: dict[str, Any] = {}
    for init in config.init:
        inherited |= _inherited(init, expert)
    expert = {**inherited, **expert}
    if expert.get("visual") == "3dmm" and "visual_features" not in expert:
        width = stored_coefficients(config.data)
        expert |= {"visual_features": width} if width else {}
    return config, expert_config(**expert)


def _inherited(init: str, expert: Mapping[str, Any]) -> dict[str, Any]:
    """What an expert has of the one it starts from, where it is not said: sizes, and what is seen and heard."""
    trained = load_expert(init).config
    values: dict[str, Any] = {"architecture": trained.architecture, "embedding": trained.embedding}
    sides = {
        "audio": ("audio_features", "mel_padding", "hubert_model", "hubert_revision", "hubert_layer"),
        "visual": ("visual_features",),
    }
    for side, names in sides.items():
        if expert.get(side, getattr(trained, side)) == getattr(trained, side):
            values |= {name: getattr(trained, name) for name in (side, *names)}
    return values


def expert_config(audio: str = "mel", visual: str = "rgb", **values: object) -> UniSyncConfig:
    """What is trained from video files unless asked otherwise: margins by audio, coefficients of our own face model.

    Raises:
        ValueError: for an unknown field or representation.
    """
    same, cross = MARGINS.get(audio, MARGINS["mel"])
    usual: dict[str, Any] = {"margin_same": same, "margin_cross": cross}
    if visual == "3dmm":
        usual["visual_features"] = EXPRESSIONS
    return UniSyncConfig.from_dict({"audio": audio, "visual": visual, **usual, **_typed(UniSyncConfig, values)})


def to_yaml(train: TrainConfig, expert: UniSyncConfig) -> str:
    """The settings as a file that :func:`resolve` takes."""
    values = {"train": asdict(train), "expert": asdict(expert)}
    plain = {part: {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for part, row in values.items()}
    return yaml.safe_dump(plain, sort_keys=False)


def for_overfitting(config: TrainConfig) -> TrainConfig:
    """The settings of the self-test: few windows, nothing random, every step on the same batch.

    Raises:
        ValueError: for a number of windows that is no multiple of eight.
    """
    if config.overfit % 8 or config.overfit < 16:
        raise ValueError(f"overfit: expected 16, 24, 32 … windows, got {config.overfit}")
    return replace(
        config,
        clips=config.overfit // 8,
        segments=1,
        frames=12,  # eight windows
        batch=config.overfit,
        augment=False,
        skip_silence=False,  # what is asked in the end is every pair
        ema=0.0,
        weight_decay=0.0,
        val=None,
        warm_up=0,
        schedule="constant",
    )


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: expected YAML, got text that does not parse ({error})") from error
    if not isinstance(values, dict) or not set(values) <= {"train", "expert"}:
        raise ValueError(f"{file}: expected the parts train: and expert:, got {values if values else 'nothing'}")
    return dict(values.get("train") or {}), dict(values.get("expert") or {})


def _typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the types of the fields of a dataclass; numbers as YAML writes them."""
    hints = get_type_hints(kind)
    retired = [f"{name} {_RETIRED[name]}" for name in values if name in _RETIRED]
    if retired:
        raise ValueError(f"settings of an earlier version: {', '.join(retired)}")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; expected some of {', '.join(hints)}")
    return {name: _cast(name, value, hints[name]) for name, value in values.items()}


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
        with contextlib.suppress(ValueError):
            return float(value)  # YAML reads 1e-4 as text
    if type(value) is wanted:
        return value
    raise ValueError(f"{name}: expected {wanted.__name__}, got {value!r}")
