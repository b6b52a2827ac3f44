"""Results of the demonstration."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from unisync_loss.evaluation.bootstrap import block_mean_ci
from unisync_loss.utils.tensors import Array

LABELS = {
    "truth": "true video",
    "truth_shifted": "true video, audio ±5 frames off",
    "reconstruction": "reconstruction only",
    "unisync": "with UniSyncLoss",
    "unisync_shifted": "with UniSyncLoss, audio 5 frames late",
}
_BLOCK = 10  # windows resampled together, because neighbouring ones are correlated


@dataclass(frozen=True)
class Measure:
    """Mean over the held-out windows with its 95 % interval."""

    mean: float
    low: float
    high: float
    windows: int


def mean_over_time(values: Array, seed: int) -> Measure:
    """Mean of the values (W,) of consecutive windows, with its 95 % interval."""
    low, high = block_mean_ci(values, _BLOCK, seed=seed)
    return Measure(float(values.mean()), low, high, len(values))


@dataclass(frozen=True)
class RunResult:
    """One training, measured on held-out frames.

    Attributes:
        seconds: duration of the training.
        l1: mean absolute error of the lower half.
        psnr: the same in dB.
        mouth_correlation: of the mouth's motion over time with that of the true frames.
        mouth_correlation_shifted: the same for audio delayed by 5 frames.
        offset_frames: estimated by the expert, positive = audio late.
        reconstruction: L1 of each step.
        sync: sync loss of each step; empty without it.
        check_steps: steps at which held-out frames were scored.
        check_probability: their mean probability; no choice depends on it.
    """

    seconds: float
    l1: float
    psnr: float
    mouth_correlation: float
    mouth_correlation_shifted: float
    offset_frames: int
    reconstruction: list[float]
    sync: list[float]
    check_steps: list[int]
    check_probability: list[float]


@dataclass(frozen=True)
class DemoResult:
    """Content of ``demo.json``.

    Attributes:
        clip: file name.
        expert: representations and architecture of the expert.
        seed: of weights and data order.
        steps: of each training.
        sync_weight: final weight of the sync loss.
        parameters: of the generator.
        frames: of the clip; ``train`` and ``held`` are [first, last) frames.
        probability: of held-out windows, by the keys of :data:`LABELS`.
        gain: ``unisync`` minus ``reconstruction``, per window.
        truth_offset_frames: estimated on the whole clip, positive = audio late.
        runs: ``reconstruction`` and ``unisync``.
        series: probability of every held-out window.
        seconds: total duration.
        notes: warnings about the clip.
    """

    clip: str
    expert: str
    seed: int
    steps: int
    sync_weight: float
    parameters: int
    frames: int
    train: tuple[int, int]
    held: tuple[int, int]
    probability: dict[str, Measure]
    gain: Measure
    truth_offset_frames: int
    runs: dict[str, RunResult]
    series: dict[str, list[float]]
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def learnt(self) -> bool:
        """Whether the whole interval of the gain is above zero and late audio scores lower."""
        return self.gain.low > 0 and self.probability["unisync"].mean > self.probability["unisync_shifted"].mean

    @property
    def headline(self) -> str:
        """Outcome in a sentence."""
        if self.learnt:
            return "The generator learnt to move the lips in time"
        return "No significant gain from the sync loss on this clip"

    def table(self) -> str:
        """Return the measures as lines of text, the outcome last."""
        rows = [f"{'held-out sync probability':<40}{'mean':>6}  95 % interval"]
        for name, measure in self.probability.items():
            rows.append(f"  {LABELS[name]:<38}{measure.mean:>6.3f}  {measure.low:.3f} to {measure.high:.3f}")
        rows.append(f"  {'gain':<38}{self.gain.mean:>+6.3f}  {self.gain.low:+.3f} to {self.gain.high:+.3f}")
        return "\n".join([*rows, *self.notes, self.headline])

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps({**asdict(self), "learnt": self.learnt}, indent=2) + "\n"
