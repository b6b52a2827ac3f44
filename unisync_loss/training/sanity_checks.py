"""Does the trainer learn this data at all, and does it learn only what is there? Both answered in minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange

from unisync_loss.config import UniSyncConfig
from unisync_loss.evaluation.protocols import PairScores, accuracy_at, best_threshold
from unisync_loss.functional import sync_probability
from unisync_loss.training.config import TrainConfig, for_overfitting
from unisync_loss.training.data.batches import PairBatch, SegmentBatch
from unisync_loss.training.data.pairs import POSITIVE
from unisync_loss.training.losses import all_pairs, pair_kinds
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.training.run_log import PlateauWatch, diagnose
from unisync_loss.training.trainer import Run, prepare_run

STEPS = 300
ENOUGH = 0.99  # accuracy on the windows that were learnt by heart
_EVERY = 10  # steps between looks


def overfit(config: TrainConfig, expert_config: UniSyncConfig, log: Callable[[str], None]) -> dict[str, Any]:
    """Learn a few windows by heart, without augmentation.

    Args:
        config: of the run; ``overfit`` is the number of windows.
        expert_config: what to build.
        log: takes lines of progress.

    Returns:
        ``steps``, ``accuracy`` (balanced, on all pairs of the windows), ``seconds``.

    Raises:
        ValueError: when they cannot be learnt in 300 steps; it says why not, as far as can be told.
    """
    run = prepare_run(for_overfitting(config), expert_config, log)
    _, stage, _, rate = run.stages[-1]
    run.engine.prepare(stage, rate)
    started, watch = time.monotonic(), run.watch()
    batch = stage.draw(run.engine.data, run.engine.generator(0, 0)[0], run.group)
    accuracy = 0.0
    for step in range(STEPS):
        terms = run.engine.step(stage, (0, step), STEPS, rate)
        watch.look(terms["margin"].item())
        if step % _EVERY == _EVERY - 1:
            accuracy = batch_accuracy(run.engine.average, batch)
            log(f"step {step + 1}  accuracy {accuracy:.4f}  margin {watch.mean:.4f}  plateau {watch.value:.4f}")
        if accuracy > ENOUGH:
            break
    run.engine.close()
    seconds = round(time.monotonic() - started, 1)
    if accuracy <= ENOUGH:
        raise ValueError(_why_not(run, watch, {key: value.item() for key, value in terms.items()}, accuracy))
    return {"windows": config.overfit, "steps": step + 1, "accuracy": round(accuracy, 4), "seconds": seconds}


def _why_not(run: Run, watch: PlateauWatch, terms: dict[str, float], accuracy: float) -> str:
    causes = diagnose(terms, watch, len(run.engine.data), run.config.data)
    told = f"overfit: expected an accuracy above {ENOUGH} after {STEPS} steps, got {accuracy:.3f}"
    return "; ".join([told, *(causes if watch.on else ["the loss is falling: a larger learning_rate may do"])])


def shuffled(config: TrainConfig, expert_config: UniSyncConfig, log: Callable[[str], None]) -> dict[str, Any]:
    """Train with sounds that belong to other faces: the loss must stay on the plateau.

    Args:
        config: of the run.
        expert_config: what to build.
        log: takes lines of progress.

    Returns:
        ``steps``, ``margin`` (running mean of eq. 1) and ``plateau``.

    Raises:
        ValueError: when something is learnt all the same: labels leak.
    """
    run = prepare_run(replace(config, shuffle_labels=True), expert_config, log)
    _, stage, _, rate = run.stages[-1]
    run.engine.prepare(stage, rate)
    watch = run.watch()
    for step in range(STEPS):
        watch.look(run.engine.step(stage, (0, step), STEPS, rate)["margin"].item())
        if step % _EVERY == _EVERY - 1:
            log(f"step {step + 1}  margin {watch.mean:.4f}  plateau {watch.value:.4f}")
    run.engine.close()
    if not watch.on:
        raise ValueError(
            f"shuffle-labels: expected a loss on the plateau of {watch.value:.4f}, got {watch.mean:.4f} after {STEPS} "
            "steps: something else than sync tells which pairs match"
        )
    return {"steps": STEPS, "margin": round(watch.mean, 4), "plateau": round(watch.value, 4)}


@torch.inference_mode()
def batch_accuracy(learner: TrainingModel, batch: SegmentBatch | PairBatch) -> float:
    """Balanced accuracy on the pairs of a batch, at the best threshold."""
    device = next(learner.parameters()).device
    batch = batch.to(device)
    with device:
        seen, heard = (
            encode_visual_batch(learner, batch, augmented=False),
            encode_audio_batch(learner, batch, augmented=False),
        )
        if isinstance(batch, PairBatch):
            probability, match = sync_probability(heard[:, 0], seen[:, 0]), batch.kind == POSITIVE
            positive, negative = probability[match], probability[~match]
        else:
            table = all_pairs(*(rearrange(values, "n w d -> (n w) d") for values in (heard, seen)))
            kinds = pair_kinds(*batch.window_labels())
            positive, negative = table.diagonal(), table[kinds.same | kinds.cross]
    right, wrong = positive.double().cpu().numpy(), negative.double().cpu().numpy()
    scores = PairScores(right, wrong, right.astype(int), right > 0)
    return accuracy_at(scores, best_threshold(scores))
