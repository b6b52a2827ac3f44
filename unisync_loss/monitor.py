"""What a run tells: JSONL, TensorBoard where it is installed, curves as PNG, and what is wrong on the plateau."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from unisync_loss.files import write_atomically
from unisync_loss.functional import margin_plateau

Say = Callable[[str], None]
LOG = "log.jsonl"
_NEAR = 0.97  # of the plateau: below it something has been learnt
_MEMORY = 0.98  # of the running mean of the loss that is compared with the plateau


class Log:
    """``RUN/log.jsonl`` and TensorBoard's files beside it.

    Args:
        out: folder of the run.
        say: takes lines of progress.
    """

    def __init__(self, out: Path, say: Say) -> None:
        """Open TensorBoard's files, if it is installed."""
        self.path, self.say = out / LOG, say
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(out / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        """Write a record everywhere."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in record.items()))
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, int | float) and key != "step":
                    self._board.add_scalar(f"{record['stage']}/{key}", value, record["step"])
            self._board.flush()

    def rewind(self, stages: list[str], stage: int, step: int) -> None:
        """Forget what a killed run wrote after the state it is resumed from."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # half a line, written while the run was killed
            if (stages.index(record["stage"]), record["step"]) <= (stage, step):
                kept.append(line)
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))


class PlateauWatch:
    """Whether eq. 1 is where a model stays that has learnt nothing.

    Args:
        margins: of same-speaker and cross-speaker negatives.
        cross_share: of the latter among the negatives.
        positive_share: of positives among all.
        patience: steps on the plateau before a diagnosis.
    """

    def __init__(self, margins: tuple[float, float], cross_share: float, positive_share: float, patience: int) -> None:
        """Compute the plateau."""
        self.value = margin_plateau(*margins, cross_share, positive_share)
        self.patience, self.steps, self.mean = patience, 0, math.nan

    def look(self, margin_loss: float) -> bool:
        """Take in a step; whether it is time for a diagnosis."""
        self.mean = margin_loss if math.isnan(self.mean) else _MEMORY * self.mean + (1 - _MEMORY) * margin_loss
        self.steps = self.steps + 1 if self.on else 0
        return self.patience > 0 and self.steps > 0 and self.steps % self.patience == 0

    @property
    def on(self) -> bool:
        """Whether the running mean is on the plateau."""
        return self.mean >= _NEAR * self.value


def diagnose(terms: dict[str, float], watch: PlateauWatch, clips: int, data: tuple[str, ...]) -> list[str]:
    """Likely causes of a run that does not leave the plateau, most telling first, and what to do.

    Args:
        terms: of the last step.
        watch: on the plateau.
        clips: of the training set.
        data: folders.
    """
    lines = [
        f"{watch.steps} steps on the plateau: eq. 1 is {watch.mean:.3f}, a model that has learnt nothing has "
        f"{watch.value:.3f} with these margins (0.693 only without)"
    ]
    for name in ("audio", "visual"):
        if terms.get(f"dead_{name}", 0.0) > 0.9:
            share = terms[f"dead_{name}"]
            lines.append(f"{share:.0%} of the {name} units are dead: lower learning_rate, or start from --init mel-rgb")
    positive, same = terms.get("p_positive", math.nan), terms.get("p_same", math.nan)
    if abs(positive - same) < 0.02:
        cause = "picture and sound may not belong together, or lie at other offsets"
        lines.append(f"matches ({positive:.3f}) and mismatches ({same:.3f}) look alike: {cause}")
    if clips < 50:
        lines.append(f"{clips} clips are few: hundreds of people are needed, or start from --init mel-rgb")
    folder = data[0]
    lines.append(f"look at the data: unisync doctor {folder}; put it into sync: unisync align {folder}")
    lines.append("look at the trainer: unisync train … --overfit 64 must reach 99 % in minutes")
    return lines


def draw_curves(out: Path) -> None:
    """Draw ``RUN/curves.png`` from the log; nothing without Matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    records = [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]
    stages = list(dict.fromkeys(record["stage"] for record in records))
    panels = (
        ("loss", ("loss", "margin", "plateau")),
        ("probability", ("p_positive", "p_same", "p_cross")),
        ("validation", ("val_auc", "val_accuracy", "val_retrieval_5")),
    )
    figure = Figure(figsize=(4 * len(panels), 3 * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), len(panels), squeeze=False)
    for row, stage in zip(axes, stages, strict=True):
        for panel, (title, keys) in zip(row, panels, strict=True):
            for key in keys:
                points = [(r["step"], r[key]) for r in records if r["stage"] == stage and key in r]
                if points:
                    panel.plot(*zip(*points, strict=True), label=key)
            panel.set(title=f"{stage}: {title}", xlabel="step")
            if panel.lines:
                panel.legend(fontsize="x-small")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(out / "curves.png", picture.getvalue())
