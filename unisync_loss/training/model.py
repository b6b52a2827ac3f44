"""Networks in training: forward passes of a batch, audio features, towers copied from another expert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert
from unisync_loss.models.small import FRAME_FEATURES, DenseVisualTower, FrameStem
from unisync_loss.representations import audio_input
from unisync_loss.representations.audio_encoder import cached_features
from unisync_loss.representations.encoder_input import EncoderInput
from unisync_loss.representations.face_topology import MOUTH_POINTS
from unisync_loss.training.data.augment import augment_features, augment_mel, random_mask
from unisync_loss.training.data.batches import AudioVisualBatch
from unisync_loss.training.data.dataset import AudioFeatures
from unisync_loss.utils.distributed import ALONE, ProcessGroup

MOTION_FEATURES = 2 * len(MOUTH_POINTS)  # the first of a frame's features are the mouth's motion
MOTION_SCALE = 36.0  # from template units to deviation 1
#: share of a frame's features hidden from the trunk in the last stage: AUC was 0.958 on training clips and 0.895 on val
#: before this and stronger augmentation (mel-rgb 0.1)
HIDDEN_FEATURES = 0.15


class TrainingModel(nn.Module):
    """An expert and the parts that only training needs.

    Args:
        config: of the expert.
        group: processes that train together.

    Attributes:
        log_scale: logarithm of the softmax scale of the contrastive loss.
    """

    def __init__(self, config: UniSyncConfig, group: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.group = group
        self.expert = UniSyncExpert(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.has_mouth_aligner:
            first = self.visual.trunk[0]
            assert isinstance(first, nn.Conv1d)
            # features other than motion are 0 until the joint stage, so the trunk starts without weights for them
            with torch.no_grad():
                first.weight[:, MOTION_FEATURES:] = 0
        # at 10, logits of cosines span 0 … 10 at the start; learned in the logarithm, as the temperature of CLIP
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    @property
    def visual(self) -> DenseVisualTower:
        """The visual tower."""
        assert isinstance(self.expert.visual_tower, DenseVisualTower)
        return self.expert.visual_tower

    @property
    def stem(self) -> FrameStem:
        """The network that encodes a frame."""
        assert isinstance(self.visual.stem, FrameStem)
        return self.visual.stem


def mouth_inputs(model: TrainingModel, batch: AudioVisualBatch, *, augmented: bool = True) -> tuple[Tensor, Tensor]:
    """Mouth crops (N, L, 3, 64, 64) in [0, 1], augmented or not, and the motion they show (N, L, 104)."""
    with autocast_disabled(batch.audio):
        mouths, motion = batch.visual_inputs(model.expert.config, augmented=augmented)
        assert motion is not None
    return mouths, motion_features(motion)[..., :MOTION_FEATURES]


def mouth_features(model: TrainingModel, mouths: Tensor) -> Tensor:
    """Frame features (N, L, 192) of mouth crops (N, L, 3, 64, 64)."""
    pixels = rearrange(mouths, "n l c h w -> (n l) c h w")
    features = model.stem(pixels.contiguous(memory_format=torch.channels_last))
    return rearrange(features, "(n l) c -> n l c", n=len(mouths))


def hide_features(features: Tensor) -> Tensor:
    """Set some features (N, L, 192) to 0 throughout a segment, so that none is indispensable."""
    return rearrange(F.dropout1d(rearrange(features, "n l c -> n c l"), HIDDEN_FEATURES), "n c l -> n l c")


def encode_audio_batch(model: TrainingModel, batch: AudioVisualBatch, *, augmented: bool = True) -> Tensor:
    """Audio embeddings (N, W, D), augmented or not."""
    audio = batch.audio
    if augmented:
        with autocast_disabled(audio):
            audio = augment_mel(audio) if model.expert.config.audio == "mel" else augment_features(audio)
    return model.expert.encode_audio(audio, batch.frames)


def autocast_disabled(value: Tensor) -> torch.autocast:
    """Float32 for positions and augmentation, also under autocast: bfloat16 holds a position only to a percent."""
    return torch.autocast(device_type=value.device.type, enabled=False)


def motion_features(motion: Tensor) -> Tensor:
    """Motion (N, L, 52, 2) as frame features (N, L, 192); all features other than motion are 0."""
    features = MOTION_SCALE * rearrange(motion, "n l p d -> n l (p d)")
    return F.pad(features, (0, FRAME_FEATURES - MOTION_FEATURES))


def encode_visual_batch(model: TrainingModel, batch: AudioVisualBatch, *, augmented: bool = True) -> Tensor:
    """Visual embeddings (N, W, D), augmented or not; mouths of small experts on rgb are cropped by landmarks."""
    config = model.expert.config
    if config.has_mouth_aligner:
        mouths, _ = mouth_inputs(model, batch, augmented=augmented)
        return model.visual.encode_frames(mouth_features(model, mouths))
    with autocast_disabled(batch.audio):
        video, _ = batch.visual_inputs(config, augmented=augmented)
    if config.architecture == "paper":
        return model.expert.encode_visual(video)
    crops = video if config.visual == "parsing" else model.expert.visual_input(video)
    frames = model.visual.frame_features_from_crops(crops.to(model.log_scale.dtype))
    if not augmented:
        return model.visual.encode_frames(frames - frames.mean(1, keepdim=True))
    segment, clip = frames[:, :-1], frames[:, -1:]
    # half of the segments are centred by their own mean: experts are applied to whole clips and to short segments
    own = random_mask(len(frames), 0.5)[:, None, None]
    return model.visual.encode_frames(segment - torch.where(own, segment.mean(1, keepdim=True), clip))


CPU = torch.device("cpu")


def build_audio_encoder(
    config: UniSyncConfig, model: str | None, cache: Path, device: torch.device = CPU
) -> tuple[UniSyncConfig, AudioFeatures | None]:
    """Load the audio model of an expert, and write its identity into the expert's config.

    Args:
        config: of the expert; one on mel needs no model.
        model: ``owner/name[@revision]`` on the Hub, a bundled name or a folder; None is that of the config.
        cache: folder of the caches; that of the features is in it, by audio representation.
        device: to encode on.

    Returns:
        The config with model, revision and width filled in, and the function that encodes a waveform; None for mel.

    Raises:
        ValueError: for a model that cannot be loaded, or one given for mel.
    """
    if model is not None:
        if config.audio == "mel":
            raise ValueError(f"data.audio_model: expected none for an expert on mel, got {model!r}")
        name, _, revision = (model, "", "") if Path(model).is_dir() else model.partition("@")
        config = replace(config, audio_model=name, audio_revision=revision or "main")
    audio = audio_input(config)
    if not isinstance(audio, EncoderInput):
        return config, None
    encoder = audio.load_encoder(device)
    # a branch moves on: what is stored is the commit, or the sha256 of weights on this disk
    config = replace(config, audio_revision=encoder.identity, audio_features=encoder.width)
    folder = cache / config.audio

    def encode(waveform: NDArray[np.float32]) -> NDArray[np.float16]:
        return cached_features(waveform, encoder, folder, device).astype(np.float16)

    return config, encode


def copy_towers(expert: UniSyncExpert, name: str) -> set[str]:
    """Copy the towers of a trained expert whose representation and sizes are the same.

    Args:
        expert: expert to be trained; changed in place.
        name: trained expert, as ``load_expert`` takes it.

    Returns:
        The sides that were copied: ``"visual"``, ``"audio"`` or both.

    Raises:
        ValueError: if neither matches.
    """
    trained = load_expert(name)
    copied = set()
    for side in ("visual", "audio"):
        modules: list[tuple[nn.Module, nn.Module]] = [
            (getattr(expert, f"{side}_{part}"), getattr(trained, f"{side}_{part}")) for part in ("input", "tower")
        ]
        shapes = [
            [{key: value.shape for key, value in module.state_dict().items()} for module in pair] for pair in modules
        ]
        same = getattr(expert.config, side) == getattr(trained.config, side)
        if same and all(ours == theirs for ours, theirs in shapes):
            for ours, theirs in modules:
                ours.load_state_dict(theirs.state_dict())
            copied.add(side)
    if not copied:
        raise ValueError(
            f"run.init: expected an expert that shares a tower with {expert.config.architecture} {expert.config.name}, "
            f"got {trained.config.architecture} {trained.config.name}"
        )
    return copied
