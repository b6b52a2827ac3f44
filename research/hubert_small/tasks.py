"""Training tasks of a HuBERT: units of masked steps (arXiv 2106.07447) and distillation of an expert on mel.

Axes: B crops, L steps of 20 ms, T = L / 2 frames, W = T - 4 windows, F features, D the expert's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from research.hubert_small.masked_prediction import CropDrawer, Crops, HubertSize, MaskedPredictor, Places
from research.hubert_small.speech import samples_of
from research.hubert_small.units import label_speech, mfcc_with_deltas, perplexity
from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert
from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.functional import sync_probability
from unisync_loss.models.small import DenseAudioTower
from unisync_loss.representations.hubert_encoder import HOP, standardise, steps_of
from unisync_loss.utils.files import write_atomically

HELD_CROPS = 96  # of up to four seconds, one per recording
_LONGEST_HELD = 200  # steps
PIECE_STEPS = 300  # segment length for labelling

Report = dict[str, float]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Material:
    """Data and settings that all tasks share.

    Attributes:
        drawer: recordings, their sampling weights (0 for held-out ones), and the device.
        held: (N,) recordings of held-out speakers.
        seconds: seconds of speech per batch.
        seed: of the run.
        out: folder of the run.
    """

    drawer: CropDrawer
    held: NDArray[np.bool_]
    seconds: float
    seed: int
    out: Path

    def held_places(self, generator: np.random.Generator) -> list[Places]:
        """First segments of the held-out recordings."""
        chosen = generator.permutation(np.flatnonzero(self.held))[:HELD_CROPS]
        steps = self.drawer.speech.steps
        return [Places(np.array([i]), np.zeros(1, np.int64), min(_LONGEST_HELD, int(steps[i]))) for i in chosen]


class Task(Protocol[Net]):
    """One round of training."""

    def build(self, size: HubertSize) -> Net:
        """Networks with random weights; the HuBERT is ``.hubert``."""
        ...

    def begin(self, states: Callable[[Tensor], tuple[Tensor, ...]] | None, log: Callable[[str], None]) -> Report:
        """Prepare the targets; ``states`` gives the layers of the previous round, if there was one."""
        ...

    def loss(self, learner: Net, generator: np.random.Generator) -> Tensor:
        """Scalar loss on a new batch."""
        ...

    def measure(self, average: Net, generator: np.random.Generator) -> Report:
        """Metrics on held-out speakers."""
        ...


class UnitsTask:
    """Prediction of the units of masked steps: clusters of MFCC first, then of the middle layer of the previous round.

    Args:
        material: shared data and settings.
        number: number of the round, from 0.
        units: number of clusters.
    """

    def __init__(self, material: Material, number: int, units: int) -> None:
        """Keep them; units are made in :meth:`begin`."""
        self.material, self.number, self.count = material, number, units
        self.units: Tensor

    def build(self, size: HubertSize) -> MaskedPredictor:
        """Build a HuBERT with a head over the units."""
        return MaskedPredictor(size, self.count)

    def begin(self, states: Callable[[Tensor], tuple[Tensor, ...]] | None, log: Callable[[str], None]) -> Report:
        """Make units, once per run."""
        material, drawer, speech = self.material, self.material.drawer, self.material.drawer.speech

        def features(index: int) -> Tensor:
            waveform, steps = speech.waveform(index), int(speech.steps[index])
            if states is None:
                return mfcc_with_deltas(waveform, steps).to(drawer.device)
            return torch.cat([middle(piece) for piece in pieces(waveform, steps)])

        def middle(waveform: Tensor) -> Tensor:
            assert states is not None
            layers = states(waveform)
            return layers[(len(layers) - 2) // 2]  # as in the paper

        path = material.out / f"units-{self.number + 1}.safetensors"
        if not path.is_file():
            generator = np.random.default_rng([material.seed, self.number, 1 << 20])
            units = label_speech(speech, features, self.count, generator, drawer.sampling_weights, log)
            write_atomically(path, save({"units": units}))
        units = load_file(path)["units"]
        self.units = torch.from_numpy(units).to(drawer.device)
        return {"units": self.count, "perplexity": round(perplexity(units), 1)}

    def loss(self, learner: MaskedPredictor, generator: np.random.Generator) -> Tensor:
        """Cross-entropy of the masked steps."""
        crops = self._crop(self.material.drawer.draw(generator, self.material.seconds), generator)
        return F.cross_entropy(learner(crops.waveform, crops.mask), crops.units[crops.mask])

    def _crop(self, places: Places, generator: np.random.Generator) -> Crops:
        return self.material.drawer.crop(places, self.units, generator)

    def measure(self, average: MaskedPredictor, generator: np.random.Generator) -> Report:
        """Accuracy on masked steps, always with the same crops and masks."""
        guessed, true = [], []
        for places in self.material.held_places(generator):
            crops = self._crop(places, generator)
            guessed.append(average(crops.waveform, crops.mask))
            true.append(crops.units[crops.mask])
        logits, units = torch.cat(guessed), torch.cat(true)
        best = logits.argmax(1)
        return {
            "held_out_loss": F.cross_entropy(logits, units).item(),
            "held_out_accuracy": (best == units).double().mean().item(),
            "commonest_unit": float(torch.bincount(units).max()) / len(units),  # accuracy of a constant prediction
            "guessed_perplexity": perplexity(best.cpu().numpy()),
        }


def pieces(waveform: Tensor, steps: int) -> Iterator[Tensor]:
    """Cut a recording (S,) into segments as long as the crops used in training."""
    for start in range(0, steps, PIECE_STEPS):
        last = min(start + PIECE_STEPS, steps)
        yield waveform[HOP * start : HOP * start + samples_of(last - start)]


class HubertAudioTower(nn.Module):
    """HuBERT followed by an audio tower.

    Args:
        size: of the HuBERT.
        embedding: embedding size D of the expert.

    Shape:
        (B, S) waveforms as recorded → (B, W, D) before ReLU.
    """

    def __init__(self, size: HubertSize, embedding: int) -> None:
        """Build from random weights."""
        from transformers import HubertModel

        super().__init__()
        self.hubert = HubertModel(size.config())
        self.config = UniSyncConfig(
            audio="hubert", audio_features=size.hidden, embedding=embedding, audio_revision="main"
        )
        self.tower = DenseAudioTower(self.config)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        # transformers would mask steps itself, with a random generator that our seed does not reach
        nothing = torch.zeros(len(waveform), steps_of(waveform.shape[1]), dtype=torch.bool, device=waveform.device)
        features = self.hubert(standardise(waveform), mask_time_indices=nothing).last_hidden_state
        starts = [2 * start for start in range(waveform.shape[1] // SAMPLES_PER_FRAME - WINDOW_FRAMES + 1)]
        embedding: Tensor = self.tower(features, starts)
        return embedding


class DistillationTask:
    """Distillation: reproduce the audio embeddings of an expert on mel for every window; no video is needed.

    Args:
        material: shared data and settings.
        expert: its name, as ``load_expert`` takes it.

    Raises:
        ValueError: for an expert that is not on mel.
    """

    def __init__(self, material: Material, expert: str) -> None:
        """Load the expert."""
        self.material, self.drawer = material, material.drawer
        self.expert = load_expert(expert, device=material.drawer.device).requires_grad_(False)
        if self.expert.config.audio != "mel":
            raise ValueError(f"ear: expected an expert on mel, got {expert} on {self.expert.config.audio}")

    def build(self, size: HubertSize) -> HubertAudioTower:
        """Build a HuBERT with an audio tower."""
        return HubertAudioTower(size, self.expert.config.embedding)

    def begin(self, states: Callable[[Tensor], tuple[Tensor, ...]] | None, log: Callable[[str], None]) -> Report:
        """Nothing to prepare."""
        return {}

    def loss(self, learner: HubertAudioTower, generator: np.random.Generator) -> Tensor:
        """1 minus eq. 2 of the two embeddings."""
        waveform = self.drawer.waveforms(self.drawer.draw(generator, self.material.seconds))
        return 1 - sync_probability(learner(waveform).float(), self._target(waveform)).mean()

    def measure(self, average: HubertAudioTower, generator: np.random.Generator) -> Report:
        """Agreement on equal windows, and with another window of the same recording."""
        same, other = [], []
        for places in self.material.held_places(generator):
            waveform = self.drawer.waveforms(places)
            embedding, target = average(waveform).float(), self._target(waveform)
            same.append(sync_probability(embedding, target).mean())
            other.append(sync_probability(embedding, target.roll(target.shape[1] // 2, 1)).mean())
        agreement = {"held_out_agreement": torch.stack(same), "agreement_elsewhere": torch.stack(other)}
        return {name: values.mean().item() for name, values in agreement.items()}

    def expert_of(self, ear: HubertAudioTower, hubert: Path) -> UniSyncExpert:
        """The expert with this audio tower in place of its own; its visual tower is unchanged.

        Args:
            ear: trained.
            hubert: folder where its HuBERT is saved.
        """
        teacher, config = self.expert.config, ear.config
        config = replace(
            config, visual=teacher.visual, visual_features=teacher.visual_features, audio_model=str(hubert)
        )
        expert = UniSyncExpert(config)
        for part in ("visual_input", "visual_tower"):
            getattr(expert, part).load_state_dict(getattr(self.expert, part).state_dict())
        expert.audio_tower.load_state_dict(ear.tower.state_dict())
        return expert

    def _target(self, waveform: Tensor) -> Tensor:
        frames = waveform.shape[1] // SAMPLES_PER_FRAME
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            return self.expert.encode_audio(waveform[:, : frames * SAMPLES_PER_FRAME], frames)
