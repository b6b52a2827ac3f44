"""Where else a run's numbers are shown, each if it is installed: TensorBoard, and Weights & Biases.

Both are filled from ``RUN/log.jsonl`` when a run is resumed, and show every step once. W&B needs that: what is resumed
offline becomes a second folder of the same id, and uploading it would erase the first one's history (wandb#5865).
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO, StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from unisync_loss.functional import margin_plateau
from unisync_loss.utils.files import write_atomically

_PATIENCE = 30.0  # seconds for W&B to begin, and to upload what is left at the end


class Board(Protocol):
    """Takes the numbers of a run."""

    def add(self, stage: str, step: int, place: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step of a stage; ``place`` counts the steps of all stages."""
        ...

    def close(self) -> None:
        """Finish what is being written."""
        ...


def open_boards(out: Path, settings: Mapping[str, Any], log: Callable[[str], None]) -> list[Board]:
    """Open what is installed.

    Args:
        out: folder of the run.
        settings: of the run, for W&B.
        log: takes a line where W&B shows the run, or why it does not.
    """
    boards: list[Board] = []
    with suppress(ImportError):
        boards.append(_TensorBoard(out / "tensorboard"))
    if os.environ.get("WANDB_MODE") == "disabled":
        return boards
    try:
        import wandb
    except ImportError:
        return boards
    except Exception as error:  # installed beside a protobuf that it cannot use
        log(f"W&B cannot be loaded, the run goes on without: {error}")
        return boards
    if hasattr(wandb, "init"):  # not just a folder of that name in the working directory
        try:
            boards.append(_WandB(wandb, out, settings, log))
        except Exception as error:
            log(f"W&B cannot be used, the run goes on without: {error}")
    return boards


class _TensorBoard:
    """Written anew from the beginning, as the resumed run's log is."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder))

    def add(self, stage: str, step: int, place: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One run for all resumptions, known again by the folders that W&B leaves in ``RUN/wandb``."""

    def __init__(self, wandb: Any, out: Path, settings: Mapping[str, Any], log: Callable[[str], None]) -> None:  # noqa: ANN401 - an optional module
        earlier = _folders(out)
        name = earlier[-1].name.rpartition("-")[2] if earlier else os.environ.get("WANDB_RUN_ID")
        options = {
            "dir": str(out),
            "id": name or secrets.token_hex(4),
            "project": os.environ.get("WANDB_PROJECT", "unisync"),
            "name": os.environ.get("WANDB_NAME", out.resolve().name),
            "config": dict(settings),
            "settings": wandb.Settings(
                # by default a server out of reach is asked for ever, whatever init_timeout says
                x_graphql_retry_max=3,
                x_graphql_retry_wait_max_seconds=3,
                x_graphql_timeout_seconds=10,
                init_timeout=_PATIENCE,
                finish_timeout=_PATIENCE,
                # the program's own output stays its own, and nobody's code is uploaded
                console="off",
                disable_git=True,
                disable_code=True,
            ),
        }
        try:
            with _no_questions():
                self._run: Any = wandb.init(resume="allow", **options)
        except wandb.Error as error:
            log(f"W&B is used offline: {error}")
            wandb.teardown()  # or the run that did not begin leaves a folder at the end, to be uploaded by mistake
            self._run = wandb.init(mode="offline", **options)
        self._log, self._first = log, int(self._run.step)  # what it has already is not sent again
        here = Path(self._run.dir).parent
        for folder in _folders(out):
            if folder.resolve() != here.resolve():
                shutil.rmtree(folder, ignore_errors=True)
        log(f"W&B: {self._run.url or f'wandb sync {here} uploads the run'}")

    def add(self, stage: str, step: int, place: int, numbers: Mapping[str, float]) -> None:
        if self._run is None or place < self._first:
            return
        try:
            self._run.log({f"{stage}/{key}": value for key, value in numbers.items()}, step=place)
        except Exception as error:  # its service has died: a training does not
            self._log(f"W&B does not answer, the run goes on without: {error}")
            self._run = None

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:  # the checkpoints are still to be finished
            self._log(f"W&B does not answer, the end of the run may be missing there: {error}")


@contextmanager
def _no_questions() -> Iterator[None]:
    """Nobody to ask for a key, as in a job: W&B refuses then, where it would wait for an answer."""
    keyboard, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = keyboard


def _folders(out: Path) -> list[Path]:
    """What W&B has left of this run: ``run-DATE-ID`` and ``offline-run-DATE-ID``, the newest last."""
    return sorted((out / "wandb").glob("*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))


LOG = "log.jsonl"
_NEAR = 0.97  # of the plateau: below it something has been learnt
_MEMORY = 0.98  # of the running mean of the loss that is compared with the plateau


class Log:
    """``RUN/log.jsonl``, and the boards that show the same.

    Args:
        out: folder of the run.
        log: takes lines of progress.
    """

    def __init__(self, out: Path, log: Callable[[str], None]) -> None:
        """Show nothing yet but lines."""
        self.out, self.path, self.log = out, out / LOG, log
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
        self._boards = open_boards(self.out, settings, self.log)
        for record in read_log(self.out):
            self._show(record)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record everywhere."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.log("  ".join(f"{key} {value}" for key, value in record.items()))
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
