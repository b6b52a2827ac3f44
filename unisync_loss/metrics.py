"""Metrics as torchmetrics objects, for validation loops: ``update``, ``compute``, ``reset``, sums over processes.

They take tensors on any device and give no gradient. They need the ``metrics`` extra. The networks that they hold are
frozen and not part of a parent's parameters or ``state_dict``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.inputs.audio import check_audio, check_duration
from unisync_loss.inputs.batch import check_type
from unisync_loss.inputs.calls import CheckedCalls
from unisync_loss.inputs.values import check_video
from unisync_loss.loss import UniSyncLoss
from unisync_loss.lse.distances import Edge, Lse, LseMeter, summarise
from unisync_loss.lse.syncnet import SIZE, SyncNet
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.tensors import at_least_float32, describe, real_number, whole_number
from unisync_loss.video.encoding import to_int16

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("metric objects need torchmetrics: pip install 'unisync_loss[metrics]'") from error

__all__ = ["LSEC", "LSED", "OffsetAccuracy", "SyncAccuracy", "SyncProbability"]


class _Mean(Metric):
    """Mean of values: a sum and a count, added up over processes."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (torchmetrics' own options)
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Mean so far, float32; NaN before the first update."""
        return (self.total / self.count).float()

    def _add(self, values: Tensor) -> None:
        self.total += values.detach().to(self.total.device).double().sum()
        self.count += values.numel()


class SyncAccuracy(_Mean):
    """Share of windows classified correctly: in sync if the probability exceeds the threshold.

    Args:
        threshold: of the expert's config, or the paper's 0.5.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a threshold that is no number.

    Example:
        >>> metric = SyncAccuracy()
        >>> metric.update(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1, 0, 0]))
        >>> round(metric.compute().item(), 3)
        0.667
    """

    higher_is_better = True

    def __init__(self, threshold: float = 0.5, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.threshold = real_number("threshold", threshold)

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Count pairs.

        Args:
            probability: (...) in [0, 1].
            target: (...) 1 for in sync, 0 for not.

        Raises:
            ValueError: for shapes that differ, or no tensors.
        """
        if not isinstance(probability, Tensor) or not isinstance(target, Tensor):
            raise ValueError(f"expected two tensors, got {describe(probability)} and {describe(target)}")
        if probability.shape != target.shape:
            raise ValueError(f"expected two of one shape, got {tuple(probability.shape)} and {tuple(target.shape)}")
        self._add((probability > self.threshold) == target.bool())


