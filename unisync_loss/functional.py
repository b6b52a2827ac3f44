"""Pure functions of the method: sync probability, margin loss, offset matrix.

Axes: B batch, W windows, D embedding, K candidate offsets. A positive offset means that the audio is late.
NaN in an argument gives NaN in every value that depends on it, never a finite one; infinity gives NaN or the limit.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.utils.tensors import at_least_float32, check_choice, whole_number

__all__ = [
    "bounded_weight",
    "calibrated_probability",
    "margin_loss",
    "margin_plateau",
    "offset_matrix",
    "reduce",
    "sync_probability",
]

EPSILON = 1e-6  # probabilities are kept in [EPSILON, 1 - EPSILON] before a logarithm: no loss above 13.8
SURROGATE_SLOPE = 0.05  # negative slope of the leaky ReLU that replaces ReLU in the backward pass

Reduction = Literal["mean", "sum", "none"]


def straight_through_clamp(value: Tensor, low: float, high: float) -> Tensor:
    """Clamp in the forward pass, identity in the backward pass.

    A plain clamp has no gradient outside its range, where a generator needs one most.

    Args:
        value: any shape.
        low: lower bound.
        high: upper bound.

    Returns:
        Same shape, in [low, high].
    """
    return value + (value.clamp(low, high) - value).detach()


def relu_cosine(audio: Tensor, visual: Tensor, *, negative_slope: float = 0.0) -> Tensor:
    """Cosine of the rectified embeddings, in float32 also under autocast: bfloat16 has no value between 0.996 and 1.

    Args:
        audio: (..., D) before ReLU.
        visual: (..., D) before ReLU, broadcast against ``audio``.
        negative_slope: 0 is ReLU; above 0 a leaky ReLU.

    Returns:
        (...) in [0, 1] for ReLU, up to rounding; 0 where an embedding is all zero, NaN where one has NaN.
    """
    with torch.autocast(device_type=audio.device.type, enabled=False):
        audio = F.leaky_relu(at_least_float32(audio), negative_slope)
        visual = F.leaky_relu(at_least_float32(visual), negative_slope)
        return F.cosine_similarity(audio, visual, dim=-1)


def sync_probability(audio: Tensor, visual: Tensor, *, surrogate: bool = False) -> Tensor:
    """Probability that audio and face belong together, ``cos(relu(a), relu(v))`` (eq. 2).

    Args:
        audio: (..., D) audio embedding before ReLU.
        visual: (..., D) visual embedding before ReLU.
        surrogate: take the backward pass from a leaky ReLU. Embeddings that do not overlap have probability 0 and
            an exactly zero gradient under ReLU, which a generator could never leave. The value is unchanged.

    Returns:
        (...) float32 in [0, 1]; gradients pass through the clamp. NaN where an embedding has NaN.

    Example:
        >>> sync_probability(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item()  # doctest: +ELLIPSIS
        0.7071...
    """
    probability = relu_cosine(audio, visual)
    if surrogate:
        soft = relu_cosine(audio, visual, negative_slope=SURROGATE_SLOPE)  # its gradient, with the value of the other
        probability = soft + (probability - soft).detach()
    return straight_through_clamp(probability, 0.0, 1.0)


def margin_loss(probability: Tensor, target: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Margin-based binary cross-entropy (arXiv 2503.16357, eq. 1), one value per pair, without the weight decay term.

    ``-[y log p + (1 - y) log(1 - max(0, p - m))]``. The margin lowers the penalty of a negative: no loss up to
    ``p = m``, at most ``-log m`` at ``p = 1``. Positives have none.

    Args:
        probability: (...) in [0, 1].
        target: (...) 1 for synchronised, 0 for not; broadcast.
        margin: (...) margin of each pair's kind, in [0, 1); broadcast.

    Returns:
        (...) float32, in [0, -log EPSILON]; NaN where an argument is NaN.

    Example:
        >>> margin_loss(torch.tensor(0.8), torch.tensor(0.0), 0.3).item()  # doctest: +ELLIPSIS
        0.693...
    """
    probability = at_least_float32(probability)
    excess = F.relu(probability - margin)
    positive = -straight_through_clamp(probability, EPSILON, 1.0).log()
    negative = -straight_through_clamp(1 - excess, EPSILON, 1.0).log()
    return target * positive + (1 - target) * negative


def bounded_weight(
    weight: float, sync: Tensor, reconstruction: Tensor, frames: Tensor, *, ratio: float = 0.5
) -> Tensor:
    """Weight of the sync loss, lowered where its gradient would outweigh that of the reconstruction.

    ``min(weight, ratio · |∇ reconstruction| / |∇ sync|)``, with the L2 norms of the gradients with respect to the
    generated frames. As VQGAN's adaptive weight (arXiv 2012.09841, eq. 7), but an upper bound, and without a pass
    through the generator: the cost is one more backward pass of both losses to the frames.

    Args:
        weight: the largest weight.
        sync: scalar loss.
        reconstruction: scalar loss, with its own weight; no adversarial term, whose gradient has no such scale.
        frames: the generated tensor that both were computed from, of any shape.
        ratio: largest norm of the weighted sync gradient, as a share of that of the reconstruction.

    Returns:
        Scalar without gradient; ``weight`` where the sync loss has no gradient, NaN where a gradient has NaN.

    Raises:
        RuntimeError: from autograd, where a loss does not depend on the frames.

    Example:
        >>> frames = torch.zeros(4, requires_grad=True)
        >>> reconstruction, sync = (frames - 1).abs().mean(), 3 * frames.mean()
        >>> bounded_weight(0.5, sync, reconstruction, frames).item()  # doctest: +ELLIPSIS
        0.1666...
    """
    norms = [torch.autograd.grad(loss, frames, retain_graph=True)[0].float().norm() for loss in (reconstruction, sync)]
    return torch.where(norms[1] == 0, weight, (ratio * norms[0] / norms[1]).clamp(max=weight))


def margin_plateau(margin_same: float, margin_cross: float, cross_share: float, positive_share: float = 0.5) -> float:
    """Chance-level loss: eq. 1 of the best constant probability, 0.693 only without margins.

    Args:
        margin_same: margin of same-speaker negatives.
        margin_cross: margin of cross-speaker negatives.
        cross_share: share of cross-speaker pairs among the negatives.
        positive_share: share of synchronised pairs among all.

    Returns:
        The plateau of eq. 1.
    """
    # the best constant has no closed form with two margins; a grid of 1e-5 is exact enough
    constant = torch.linspace(EPSILON, 1 - EPSILON, 100_001, dtype=torch.float64)
    same, cross = (-(1 - F.relu(constant - margin)).log() for margin in (margin_same, margin_cross))
    negative = (1 - cross_share) * same + cross_share * cross
    loss = positive_share * -constant.log() + (1 - positive_share) * negative
    return loss.min().item()


def offset_matrix(audio: Tensor, visual: Tensor, max_offset: int = 15) -> Tensor:
    """Probability of every window against the audio of every candidate offset.

    Args:
        audio: (B, W, D) embeddings of consecutive windows.
        visual: (B, W, D) embeddings of the same windows.
        max_offset: largest offset in frames.

    Returns:
        (B, W, K) with K = 2 * max_offset + 1; entry k holds visual window w against audio window
        w + k - max_offset, so a maximum at ``k = max_offset + d`` means that the audio is d frames late.
        NaN where that audio window does not exist.

    Raises:
        ValueError: for an offset below 0.
    """
    windows, max_offset = visual.shape[1], whole_number("max_offset", max_offset)
    if max_offset < 0:
        raise ValueError(f"max_offset: expected 0 or more, got {max_offset}")
    table = torch.einsum("bvd,bad->bva", unit_rectified(visual), unit_rectified(audio)).clamp(0, 1)
    table = F.pad(table, (max_offset, max_offset), value=torch.nan)
    columns = (
        torch.arange(2 * max_offset + 1, device=table.device) + torch.arange(windows, device=table.device)[:, None]
    )
    return table.gather(2, columns.expand(table.shape[0], -1, -1))


def unit_rectified(embedding: Tensor) -> Tensor:
    """ReLU and L2 normalisation in float32, so that an inner product is the sync probability.

    Args:
        embedding: (..., D) before ReLU.

    Returns:
        (..., D) of norm 1, or 0 for an embedding without a positive entry.
    """
    with torch.autocast(device_type=embedding.device.type, enabled=False):
        return F.normalize(F.relu(at_least_float32(embedding)), dim=-1, eps=1e-8)


def calibrated_probability(probability: Tensor, temperature: float, midpoint: float) -> Tensor:
    """Calibrate a score by Platt scaling: sigmoid((p - midpoint) / temperature).

    The cosine of eq. 2 orders windows, but is no frequency. The result is one, for windows of which half are in sync.

    Args:
        probability: (...) of eq. 2, in [0, 1].
        temperature: above 0; width of the transition.
        midpoint: score at which windows in sync and out of sync are equally frequent.

    Returns:
        (...) in (0, 1), increasing with the score.

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature!r}")
    return torch.sigmoid((at_least_float32(probability) - midpoint) / temperature)


def reduce(values: Tensor, weights: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Weighted reduction over windows.

    Args:
        values: (B, W).
        weights: (B, W), at least 0; None weighs all windows alike. A weight of 0 leaves the window out, also if its
            value is NaN; a weight that is negative or NaN gives NaN.
        reduction: ``"mean"`` (weighted mean of all windows, 0 without any), ``"sum"``, or ``"none"`` (weighted
            mean of each clip, (B,)).

    Returns:
        Scalar, or (B,) for ``"none"``.

    Raises:
        ValueError: for another reduction.
    """
    check_choice("reduction", reduction, "mean", "sum", "none")
    weights = torch.ones_like(values) if weights is None else weights.to(values).expand_as(values)
    weights = weights.where(weights >= 0, torch.nan)
    # where(), not a product: 0 * NaN of a window that is left out would be NaN
    weighted = torch.where(weights == 0, 0.0, values * weights)
    if reduction == "sum":
        return weighted.sum()
    axes = (0, 1) if reduction == "mean" else (1,)
    total = weights.sum(axes)
    return weighted.sum(axes) / torch.where(total > 0, total, 1.0)
