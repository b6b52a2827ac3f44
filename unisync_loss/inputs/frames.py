"""Frames as generators make them: other ranges, BGR, clips flattened into the batch, faces in a larger picture."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from unisync_loss.functional import straight_through_clamp
from unisync_loss.inputs.batch import check_tensors
from unisync_loss.inputs.values import check_finite
from unisync_loss.utils.image import sample_region
from unisync_loss.utils.tensors import at_least_float32, check_choice, describe, real_number, whole_number

_FACE_PIXELS = 160  # side of a face cut out by its box: the mouth, 0.4 to 0.55 of it, keeps the expert's 64 pixels


class GeneratorFrames:
    """Converts frames of a generator to what an expert on RGB takes, differentiably.

    Args:
        visual: representation of the expert; the two options below are for ``"rgb"`` only.
        value_range: lowest and highest value of the generator's frames, such as (-1, 1). Values beyond it, as decoded
            latents have them, are clamped, and the gradient passes. None: [0, 1], not clamped.
        channel_order: ``"rgb"`` or ``"bgr"``.

    Raises:
        ValueError: for another order, a range that does not rise, or options that the representation does not have.
    """

    def __init__(self, visual: str, value_range: tuple[float, float] | None, channel_order: str) -> None:
        check_choice("channel_order", channel_order, "rgb", "bgr")
        if visual != "rgb" and (value_range is not None or channel_order != "rgb"):
            raise ValueError(
                f"value_range, channel_order: expected them for an expert on rgb only, got one on {visual}"
            )
        self.value_range = None if value_range is None else _rising(value_range)
        self.visual, self.channel_order = visual, channel_order

    def unflatten(self, video: Tensor, frames: int | None) -> Tensor:
        """Bring ((B T), …), the frames of a clip one after the other, to (B, T, …).

        Args:
            video: ((B T), …), or (B, T, …) where ``frames`` is None.
            frames: T of every clip.

        Raises:
            ValueError: for a number of images that is not a multiple of ``frames``.
        """
        if frames is None:
            return video
        number = whole_number("frames", frames)
        if number < 1 or not isinstance(video, Tensor) or video.ndim < 2 or len(video) % number:
            raise ValueError(f"video: expected (B * {number}, …), {number} frames per clip, got {describe(video)}")
        return rearrange(video, "(b t) ... -> b t ...", t=number)

    def convert(self, video: Tensor) -> Tensor:
        """Bring (B, T, 3, H, W) to RGB in [0, 1]; other representations stay as they are."""
        if self.channel_order == "bgr":
            video = video.flip(2)
        if self.value_range is None:
            return video
        least, most = self.value_range
        # before the cast of the expert: half precision rounds 1 ± 0.0005
        return straight_through_clamp((at_least_float32(video) - least) / (most - least), 0.0, 1.0)

    def check_shape(self, video: Tensor, boxes: Tensor) -> None:
        """Check that boxes are (B, 4) or (B, T, 4), for an expert on RGB.

        Raises:
            ValueError: for another shape, dtype, device or layout, or an expert on another representation.
        """
        batch, frames = video.shape[:2]
        if self.visual != "rgb":
            raise ValueError(f"boxes: expected them for an expert on rgb only, got one on {self.visual}")
        if not isinstance(boxes, Tensor) or boxes.shape not in ((batch, 4), (batch, frames, 4)):
            expected = f"(B, 4) = {(batch, 4)} or (B, T, 4) = {(batch, frames, 4)}"
            raise ValueError(f"boxes: expected {expected}, got {describe(boxes)}")
        check_tensors(video.device, boxes=boxes)

    def crop(self, video: Tensor, boxes: Tensor) -> Tensor:
        """Cut the face out of each frame, differentiably in the frames.

        Args:
            video: (B, T, 3, H, W).
            boxes: (B, 4) or (B, T, 4): left, top, right, bottom in pixels; what lies outside the picture repeats its
                border.

        Returns:
            (B, T, 3, 160, 160).

        Raises:
            ValueError: for another shape, or an expert on another representation.
        """
        self.check_shape(video, boxes)
        frames = video.shape[1]
        images = rearrange(at_least_float32(video), "b t c h w -> (b t) c h w")
        boxes = boxes[:, None].expand(-1, frames, -1) if boxes.ndim == 2 else boxes
        height, width = images.shape[2:]
        left, top, right, bottom = rearrange(boxes.to(images), "b t side -> side (b t)")
        zero = torch.zeros_like(left)
        x = torch.stack([(right - left) / width, zero, left / width], 1)
        y = torch.stack([zero, (bottom - top) / height, top / height], 1)
        return rearrange(
            sample_region(images, torch.stack([x, y], 1), _FACE_PIXELS), "(b t) c h w -> b t c h w", b=len(video)
        )


def _rising(value_range: object) -> tuple[float, float]:
    """The two ends of a range, if they rise."""
    if isinstance(value_range, tuple | list) and len(value_range) == 2:
        least, most = (real_number("value_range", value) for value in value_range)
        if -math.inf < least < most < math.inf:
            return least, most
    raise ValueError(f"value_range: expected (lowest, highest), got {value_range!r}")


def check_boxes(boxes: Tensor, height: int, width: int) -> None:
    """Check the values of boxes (…, 4).

    Raises:
        ValueError: for NaN, infinity, a box without area, or one that lies outside the picture.
    """
    check_finite("boxes", boxes)
    left, top, right, bottom = boxes.detach().unbind(-1)
    wrong = (right <= left) | (bottom <= top) | (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height)
    if wrong.any():
        first = [round(value, 1) for value in boxes.detach()[wrong][0].tolist()]
        raise ValueError(
            f"boxes: expected left < right and top < bottom, in pixels of a picture of {height} x {width}, got {first}"
        )
