"""Results of the demonstration and their verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

LABELS = {
    "truth": "true video",
    "truth_shifted": "true video, audio ±5 frames off",
    "reconstruction": "reconstruction only",
    "unisync": "with UniSyncLoss",
    "unisync_shifted": "with UniSyncLoss, audio 5 frames late",
}
#: measures of the lips: correlation over time with the true ones
LIPS = {"opening": "lip opening", "width": "lip width", "mean": "mean of both"}
#: measures of the mouth's picture: errors against the true one
PICTURE = {"error": "mouth error (L1)", "colour": "mouth chroma error", "detail": "mouth high-frequency error"}
#: ratio of errors that still counts as no worse: pictures of two trainings differ by a few percent by chance
WORST_RATIO = 1.05


@dataclass(frozen=True)
class DemoSettings:
    """Settings of both trainings.

    Args:
        first_steps: with reconstruction alone, common to both trainings; the lips should look like lips after these.
        steps: of each training after that.
        sync_weight: of the sync loss beside the L1; Wav2Lip's is 0.03. The L1 is about 0.03 and the sync loss about 1.
        seed: of weights, data and intervals.

    Raises:
        ValueError: for fewer than one step or a weight below 0.
    """

    first_steps: int
    steps: int
    sync_weight: float
    seed: int

    def __post_init__(self) -> None:
        if min(self.first_steps, self.steps) < 1:
            raise ValueError(f"expected at least 1 step, got {min(self.first_steps, self.steps)}")
        if not self.sync_weight >= 0:
            raise ValueError(f"expected a weight of at least 0, got {self.sync_weight}")


@dataclass(frozen=True)
class Measure:
    """Value over the held-out part with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Measure of both trainings."""

    reconstruction: Measure
    unisync: Measure
    change: Measure  # lips: difference of correlations; picture: ratio of errors


@dataclass(frozen=True)
class RunResult:
    """One training, measured on held-out frames."""

    seconds: float
    reconstruction: list[float]  # L1 of each step
    sync: list[float]  # sync loss of each step; empty without it
    check_steps: list[int]  # steps at which held-out frames were scored
    check_probability: list[float]  # their mean probability; no choice depends on it


@dataclass(frozen=True)
class DemoResult:
    """Content of ``demo.json``."""

    clip: str  # file name
    expert: str  # representations and architecture
    settings: DemoSettings
    first_loss: list[float]  # L1 of each step that both trainings have in common
    parameters: int  # of the generator
    frames: int
    train: tuple[int, int]  # [first, last) frame
    held: tuple[int, int]
    lips: dict[str, Comparison]  # by the keys of LIPS
    picture: dict[str, Comparison]  # by the keys of PICTURE
    probability: dict[str, Measure]  # of held-out windows by the expert, by the keys of LABELS
    truth_offset_frames: int  # estimated on the whole clip, positive = audio late
    runs: dict[str, RunResult]  # reconstruction and unisync
    series: dict[str, list[float]]  # probability of every held-out window
    seconds: float
    notes: list[str]  # warnings about the clip

    @property
    def lips_better(self) -> bool:
        """Whether the interval of the gain in correlation, mean of opening and width, is above zero."""
        return self.lips["mean"].change.low > 0

    @property
    def worse(self) -> list[str]:
        """Measures of the picture, keys of PICTURE, by which it is worse than by reconstruction alone."""
        # not (<=), so that NaN is worse
        return [name for name, compared in self.picture.items() if not compared.change.value <= WORST_RATIO]

    @property
    def headline(self) -> str:
        """Verdict on lips and picture in a sentence; the expert that trained takes no part in it."""
        lips = "Lips follow the audio better" if self.lips_better else "Lips do not follow the audio better"
        if not self.worse:
            return f"{lips}; picture no worse than by reconstruction alone"
        found = ", ".join(f"{PICTURE[name]} × {self.picture[name].change.value:.2f}" for name in self.worse)
        return f"{lips}; PICTURE WORSE than by reconstruction alone: {found}"

    @property
    def advice(self) -> list[str]:
        """Sentences on what to do about a bad verdict."""
        lines, settings = [], self.settings
        if self.worse:
            lines.append(
                "The generator paints what the expert rewards. Lower the weight "
                f"(--weight {settings.sync_weight / 3:.2g}), take an expert trained against perturbations (--model), "
                f"or reconstruct for longer first (--first-steps {2 * settings.first_steps}); see docs/teacher.md."
            )
        if not self.lips_better:
            lines.append(
                f"For the lips, train longer with the loss (--steps {2 * settings.steps}) or on a longer clip: "
                "a small gain does not show in a few seconds."
            )
        return lines

    def lip_rows(self) -> list[tuple[str, ...]]:
        """Label, both correlations and the gain with interval of each measure of the lips."""
        return [(LIPS[name], *_cells(compared, "{:.2f}", "{:+.2f}")) for name, compared in self.lips.items()]

    def picture_rows(self) -> list[tuple[str, ...]]:
        """Label, both errors and their ratio with interval of each measure of the picture."""
        return [(PICTURE[name], *_cells(compared, "{:.4f}", "{:.2f}")) for name, compared in self.picture.items()]

    def probability_rows(self) -> list[tuple[str, str, str]]:
        """Label, mean and interval of each probability."""
        return [(LABELS[key], f"{m.value:.3f}", f"{m.low:.3f} to {m.high:.3f}") for key, m in self.probability.items()]

    def table(self) -> str:
        """Return the measures as lines of text, the verdict and what to do about it last."""
        rows: list[tuple[str, ...]] = [
            ("held-out frames, without an expert", "recon.", "+ sync", "change", "95 % interval"),
            *((f"{label}, correlation", *cells) for label, *cells in self.lip_rows()),
            *((f"{label}, ratio", *cells) for label, *cells in self.picture_rows()),
        ]
        lines = [f"{label:<38}{before:>8}{after:>8}{change:>8}  {ends}" for label, before, after, change, ends in rows]
        lines.append(f"sync probability by {self.expert}, for information")
        lines += [f"{label:<38}{mean:>8}  {ends}" for label, mean, ends in self.probability_rows()]
        return "\n".join([*lines, *self.notes, self.headline, *self.advice])

    def to_json(self) -> str:
        """Return the result as JSON text."""
        verdict = {"lips_better": self.lips_better, "picture_worse": self.worse, "verdict": self.headline}
        return json.dumps({**asdict(self), **verdict, "advice": self.advice}, indent=2) + "\n"


def _cells(compared: Comparison, value: str, change: str) -> list[str]:
    ends = f"{change.format(compared.change.low)} to {change.format(compared.change.high)}"
    values = [value.format(run.value) for run in (compared.reconstruction, compared.unisync)]
    return [*values, change.format(compared.change.value), ends]
