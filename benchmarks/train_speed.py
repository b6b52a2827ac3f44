"""Training samples per second compared with Wav2Lip's recipe, with the same network and clips, as a ratio.

    python benchmarks/train_speed.py --data FOLDER --out out/speed --json out/speed.json [run.device=cuda …]

Wav2Lip's side reimplements the behaviour of its `color_syncnet_train.py`: frames as JPEG files on disk, the whole
audio of a clip read and converted to a mel spectrogram for every sample, one window per sample, batches of 64, loader
processes (`--workers`; 16 there). Ours are the presets `paper` (random pairs) and `fast` (all pairs of segments). All
use the small RGB network without augmentation, so that only loader and recipe differ. A sample is a window that
enters the loss.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import wave
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unisync_loss.representations import mel_spectrogram
from unisync_loss.training.data.batches import PairBatch
from unisync_loss.training.data.cache import load
from unisync_loss.training.data.pairs import FAR, POSITIVE, PairSampling
from unisync_loss.training.data.visual_frames import MouthFrames
from unisync_loss.training.settings import resolve
from unisync_loss.training.stages import RandomPairStage, StageSpec
from unisync_loss.training.trainer import Trainer, build_trainer
from unisync_loss.utils.files import write_atomically
from unisync_loss.video.encoding import encode_wav

BATCH = 64


class Wav2LipLoader(Dataset[tuple[Tensor, Tensor, int]]):
    """One random pair from one clip, read from files for every sample, as in Wav2Lip's `Dataset.__getitem__`.

    Args:
        folders: one folder per clip, with numbered JPEG files and audio.wav.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.folders)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Five mouth crops (5, 80, 80, 3), a mel (80, 16), and the kind of pair."""
        folder = random.choice(self.folders)
        names = sorted(folder.glob("*.jpg"), key=lambda path: int(path.stem))
        match = random.random() < 0.5
        start = random.randrange(len(names) - 4)
        audio_start = start if match else random.randrange(len(names) - 4)
        frames = np.stack([np.asarray(Image.open(name)) for name in names[start : start + 5]])
        with wave.open(str(folder / "audio.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        mel = mel_spectrogram(torch.from_numpy(samples)[None])[0]
        first = int(3.2 * audio_start)
        return torch.from_numpy(frames), mel[:, first : first + 16], POSITIVE if match else FAR


def write_wav2lip_layout(trainer: Trainer, cache: Path, out: Path) -> list[Path]:
    """Write frames as JPEG and audio as WAV, one folder per clip."""
    folders = []
    for number, entry in enumerate(trainer.stepper.data.entries):
        folder = out / str(number)
        clip = load(entry, cache, "mouth")
        if not (folder / "audio.wav").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for index, cut in enumerate(clip["cuts"]):
                Image.fromarray(cut).save(folder / f"{index}.jpg", quality=95)
            write_atomically(folder / "audio.wav", encode_wav(clip["waveform"]))
        folders.append(folder)
    return folders


def endless(loader: DataLoader[Any]) -> Generator[PairBatch]:
    """Batches of consecutive epochs."""
    while True:
        for frames, mel, kind in loader:
            motion = torch.zeros(len(kind), 5, 52, 2)  # not used
            yield PairBatch(MouthFrames(frames, motion), mel, kind, torch.zeros(len(kind), dtype=torch.bool))


def rate(step: Callable[[], int], seconds: float, device: torch.device, before: int) -> float:
    """Samples a second over so many seconds, after so many steps that do not count."""
    for _ in range(before):
        step()
    samples, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        samples += step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return samples / (time.perf_counter() - started)


def advance(trainer: Trainer, steps: Iterator[object]) -> int:
    """Take a step of our trainer; returns its samples."""
    next(steps)
    return trainer.stepper.windows


def main() -> None:
    """Measure in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    cache = options.out / "cache"

    def start(preset: str, name: str) -> Trainer:
        given = {"folders": [options.data], "out": str(options.out / name), "preset": preset, "cache": str(cache)}
        config, expert = resolve(given, None, ["expert.architecture=small", "data.augment=false", *options.settings])
        stages = [replace(config.stages(expert)[-1], steps=10**9)]
        return build_trainer(config, expert, print, stages)

    trainers = {preset: start(preset, preset) for preset in ("paper", "fast")}
    device = trainers["paper"].stepper.device
    folders = write_wav2lip_layout(trainers["paper"], cache, options.out / "wav2lip")
    # as many items an epoch as there are clips, as there; loaders start anew each epoch, which a small folder must not
    # make them do all the time
    dataset = Wav2LipLoader(folders * (1 + 40 * BATCH // len(folders)))
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=options.workers, drop_last=True)
    stage = RandomPairStage(PairSampling(), BATCH, augment=False)
    steps: dict[str, Callable[[], int]]
    steps = {preset: partial(advance, trainer, trainer.steps()) for preset, trainer in trainers.items()}
    peer = start("paper", "wav2lip-run").stepper
    peer.prepare(StageSpec("pairs", stage, 10**9, 1e-4))

    def theirs(batches: Iterator[PairBatch]) -> int:
        batch = next(batches).to(device)
        assert peer.optimiser is not None
        peer.optimiser.zero_grad()
        stage.loss(peer.model, batch)["loss"].backward()
        peer.optimiser.step()
        return BATCH

    rates: dict[str, list[float]] = {name: [] for name in (*steps, "wav2lip")}
    for _ in range(options.rounds):
        for name, step in steps.items():
            rates[name].append(rate(step, options.seconds, device, 3))
        # its loader reads in its own turn only, and what it read ahead before the clock started does not count
        batches = endless(loader)
        rates["wav2lip"].append(rate(partial(theirs, batches), options.seconds, device, 3 + 2 * options.workers))
        batches.close()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: round(middle[name] / middle["wav2lip"], 2) for name in trainers}
    report = {
        "samples_per_second": rates,
        "ratio_to_wav2lip": ratios,
        "workers": options.workers,
        "device": str(device),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.json, json.dumps(report, indent=1) + "\n")
    print({name: round(value, 1) for name, value in middle.items()}, ratios)
    for trainer in trainers.values():
        trainer.close()
    peer.close()


if __name__ == "__main__":
    main()
