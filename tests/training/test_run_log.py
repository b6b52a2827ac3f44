"""Log of a run; TensorBoard and W&B show every step once, however often the run was stopped."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.training import quiet

from unisync_loss.training.run_log import LOG, RunLog, draw_curves, write_table
from unisync_loss.training.stages import StageSpec

STAGES = [StageSpec("align", None, 10, 0.0), StageSpec("sync", None, 20, 0.0)]
RECORDS = [
    {"stage": "align", "step": 10, "loss": 2.0, "note": "text is not shown"},
    {"stage": "sync", "step": 5, "loss": 1.0},
    {"stage": "sync", "step": 5, "val_auc": 0.7},
]
SHOWN = [(10, {"align/loss": 2.0}), (15, {"sync/loss": 1.0}), (15, {"sync/val_auc": 0.7})]


class FakeWandB:
    """The part of the library that is used, and a server that has ``uploaded`` steps."""

    class Error(Exception):
        pass

    Settings = SimpleNamespace
    clock = itertools.count()

    def __init__(self, uploaded=0, fails=None):
        self.uploaded, self.fails = uploaded, fails
        self.began, self.shown, self.finished, self.down = [], [], 0, 0

    def init(self, **options):
        folder = f"{'offline-' if options.get('mode') else ''}run-20260101_{next(self.clock):06}-{options['id']}"
        self.began.append(options)
        limits = options["settings"]
        assert max(limits.init_timeout, limits.finish_timeout, limits.x_graphql_timeout_seconds) <= 30
        assert limits.x_graphql_retry_max <= 3
        files = Path(options["dir"]) / "wandb" / folder / "files"
        files.mkdir(parents=True)
        if self.fails and not options.get("mode"):
            assert not sys.stdin.isatty()
            raise self.Error(self.fails)
        step = 0 if options.get("mode") else self.uploaded
        return SimpleNamespace(
            dir=str(files),
            step=step,
            url=None if options.get("mode") else "https://run",
            log=lambda *arguments, **named: self.log(*arguments, **named),
            finish=self.finish,
        )

    def teardown(self):
        self.down += 1

    def log(self, numbers, step):
        self.shown.append((step, numbers))

    def finish(self):
        self.finished += 1


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Opens the loggers of a run with a library; progress is in ``lines``."""
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)

    def begin(library):
        monkeypatch.setitem(sys.modules, "wandb", library)
        begin.lines = []
        log = RunLog(tmp_path, STAGES, begin.lines.append, enabled=True)
        log.begin(1, 20, {"seed": 0})
        return log

    return begin


def folders(out):
    return [path.name for path in (out / "wandb").iterdir()]


def test_wandb_gets_the_numbers_by_the_steps_of_all_stages(begin):
    library = FakeWandB()
    log = begin(library)
    for record in RECORDS:
        log.write(record)
    log.close()
    assert library.shown == SHOWN
    assert library.finished == 1
    assert library.began[0]["config"] == {"seed": 0}
    assert library.began[0]["project"] == "unisync"


def test_a_resumed_run_is_the_same_run_and_sends_only_what_is_missing(begin, tmp_path):
    first, second = FakeWandB(), FakeWandB(uploaded=11)
    log = begin(first)
    for record in RECORDS:
        log.write(record)
    begin(second)
    assert second.began[0]["id"] == first.began[0]["id"]
    assert second.began[0]["resume"] == "allow"
    assert second.shown == SHOWN[1:]
    assert len(folders(tmp_path)) == 1  # a second folder could be uploaded again


