"""Sanity checks of data and trainer: a few windows must be overfitted, shuffled labels must not be learnt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange

from unisync_loss.config import UniSyncConfig
from unisync_loss.evaluation.protocols import PairScores, accuracy_at, best_threshold
from unisync_loss.training.config import RandomPairsRecipe, TrainConfig
from unisync_loss.training.data.batches import AudioVisualBatch
from unisync_loss.training.losses import all_pairs
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.training.trainer import Trainer, build_trainer
from unisync_loss.training.validation import PlateauWatch, diagnose

STEPS = 300
ENOUGH = 0.99  # accuracy on the windows of an overfit run
_EVERY = 10  # steps between progress lines


def overfit(
    config: TrainConfig, expert_config: UniSyncConfig, windows: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Overfit a few windows, without augmentation.

    Args:
        config: of the run.
        expert_config: of the expert.
        windows: number of windows, a multiple of eight from 16.
        log: takes lines of progress.

    Returns:
        ``windows``, ``steps``, ``accuracy`` (balanced, on all pairs of the windows), ``seconds``.

    Raises:
        ValueError: if the windows are not learnt in 300 steps, with likely causes.
    """
    config = for_overfitting(config, windows)
    stages = [replace(config.stages(expert_config)[-1], steps=STEPS)]
    trainer = build_trainer(config, expert_config, log, stages, repeat=True)
    started, watch = time.monotonic(), trainer.plateau_watch()
    batch = stages[0].objective.draw(trainer.stepper.data, trainer.stepper.rng(0, 0)[0], trainer.group)
    accuracy, last = 0.0, {}
    for terms in trainer.steps():
        last = terms
        watch.update(terms["margin"].item())
        if trainer.step % _EVERY == 0:
            accuracy = batch_accuracy(trainer.stepper.average, batch)
            log(f"step {trainer.step}  accuracy {accuracy:.4f}  margin {watch.mean:.4f}  plateau {watch.value:.4f}")
        if accuracy > ENOUGH:
            break
    trainer.close()
    if accuracy <= ENOUGH:
        raise ValueError(_why_not(trainer, watch, {key: value.item() for key, value in last.items()}, accuracy))
    seconds = round(time.monotonic() - started, 1)
    return {"windows": windows, "steps": trainer.step, "accuracy": round(accuracy, 4), "seconds": seconds}


def for_overfitting(config: TrainConfig, windows: int) -> TrainConfig:
    """Settings that overfit one batch: nothing random, no regularisation.

    Raises:
        ValueError: for a number of windows that is not a multiple of eight from 16.
    """
    if windows % 8 or windows < 16:
        raise ValueError(f"--overfit: expected 16, 24, 32 … windows, got {windows}")
    recipe = config.recipe
    if isinstance(recipe, RandomPairsRecipe):
        recipe = replace(recipe, batch=windows, skip_silence=False)
    else:
        # 12 frames are eight windows; accuracy counts every pair, so silent ones must be learnt, too
        recipe = replace(recipe, clips=windows // 8, segments=1, frames=12, skip_silence=False)
    return replace(
        config,
        data=replace(config.data, augment=False, val=None),
        optimiser=replace(config.optimiser, ema=0.0, weight_decay=0.0, warm_up=0, schedule="constant"),
        recipe=recipe,
    )


def _why_not(trainer: Trainer, watch: PlateauWatch, terms: dict[str, float], accuracy: float) -> str:
    causes = diagnose(terms, watch, len(trainer.stepper.data), trainer.config.data.folders)
    result = f"overfit: expected an accuracy above {ENOUGH} after {STEPS} steps, got {accuracy:.3f}"
    return "; ".join([result, *(causes if watch.on else ["the loss falls: try a larger recipe.learning_rate"])])


def shuffled(config: TrainConfig, expert_config: UniSyncConfig, log: Callable[[str], None]) -> dict[str, Any]:
    """Train with mismatched audio and video: the loss must stay at its chance level.

    Args:
        config: settings of the run.
        expert_config: config of the expert.
        log: receives lines of progress.

    Returns:
        ``steps``, ``margin`` (running mean of eq. 1) and ``plateau``.

    Raises:
        ValueError: if the loss falls nevertheless, because labels leak.
    """
    stages = [replace(config.stages(expert_config, shuffled=True)[-1], steps=STEPS)]
    trainer = build_trainer(config, expert_config, log, stages)
    watch = trainer.plateau_watch()
    for terms in trainer.steps():
        watch.update(terms["margin"].item())
        if trainer.step % _EVERY == 0:
            log(f"step {trainer.step}  margin {watch.mean:.4f}  plateau {watch.value:.4f}")
    trainer.close()
    if not watch.on:
        raise ValueError(
            f"shuffle-labels: expected a loss at its chance level of {watch.value:.4f}, got {watch.mean:.4f} after "
            f"{STEPS} steps: something other than sync distinguishes pairs"
        )
    return {"steps": STEPS, "margin": round(watch.mean, 4), "plateau": round(watch.value, 4)}


@torch.inference_mode()
def batch_accuracy(model: TrainingModel, batch: AudioVisualBatch) -> float:
    """Balanced accuracy on the pairs of a batch, at the best threshold."""
    device = next(model.parameters()).device
    batch = batch.to(device)
    with device:
        visual = encode_visual_batch(model, batch, augmented=False)
        audio = encode_audio_batch(model, batch, augmented=False)
        table = all_pairs(*(rearrange(values, "n w d -> (n w) d") for values in (audio, visual)))
        positives, negatives = (table[pairs].double().cpu().numpy() for pairs in batch.scored_pairs())
    scores = PairScores(positives, negatives, positives.astype(int), positives > 0)
    return accuracy_at(scores, best_threshold(scores))
