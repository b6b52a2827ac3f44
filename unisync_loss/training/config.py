"""Settings of a training run, by section: data, optimiser, run and recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from unisync_loss.config import WINDOW_FRAMES, UniSyncConfig
from unisync_loss.evaluation.offsets import MIN_SHIFT
from unisync_loss.training.data.pairs import SHORTEST, PairSampling
from unisync_loss.training.mouth_stages import GeometryStage, JointStage, MouthAlignerStage, SyncStage
from unisync_loss.training.stages import BatchSize, ContrastStage, RandomPairStage, SegmentSampling, StageSpec

ALIGNER_RATE = 1e-3  # learning rate of the aligner stage before random pairs


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips to train on.

    Args:
        folders: training folders or stores.
        val: validation folder; without one, no best checkpoint is kept and no threshold is chosen.
        cache: folder of the clip cache, which runs may share; None is ``OUT/cache``.
        audio_model: HuBERT or Whisper of the audio features, ``owner/name[@revision]``, a bundled name or a folder;
            None is the expert's.
        workers: number of processes that fill the cache.
        augment: augmentation and dropout.
    """

    folders: tuple[str, ...]
    val: str | None = None
    cache: str | None = None
    audio_model: str | None = None
    workers: int = os.cpu_count() or 1
    augment: bool = True  # the preset `paper` has none, as the paper names none

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least(self, "data", 1, "workers")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Optimiser, learning rate schedule and arithmetic of a step.

    Args:
        kind: ``"adamw"`` (decays weights with more than one axis) or ``"adam"`` (L2 term on all parameters).
        betas: two numbers.
        weight_decay: of the optimiser.
        schedule: ``"cosine"`` or ``"constant"``, after the warm-up.
        warm_up: number of steps; None is a tenth of the stage, at most 100.
        clip_norm: largest norm of the gradient; 0 does not clip.
        accumulate: batches per step.
        ema: decay of the averaged weights that are validated and saved; 0 saves the weights themselves.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` autocast; sync probabilities are always float32.
        compile: compile the networks.
    """

    kind: str = "adamw"
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.2  # at 0.05 mel-rgb 0.1 overfitted: AUC 0.958 on training clips, 0.895 on val
    schedule: str = "cosine"
    warm_up: int | None = None
    clip_norm: float = 5.0
    accumulate: int = 1
    ema: float = 0.998  # a mean over about 500 steps; young averages are shorter, see step.update_average
    precision: str = "fp32"
    compile: bool = False  # on a CPU it takes minutes per stage (docs/training.md)

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        _one_of("optimiser.kind", self.kind, ("adamw", "adam"))
        _one_of("optimiser.schedule", self.schedule, ("cosine", "constant"))
        _one_of("optimiser.precision", self.precision, ("fp32", "bf16", "fp16"))
        _at_least(self, "optimiser", 0, "weight_decay", "clip_norm")
        _at_least(self, "optimiser", 1, "accumulate")
        if self.warm_up is not None:
            _at_least(self, "optimiser", 0, "warm_up")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimiser.betas: expected two numbers in [0, 1), got {list(self.betas)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optimiser.ema: expected a number in [0, 1), got {self.ema}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run writes, what it starts from, and how often it validates and saves.

    Args:
        out: folder of the run.
        seed: of all random draws.
        device: ``"cpu"`` or ``"cuda"``; None is a GPU if there is one.
        init: experts to start from, as ``load_expert`` takes them. Each gives the towers that match the trained expert;
            a later one overrides an earlier one, and towers without a match start at random.
        freeze: ``"visual"`` or ``"audio"``: the tower that ``init`` gives and that is not trained.
        val_every: steps between validations.
        plateau_steps: steps at the chance-level loss before a diagnosis; 0 for none.
        save_minutes: minutes between saves of the state.
    """

    out: str
    seed: int = 0
    device: str | None = None
    init: tuple[str, ...] = ()
    freeze: str | None = None
    val_every: int = 200
    plateau_steps: int = 1000  # 576,000 windows of the default batch; `fast` reaches AUC 0.75 after a tenth
    save_minutes: float = 3.0  # the most that a killed run loses

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        _one_of("run.freeze", self.freeze, (None, "visual", "audio"))
        _at_least(self, "run", 1, "val_every")
        _at_least(self, "run", 0, "seed", "plateau_steps", "save_minutes")
        if self.freeze and not self.init:
            raise ValueError(f"run.freeze: expected an expert to take the {self.freeze} tower from (--init), got none")


@dataclass(frozen=True, kw_only=True)
class _SegmentRecipe(SegmentSampling):
    """What recipes on all pairs of a batch of segments share.

    Args:
        perturbation: largest adversarial change of a pixel in the joint stage of small experts on rgb, in [0, 1]; 0 for
            none. It makes a better loss for generators, at twice the cost of a step and some accuracy.
        perturbed: share of the segments that are changed.
    """

    perturbation: float = 0.0
    perturbed: float = 0.8
    positive_share: ClassVar[float] = 0.5  # each window's match weighs as much as all its mismatches

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least(self, "recipe", 1, "clips", "segments")
        _at_least(self, "recipe", WINDOW_FRAMES, "frames")
        for name in ("cross_share", "perturbation", "perturbed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"recipe.{name}: expected a share in [0, 1], got {getattr(self, name)}")
        if not MIN_SHIFT <= self.min_shift < WINDOW_FRAMES:
            raise ValueError(
                f"recipe.min_shift: expected {MIN_SHIFT} to {WINDOW_FRAMES - 1} frames, got {self.min_shift}"
            )

    @property
    def shortest(self) -> int:
        """Frames that a training clip must have."""
        return self.frames

    def _batch(self, augment: bool, shuffled: bool) -> BatchSize:
        sampling = {field.name: getattr(self, field.name) for field in fields(SegmentSampling)}
        return BatchSize(**sampling, augment=augment, shuffled=shuffled)

    def _joint(self, batch: BatchSize) -> JointStage:
        return JointStage(batch, perturbation=self.perturbation, perturbed=self.perturbed)


@dataclass(frozen=True, kw_only=True)
class ContrastRecipe(_SegmentRecipe):
    """Contrast of all pairs of a batch, in one stage. For every expert except a new ``small`` one on rgb.

    Batches are those of :class:`SegmentSampling`.

    Args:
        steps: number of steps.
        learning_rate: peak of the schedule.
    """

    name: ClassVar[str] = "contrast"
    steps: int = 3000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        _at_least(self, "recipe", 1, "steps")
        _at_least(self, "recipe", 0, "learning_rate")

    def stages(self, expert: UniSyncConfig, fresh: bool, augment: bool, shuffled: bool) -> list[StageSpec]:
        """See :meth:`TrainConfig.stages`."""
        batch = self._batch(augment, shuffled)
        if expert.has_mouth_aligner:
            return [StageSpec("joint", self._joint(batch), self.steps, self.learning_rate)]
        return [StageSpec("sync", ContrastStage(batch), self.steps, self.learning_rate)]


@dataclass(frozen=True, kw_only=True)
class MouthFirstRecipe(_SegmentRecipe):
    """Four stages for a new ``small`` expert on rgb; see :mod:`unisync_loss.training.mouth_stages`.

    Batches are those of :class:`SegmentSampling`.

    Args:
        aligner_steps: steps of the mouth aligner. With 0 the threshold is that of mouths cut by landmarks.
        geometry_steps: steps of mouth motion from pixels.
        sync_steps: steps of contrast on the measured motion.
        joint_steps: steps of contrast on pixels, with everything but the aligner trained.
        learning_rate: peak of the schedule of the first three stages.
        joint_learning_rate: the same of the joint stage.
    """

    name: ClassVar[str] = "mouth_first"
    aligner_steps: int = 3000  # steps as for mel-rgb 0.1
    geometry_steps: int = 800
    sync_steps: int = 1000
    joint_steps: int = 3000  # mel-rgb: 1,200, and 1,500 more with stronger augmentation
    learning_rate: float = 1e-3
    joint_learning_rate: float = 7e-4  # that of mel-rgb

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        _at_least(self, "recipe", 0, "aligner_steps", "geometry_steps", "sync_steps", "joint_steps")
        _at_least(self, "recipe", 0, "learning_rate", "joint_learning_rate")
        if self.sync_steps + self.joint_steps == 0:
            raise ValueError("recipe.joint_steps: expected 1 or more where sync_steps is 0, got 0")

    def stages(self, expert: UniSyncConfig, fresh: bool, augment: bool, shuffled: bool) -> list[StageSpec]:
        """See :meth:`TrainConfig.stages`."""
        batch = self._batch(augment, shuffled)
        return [
            StageSpec("align", MouthAlignerStage(), self.aligner_steps, self.learning_rate),
            StageSpec("geometry", GeometryStage(batch), self.geometry_steps, self.learning_rate),
            StageSpec("sync", SyncStage(batch), self.sync_steps, self.learning_rate),
            StageSpec("joint", self._joint(batch), self.joint_steps, self.joint_learning_rate),
        ]


@dataclass(frozen=True, kw_only=True)
class RandomPairsRecipe(PairSampling):
    """The paper's recipe: random pairs and eq. 1 (section III-B). Shares and shifts are those of :class:`PairSampling`.

    Args:
        steps: number of steps.
        learning_rate: peak of the schedule.
        batch: pairs per batch.
        aligner_steps: steps of the mouth aligner before, at a learning rate of 1e-3. Only a new ``small`` expert on rgb
            has one (3000 unless given); 0 for all others.
        skip_silence: two silent windows are not a negative.
    """

    name: ClassVar[str] = "random_pairs"
    shortest: ClassVar[int] = SHORTEST
    steps: int = 3000
    learning_rate: float = 1e-3  # 1e-4 in the preset `paper`
    batch: int = 64  # UniSync, section IV-A
    aligner_steps: int = 0
    skip_silence: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        _at_least(self, "recipe", 1, "steps", "batch")
        _at_least(self, "recipe", 0, "aligner_steps", "learning_rate")

    def stages(self, expert: UniSyncConfig, fresh: bool, augment: bool, shuffled: bool) -> list[StageSpec]:
        """See :meth:`TrainConfig.stages`."""
        pairs = RandomPairStage(self, self.batch, augment, self.skip_silence, shuffled)
        aligner = StageSpec("align", MouthAlignerStage(), self.aligner_steps, ALIGNER_RATE)
        last = StageSpec("pairs", pairs, self.steps, self.learning_rate)
        return [aligner, last] if expert.has_mouth_aligner and fresh else [last]


Recipe = ContrastRecipe | MouthFirstRecipe | RandomPairsRecipe
RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (ContrastRecipe, MouthFirstRecipe, RandomPairsRecipe)
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a run depends on besides the expert's own config; saved as ``RUN/config.yaml``.

    Args:
        data: clips.
        optimiser: optimiser and schedule.
        run: folder, seed, start, intervals.
        recipe: stages, batches and learning rates.
    """

    data: DataConfig
    run: RunConfig
    recipe: Recipe
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def check(self, expert: UniSyncConfig) -> None:
        """Check that the recipe fits the expert.

        Raises:
            ValueError: if it does not, or if one of its settings would have no effect.
        """
        name, usual = self.recipe.name, usual_recipe(expert, self.run.init)
        radius = self.recipe.perturbation if isinstance(self.recipe, _SegmentRecipe) else 0.0
        if radius > 0 and not expert.has_mouth_aligner:
            raise ValueError(
                f"recipe.perturbation: expected 0 for a {expert.architecture} expert on {expert.visual}, which learns "
                f"from no mouth crops, got {radius}"
            )
        fresh = expert.has_mouth_aligner and not self.run.init
        if name not in (usual, "random_pairs"):
            start = "that starts from --init" if self.run.init else "from scratch"
            raise ValueError(
                f"recipe.name: expected {usual} or random_pairs for a {expert.architecture} expert on {expert.visual} "
                f"{start}, got {name}"
            )
        if isinstance(self.recipe, RandomPairsRecipe) and self.recipe.aligner_steps and not fresh:
            raise ValueError(
                "recipe.aligner_steps: expected 0 for an expert without a mouth aligner to train, "
                f"got {self.recipe.aligner_steps}"
            )

    def stages(self, expert: UniSyncConfig, *, shuffled: bool = False) -> list[StageSpec]:
        """Stages of the recipe.

        Args:
            expert: config of the expert to be trained.
            shuffled: pair audio with other clips' video, so that nothing can be learnt.
        """
        return self.recipe.stages(expert, not self.run.init, self.data.augment, shuffled)


def usual_recipe(expert: UniSyncConfig, init: tuple[str, ...]) -> str:
    """Name of the recipe of preset ``fast``: four stages for a new small expert on rgb, one for all others."""
    # other representations leave the plateau without stages of their own, and an expert to start from has left it
    return "mouth_first" if expert.has_mouth_aligner and not init else "contrast"


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def _at_least(config: object, section: str, lowest: int, *names: str) -> None:
    for name in names:
        value: Any = getattr(config, name)
        if not value >= lowest:
            raise ValueError(f"{section}.{name}: expected {lowest} or more, got {value}")
