"""Command ``python -m research.audio_students.from_whisper``: a small HuBERT from the first layers of a Whisper.

A HuBERT with layer norms before its layers has the transformer of Whisper's encoder, so the weights are copied; of each
feed-forward network, the units with the largest weights. The convolutions, the projection and the position convolution
before the transformer are trained to compute what Whisper's spectrogram and convolutions compute. Whisper's fixed
positions have no counterpart. ``python -m research.audio_students --hubert OUT`` then trains all of it.

Axes: B crops, S samples, L = S / 320 steps, F features.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from research.audio_students.augment import augment_waveforms
from research.audio_students.crops import CropDrawer, hold_out
from research.audio_students.saving import save_hubert
from research.audio_students.speech import list_speech, load_speech
from research.audio_students.students import HubertStudent
from unisync_loss.config import SAMPLE_RATE
from unisync_loss.representations import WhisperEncoder
from unisync_loss.representations.audio_encoder import HOP, fit_steps
from unisync_loss.representations.hubert_encoder import standardise
from unisync_loss.representations.whisper_network import WhisperLayer, WhisperNetwork, WhisperSpectrogram
from unisync_loss.training.step import adamw
from unisync_loss.utils.progress import Progress
from unisync_loss.utils.schedule import warm_up_cosine

if TYPE_CHECKING:
    from transformers import HubertModel

CHANNELS, KERNELS, STRIDES = (320, 320), (240, 1, 2), (160, 1, 2)  # a step is computed from 400 samples, as HuBERT's
POSITION_STEPS = 16
LEVEL = 0.05  # of the speech that Whisper is given, as its spectrogram depends on the level: -26 dB
LEAST_DEVIATION = 0.02  # of a channel, so that silent ones do not count


def build_hubert(whisper: WhisperNetwork, layers: int, inner: int) -> HubertModel:
    """Build a HuBERT with the first layers of a Whisper and new convolutions.

    Args:
        whisper: with at least ``layers`` layers.
        layers: number of layers to copy.
        inner: units of each feed-forward network to copy.

    Raises:
        ValueError: for more units than Whisper has.
    """
    from transformers import HubertConfig, HubertModel

    width, first = whisper.conv2.out_channels, whisper.layers[0]
    assert isinstance(first, WhisperLayer)
    if inner > first.fc1.out_features:
        raise ValueError(f"inner: expected at most {first.fc1.out_features}, got {inner}")
    dropouts = ("feat_proj_dropout", "hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop")
    config = HubertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=first.self_attn.heads,
        intermediate_size=inner,
        conv_dim=(*CHANNELS, width),
        conv_kernel=KERNELS,
        conv_stride=STRIDES,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=POSITION_STEPS,
        **dict.fromkeys(dropouts, 0.0),
    )
    hubert = HubertModel(config)
    convolution = hubert.feature_extractor.conv_layers[0].conv
    with torch.no_grad():
        convolution.weight.copy_(band_filters(CHANNELS[0], KERNELS[0])[:, None])
        convolution.bias.normal_(0, 0.1)  # beside the layer norm, a constant keeps the level of the frame
        for layer, source in zip(hubert.encoder.layers, whisper.layers, strict=False):
            copy_layer(layer, source, inner)
    return hubert


def band_filters(count: int, samples: int) -> Tensor:
    """Band-pass filters (count, samples): ``count / 4`` bands on the mel scale, in four phases each."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, count // 4 + 2) / 2595) - 1)
    centre, band = edges[1:-1, None], ((edges[2:] - edges[:-2]) / 2).clamp(min=2 * SAMPLE_RATE / samples)[:, None]
    time = (torch.arange(samples) - (samples - 1) / 2)[None] / SAMPLE_RATE
    envelope = torch.cos(math.pi * (time * band / 2).clamp(-0.5, 0.5)).square()
    envelope = envelope / envelope.square().sum(1, keepdim=True).sqrt()
    phases = [envelope * torch.cos(2 * math.pi * centre * time + math.pi / 2 * phase) for phase in range(4)]
    return torch.cat(phases)


def copy_layer(layer: nn.Module, source: nn.Module, inner: int) -> None:
    """Copy a layer of Whisper into one of HuBERT, with the ``inner`` units of the largest weights."""
    state = source.state_dict()
    size = state["fc1.weight"].norm(dim=1) * state["fc2.weight"].norm(dim=0)
    kept = size.topk(inner).indices.sort().values
    renamed = {
        "attention.k_proj.bias": torch.zeros_like(state["self_attn.q_proj.bias"]),
        "feed_forward.intermediate_dense.weight": state["fc1.weight"][kept],
        "feed_forward.intermediate_dense.bias": state["fc1.bias"][kept],
        "feed_forward.output_dense.weight": state["fc2.weight"][:, kept],
        "feed_forward.output_dense.bias": state["fc2.bias"],
    }
    names = {
        "self_attn.": "attention.",
        "self_attn_layer_norm.": "layer_norm.",
        "final_layer_norm.": "final_layer_norm.",
    }
    for old, new in names.items():
        renamed |= {new + key.removeprefix(old): value for key, value in state.items() if key.startswith(old)}
    layer.load_state_dict(renamed)


