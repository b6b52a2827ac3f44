"""Agreement of a student with its teacher on recordings of held-out speakers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.training.losses import all_pairs

SEARCH, TOLERANCE = 15, 1  # frames: offsets searched on either side, and largest error of a correct one


class Agreement(NamedTuple):
    """Agreement on the windows of one recording.

    Attributes:
        same: mean of eq. 2 with the teacher's embedding of the same window.
        elsewhere: the same with that of the window half the recording away.
        found: voiced windows whose best match among the teacher's within 15 frames is at most one frame away.
        voiced: voiced windows.
    """

    same: float
    elsewhere: float
    found: int
    voiced: int


def agreement(student: Tensor, teacher: Tensor, voiced: NDArray[np.bool_]) -> Agreement:
    """Compare the embeddings (W, D) of a recording, whose voiced windows are given (W,)."""
    probability = all_pairs(student, teacher).cpu().numpy().T  # rows of the student
    place = np.arange(len(probability))
    distance = np.abs(place[:, None] - place[None])
    best = np.where(distance <= SEARCH, probability, -1.0).argmax(1)
    found = np.abs(best - place) <= TOLERANCE
    return Agreement(
        same=float(probability.diagonal().mean()),
        elsewhere=float(probability[place, np.roll(place, len(place) // 2)].mean()),
        found=int(found[voiced].sum()),
        voiced=int(voiced.sum()),
    )


def summary(recordings: list[Agreement]) -> dict[str, float]:
    """Means over recordings, and the share of all voiced windows that are found."""
    voiced = sum(recording.voiced for recording in recordings)
    return {
        "held_out_agreement": float(np.mean([recording.same for recording in recordings])),
        "agreement_elsewhere": float(np.mean([recording.elsewhere for recording in recordings])),
        "held_out_retrieval": sum(recording.found for recording in recordings) / max(1, voiced),
    }
