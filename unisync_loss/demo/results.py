"""Results of the demonstration."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

LABELS = {
    "truth": "true video",
    "truth_shifted": "true video, audio ±5 frames off",
    "reconstruction": "reconstruction only",
    "unisync": "with UniSyncLoss",
    "unisync_shifted": "with UniSyncLoss, audio 5 frames late",
}


@dataclass(frozen=True)
class Measure:
    """Mean probability over windows with its 95 % interval (block bootstrap over time)."""

    mean: float
    low: float
    high: float
    windows: int


@dataclass(frozen=True)
class RunResult:
    """One training and its measures on held-out frames.

    Attributes:
        seconds: duration of the training.
        l1: mean absolute error of the lower half.
        psnr: the same in dB.
        mouth_correlation: over time, of the mouth's motion with that of the true frames.
        mouth_correlation_shifted: the same with the generator driven by audio that is 5 frames late.
        offset_frames: estimated, positive = audio is late.
        reconstruction: L1 of each step.
        sync: sync loss of each step, empty where it was not trained with.
        check_steps: steps at which held-out frames were measured.
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
    """Measures of the demonstration; ``demo.json`` holds them.

    Attributes:
        clip: name of the clip.
        expert: representations and architecture of the expert.
        seed: of weights and data order.
        steps: of each training.
        sync_weight: full weight of the sync loss.
        parameters: of the generator.
        frames: of the clip, with ``train`` and ``held`` as [first, last) frames.
        probability: of held-out windows: ``truth``, ``truth_shifted``, ``reconstruction``, ``unisync`` and
            ``unisync_shifted``.
        gain: ``unisync`` minus ``reconstruction``, per window.
        truth_offset_frames: estimated on the whole clip, positive = audio is late.
        runs: by name, ``reconstruction`` and ``unisync``.
        series: probability of every held-out window, for the plots.
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
        """Whether the gain is above zero with confidence, and late audio scores lower."""
        sensitive = self.probability["unisync"].mean > self.probability["unisync_shifted"].mean
        return self.gain.low > 0 and sensitive

    def table(self) -> str:
        """Return the measures as lines of text, the verdict last."""
        rows = [f"{'held-out sync probability':<40}{'mean':>6}  95 % interval"]
        for name, measure in self.probability.items():
            rows.append(f"  {LABELS[name]:<38}{measure.mean:>6.3f}  {measure.low:.3f} to {measure.high:.3f}")
        rows.append(f"  {'gain':<38}{self.gain.mean:>+6.3f}  {self.gain.low:+.3f} to {self.gain.high:+.3f}")
        rows += self.notes
        rows.append(
            "the lips learnt to move in time" if self.learnt else "no sure gain from the sync loss on this clip"
        )
        return "\n".join(rows)

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps({**asdict(self), "learnt": self.learnt}, indent=2) + "\n"