class Front(nn.Module):
    """What a HuBERT computes before its first layer.

    Shape:
        (B, S) standardised waveforms → (B, L, F).
    """

    def __init__(self, hubert: HubertModel) -> None:
        super().__init__()
        self.convolutions, self.projection = hubert.feature_extractor, hubert.feature_projection
        self.positions = hubert.encoder.pos_conv_embed

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute; see the class for shapes."""
        hidden = self.projection(self.convolutions(waveform).transpose(1, 2))
        return fit_steps(hidden + self.positions(hidden), waveform.shape[1] // HOP)


class WhisperFront(nn.Module):
    """What Whisper computes before its first layer, without the positions.

    Shape:
        (B, S) standardised waveforms → (B, L, F).
    """

    def __init__(self, whisper: WhisperNetwork) -> None:
        super().__init__()
        self.spectrogram = WhisperSpectrogram(whisper.conv1.in_channels)
        self.conv1, self.conv2 = whisper.conv1, whisper.conv2

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute; see the class for shapes."""
        hidden = F.gelu(self.conv1(self.spectrogram(LEVEL * waveform)))
        return F.gelu(self.conv2(hidden)).transpose(1, 2)


def train_front(
    front: nn.Module,
    target: nn.Module,
    drawer: CropDrawer,
    steps: int,
    batch_seconds: float,
    learning_rate: float,
    log: Callable[[str], None],
) -> list[float]:
    """Regress the input of the first layer.

    Args:
        front: trained in place.
        target: computes what it learns.
        drawer: of the crops, which are augmented.
        steps: number of steps.
        batch_seconds: seconds of speech per batch.
        learning_rate: peak of the cosine schedule, after a warm-up of a twelfth of the steps.
        log: called with lines of progress.

    Returns:
        Mean squared error of each step, in units of each channel's variance.
    """
    optimiser = adamw(front.parameters(), learning_rate, 0.01, (0.9, 0.98))
    progress = Progress(log, steps)
    errors: list[float] = []
    for step in range(steps):
        generator = np.random.default_rng([0, step])
        torch.manual_seed(int(generator.integers(2**62)))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warm_up_cosine(step, steps, warm_up=steps / 12)
        waveform = standardise(augment_waveforms(drawer.waveforms(drawer.draw(generator, batch_seconds))))
        with torch.no_grad():
            wanted = target(waveform)
        deviation = wanted.std((0, 1)).clamp(min=LEAST_DEVIATION)
        loss = ((front(waveform) - wanted) / deviation).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(front.parameters(), 1.0)
        optimiser.step()
        errors.append(loss.item())
        progress.update(step + 1, f"step {step + 1}/{steps}  error {np.mean(errors[-50:]):.4f}")
    return errors


def main(
    whisper: Annotated[str, typer.Argument(help="Folder of a Whisper.")],
    out: Annotated[Path, typer.Argument(help="Folder of the HuBERT.")],
    data: Annotated[list[Path], typer.Option(help="Folders of speech, as for the students.")],
    cache: Annotated[Path, typer.Option(help="Folder of decoded speech.")],
    layers: Annotated[int, typer.Option(min=1, help="Layers to copy.")] = 3,
    inner: Annotated[int, typer.Option(min=16, help="Units of their feed-forward networks.")] = 1408,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training of the convolutions.")] = 2000,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech per batch.")] = 24.0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule.")] = 2e-3,
) -> None:
    """Write OUT: a folder that transformers loads, weights in float16."""

    def log(line: str) -> None:
        typer.echo(line, err=True)

    try:
        torch.manual_seed(0)
        network = WhisperEncoder.from_pretrained(whisper, layer=layers).network
        hubert = build_hubert(network, layers, inner)
        log(f"{sum(value.numel() for value in hubert.parameters()) / 1e6:.2f} M parameters")
        speech = load_speech([found for folder in data for found in list_speech(folder)], cache, log)
        drawer = CropDrawer(speech, hold_out(speech.speaker, speech.frames, 0), HubertStudent.crop_seconds)
        front, target = Front(hubert), WhisperFront(network)
        errors = train_front(front, target, drawer, steps, batch_seconds, learning_rate, log)
        digest = save_hubert(hubert, out)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"from_whisper: {error}")
    typer.echo(f"{out}: sha256 {digest}, error {np.mean(errors[-50:]):.4f}")


if __name__ == "__main__":
    typer.run(main)
