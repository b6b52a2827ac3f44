"""HuBERT encoder: features of clips of any length, two steps per video frame, with a cache on disk.

``transformers`` computes them and is imported when there is a waveform to encode.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unisync_loss.config import SAMPLE_RATE, STEP_RATE
from unisync_loss.utils.files import atomic_path
from unisync_loss.utils.frozen import FrozenModule
from unisync_loss.utils.transformers_models import load_model

if TYPE_CHECKING:
    from transformers import HubertModel


Count = TypeVar("Count", int, NDArray[np.int64])
HOP = SAMPLE_RATE // STEP_RATE["hubert"]  # 320 samples from one step to the next
FIELD = 400  # samples that one step is computed from
#: longer audio is encoded in segments of 20 s, each with 5 s of context on either side; in steps
SEGMENT, CONTEXT = 1000, 250
_WHOLE = SEGMENT + 2 * CONTEXT  # steps of the longest audio that is encoded at once: 30 s
_CHUNK = 1000  # steps that the convolutions compute at once, 20 s
#: part of the cache key of audio encoded at once, and of longer audio: increased when the features change
_CACHE_VERSIONS = 1, 2
#: the model that features of a width usually come from, for error messages
_WIDTHS = {
    29: "DeepSpeech",
    32: "CTC letters of a fine-tuned model",
    80: "a mel spectrogram",
    256: "a soft-unit HuBERT or ContentVec",
    384: "Whisper tiny",
    512: "Whisper base, or HuBERT's convolutions",
    768: "HuBERT base (facebook/hubert-base-ls960)",
    1024: "HuBERT large (facebook/hubert-large-ls960-ft)",
    1280: "HuBERT x-large (facebook/hubert-xlarge-ls960-ft)",
}


def looks_like(width: int) -> str:
    """Name the usual source of features of a width, as the end of an error message; empty if unknown."""
    return f", which looks like {_WIDTHS[width]}" if width in _WIDTHS else ""


class HubertEncoder(FrozenModule[nn.ModuleDict]):
    """A frozen HuBERT: waveforms → features.

    Audio of up to 30 s is encoded at once, as in training. Time and memory of attention grow with the square of the
    length, and a cut changes features far from it, so longer audio is encoded in segments of 20 s from its beginning
    on, each with 5 s of context on either side. Audio more than 5 s away does not change a segment, so a video that is
    read segment by segment (``unisync score``) gives the same features as the whole file.

    Each segment is standardised where the model's preprocessor asks for it. The convolutions, whose first layer holds
    64 times as much as the features, run chunk by chunk with the same result (the statistics of a group norm are taken
    over all chunks first).

    Args:
        model: with its weights; its feature extractor is taken out of it.
        layer: as in ``hidden_states`` of transformers, 0 the input of the first layer; -1 is ``last_hidden_state``.
        normalize: bring waveforms to mean 0 and deviation 1.
        identity: identifier of the weights, a commit or a sha256.
        dtype: in which the model computes, float32, float16 or bfloat16.

    Shape:
        (B, S) → (B, L, F).

    Raises:
        ValueError: for a layer that the model does not have, or a model of another rate than 50 steps a second.
    """

    def __init__(
        self,
        model: HubertModel,
        *,
        layer: int = -1,
        normalize: bool = True,
        identity: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = model.config
        if not -1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"audio_layer: expected -1 … {config.num_hidden_layers}, got {layer}")
        if math.prod(config.conv_stride) != HOP:
            raise ValueError(f"expected a HuBERT of 50 steps a second, got strides {tuple(config.conv_stride)}")
        convolutions = model.feature_extractor.conv_layers
        model.feature_extractor = nn.Identity()  # the convolutions run chunk by chunk, see _convolve
        super().__init__(nn.ModuleDict({"convolutions": convolutions, "transformer": model}).to(dtype))
        self.layer, self.normalize, self.identity = layer, normalize, identity
        self.width: int = config.hidden_size
        self._group_norm = config.feat_extract_norm == "group"

    @property
    def dtype(self) -> torch.dtype:
        """Type of number in which the model computes."""
        return next(self.network.parameters()).dtype

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str = "main",
        layer: int = -1,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> HubertEncoder:
        """Load a HuBERT that is bundled, in a folder or on the Hub (from the cache if the revision is a full commit).

        Args:
            model: an existing folder, ``"hubert-small"``, or ``owner/name``.
            revision: commit, tag or branch on the Hub; for files on this disk, the sha256 of the weights.
            layer: see the class.
            device: to put it on; None is the CPU.
            dtype: see the class.

        Raises:
            ValueError: for another kind of model, missing weights, or a model that is neither on this disk nor
                available from the Hub; within seconds, with the command that downloads it.
            ImportError: without transformers.
        """
        network, preprocessor, identity = load_model(model, revision)
        if preprocessor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ValueError(f"HuBERT {model}: expected a model of 16000 Hz, got {preprocessor['sampling_rate']}")
        normalize = bool(preprocessor.get("do_normalize", True))
        return cls(network.to(device or "cpu"), layer=layer, normalize=normalize, identity=identity, dtype=dtype)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode clips of equal length.

        Args:
            waveform: (B, S) at 16 kHz in [-1, 1], on the model's device.

        Returns:
            (B, L, F) float32 with L = S / 320 rounded, so that 640·T samples give 2·T steps: step k starts at sample
            320 k. The last step would need 80 samples after the end; it repeats the one before (GeneFace's rule).
            A gradient reaches the waveform if it asks for one.

        Raises:
            ValueError: for another shape, an integer dtype, or fewer than 400 samples.
        """
        if waveform.ndim != 2 or not waveform.is_floating_point() or waveform.shape[1] < FIELD:
            shape = f"{tuple(waveform.shape)} {waveform.dtype}"
            raise ValueError(f"waveform: expected (B, S) floating point with S at least {FIELD}, got {shape}")
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            steps = round(waveform.shape[1] / HOP)
            if steps <= _WHOLE:
                return self._encode(waveform.float())
            parts = []
            for start in range(0, steps, SEGMENT):
                first, last = max(0, start - CONTEXT), start + SEGMENT + CONTEXT
                segment = waveform[:, HOP * first : HOP * last if last < steps else None]
                parts.append(self._encode(segment.float())[:, start - first :][:, :SEGMENT])
            return torch.cat(parts, dim=1)

    def _encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S) at once: (B, S / 320 rounded, F)."""
        if self.normalize:
            waveform = standardise(waveform)
        features = self._hidden(self._convolve(waveform.to(self.dtype))).float()
        return fit_steps(features, round(waveform.shape[1] / HOP))

    def _convolve(self, waveform: Tensor) -> Tensor:
        """Convolutions chunk by chunk, (B, S) → (B, C, steps)."""
        moments = self._moments(waveform) if self._group_norm else None
        steps = steps_of(waveform.shape[1])
        chunks = []
        for start in range(0, steps, _CHUNK):
            last = min(start + _CHUNK, steps) - 1
            hidden = waveform[:, None, HOP * start : HOP * last + FIELD]
            for index, layer in enumerate(self._convolutions()):
                if index == 0 and moments is not None:
                    mean, deviation = moments
                    hidden = (layer.conv(hidden) - mean) / deviation
                    scale, shift = layer.layer_norm.weight, layer.layer_norm.bias
                    hidden = layer.activation(hidden * scale[:, None] + shift[:, None])
                else:
                    hidden = layer(hidden)
            chunks.append(hidden)
        return torch.cat(chunks, dim=2)

    def _convolutions(self) -> list[Any]:
        """Layers of ``transformers``, from the waveform on."""
        return list(self.network["convolutions"].children())

    def _moments(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the first convolution's output over the whole clip, (B, C, 1) each."""
        first = self._convolutions()[0]
        kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]
        count = (waveform.shape[1] - kernel) // stride + 1
        sums: list[Tensor] = []
        for start in range(0, count, _CHUNK * HOP // stride):
            last = min(start + _CHUNK * HOP // stride, count) - 1
            # float64: the variance is a difference of sums over the whole clip
            values = first.conv(waveform[:, None, stride * start : stride * last + kernel]).double()
            sums.append(torch.stack([values.sum(2, keepdim=True), values.square().sum(2, keepdim=True)]))
        mean, square = torch.stack(sums).sum(0) / count
        deviation = (square - mean.square() + first.layer_norm.eps).sqrt()
        return mean.to(self.dtype), deviation.to(self.dtype)

    def _hidden(self, features: Tensor) -> Tensor:
        """Transformer, (B, C, steps) → (B, steps, F)."""
        transformer = self.network["transformer"]
        if self.layer == -1:  # without keeping the states of all layers
            last: Tensor = transformer(features).last_hidden_state
            return last
        states = transformer(features, output_hidden_states=True).hidden_states
        assert states is not None
        chosen: Tensor = states[self.layer]
        return chosen


def standardise(waveform: Tensor) -> Tensor:
    """Waveforms (B, S) of mean 0 and deviation 1 each."""
    mean, variance = waveform.mean(1, keepdim=True), waveform.var(1, correction=0, keepdim=True)
    return (waveform - mean) / (variance + 1e-7).sqrt()  # as transformers' Wav2Vec2FeatureExtractor


def steps_of(samples: Count) -> Count:
    """Number of steps of n samples."""
    return (samples - FIELD) // HOP + 1


def fit_steps(features: Tensor, steps: int) -> Tensor:
    """Repeat the last step of features (B, L, F) that lack exactly one of ``steps``."""
    return torch.cat([features, features[:, -1:]], dim=1) if features.shape[1] == steps - 1 else features


def cached_features(
    waveform: NDArray[np.float32], encoder: HubertEncoder, folder: Path, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """Encode a clip, or read the features if the same samples were encoded with the same weights, layer and dtype.

    Args:
        waveform: (S,) at 16 kHz.
        encoder: on ``device``.
        folder: of the cache; created if missing.
        device: to encode on.

    Returns:
        (L, F) float32; see :meth:`HubertEncoder.forward`.

    Raises:
        ValueError: for a waveform of another shape, or too short.
    """
    samples = np.ascontiguousarray(waveform, dtype="<f4")  # the same key on machines of either byte order
    version = _CACHE_VERSIONS[round(samples.size / HOP) > _WHOLE]
    recipe = f"{version} {encoder.identity} {encoder.layer} {encoder.normalize} {encoder.dtype} "
    key = hashlib.sha256(recipe.encode() + samples.tobytes()).hexdigest()
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
    try:
        features = np.load(path, allow_pickle=False)  # a pickle could run code
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: expected an .npy file of HuBERT features (L, {width}), got none ({error})"
        ) from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        found = f"{features.shape} {features.dtype}" if isinstance(features, np.ndarray) else "an archive"
        raise ValueError(f"{path}: expected HuBERT features (L, {width}) in floating point, got {found}")
    if features.shape[1] != width:
        found = f"{features.shape}{looks_like(features.shape[1])}"
        raise ValueError(f"{path}: expected HuBERT features (L, {width}), got {found}")
    return features.astype(np.float32)