def test_without_a_key_it_is_offline_and_nothing_is_asked(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    library = FakeWandB(fails="No API key configured")
    log = begin(library)
    assert [options.get("mode") for options in library.began] == [None, "offline"]
    assert any("No API key configured" in line for line in begin.lines)
    assert sys.stdin.isatty()
    [folder] = folders(tmp_path)
    assert any(f"wandb sync {tmp_path}/wandb/{folder}" in line for line in begin.lines)
    for record in RECORDS:
        log.write(record)
    # offline, earlier steps are unknown: one folder has all of them
    again = FakeWandB(fails="No API key configured")
    begin(again)
    assert again.shown == SHOWN
    assert again.began[1]["id"] == library.began[0]["id"]
    assert len(folders(tmp_path)) == 1


def test_a_service_that_fails_at_the_end_does_not_stop_the_run(begin):
    library = FakeWandB()
    library.finish = None
    begin(library).close()
    assert "does not answer" in begin.lines[-1]


def test_a_service_that_fails_does_not_stop_the_run(begin, tmp_path):
    library = FakeWandB()
    log = begin(library)
    library.log = None
    for record in RECORDS:
        log.write(record)
    log.close()
    assert sum("the run continues without" in line for line in begin.lines) == 1
    assert (tmp_path / "log.jsonl").read_text().count("\n") == len(RECORDS)


@pytest.mark.parametrize("library", [SimpleNamespace(), None], ids=["a folder of that name", "not installed"])
def test_without_wandb(begin, library):
    begin(library).write(RECORDS[0])
    assert not any("W&B" in line for line in begin.lines)


def test_disabled_it_is_not_even_loaded(begin, monkeypatch):
    library = FakeWandB()
    begin(None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    begin(library)
    assert library.began == []


@pytest.mark.parametrize(("key", "times"), [("", 2), ("x" * 40, 1)], ids=["not logged in", "no network"])
def test_the_real_wandb_goes_offline_and_comes_back(tmp_path, monkeypatch, key, times):
    pytest.importorskip("wandb")
    values = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    for name, value in {**values, "NETRC": str(tmp_path / "none"), "WANDB_API_KEY": key}.items():
        monkeypatch.setenv(name, value)
    # in a subprocess: W&B reads the environment once, and its service ends with the process
    code = f"""
import pty, os, sys
os.dup2(pty.openpty()[1], 0)
from pathlib import Path
from unisync_loss.training.run_log import RunLog
from unisync_loss.training.stages import StageSpec
log = RunLog(Path({str(tmp_path)!r}), {STAGES!r}, print, enabled=True)
log.begin(1, 20, {{"seed": 0}})
log.write({RECORDS[0]!r})
log.close()
"""
    names = []
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
        assert "W&B is used offline" in done.stdout, done.stderr
        names.append([path.name for path in (tmp_path / "wandb").glob("*run-*-*")])
    assert all(len(found) == 1 and found[0].startswith("offline-run-") for found in names)
    assert len({found[0].rpartition("-")[2] for found in names}) == 1


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for record in RECORDS[:2]:
        log = RunLog(tmp_path, STAGES, quiet, enabled=True)
        log.begin(1, 20, {})
        log.write(record)
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("align/loss")] == [10]
    assert [event.step for event in events.Scalars("sync/loss")] == [5]


def test_records_after_the_resumed_state_are_removed(tmp_path):
    log = RunLog(tmp_path, STAGES, quiet, enabled=True)
    for stage, step in (("align", 3), ("sync", 1), ("sync", 2), ("sync", 3)):
        log.write({"stage": stage, "step": step, "loss": 1.0})
    with (tmp_path / LOG).open("a") as file:
        file.write('{"stage": "sy')
    log.begin(1, 2, {})
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("align", 3), ("sync", 1), ("sync", 2)]


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path)  # a first stage of 0 steps has no records
    assert not (tmp_path / "curves.png").exists()
    log = RunLog(tmp_path, STAGES, quiet, enabled=True)
    for step in range(3):
        log.write({"stage": "sync", "step": step, "loss": 1.0 - step, "plateau": 0.5, "val_auc": 0.7})
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_one_row_per_record(tmp_path):
    log = RunLog(tmp_path, STAGES, quiet, enabled=True)
    log.write({"stage": "align", "step": 1, "loss": 0.5})
    log.write({"stage": "sync", "step": 1, "val_auc": 0.7})
    write_table(tmp_path)
    assert (tmp_path / "log.csv").read_text().splitlines() == ["stage,step,loss,val_auc", "align,1,0.5,", "sync,1,,0.7"]
