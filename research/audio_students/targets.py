"""Targets: what the teacher computes for every whole recording, once, kept on disk.

Encoding Whisper takes many times as long as a training step, and its states depend on the whole recording, so nothing
of it happens in the training loop. Axes: T frames, W = T - 4 windows, D embedding, K states,
L = 2 T steps, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research.audio_students.crops import Places
from research.audio_students.speech import Speech
from unisync_loss import load_expert
from unisync_loss.config import FPS, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.representations import WhisperEncoder
from unisync_loss.utils.files import atomic_path
from unisync_loss.utils.progress import Progress

STATES = (2, 4)  # besides the last: 6 h of Whisper base take 0.6 GB of embeddings and 3.3 GB of states
_MEASURED = 64  # recordings whose states are standardised by


class StatesEncoder(WhisperEncoder):
    """Whisper's encoder with all states side by side instead of the last.

    Shape:
        (B, S) → (B, L, K, F), in the order of ``hidden_states`` of transformers.
    """

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode at once; see the class for shapes."""
        return torch.stack(self.encode_states(waveform), dim=2)


class Teacher:
    """An expert on Whisper.

    Args:
        name: as ``load_expert`` takes it.
        device: to compute on.

    Attributes:
        expert: frozen.
        encoder: its Whisper, with all layers that there are.
        layers: states that a HuBERT learns, as in ``hidden_states`` of transformers; the last are the expert's input.
        identity: sha256 of the audio tower and of the Whisper whose features it takes.

    Raises:
        ValueError: for an expert on other features.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.expert = load_expert(name, device=device).requires_grad_(False)
        config = self.expert.config
        if config.audio != "whisper":
            raise ValueError(f"teacher: expected an expert on whisper, got {name} on {config.audio}")
        self.encoder = StatesEncoder.from_pretrained(config.audio_model, revision=config.audio_revision, device=device)
        last = range(len(self.encoder.network.layers) + 1)[config.audio_layer]
        self.layers = sorted({*(layer for layer in STATES if layer < last), last})
        digest = hashlib.sha256(f"{self.encoder.identity} {config.audio_layer}".encode())
        for key, value in self.expert.audio_tower.state_dict().items():
            digest.update(key.encode() + value.cpu().numpy().tobytes())
        self.identity = digest.hexdigest()
        self._device = device

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (W, D) of all windows and states (L, K, F) of a recording (640 T,)."""
        states = self.encoder(waveform[None].to(self._device))
        features = states[:, :, self.expert.config.audio_layer]
        windows = self.expert.encode_audio(features, len(waveform) // SAMPLES_PER_FRAME)
        return windows[0], states[0][:, self.layers]


class Targets:
    """Targets of all recordings, kept in files of their own: embeddings of windows, and states where they are wanted.

    Args:
        folder: of the files; created if missing. What is there is not computed again.
        speech: recordings.
        teacher: computes them.
        states: whether states are wanted.
        log: called with lines of progress.

    Attributes:
        with_states: whether there are states.
    """

    def __init__(
        self, folder: Path, speech: Speech, teacher: Teacher, *, states: bool, log: Callable[[str], None]
    ) -> None:
        self.with_states = states
        folder.mkdir(parents=True, exist_ok=True)
        self._windows: list[Path] = []
        self._states: list[Path] = []
        for index in range(len(speech.frames)):
            content = hashlib.sha256(speech.waveform(index).numpy().tobytes()).hexdigest()
            self._windows.append(folder / f"{_key(content, teacher.identity)}.windows.npy")
            self._states.append(folder / f"{_key(content, teacher.encoder.identity, *teacher.layers)}.states.npy")
        self._compute(speech, teacher, log)

    def _compute(self, speech: Speech, teacher: Teacher, log: Callable[[str], None]) -> None:
        wanted = [
            index
            for index, (windows, states) in enumerate(zip(self._windows, self._states, strict=True))
            if not windows.is_file() or (self.with_states and not states.is_file())
        ]
        seconds = speech.frames / FPS
        progress, done = Progress(log, round(seconds[wanted].sum()), "s of speech encoded by the teacher"), 0.0
        for index in wanted:
            windows, states = teacher.encode(speech.waveform(index))
            if self.with_states:
                _save(self._states[index], states)
            _save(self._windows[index], windows)
            done += float(seconds[index])
            progress.update(done)

    def windows(self, places: Places) -> Tensor:
        """Embeddings (B, W, D) of the windows of crops."""
        return _cut(self._windows, places, 1, places.frames - WINDOW_FRAMES + 1)

    def states(self, places: Places) -> Tensor:
        """States (B, L, K, F) of crops."""
        return _cut(self._states, places, 2, 2 * places.frames)

    def moments(self, recordings: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Mean and deviation (K, F) of the states of up to 64 of these recordings, spread evenly over them."""
        chosen = recordings[:: -(-len(recordings) // _MEASURED)]
        states = np.concatenate([np.load(self._states[index]) for index in chosen]).astype(np.float32)
        return torch.from_numpy(states.mean(0)), torch.from_numpy(states.std(0)).clamp(min=1e-5)


def _cut(paths: list[Path], places: Places, rate: int, length: int) -> Tensor:
    """Rows of each crop, ``rate`` of them to a frame."""
    crops = []
    for index, frame in zip(places.recording, places.start, strict=True):
        rows = np.load(paths[index], mmap_mode="r")[rate * frame : rate * frame + length]
        crops.append(torch.from_numpy(rows.astype(np.float32)))
    return torch.stack(crops)


def _key(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]


def _save(path: Path, values: Tensor) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, values.half().cpu().numpy())
