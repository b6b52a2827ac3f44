"""Where else a run's numbers are shown, each if it is installed: TensorBoard, and Weights & Biases.

Both are filled from ``RUN/log.jsonl`` when a run is resumed, and show every step once. W&B needs that: what is resumed
offline becomes a second folder of the same id, and uploading it would erase the first one's history (wandb#5865).
"""

from __future__ import annotations

import csv
import io
import json
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

from unisync_loss.training.stages import StageSpec
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


class RunLog:
    """``RUN/log.jsonl``, and the optional loggers that show the same numbers.

    Args:
        out: folder of the run.
        stages: of the run.
        log: takes lines of progress.
        enabled: whether this process writes.
    """

    def __init__(self, out: Path, stages: Sequence[StageSpec], log: Callable[[str], None], *, enabled: bool) -> None:
        self._out, self._path, self._enabled = out, out / LOG, enabled
        self.log = log if enabled else lambda line: None
        self._names = [spec.name for spec in stages]
        before = accumulate((spec.steps for spec in stages), initial=0)
        self._before = dict(zip(self._names, before, strict=False))
        self._boards: list[Board] = []

    def begin(self, stage: int, step: int, settings: Mapping[str, Any]) -> None:
        """Remove records written after a resumed state, and open the installed loggers.

        Args:
            stage: index of the stage at which the run starts or resumes.
            step: the same of the step.
            settings: of the run.
        """
        if not self._enabled:
            return
        records = read_log(self._out)
        kept = [record for record in records if (self._names.index(record["stage"]), record["step"]) <= (stage, step)]
        if self._path.exists():
            write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._boards = open_boards(self._out, settings, self.log)
        for record in kept:
            self._show(record)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record with ``stage`` and ``step`` to the log, the loggers and the lines of progress."""
        if not self._enabled:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.log("  ".join(f"{key} {value}" for key, value in record.items()))
        self._show(record)

    def _show(self, record: dict[str, Any]) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
        stage, step = record["stage"], record["step"]
        for board in self._boards:
            board.add(stage, step, self._before[stage] + step, numbers)

    def summarise(self) -> None:
        """Write ``RUN/log.csv`` and draw ``RUN/curves.png``."""
        if self._enabled:
            write_table(self._out)
            draw_curves(self._out)

    def close(self) -> None:
        """Finish the loggers."""
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
