"""What a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass

from unisync_loss.config import UniSyncConfig
from unisync_loss.face_model import EXPRESSIONS
from unisync_loss.stages import (
    AlignStage,
    BatchSize,
    ContrastStage,
    GeometryStage,
    JointStage,
    Stage,
    SyncStage,
)

#: eq. 1 margins of same-speaker and of cross-speaker negatives, the paper's best by audio (Table V)
MARGINS = {"mel": (0.1, 0.3), "hubert": (0.3, 0.7)}


def expert_config(audio: str, visual: str) -> UniSyncConfig:
    """What is trained from video files unless asked otherwise: margins by audio, coefficients of our own face model.

    Raises:
        ValueError: for an unknown representation.
    """
    same, cross = MARGINS.get(audio, MARGINS["mel"])
    values = {"audio": audio, "visual": visual, "margin_same": same, "margin_cross": cross}
    return UniSyncConfig.from_dict(values | ({"visual_features": EXPRESSIONS} if visual == "3dmm" else {}))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a run depends on, saved as ``RUN/config.yaml``.

    Args:
        data: training folders.
        init: expert to start from, as ``load_expert`` takes it; towers of another representation start at random.
        hubert: HuBERT of the features, ``owner/name[@revision]`` or a folder; None is the expert's.
        val: validation folder; none stops the run from keeping a best checkpoint and choosing a threshold.
        out: folder of the run.
        cache: folder of the clip cache, shared by runs; default ``OUT/cache``.
        seed: of everything drawn.
        align_steps: steps of the aligner stage.
        geometry_steps: steps of the mouth-motion stage.
        sync_steps: steps of contrast on the measured motion.
        joint_steps: steps of contrast with everything unfrozen.
        steps: steps of contrast for pairs that have no stages: all without colours.
        clips: clips of a batch.
        segments: segments of each clip.
        frames: frames of a segment.
        learning_rate: peak of the cosine schedule.
        joint_learning_rate: the same for the last stage.
        weight_decay: decoupled, of weights with more than one axis.
        ema: decay of the averaged weights that are validated and saved.
        val_every: steps between validations.
        save_minutes: minutes between saves of the state.
        workers: processes that fill the cache.
    """

    data: tuple[str, ...]
    out: str
    val: str | None = None
    cache: str | None = None
    init: str | None = None
    hubert: str | None = None
    seed: int = 0
    align_steps: int = 3000
    geometry_steps: int = 800
    sync_steps: int = 1000
    joint_steps: int = 1300
    steps: int = 3000
    clips: int = 32
    segments: int = 2
    frames: int = 13
    learning_rate: float = 1e-3
    joint_learning_rate: float = 7e-4
    weight_decay: float = 0.05
    ema: float = 0.998
    val_every: int = 200
    save_minutes: float = 3.0
    workers: int = 2

    def stages(self, visual: str) -> list[tuple[str, Stage, int, float]]:
        """Name, objective, steps and learning rate of every stage.

        Args:
            visual: representation; rgb has stages of its own, of which a run that starts from an expert (``init``) has
                the last one only.
        """
        size = BatchSize(self.clips, self.segments, self.frames)
        if visual != "rgb":
            return [("sync", ContrastStage(size), self.steps, self.learning_rate)]
        joint: tuple[str, Stage, int, float] = ("joint", JointStage(size), self.joint_steps, self.joint_learning_rate)
        if self.init is not None:
            return [joint]
        return [
            ("align", AlignStage(), self.align_steps, self.learning_rate),
            ("geometry", GeometryStage(size), self.geometry_steps, self.learning_rate),
            ("sync", SyncStage(size), self.sync_steps, self.learning_rate),
            joint,
        ]
