"""LSE-D and LSE-C from SyncNet's embeddings: distances of every window to the audio of 31 offsets, and their summary.

The original (``syncnet_python``, and Wav2Lip's copy of it) averages the distances of a clip's windows for each offset;
LSE-D is the least of the 31 means, LSE-C their median less the least. It has one defect that its numbers depend on:
audio beyond either end of the clip is taken to be an embedding of zeros, so that LSE-C depends on the clip's length.
That is the edge ``"legacy"``, the one to put beside published figures; ``"valid"`` leaves those pairs out.

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

MAX_OFFSET = 15  # frames; 31 candidates
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
        The three numbers; of equal minima the one with the audio earliest counts, as in the original.

    Raises:
        ValueError: when no pair is left.
    """
    means = distances.nanmean(0)
    if not means.isfinite().any():
        raise ValueError("expected the distance of at least one pair, got none")
    least = int(means.nan_to_num(nan=torch.inf).argmin())
    return Lse(means[least].item(), (means.nanmedian() - means[least]).item(), least - MAX_OFFSET)


class LseMeter:
    """Takes the frames of one clip one after another, in constant memory, and gives its distances.

    Args:
        net: weights loaded.
        samples: (S,) int16 mono at 16 kHz of the same time span.
    """

    def __init__(self, net: SyncNet, samples: NDArray[np.int16]) -> None:
        """Start a clip."""
        self.net = net
        self.samples = samples
        self._frames: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._seen = 0
        # audio embeddings that the next windows need too, up to the window of that number
        self._heard = torch.zeros(0, EMBEDDING)
        self._heard_until = -MAX_OFFSET

    def add(self, frame: Tensor) -> None:
        """Take the next frame, (3, 224, 224) uint8 RGB."""
        self._frames.append(frame)
        self._seen += 1
        if len(self._frames) == _CHUNK + WINDOW_FRAMES - 1:
            self._embed()

    @property
    def frames(self) -> int:
        """Frames with sound so far."""
        return min(self._seen, len(self.samples) // SAMPLES_PER_FRAME)

    def distances(self, edge: Edge = "legacy") -> Tensor:
        """Distances of the clip so far.

        Args:
            edge: pairs with audio before the first or after the last window: ``"legacy"`` takes an embedding of zeros,
                ``"valid"`` has NaN.

        Returns:
            (W, 31) float64, W = min(frames, S // 640) - 5: the last window is left out as in the original, because its
            20 MFCC steps reach 15 ms beyond its frames.

        Raises:
            ValueError: for fewer than 6 frames with sound.
        """
        if edge not in ("legacy", "valid"):
            raise ValueError(f'edge: expected "legacy" or "valid", got {edge!r}')
        windows = self.frames - WINDOW_FRAMES
        if windows < 1:
            raise ValueError(f"expected at least {WINDOW_FRAMES + 1} frames (0.24 s) with sound, got {self.frames}")
        if len(self._frames) >= WINDOW_FRAMES:
            self._embed()
        rows = torch.cat(self._rows)[:windows]
        distances, silent = rows[:, :-1], rows[:, -1:]
        reach = torch.arange(windows)[:, None] + torch.arange(-MAX_OFFSET, MAX_OFFSET + 1)
        return torch.where((reach >= 0) & (reach < windows), distances, silent if edge == "legacy" else torch.nan)

    def _embed(self) -> None:
        """Keep the distances of the windows that wait, those to zeros beside them, and the last four frames."""
        device = next(self.net.network.parameters()).device
        windows = len(self._frames) - WINDOW_FRAMES + 1
        with torch.inference_mode(), _in_full_precision(device):
            video = self.net.embed_video(torch.stack(self._frames).to(device))
            heard = self._listen(self._seen - WINDOW_FRAMES + 1 + MAX_OFFSET, device)
            silent = (video.double() + _EPSILON).norm(dim=1, keepdim=True)
            self._rows.append(torch.cat([offset_distances(video, heard), silent], 1).cpu())
        self._heard = heard[windows:]
        self._frames = self._frames[windows:]

    def _listen(self, until: int, device: torch.device) -> Tensor:
        """Audio embeddings from what is left of the last call to window ``until``; zeros where there is no audio."""
        steps = 1 + max(0, math.ceil((len(self.samples) - WINDOW) / HOP))
        exist = max(0, (steps - WINDOW_STEPS) // STEPS_PER_FRAME + 1)
        start, stop = max(0, self._heard_until), max(0, min(until, exist))
        new = torch.zeros(until - self._heard_until, EMBEDDING, device=device)
        if start < stop:
            # one step more in front: pre-emphasis needs the sample before
            first, last = start * STEPS_PER_FRAME, (stop - 1) * STEPS_PER_FRAME + WINDOW_STEPS
            spare = min(first, 1)
            piece = self.samples[(first - spare) * HOP : (last - 1) * HOP + WINDOW]
            coefficients = compute_mfcc(torch.from_numpy(piece).to(device))[spare:]
            new[start - self._heard_until : stop - self._heard_until] = self.net.embed_audio(coefficients)
        self._heard_until = until
        return torch.cat([self._heard.to(new), new])


@contextlib.contextmanager
def _in_full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32 convolutions: they change the fourth digit."""
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
