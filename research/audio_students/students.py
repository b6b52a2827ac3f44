"""Students: audio networks that learn the embeddings of an expert on Whisper.

Axes: B crops, S = 640 T samples, T frames, W = T - 4 windows, L audio steps, F features, D embedding, K states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from research.audio_students.augment import augment_waveforms
from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES, AudioRepresentation
from unisync_loss.representations.audio_encoder import fit_steps
from unisync_loss.representations.hubert_encoder import HubertEncoder, standardise
from unisync_loss.representations.mel import MelSpectrogram
from unisync_loss.training.data.augment import augment_mel

if TYPE_CHECKING:
    from transformers import HubertModel


class Student(nn.Module, ABC):
    """An audio tower with the features it takes; inputs are augmented in training mode.

    Args:
        config: of the expert that the student belongs to.

    Attributes:
        crop_seconds: shortest and longest crop in training.
        log_scale: logarithm of the softmax scale of the contrastive loss.

    Shape:
        (B, 640 T) waveforms as recorded → (B, W, D) before ReLU.
    """

    crop_seconds: ClassVar[tuple[float, float]]

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = UniSyncExpert(config).audio_tower
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    @abstractmethod
    def features(self, waveform: Tensor) -> Tensor:
        """Features (B, L, F) of waveforms (B, 640 T)."""

    def embed(self, features: Tensor, frames: int) -> Tensor:
        """Embeddings (B, W, D) of all windows of ``frames`` frames from features (B, L, F)."""
        embedding: Tensor = self.tower(features, frames - WINDOW_FRAMES + 1)
        return embedding

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        return self.embed(self.features(waveform), waveform.shape[1] // SAMPLES_PER_FRAME)


class MelStudent(Student):
    """Audio tower on the mel spectrogram; an embedding depends on 0.2 s and nothing else.

    Args:
        teacher: config of the teacher.
        start: expert on mel whose audio tower is copied; None for random weights.
    """

    crop_seconds = (2.0, 4.0)

    def __init__(self, teacher: UniSyncConfig, start: UniSyncExpert | None = None) -> None:
        super().__init__(student_config(teacher, "mel"))
        if start is not None:
            self.tower.load_state_dict(start.audio_tower.state_dict())
        self.spectrogram = MelSpectrogram(self.config.mel_padding)

    def features(self, waveform: Tensor) -> Tensor:
        """Mel spectrogram (B, L, 80)."""
        mel = self.spectrogram(waveform)
        return (augment_mel(mel) if self.training else mel).transpose(1, 2)


class HubertStudent(Student):
    """Audio tower on a small HuBERT, with a linear head for each of the teacher's states (arXiv 2110.01900).

    Args:
        teacher: config of the teacher.
        hubert: to start from; trained in place.
        states: number K of states.
        start: expert on HuBERT whose audio tower is copied; None for random weights.
    """

    crop_seconds = (4.0, 6.0)

    def __init__(
        self, teacher: UniSyncConfig, hubert: HubertModel, states: int, start: UniSyncExpert | None = None
    ) -> None:
        width = hubert.config.hidden_size
        super().__init__(student_config(teacher, "hubert", width))
        self.hubert = hubert
        self.heads = nn.ModuleList(nn.Linear(width, teacher.audio_features) for _ in range(states))
        if start is not None:
            self.tower.load_state_dict(start.audio_tower.state_dict())

    def features(self, waveform: Tensor) -> Tensor:
        """Last hidden state (B, 2 T, F)."""
        waveform = augment_waveforms(waveform) if self.training else waveform
        frames = waveform.shape[1] // SAMPLES_PER_FRAME
        # transformers would mask steps itself, with a random generator that our seed does not reach
        nothing = torch.zeros(len(waveform), 2 * frames - 1, dtype=torch.bool, device=waveform.device)
        hidden: Tensor = self.hubert(standardise(waveform), mask_time_indices=nothing).last_hidden_state
        return fit_steps(hidden, 2 * frames)

    def predict_states(self, features: Tensor) -> Tensor:
        """Predicted states (B, 2 T, K, F of the teacher) from :meth:`features`."""
        return torch.stack([head(features) for head in self.heads], dim=2)


def load_hubert(name: str, revision: str = "main") -> HubertModel:
    """Load a HuBERT, as ``HubertEncoder`` finds it, as one model of transformers."""
    from transformers import HubertModel

    parts = HubertEncoder.from_pretrained(name, revision=revision).network
    convolutions = {
        f"feature_extractor.conv_layers.{name}": value for name, value in parts["convolutions"].state_dict().items()
    }
    hubert = HubertModel(parts["transformer"].config)
    hubert.load_state_dict(convolutions | parts["transformer"].state_dict())
    return hubert


def student_config(teacher: UniSyncConfig, audio: AudioRepresentation, features: int = 0) -> UniSyncConfig:
    """The teacher's config with another audio representation, whose features no model on disk computes yet."""
    return replace(teacher, audio=audio, audio_features=features, audio_model="", audio_revision="", audio_layer=-1)
