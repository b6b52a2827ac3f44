"""LSE-D and LSE-C from SyncNet's embeddings: distances of every window to the audio at 31 offsets, and their summary.

The original (``syncnet_python``, and Wav2Lip's copy of it) averages the distances of a clip's windows per offset; LSE-D
is the minimum of the 31 means, LSE-C their median minus the minimum. Its numbers depend on one defect: audio beyond
either end of the clip counts as an embedding of zeros, so that LSE-C depends on the clip's length. The edge
``"legacy"`` reproduces this and is comparable with published figures; ``"valid"`` omits those pairs.

Offsets here are positive when the audio is late. The original prints the reverse sign.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.lse.mfcc import HOP, WINDOW, compute_mfcc
from unisync_loss.lse.syncnet import EMBEDDING, STEPS_PER_FRAME, WINDOW_STEPS, SyncNet
from unisync_loss.utils.tensors import check_choice

MAX_OFFSET = 15  # frames; 31 candidates, part of the definition of LSE (vshift of syncnet_python)
_CHUNK = 32  # windows embedded at a time: constant memory
_EPSILON = 1e-6  # added to every difference by torch's pairwise_distance, which the original uses

Edge = Literal["legacy", "valid"]


class Lse(NamedTuple):
    """Lip-sync error of a clip.

    Attributes:
        lse_d: distance, lower is better.
        lse_c: confidence, higher is better.
        offset: frames by which the audio is late (positive) or early; the original prints the negative of it.
    """

    lse_d: float
    lse_c: float
    offset: int


def offset_distances(video: Tensor, audio: Tensor) -> Tensor:
    """Euclidean distances of every video window to the audio windows around it, by one matrix product in float64.

    Args:
        video: (W, D) embeddings.
        audio: (W + 30, D) embeddings, of 15 windows before the first video window to 15 after the last.

    Returns:
        (W, 31) float64; entry k holds video window w against audio window w + k - 15, as in
        :func:`unisync_loss.functional.offset_matrix`.

    Raises:
        ValueError: for shapes that do not match.
    """
    windows, candidates = len(video), 2 * MAX_OFFSET + 1
    if video.ndim != 2 or audio.shape != (windows + candidates - 1, video.shape[1]):
        raise ValueError(f"expected (W, D) and (W + 30, D), got {tuple(video.shape)} and {tuple(audio.shape)}")
    # float64: |a|² + |b|² - 2ab cancels where a and b are close
    video, audio = video.double() + _EPSILON, audio.double()
    squares = video.square().sum(1)[:, None] + audio.square().sum(1) - 2 * video @ audio.T
    columns = torch.arange(candidates, device=video.device) + torch.arange(windows, device=video.device)[:, None]
    return squares.gather(1, columns).clamp(min=0).sqrt()


def summarise(distances: Tensor) -> Lse:
    """LSE-D, LSE-C and offset of a distance matrix.

    Args:
        distances: (W, 31) of :func:`offset_distances`; NaN where there is no such pair.

    Returns:
        The three numbers; of equal minima the first counts, the earliest audio, as in the original.

    Raises:
        ValueError: when no pair is left.
    """
    means = distances.nanmean(0)
    if not means.isfinite().any():
        raise ValueError("expected the distance of at least one pair, got none")
    least = int(means.nan_to_num(nan=torch.inf).argmin())
    # confidence as in SyncNetInstance.py: median minus minimum, in units of distance
    return Lse(means[least].item(), (means.nanmedian() - means[least]).item(), least - MAX_OFFSET)


class LseMeter:
    """Distances of one clip whose frames are added one by one, in constant memory.

    Args:
        net: of :func:`unisync_loss.lse.syncnet.load_syncnet`.
        samples: (S,) int16 mono at 16 kHz of the same time span.
    """

    def __init__(self, net: SyncNet, samples: NDArray[np.int16]) -> None:
        self.net = net
        self.samples = samples
        self._frames: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._added = 0
        # audio embeddings that the next windows need too, up to the window of that number
        self._audio = torch.zeros(0, EMBEDDING)
        self._audio_end = -MAX_OFFSET

    def add(self, frame: Tensor) -> None:
        """Add the next frame, (3, 224, 224) uint8 RGB."""
        self._frames.append(frame)
        self._added += 1
        if len(self._frames) == _CHUNK + WINDOW_FRAMES - 1:
            self._embed()

    @property
    def frames(self) -> int:
        """Frames with audio so far."""
        return min(self._added, len(self.samples) // SAMPLES_PER_FRAME)

    def distances(self, edge: Edge = "legacy") -> Tensor:
        """Distances of the clip so far.

        Args:
            edge: for pairs with audio before the first or after the last window, ``"legacy"`` takes an audio embedding
                of zeros, ``"valid"`` gives NaN.

        Returns:
            (W, 31) float64, W = min(frames, S // 640) - 5: the last window is omitted as in the original, because its
            20 MFCC steps reach 15 ms beyond its frames.

        Raises:
            ValueError: for another edge, or fewer than 6 frames with audio.
        """
        check_choice("edge", edge, "legacy", "valid")
        windows = self.frames - WINDOW_FRAMES
        if windows < 1:
            raise ValueError(f"expected at least {WINDOW_FRAMES + 1} frames (0.24 s) with audio, got {self.frames}")
        if len(self._frames) >= WINDOW_FRAMES:
            self._embed()
        rows = torch.cat(self._rows)[:windows]
        distances, to_zeros = rows[:, :-1], rows[:, -1:]
        reach = torch.arange(windows)[:, None] + torch.arange(-MAX_OFFSET, MAX_OFFSET + 1)
        return torch.where((reach >= 0) & (reach < windows), distances, to_zeros if edge == "legacy" else torch.nan)

    def _embed(self) -> None:
        """Store the distances of the waiting windows, and to an embedding of zeros; keep the last four frames."""
        device = next(self.net.network.parameters()).device
        windows = len(self._frames) - WINDOW_FRAMES + 1
        with torch.inference_mode(), _in_full_precision(device):
            video = self.net.embed_video(torch.stack(self._frames).to(device))
            audio = self._embed_audio(self._added - WINDOW_FRAMES + 1 + MAX_OFFSET, device)
            to_zeros = (video.double() + _EPSILON).norm(dim=1, keepdim=True)
            self._rows.append(torch.cat([offset_distances(video, audio), to_zeros], 1).cpu())
        self._audio = audio[windows:]
        self._frames = self._frames[windows:]

    def _embed_audio(self, until: int, device: torch.device) -> Tensor:
        """Audio embeddings from the rest of the last call up to window ``until``; zeros where there is no audio."""
        steps = 1 + max(0, math.ceil((len(self.samples) - WINDOW) / HOP))
        exist = max(0, (steps - WINDOW_STEPS) // STEPS_PER_FRAME + 1)
        start, stop = max(0, self._audio_end), max(0, min(until, exist))
        new = torch.zeros(until - self._audio_end, EMBEDDING, device=device)
        if start < stop:
            # one more step in front: pre-emphasis needs the sample before
            first, last = start * STEPS_PER_FRAME, (stop - 1) * STEPS_PER_FRAME + WINDOW_STEPS
            extra = min(first, 1)
            samples = self.samples[(first - extra) * HOP : (last - 1) * HOP + WINDOW]
            coefficients = compute_mfcc(torch.from_numpy(samples).to(device))[extra:]
            new[start - self._audio_end : stop - self._audio_end] = self.net.embed_audio(coefficients)
        self._audio_end = until
        return torch.cat([self._audio.to(new), new])


@contextlib.contextmanager
def _in_full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32 convolutions: they change the fourth digit."""
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