class OffsetAccuracy(_Mean):
    """Share of clips whose most probable offset is correct within a tolerance.

    Args:
        tolerance: in frames; 1 is usual.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a tolerance that is no number.

    Example:
        >>> from unisync_loss.functional import offset_matrix
        >>> embedding = torch.rand(2, 40, 16)
        >>> metric = OffsetAccuracy()
        >>> metric.update(offset_matrix(embedding, embedding))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = True

    def __init__(self, tolerance: int = 1, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.tolerance = real_number("tolerance", tolerance)

    def update(self, matrix: Tensor, target: Tensor | int = 0) -> None:
        """Count clips.

        Args:
            matrix: (B, W, K) probabilities of :func:`unisync_loss.functional.offset_matrix`, K odd; NaN is skipped.
            target: (B,) true offsets in frames, positive = audio late; 0 for clips in sync.

        Raises:
            ValueError: for another shape, or a target that is neither a tensor nor a number.
        """
        if not isinstance(matrix, Tensor) or matrix.ndim != 3 or matrix.shape[2] % 2 == 0:
            raise ValueError(f"matrix: expected (B, W, K) with K odd, got {describe(matrix)}")
        if not isinstance(target, Tensor):
            target = whole_number("target", target)
        elif target.shape != matrix.shape[:1] or target.dtype == torch.bool:
            raise ValueError(f"target: expected (B,) = ({len(matrix)},) in numbers, got {describe(target)}")
        means = at_least_float32(matrix).nanmean(1).nan_to_num(nan=-torch.inf)
        offset = means.argmax(1) - matrix.shape[2] // 2
        self._add((offset - target).abs() <= self.tolerance)


class SyncProbability(_Mean):
    """Mean sync probability over all windows of all clips, by an expert.

    Args:
        expert: copied, not changed.
        calibrated: mean of calibrated probabilities, see :meth:`unisync_loss.UniSyncExpert.calibrate`.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for ``calibrated`` with an expert that is not.

    Example:
        >>> metric = SyncProbability(UniSyncExpert(UniSyncConfig()))
        >>> metric.update(torch.rand(2, 10, 3, 96, 96), torch.randn(2, 10 * 640) / 10)
        >>> 0 <= metric.compute().item() <= 1
        True
    """

    higher_is_better = True

    def __init__(self, expert: UniSyncExpert, *, calibrated: bool = False, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        check_type("expert", expert, UniSyncExpert, "unisync_loss.load_expert")
        self.loss = UniSyncLoss(expert)
        self.calibrated = calibrated
        if calibrated:
            expert.calibrate(torch.zeros(()))  # raises for an expert without a calibration

    @torch.no_grad()
    def update(self, video: Tensor, audio: Tensor) -> None:
        """Score clips.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1] at 25 fps, or what the expert takes.
            audio: (B, 640·T) waveform at 16 kHz, or features.

        Raises:
            ValueError: as :class:`unisync_loss.UniSyncLoss` does.
        """
        self._add(self.loss.score(video, audio, per_window=True, calibrated=self.calibrated))


class _LipSyncError(Metric):
    """Sums of LSE-D and LSE-C, shared so that a MetricCollection runs the network once for both."""

    is_differentiable = False
    full_state_update = False
    distance: Tensor
    confidence: Tensor
    count: Tensor

    def __init__(self, net: SyncNet, edge: Edge = "legacy", **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        check_type("net", net, SyncNet, "unisync_loss.lse.load_syncnet")
        self._calls = CheckedCalls()
        self.net = net  # frozen, and no part of this metric's state_dict
        self.edge = edge
        for name in ("distance", "confidence"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, video: Tensor, waveform: Tensor) -> None:
        """Measure clips.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1] at 25 fps, face crops of the LSE procedure; resized
                to 224 × 224 and rounded to whole levels, T at least 6.
            waveform: (B, S) at 16 kHz in [-1, 1], S = 640·T.

        Raises:
            ValueError: for a wrong shape, dtype or length, fewer than 6 frames, NaN, infinity, or values far out of
                range. What is doubtful, such as silence, is logged once.
        """
        if not _is_floating(video, 5) or video.shape[2] != 3:
            raise ValueError(f"video: expected (B, T, 3, H, W) floating point, got {describe(video)}")
        if not _is_floating(waveform, 2) or len(waveform) != len(video):
            raise ValueError(f"waveform: expected ({len(video)}, S) floating point, got {describe(waveform)}")
        check_duration(waveform, video.shape[1])
        self._calls.count([*check_video(video, "rgb", (0.0, 1.0)), *check_audio(waveform, "mel")])
        net = self.net.to(video.device)
        results = [_measure(net, *clip, self.edge) for clip in zip(video.detach(), waveform.detach(), strict=True)]
        self.distance += sum(result.lse_d for result in results)
        self.confidence += sum(result.lse_c for result in results)
        self.count += len(results)


class LSED(_LipSyncError):
    """LSE-D, lip-sync error distance (Wav2Lip): mean over clips.

    Args:
        net: of :func:`unisync_loss.lse.syncnet.load_syncnet`.
        edge: ``"legacy"`` to compare with published scores, or ``"valid"``, see :mod:`unisync_loss.lse.distances`.
        options: of :class:`torchmetrics.Metric`.

    Example:
        >>> from unisync_loss.lse.syncnet import SyncNetLayers
        >>> metric = LSED(SyncNet(SyncNetLayers()))
        >>> metric.update(torch.rand(1, 8, 3, 96, 96), torch.randn(1, 8 * 640) / 10)
        >>> metric.compute() > 0
        tensor(True)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Mean so far, float32; NaN before the first update."""
        return (self.distance / self.count).float()


class LSEC(_LipSyncError):
    """LSE-C, lip-sync error confidence (Wav2Lip): mean over clips.

    Args:
        net: of :func:`unisync_loss.lse.syncnet.load_syncnet`.
        edge: ``"legacy"`` to compare with published scores, or ``"valid"``, see :mod:`unisync_loss.lse.distances`.
        options: of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Mean so far, float32; NaN before the first update."""
        return (self.confidence / self.count).float()


def _is_floating(value: object, axes: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == axes and value.is_floating_point()


def _measure(net: SyncNet, video: Tensor, waveform: Tensor, edge: Edge) -> Lse:
    """LSE of one clip, (T, 3, H, W) and (S,)."""
    meter = LseMeter(net, to_int16(at_least_float32(waveform).cpu().numpy()))
    frames = (at_least_float32(video) * 255).clamp(0, 255)
    if frames.shape[2:] != (SIZE, SIZE):
        frames = F.interpolate(frames, (SIZE, SIZE), mode="bilinear")
    for frame in frames.round().byte():
        meter.add(frame)
    return summarise(meter.distances(edge))
