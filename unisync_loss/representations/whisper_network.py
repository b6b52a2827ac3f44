"""Whisper's log-mel spectrogram and encoder network in plain PyTorch (Radford et al., arXiv 2212.04356).

That of ``transformers`` takes exactly 30 s; this one takes any shorter length. State keys are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.representations.mel import slaney_filters
from unisync_loss.utils.frozen import ConstantTables

N_FFT, HOP = 400, 160
DYNAMIC_RANGE = 8.0  # decades below the loudest value, where the spectrogram is cut off
POSITIONS = 1500  # steps of 20 ms: 30 s


@dataclass(frozen=True, kw_only=True)
class WhisperSize:
    """Sizes of an encoder, as ``config.json`` names them.

    Attributes:
        d_model: width F.
        encoder_layers: number of layers.
        encoder_attention_heads: of each layer.
        encoder_ffn_dim: width between the two linear layers.
        num_mel_bins: of the spectrogram, 80 or 128.
    """

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int = 80


class WhisperSpectrogram(ConstantTables):
    """Whisper's log-mel spectrogram, differentiable, in float32.

    Args:
        bins: mel bins, 80 or 128.

    Shape:
        (B, S) at 16 kHz → (B, bins, S // 160).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, bins: int = 80) -> None:
        filters = slaney_filters(bins, N_FFT, 0.0, 8000.0)
        super().__init__(window=torch.hann_window(N_FFT, dtype=torch.float32), filters=filters)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the spectrogram; see the class for shapes."""
        spectrum = torch.stft(
            waveform, N_FFT, HOP, window=self.window.to(waveform.dtype), center=True, return_complex=True
        )
        power = spectrum[..., :-1].abs().square()
        decades = (self.filters.to(power.dtype) @ power).clamp(min=1e-10).log10()
        loudest = decades.amax((1, 2), keepdim=True)
        return (torch.maximum(decades, loudest - DYNAMIC_RANGE) + 4) / 4


class WhisperNetwork(nn.Module):
    """Whisper's encoder for up to 30 s.

    Args:
        size: of the network.
        layers: how many layers to build, from the first on; None is all.

    Shape:
        (B, bins, 2 L) → list of (B, L, F), L at most 1500: ``hidden_states`` of transformers, the input of the first
        layer and the output of each; that of the model's last layer is normalised.
    """

    positions: Tensor

    def __init__(self, size: WhisperSize, layers: int | None = None) -> None:
        super().__init__()
        width, count = size.d_model, size.encoder_layers if layers is None else layers
        self.conv1 = nn.Conv1d(size.num_mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(WhisperLayer(size) for _ in range(count))
        self.layer_norm = nn.LayerNorm(width) if count == size.encoder_layers else nn.Identity()
        self.register_buffer("positions", sinusoids(POSITIONS, width), persistent=False)

    def forward(self, spectrogram: Tensor) -> list[Tensor]:
        """Encode; see the class for shapes."""
        # transposed before the activation: PyTorch 2.0's GELU on a CPU has a wrong gradient from a transposed one
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(spectrogram))).transpose(1, 2))
        states = [hidden + self.positions[: hidden.shape[1]]]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [*states[:-1], self.layer_norm(states[-1])]


class WhisperLayer(nn.Module):
    """One transformer layer, normalised first.

    Args:
        size: of the network.

    Shape:
        (B, L, F) → (B, L, F).
    """

    def __init__(self, size: WhisperSize) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(size)
        self.self_attn_layer_norm = nn.LayerNorm(size.d_model)
        self.fc1 = nn.Linear(size.d_model, size.encoder_ffn_dim)
        self.fc2 = nn.Linear(size.encoder_ffn_dim, size.d_model)
        self.final_layer_norm = nn.LayerNorm(size.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden))
        update: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        return hidden + update


class WhisperAttention(nn.Module):
    """Attention over all steps; the projection of keys has no bias.

    Args:
        size: of the network.

    Shape:
        (B, L, F) → (B, L, F).
    """

    def __init__(self, size: WhisperSize) -> None:
        super().__init__()
        width = size.d_model
        self.heads = size.encoder_attention_heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend; see the class for shapes."""
        query, key, value = (
            rearrange(project(hidden), "b l (h d) -> b h l d", h=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(rearrange(attended, "b h l d -> b l (h d)"))
        return projected


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed position embeddings (length, width), sines first, then cosines."""
    rates = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2, dtype=torch.float32))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
