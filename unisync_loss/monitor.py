"""What a run tells: JSONL, CSV, boards that are installed, curves as PNG, and what is wrong on the plateau."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO, StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from unisync_loss.boards import Board, open_boards
from unisync_loss.files import write_atomically
from unisync_loss.functional import margin_plateau

Say = Callable[[str], None]
LOG = "log.jsonl"
_NEAR = 0.97  # of the plateau: below it something has been learnt
_MEMORY = 0.98  # of the running mean of the loss that is compared with the plateau


class Log:
    """``RUN/log.jsonl``, and the boards that show the same.

    Args:
        out: folder of the run.
        say: takes lines of progress.
    """

    def __init__(self, out: Path, say: Say) -> None:
        """Show nothing yet but lines."""
        self.out, self.path, self.say = out, out / LOG, say
        self._boards: list[Board] = []
        self._before: dict[str, int] = {}

    def open(self, stages: Sequence[tuple[str, int]], settings: Mapping[str, Any]) -> None:
        """Open the boards that are installed, and show there what the log has.

        Args:
            stages: name and number of steps of each.
            settings: of the run.
        """
        done = accumulate((steps for _, steps in stages), initial=0)
        self._before = {name: before for (name, _), before in zip(stages, done, strict=False)}
        self._boards = open_boards(self.out, settings, self.say)
        for record in read_log(self.out):
            self._show(record)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record everywhere."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in record.items()))
        self._show(record)

    def _show(self, record: dict[str, Any]) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
        stage, step = record["stage"], record["step"]
        for board in self._boards:
            board.add(stage, step, self._before[stage] + step, numbers)

    def rewind(self, stages: list[str], stage: int, step: int) -> None:
        """Forget what a killed run wrote after the state it is resumed from."""
        if not self.path.exists():
            return
        kept = [
            record for record in read_log(self.out) if (stages.index(record["stage"]), record["step"]) <= (stage, step)
        ]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def close(self) -> None:
        """Let the boards finish."""
        for board in self._boards:
            board.close()


def read_log(out: Path) -> list[dict[str, Any]]:
    """All whole records of a run, in order; none before it has begun."""
    records = []
    with suppress(FileNotFoundError):
        for line in (out / LOG).read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # half a line, written while the run was killed
                records.append(json.loads(line))
    return records


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


def write_table(out: Path) -> None:
    """Write the log as ``RUN/log.csv``, a row a record; what a record does not have is left empty."""
    records, text = read_log(out), StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    write_atomically(out / "log.csv", text.getvalue())


def draw_curves(out: Path) -> None:
    """Draw ``RUN/curves.png`` from the log; nothing without Matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    if not (records := read_log(out)):  # a first stage of 0 steps
        return
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
