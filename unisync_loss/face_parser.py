"""Face parsing by a SegFormer of ``transformers``, for who has its weights; differentiable.

No weights come with this library: ``jonathandinu/face-parsing``, the usual one, is made from data and weights for
research only.
"""

from __future__ import annotations

import os

import torch
from einops import rearrange
from torch import Tensor

from unisync_loss.aligner import resize
from unisync_loss.model_files import load_model
from unisync_loss.representations.base import describe
from unisync_loss.representations.parsing import mouth_groups

_FRAMES = 8  # at once: one of 512² takes some 0.2 GB


class FaceParser:
    """A frozen SegFormer, from frames to probabilities of the groups that an expert takes.

    Args:
        name: folder, or ``owner/name`` on the Hub.
        revision: commit; this model's labels were once put into another order.
        device: to put it on; None is the CPU.

    Raises:
        ValueError: for a model that is none, lacks classes of nose or lips, or cannot be had, within seconds.
        ImportError: without transformers.
    """

    def __init__(
        self, name: str | os.PathLike[str], *, revision: str = "main", device: str | torch.device | None = None
    ) -> None:
        """Load and freeze."""
        model, preprocessor, self.identity = load_model("segformer", name, revision)
        self._model = model.to(device or "cpu").eval().requires_grad_(False)
        labels = {int(index): label for index, label in model.config.id2label.items()}
        self.classes = tuple(labels[index] for index in range(len(labels)))
        mouth_groups(torch.zeros(1, 1, 1, 1, dtype=torch.long), self.classes)  # names are checked now, not at a frame
        size = preprocessor.get("size", {"height": 512, "width": 512})
        self._size = (size["height"], size["width"])
        self._mean = preprocessor.get("image_mean", [0.485, 0.456, 0.406])
        self._deviation = preprocessor.get("image_std", [0.229, 0.224, 0.225])

    def __call__(self, video: Tensor) -> Tensor:
        """Parse faces.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1], on the model's device.

        Returns:
            (B, T, 6, h, w) probabilities, a quarter of the model's size (128 for 512); a gradient reaches the video.

        Raises:
            ValueError: for another shape or dtype.
        """
        if video.ndim != 5 or video.shape[2] != 3 or not video.is_floating_point():
            raise ValueError(f"video: expected (B, T, 3, H, W) floating point in [0, 1], got {describe(video)}")
        mean, deviation = (torch.tensor(value).to(video)[:, None, None] for value in (self._mean, self._deviation))
        frames = (resize(rearrange(video, "b t c h w -> (b t) c h w"), *self._size) - mean) / deviation
        maps = torch.cat([self._model(pixel_values=part).logits.softmax(1) for part in frames.split(_FRAMES)])
        return mouth_groups(rearrange(maps, "(b t) p h w -> b t p h w", b=video.shape[0]), self.classes)
