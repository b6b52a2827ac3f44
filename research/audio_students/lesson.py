"""Batches of a student's training with the teacher's targets, their loss, and the validation on held-out speakers.

Axes: B crops, T frames, W = T - 4 windows, L = 2 T steps, K states.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research.audio_students.crops import CropDrawer, Places
from research.audio_students.losses import WindowTargets, matching_terms, regression_loss
from research.audio_students.speech import Speech
from research.audio_students.students import HubertStudent, Student
from research.audio_students.targets import Targets
from research.audio_students.validation import agreement, summary
from unisync_loss.config import FPS, WINDOW_FRAMES
from unisync_loss.video.voicing import voiced_windows

HELD_RECORDINGS = 96
HELD_SECONDS = 8  # of each


class Lesson:
    """Data and loss of a run.

    Args:
        speech: recordings.
        held: (N,) recordings of held-out speakers.
        targets: of the teacher.
        crop_seconds: shortest and longest crop.
        regression_weight: of the regression beside the other terms.
        device: of the student.

    Attributes:
        drawer: draws crops.
    """

    def __init__(
        self,
        speech: Speech,
        held: NDArray[np.bool_],
        targets: Targets,
        crop_seconds: tuple[float, float],
        regression_weight: float,
        device: torch.device,
    ) -> None:
        self.drawer = CropDrawer(speech, held, crop_seconds)
        self._speech, self._targets, self._device = speech, targets, device
        self._regression_weight = regression_weight
        self._voiced = [
            voiced_windows(speech.waveform(index).numpy(), int(frames) - WINDOW_FRAMES + 1)
            for index, frames in enumerate(speech.frames)
        ]
        self._moments = targets.moments(np.flatnonzero(~held)) if targets.with_states else None
        self._held = held_places(speech, held)

    def terms(self, student: Student, places: Places) -> dict[str, Tensor]:
        """Named scalar terms of the loss; ``loss`` is the one to minimise.

        Args:
            student: in training mode.
            places: of the batch.
        """
        features = student.features(self._waveforms(places))
        embedding = student.embed(features, places.frames)
        terms = matching_terms(embedding, self._window_targets(places), student.log_scale)
        loss = torch.stack(list(terms.values())).sum()
        if isinstance(student, HubertStudent):
            terms["regression"] = self._regression(student, features, places)
            loss = loss + self._regression_weight * terms["regression"]
        return {"loss": loss, **terms}

    def measure(self, student: Student) -> dict[str, float]:
        """Agreement with the teacher on held-out speakers, and the regression of a HuBERT there.

        Args:
            student: in evaluation mode.
        """
        compared, regression = [], []
        for places in self._held:
            features = student.features(self._waveforms(places))
            targets = self._window_targets(places)
            embedding = student.embed(features, places.frames).float()
            compared.append(agreement(embedding[0], targets.embedding[0], targets.voiced[0].cpu().numpy()))
            if isinstance(student, HubertStudent):
                regression.append(self._regression(student, features, places).item())
        report = summary(compared)
        return report | ({"held_out_regression": float(np.mean(regression))} if regression else {})

    def _waveforms(self, places: Places) -> Tensor:
        return self.drawer.waveforms(places).to(self._device)

    def _window_targets(self, places: Places) -> WindowTargets:
        count = places.frames - WINDOW_FRAMES + 1
        voiced = np.stack(
            [self._voiced[i][first : first + count] for i, first in zip(places.recording, places.start, strict=True)]
        )
        values = (places.recording, self._speech.speaker[places.recording], places.start, voiced)
        labels = (torch.from_numpy(value).to(self._device) for value in values)
        return WindowTargets(self._targets.windows(places).to(self._device), *labels)

    def _regression(self, student: HubertStudent, features: Tensor, places: Places) -> Tensor:
        assert self._moments is not None
        mean, deviation = self._moments
        standard = (self._targets.states(places) - mean) / deviation
        return regression_loss(student.predict_states(features), standard.to(self._device))


def held_places(speech: Speech, held: NDArray[np.bool_]) -> list[Places]:
    """Beginnings of up to 96 held-out recordings, spread evenly over them, one to a batch."""
    recordings = np.flatnonzero(held)
    chosen = recordings[:: -(-len(recordings) // HELD_RECORDINGS)]
    return [
        Places(np.array([i]), np.zeros(1, np.int64), min(HELD_SECONDS * FPS, int(speech.frames[i]))) for i in chosen
    ]
