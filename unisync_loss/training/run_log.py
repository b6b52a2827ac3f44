"""Log of a run, its table and curves, and optional loggers: TensorBoard and Weights & Biases.

Both loggers are filled from ``RUN/log.jsonl`` when a run is resumed, and show every step once. W&B needs that: a run
resumed offline is a second folder of the same id, and uploading it would erase the history of the first (wandb#5865).
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
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from unisync_loss.training.stages import StageSpec
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import figure_png, new_figure

LOG = "log.jsonl"
_TIMEOUT = 30  # seconds for W&B to begin, and to finish its upload at the end


class Logger(Protocol):
    """Shows the numbers of a run."""

    def add(self, stage: str, step: int, total_step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step of a stage; ``total_step`` counts the steps of all stages."""
        ...

    def close(self) -> None:
        """Write buffered numbers and stop."""
        ...


def open_loggers(out: Path, settings: Mapping[str, Any], log: Callable[[str], None]) -> list[Logger]:
    """Open the installed loggers.

    Args:
        out: folder of the run.
        settings: settings of the run, shown by W&B.
        log: receives a line with the address of the W&B run, or the reason why W&B is not used.
    """
    loggers: list[Logger] = []
    with suppress(ImportError):
        loggers.append(_TensorBoard(out / "tensorboard"))
    if os.environ.get("WANDB_MODE") == "disabled":
        return loggers
    try:
        loggers.append(_WandB(out, settings, log))
    except ImportError:
        pass  # not installed
    except Exception as error:  # for example an incompatible protobuf, or a service that does not start
        log(f"W&B cannot be used, the run continues without it: {error}")
    return loggers


class _TensorBoard:
    """Event files, rewritten from the beginning when a run is resumed."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder))

    def add(self, stage: str, step: int, total_step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One W&B run for all resumptions; its id is read from the folders in ``RUN/wandb``."""

    def __init__(self, out: Path, settings: Mapping[str, Any], log: Callable[[str], None]) -> None:
        from wandb import Error, Settings, init, teardown  # also an ImportError: a folder named wandb

        earlier = _wandb_folders(out)
        run_id = earlier[-1].name.rpartition("-")[2] if earlier else os.environ.get("WANDB_RUN_ID")
        options = {
            "dir": str(out),
            "id": run_id or secrets.token_hex(4),
            "project": os.environ.get("WANDB_PROJECT", "unisync"),
            "name": os.environ.get("WANDB_NAME", out.resolve().name),
            "config": dict(settings),
            "settings": Settings(
                # by default W&B retries an unreachable server for ever, whatever init_timeout is
                x_graphql_retry_max=3,
                x_graphql_retry_wait_max_seconds=3,
                x_graphql_timeout_seconds=10,
                init_timeout=_TIMEOUT,
                finish_timeout=_TIMEOUT,
                # neither the output of the program nor the user's code is uploaded
                console="off",
                disable_git=True,
                disable_code=True,
            ),
        }
        try:
            with _stdin_closed():
                self._run: Any = init(resume="allow", **options)
        except Error as error:
            log(f"W&B is used offline: {error}")
            teardown()  # otherwise the failed run leaves a folder at exit, which could be uploaded by mistake
            self._run = init(mode="offline", **options)
        self._log, self._first = log, int(self._run.step)  # the server has all earlier steps
        folder = Path(self._run.dir).parent
        for other in _wandb_folders(out):
            if other.resolve() != folder.resolve():
                shutil.rmtree(other, ignore_errors=True)
        log(f"W&B: {self._run.url or f'wandb sync {folder} uploads the run'}")

    def add(self, stage: str, step: int, total_step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None or total_step < self._first:
            return
        try:
            self._run.log({f"{stage}/{key}": value for key, value in numbers.items()}, step=total_step)
        except Exception as error:  # a W&B service that has died must not stop the training
            self._log(f"W&B does not answer, the run continues without it: {error}")
            self._run = None

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:  # the checkpoints are still to be finished
            self._log(f"W&B does not answer, it may miss the end of the run: {error}")


@contextmanager
def _stdin_closed() -> Iterator[None]:
    """An empty standard input: without a key, W&B then raises an error instead of asking for one."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = stdin


def _wandb_folders(out: Path) -> list[Path]:
    """Folders of this run, ``run-DATE-ID`` and ``offline-run-DATE-ID``, the newest last."""
    return sorted((out / "wandb").glob("*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))


class RunLog:
    """``RUN/log.jsonl``, and the installed loggers, which show the same numbers.

    Args:
        out: folder of the run.
        stages: stages of the run.
        log: receives lines of progress.
        enabled: whether this process writes.
    """

    def __init__(self, out: Path, stages: Sequence[StageSpec], log: Callable[[str], None], *, enabled: bool) -> None:
        self._out, self._path, self._enabled = out, out / LOG, enabled
        self.log = log if enabled else lambda line: None
        self._names = [spec.name for spec in stages]
        before = accumulate((spec.steps for spec in stages), initial=0)
        self._before = dict(zip(self._names, before, strict=False))
        self._loggers: list[Logger] = []

    def begin(self, stage: int, step: int, settings: Mapping[str, Any]) -> None:
        """Remove records written after a resumed state, and open the installed loggers.

        Args:
            stage: index of the stage at which the run starts or resumes.
            step: number of steps taken in it.
            settings: settings of the run.
        """
        if not self._enabled:
            return
        records = read_log(self._out)
        kept = [record for record in records if (self._names.index(record["stage"]), record["step"]) <= (stage, step)]
        if self._path.exists():
            write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._loggers = open_loggers(self._out, settings, self.log)
        for record in kept:
            self._show(record)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record with ``stage`` and ``step`` to the log, the loggers and the progress output."""
        if not self._enabled:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.log("  ".join(f"{key} {value}" for key, value in record.items()))
        self._show(record)

    def _show(self, record: dict[str, Any]) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
        stage, step = record["stage"], record["step"]
        for logger in self._loggers:
            logger.add(stage, step, self._before[stage] + step, numbers)

    def summarise(self) -> None:
        """Write ``RUN/log.csv`` and draw ``RUN/curves.png``."""
        if self._enabled:
            write_table(self._out)
            draw_curves(self._out)

    def close(self) -> None:
        """Finish the loggers."""
        for logger in self._loggers:
            logger.close()


def read_log(out: Path) -> list[dict[str, Any]]:
    """Complete records of a run, in order; empty before the run has begun."""
    records = []
    with suppress(FileNotFoundError):
        for line in (out / LOG).read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a killed run may be incomplete
                records.append(json.loads(line))
    return records


def write_table(out: Path) -> None:
    """Write the log as ``RUN/log.csv``, one row per record; missing values are empty."""
    records, text = read_log(out), StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    write_atomically(out / "log.csv", text.getvalue())


def draw_curves(out: Path) -> None:
    """Draw ``RUN/curves.png`` from the log; does nothing without Matplotlib."""
    if not (records := read_log(out)):  # a first stage of 0 steps
        return
    stages = list(dict.fromkeys(record["stage"] for record in records))
    panels = (
        ("loss", ("loss", "margin", "plateau")),
        ("probability", ("p_positive", "p_same", "p_cross")),
        ("validation", ("val_auc", "val_accuracy", "val_retrieval_5")),
    )
    try:
        figure = new_figure(4 * len(panels), 3 * len(stages))
    except ImportError:
        return
    figure.set_layout_engine("constrained")
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
    write_atomically(out / "curves.png", figure_png(figure))
