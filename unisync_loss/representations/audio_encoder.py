"""Base class of the pretrained audio encoders: audio of any length, two steps per video frame, with a cache on disk."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import SAMPLES_PER_STEP
from unisync_loss.utils.files import atomic_path
from unisync_loss.utils.frozen import FrozenModule, Network
from unisync_loss.utils.model_files import ModelFiles
from unisync_loss.utils.tensors import describe, read_array

HOP = SAMPLES_PER_STEP["hubert"]  # and that of Whisper
_SHORTEST = 400  # samples: the field of HuBERT's convolutions, and Whisper's window
#: the model that features of a width usually come from, for error messages
_WIDTHS = {
    29: "DeepSpeech",
    32: "CTC letters of a fine-tuned model",
    80: "a mel spectrogram",
    256: "a soft-unit HuBERT or ContentVec",
    384: "Whisper tiny",
    512: "Whisper base, or HuBERT's convolutions",
    768: "HuBERT base (facebook/hubert-base-ls960) or Whisper small",
    1024: "HuBERT large (facebook/hubert-large-ls960-ft) or Whisper medium",
    1280: "HuBERT x-large (facebook/hubert-xlarge-ls960-ft) or Whisper large",
}
Encoder = TypeVar("Encoder", bound="AudioEncoder[Any]")


class AudioEncoder(FrozenModule[Network], ABC):
    """A frozen encoder: waveforms → features.

    Audio of up to a segment with its context on both sides is encoded at once. Time and memory of attention grow with
    the square of the length, and a cut changes features far from it, so longer audio is encoded in segments of 20 s
    from its beginning on, each with the context on either side. Audio beyond that does not change a segment, so a video
    that is read segment by segment (``unisync score``) gives the same features as the whole file.

    Args:
        network: of the encoder.
        width: number F of features.
        layer: as in ``hidden_states`` of transformers, 0 the input of the first layer; -1 is ``last_hidden_state``.
        identity: identifier of the weights, a commit or a sha256.
        dtype: in which the network computes, float32, float16 or bfloat16.

    Attributes:
        kind: of model, for messages.
        segment: steps of a segment.
        context: steps on either side of it.

    Shape:
        (B, S) → (B, L, F).
    """

    kind: ClassVar[str]
    segment: ClassVar[int] = 1000
    context: ClassVar[int]

    def __init__(self, network: Network, *, width: int, layer: int, identity: str, dtype: torch.dtype) -> None:
        super().__init__(network.to(dtype))
        self.width, self.layer, self.identity = width, layer, identity

    @property
    def dtype(self) -> torch.dtype:
        """Type of number in which the network computes."""
        return next(self.network.parameters()).dtype

    @classmethod
    def from_pretrained(
        cls: type[Encoder],
        model: str | os.PathLike[str],
        *,
        revision: str = "main",
        layer: int = -1,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Encoder:
        """Load a model that is bundled, in a folder or on the Hub (from the cache if the revision is a full commit).

        Args:
            model: an existing folder, a bundled name, or ``owner/name``.
            revision: commit, tag or branch on the Hub; for files on this disk, the sha256 of the weights.
            layer: see the class.
            device: to put it on; None is the CPU.
            dtype: see the class.

        Raises:
            ValueError: for another kind of model, missing weights, a layer that it does not have, or a model that is
                neither on this disk nor available from the Hub; within seconds, with the command that downloads it.
        """
        name = os.fspath(model)
        try:
            return cls.load(cls.find(name, revision), layer, dtype).to(device or "cpu")
        except ValueError as error:
            raise ValueError(f"{cls.kind} {name}@{revision}: {error}") from error

    @classmethod
    @abstractmethod
    def find(cls, name: str, revision: str) -> ModelFiles:
        """Find the files of a model; see :func:`unisync_loss.utils.model_files.find_model`."""

    @classmethod
    @abstractmethod
    def load(cls: type[Encoder], files: ModelFiles, layer: int, dtype: torch.dtype) -> Encoder:
        """Build an encoder from its files; see :meth:`from_pretrained`."""

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode clips of equal length.

        Args:
            waveform: (B, S) at 16 kHz in [-1, 1], on the network's device.

        Returns:
            (B, L, F) float32 with L = S / 320 rounded, so that 640·T samples give 2·T steps: step k starts at sample
            320 k. A gradient reaches the waveform if it asks for one.

        Raises:
            ValueError: for another shape, an integer dtype, or fewer than 400 samples.
        """
        if waveform.ndim != 2 or not waveform.is_floating_point() or waveform.shape[1] < _SHORTEST:
            raise ValueError(
                f"waveform: expected (B, S) floating point with S at least {_SHORTEST}, got {describe(waveform)}"
            )
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            steps = round(waveform.shape[1] / HOP)
            if steps <= self.longest:
                return self.encode(waveform.float())
            parts = []
            for start in range(0, steps, self.segment):
                first, last = max(0, start - self.context), start + self.segment + self.context
                stretch = waveform[:, HOP * first : HOP * last if last < steps else None]
                parts.append(self.encode(stretch.float())[:, start - first :][:, : self.segment])
            return torch.cat(parts, dim=1)

    @property
    def longest(self) -> int:
        """Steps of the longest audio that is encoded at once."""
        return self.segment + 2 * self.context

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a float32 waveform (B, S) at once: (B, S / 320 rounded, F) float32."""

    @abstractmethod
    def cache_key(self, steps: int) -> str:
        """Everything but the samples that ``steps`` steps of features depend on, for the key of a cache."""


def looks_like(width: int) -> str:
    """Name the usual source of features of a width, as the end of an error message; empty if unknown."""
    return f", which looks like {_WIDTHS[width]}" if width in _WIDTHS else ""


def fit_steps(features: Tensor, steps: int) -> Tensor:
    """Repeat the last step of features (B, L, F) that lack exactly one of ``steps``."""
    return torch.cat([features, features[:, -1:]], dim=1) if features.shape[1] == steps - 1 else features


def cached_features(
    waveform: NDArray[np.float32], encoder: AudioEncoder[Any], folder: Path, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """Encode a clip, or read the features if the same samples were encoded with the same weights, layer and dtype.

    Args:
        waveform: (S,) at 16 kHz.
        encoder: on ``device``.
        folder: of the cache; created if missing.
        device: to encode on.

    Returns:
        (L, F) float32; see :meth:`AudioEncoder.forward`.

    Raises:
        ValueError: for a waveform of another shape, or too short.
    """
    samples = np.ascontiguousarray(waveform, dtype="<f4")  # the same key on machines of either byte order
    start = encoder.cache_key(round(samples.size / HOP))
    key = hashlib.sha256(start.encode() + samples.tobytes()).hexdigest()
    path = folder / f"{key[:32]}.npy"  # 128 bits: no two clips share them
    if path.is_file():
        return read_features(path, encoder.width)
    with torch.inference_mode():
        features: NDArray[np.float32] = encoder(torch.from_numpy(samples)[None].to(device))[0].cpu().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        np.save(temporary, features)
    return features


def read_features(path: str | os.PathLike[str], width: int) -> NDArray[np.float32]:
    """Read precomputed features, such as GeneFace's ``*_hubert.npy``.

    Args:
        path: an ``.npy`` file of (L, F) numbers, 50 steps per second.
        width: the F of the expert.

    Returns:
        (L, F) float32.

    Raises:
        ValueError: for another kind of file or features of another width; the message names their likely source.
    """
    expected = f"features (L, {width})"
    features = read_array(path)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(f"{path}: expected {expected} in floating point, got {features.shape} {features.dtype}")
    if features.shape[1] != width:
        raise ValueError(f"{path}: expected {expected}, got {features.shape}{looks_like(features.shape[1])}")
    return features.astype(np.float32)
