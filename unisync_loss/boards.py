"""Where else a run's numbers are shown, each if it is installed: TensorBoard, and Weights & Biases.

Both are filled from ``RUN/log.jsonl`` when a run is resumed, and show every step once. W&B needs that: what is resumed
offline becomes a second folder of the same id, and uploading it would erase the first one's history (wandb#5865).
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

_PATIENCE = 30.0  # seconds for W&B to begin, and to upload what is left at the end


class Board(Protocol):
    """Takes the numbers of a run."""

    def add(self, stage: str, step: int, place: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step of a stage; ``place`` counts the steps of all stages."""
        ...

    def close(self) -> None:
        """Finish what is being written."""
        ...


def open_boards(out: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> list[Board]:
    """Open what is installed.

    Args:
        out: folder of the run.
        settings: of the run, for W&B.
        say: takes a line where W&B shows the run, or why it does not.
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
        say(f"W&B cannot be loaded, the run goes on without: {error}")
        return boards
    if hasattr(wandb, "init"):  # not just a folder of that name in the working directory
        try:
            boards.append(_WandB(wandb, out, settings, say))
        except Exception as error:
            say(f"W&B cannot be used, the run goes on without: {error}")
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

    def __init__(self, wandb: Any, out: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> None:  # noqa: ANN401 - an optional module
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
            say(f"W&B is used offline: {error}")
            wandb.teardown()  # or the run that did not begin leaves a folder at the end, to be uploaded by mistake
            self._run = wandb.init(mode="offline", **options)
        self._say, self._first = say, int(self._run.step)  # what it has already is not sent again
        here = Path(self._run.dir).parent
        for folder in _folders(out):
            if folder.resolve() != here.resolve():
                shutil.rmtree(folder, ignore_errors=True)
        say(f"W&B: {self._run.url or f'wandb sync {here} uploads the run'}")

    def add(self, stage: str, step: int, place: int, numbers: Mapping[str, float]) -> None:
        if self._run is None or place < self._first:
            return
        try:
            self._run.log({f"{stage}/{key}": value for key, value in numbers.items()}, step=place)
        except Exception as error:  # its service has died: a training does not
            self._say(f"W&B does not answer, the run goes on without: {error}")
            self._run = None

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:  # the checkpoints are still to be finished
            self._say(f"W&B does not answer, the end of the run may be missing there: {error}")


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
