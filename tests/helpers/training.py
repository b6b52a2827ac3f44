"""Short trainings on drawn clips."""

import pytest

from unisync_loss.training.settings import resolve
from unisync_loss.training.trainer import build_trainer, train


def quiet(line):
    """Take a line of progress."""


def settings(folder, cache, out, *overrides, visual="landmarks", **options):
    """Settings of a run and of its expert, by default on landmarks: four steps of four clips."""
    given = {"folders": [str(folder)], "out": str(out), "cache": str(cache), "visual": visual, **options}
    usual = ["data.workers=1", "run.val_every=2"]
    if visual == "landmarks" and not any(text.startswith("recipe.name=") for text in overrides):
        usual += ["recipe.steps=4", "recipe.clips=4"]
    return resolve(given, None, [*usual, *overrides])


def run(folder, cache, out, *overrides, resume=False, curves=False, **options):
    """Train; returns the lines of progress. Drawing the curves would take most of the time."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr("unisync_loss.training.run_log.draw_curves", lambda out: None)
        train(*settings(folder, cache, out, *overrides, **options), resume=resume, log=lines.append)
    return lines


def trainer(folder, cache, out, *overrides, **options):
    """Build a trainer that has taken no step."""
    return build_trainer(*settings(folder, cache, out, *overrides, **options), quiet)
