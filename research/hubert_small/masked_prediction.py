"""Masked prediction, the task of HuBERT: predict the units of masked spans of speech from their context.

Axes: B crops, L steps of 20 ms, M masked steps, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from research.hubert_small.speech import Speech, samples_of
from unisync_loss.config import STEP_RATE
from unisync_loss.representations.hubert_encoder import HOP, standardise

if TYPE_CHECKING:
    from transformers import HubertConfig

MASK_START, MASK_STEPS = 0.08, 10  # as in the paper: about half of all steps are masked
TEMPERATURE = 0.1  # eq. 3 of the paper
CODE = 256  # size of the unit embeddings
CROP_SECONDS = (4.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class HubertSize:
    """Size of a HuBERT.

    Args:
        hidden: width of features and transformer.
        layers: number of transformer layers.
        channels: channels of the seven convolutions. The early ones run at up to 3200 steps per second: 512 each, as in
            the public models, would cost ten times as much as the transformer of this size.

    Raises:
        ValueError: for sizes that do not fit together.
    """

    hidden: int = 256
    layers: int = 8
    channels: tuple[int, ...] = (32, 64, 96, 128, 192, 256, 256)

    def __post_init__(self) -> None:
        """Check."""
        if self.hidden < 16 or self.hidden % 16 or self.layers < 2 or len(self.channels) != 7 or min(self.channels) < 1:
            raise ValueError(
                "expected hidden a multiple of 16, at least 2 layers and channels of 7 convolutions, got "
                f"{self.hidden}, {self.layers} and {self.channels}"
            )

    def config(self) -> HubertConfig:
        """Config of transformers: layer norms everywhere, so that nothing depends on the whole clip."""
        from transformers import HubertConfig

        return HubertConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=max(2, self.hidden // 64),
            intermediate_size=4 * self.hidden,
            conv_dim=self.channels,
            conv_bias=True,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=64,
            feat_proj_dropout=0.0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_extract_activation="relu",
            hidden_act="relu",
            layerdrop=0.0,
        )


class MaskedPredictor(nn.Module):
    """HuBERT with a head that predicts the units of masked steps.

    Args:
        size: size of the HuBERT.
        units: number U.

    Shape:
        waveform (B, S) of mean 0 and deviation 1, mask (B, L) booleans → logits (M, U), rows in order of the mask.
    """

    def __init__(self, size: HubertSize, units: int) -> None:
        """Build from random weights."""
        from transformers import HubertModel

        super().__init__()
        self.hubert = HubertModel(size.config())
        self.project = nn.Linear(size.hidden, CODE)
        self.codes = nn.Parameter(torch.randn(units, CODE))

    def forward(self, waveform: Tensor, mask: Tensor) -> Tensor:
        """Predict; see the class for shapes."""
        hidden = self.hubert(waveform, mask_time_indices=mask).last_hidden_state[mask]
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            projected = F.normalize(self.project(hidden.float()), dim=1)
            return projected @ F.normalize(self.codes, dim=1).T / TEMPERATURE


class Crops(NamedTuple):
    """Waveforms (B, S) of mean 0 and deviation 1, their units (B, L), and which steps are masked (B, L)."""

    waveform: Tensor
    units: Tensor
    mask: Tensor


class Places(NamedTuple):
    """Segments of equal length: recordings (B,), first steps (B,), and the number of steps."""

    clip: NDArray[np.int64]
    start: NDArray[np.int64]
    length: int


class CropDrawer:
    """Sampler of batches of crops of equal length, so that nothing is padded.

    Args:
        speech: recordings.
        sampling_weights: weight of each recording.
        device: device of the batches and of all samples.
    """

    def __init__(self, speech: Speech, sampling_weights: NDArray[np.float64], device: torch.device) -> None:
        """Move samples to the device."""
        self.speech, self.sampling_weights, self.device = speech, sampling_weights, device
        self.samples = speech.samples.to(device)
        self.first_step = np.cumsum([0, *speech.steps[:-1]])

    def draw(self, generator: np.random.Generator, seconds: float) -> Places:
        """Draw a batch of ``seconds``: the first recording and a random length set the crop length."""
        steps = self.speech.steps
        wanted = round(generator.uniform(*CROP_SECONDS) * STEP_RATE["hubert"])
        length = min(wanted, int(steps[generator.choice(len(steps), p=self.sampling_weights)]))
        sampling_weights = np.where(steps >= length, self.sampling_weights, 0)
        count = max(1, round(seconds * STEP_RATE["hubert"] / length))
        clip = generator.choice(len(steps), count, p=sampling_weights / sampling_weights.sum())
        start = np.floor(generator.random(count) * (steps[clip] - length + 1)).astype(np.int64)
        return Places(clip, start, length)

    def waveforms(self, places: Places) -> Tensor:
        """(B, S) as recorded, in [-1, 1]."""
        first = torch.from_numpy(self.speech.first[places.clip] + places.start * HOP).to(self.device)
        return (
            self.samples[first[:, None] + torch.arange(samples_of(places.length), device=self.device)].float() / 2**15
        )

    def crop(self, places: Places, units: Tensor, generator: np.random.Generator) -> Crops:
        """Cut and mask the given segments; ``units`` holds the units of all steps, recording after recording."""
        step = torch.from_numpy(self.first_step[places.clip] + places.start).to(self.device)
        own = units[step[:, None] + torch.arange(places.length, device=self.device)].long()
        mask = torch.from_numpy(draw_mask(generator, len(places.clip), places.length)).to(self.device)
        return Crops(standardise(self.waveforms(places)), own, mask)


def draw_mask(generator: np.random.Generator, count: int, length: int) -> NDArray[np.bool_]:
    """Mask spans of ten steps; each step starts one with probability 0.08, and every crop has at least one."""
    begins = generator.random((count, length)) < MASK_START
    begins[np.arange(count), generator.integers(length, size=count)] |= ~begins.any(1)
    padded = np.pad(begins, ((0, 0), (MASK_STEPS - 1, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, MASK_STEPS, axis=1).any(-1)
