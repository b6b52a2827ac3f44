"""Face parsing maps: a few groups around the mouth, mapped by name from the classes of any parser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import PARSING_GROUPS
from unisync_loss.representations.base import VisualInput
from unisync_loss.utils.image import finite_affine
from unisync_loss.utils.tensors import at_least_float32, describe

#: label orders of the parsers in use; the same 19 classes of CelebAMask-HQ, in different orders
CLASSES: dict[str, tuple[str, ...]] = {
    # zllrunning/face-parsing.PyTorch (79999_iter.pth), which most talking-face code vendors
    "bisenet": (
        "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
        "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
    ),
    # jonathandinu/face-parsing, since January 2024
    "segformer": (
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
        "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
}  # fmt: skip
#: group of each class that is not "other"; eyes and brows count as skin
_GROUP_OF = {
    **dict.fromkeys(("skin", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow"), "skin"),
    "u_lip": "upper_lip",
    "l_lip": "lower_lip",
    **{group: group for group in PARSING_GROUPS},
}
#: side of the mouth cut relative to a square of the face's area: from the nose, which speech does not move, to the
#: chin, which it does
MOUTH_SHARE = 0.8
LEAST_AREA = 1e-2  # smallest face, as a share of the map
LEAST_SIDE = 16  # pixels
_LEAST_PIXELS = 1e-3  # added to the area of the lips: the mouth of a map without lips is in its middle
_FIRST_LIP = PARSING_GROUPS.index("upper_lip")
_FINE = 128  # largest side in pixels for which the samples of the cut skip no pixel
_OTHER = ("background", "l_ear", "r_ear", "ear_r", "neck", "neck_l", "cloth", "hair", "hat")


def mouth_groups(maps: Tensor, classes: str | Sequence[str]) -> Tensor:
    """Bring the maps of a parser to the groups of the expert: other, skin, nose, upper_lip, lower_lip, mouth.

    Args:
        maps: (B, T, P, H, W) probabilities, or (B, T, H, W) whole-number labels below P.
        classes: ``"bisenet"``, ``"segformer"``, or the P class names in the parser's order, as in CelebAMask-HQ
            (``id2label`` of a transformers model).

    Returns:
        (B, T, 6, H, W) probabilities, differentiable; or (B, T, H, W) labels.

    Raises:
        ValueError: for an unknown preset or class, classes without nose or lips, or maps that do not fit the classes.
    """
    names = _names(classes)
    index = [PARSING_GROUPS.index(_GROUP_OF.get(name, "other")) for name in names]
    groups = torch.tensor(index, device=maps.device)
    if _is_labels(maps):
        _check_labels(maps, len(names))
        return groups[maps.long()]
    if maps.ndim != 5 or maps.shape[2] != len(names) or not maps.is_floating_point():
        shapes = f"(B, T, {len(names)}, H, W) probabilities or (B, T, H, W) whole-number labels below {len(names)}"
        raise ValueError(f"maps: expected {shapes}, got {describe(maps)}")
    table = F.one_hot(groups, len(PARSING_GROUPS)).to(maps.dtype)
    return torch.einsum("btphw,pg->btghw", maps, table)


def _names(classes: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        if classes not in CLASSES:
            raise ValueError(f"classes: expected {', '.join(CLASSES)}, or a list of names, got {classes!r}")
        return CLASSES[classes]
    names = tuple(classes)
    unknown = [name for name in names if name not in _GROUP_OF and name not in _OTHER]
    if unknown:
        known = ", ".join(dict.fromkeys((*_GROUP_OF, *_OTHER)))
        raise ValueError(f"classes: expected names among {known}, got {', '.join(map(repr, unknown))}")
    groups = {_GROUP_OF.get(name) for name in names}
    if not {"nose", "upper_lip", "lower_lip"} <= groups:
        raise ValueError(f"classes: expected the nose and both lips among them, got {', '.join(names)}")
    return names


class ParsingInput(VisualInput):
    """Probabilities (B, T, 6, H, W) that sum to 1 or integer labels (B, T, H, W) of the groups → (B, T, 6, H, W).

    The groups are, in this order, other, skin, nose, upper_lip, lower_lip, mouth (the area between the lips); see
    :func:`mouth_groups` for the classes of a parser. Labels have no gradient, probabilities do.
    """

    is_image = True
    value_range = (0.0, 1.0)

    @property
    def expected(self) -> str:
        """The shape, with the groups."""
        groups = len(PARSING_GROUPS)
        return (
            f"(B, T, {groups}, H, W) probabilities that sum to 1 or (B, T, H, W) whole-number labels of "
            f"{', '.join(PARSING_GROUPS)} (mouth_groups makes them from the classes of a parser), "
            f"H and W at least {LEAST_SIDE}"
        )

    def accepts(self, video: Tensor) -> bool:
        """Whether shape and type of number are as expected."""
        if min(video.shape[-2:], default=0) < LEAST_SIDE:
            return False
        probabilities = video.ndim == 5 and video.shape[2] == len(PARSING_GROUPS) and video.is_floating_point()
        return probabilities or _is_labels(video)

    def convert(self, video: Tensor) -> Tensor:
        """Convert labels to probabilities of 0 and 1.

        Raises:
            ValueError: for labels out of range.
        """
        if not _is_labels(video):
            return video
        groups = len(PARSING_GROUPS)
        _check_labels(video, groups)
        # one_hot would need eight bytes per value
        own = torch.arange(groups, device=video.device)[:, None, None]
        return (video[:, :, None] == own).to(torch.get_default_dtype())


def mouth_of_maps(maps: Tensor, side: int) -> Tensor:
    """Cut the mouth out of parsing maps: around the middle of the lips, in proportion to the face, differentiably.

    Args:
        maps: (N, 6, H, W) probabilities of the groups, that sum to 1.
        side: pixels of the cut.

    Returns:
        (N, 6, side, side), 0.8 times as wide and high as a square of the face's area; of a map without lips, around its
        middle. Outside the map, the group is "other". NaN where a map has NaN.
    """
    maps = at_least_float32(maps)
    height, width = maps.shape[-2:]
    ys = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=maps.device, dtype=maps.dtype)
    xs = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=maps.device, dtype=maps.dtype)
    lips = maps[:, _FIRST_LIP:].sum(1)
    mass = lips.sum((1, 2)) + _LEAST_PIXELS
    middle = torch.stack([(lips * xs).sum((1, 2)), (lips * ys[:, None]).sum((1, 2))], 1) / mass[:, None]
    # pixels need not be square: a crop may be squeezed, and width and height go with it
    face = maps[:, 1:]
    extent = MOUTH_SHARE * (face.sum((1, 2, 3)) / (height * width)).clamp(min=LEAST_AREA).sqrt()
    theta = torch.diag_embed(extent[:, None].expand(-1, 2))
    theta, lost = finite_affine(torch.cat([theta, middle[:, :, None]], dim=2))
    finer = -(-max(height, width) // _FINE)
    grid = F.affine_grid(theta, [*face.shape[:2], finer * side, finer * side], align_corners=False)
    cut = F.avg_pool2d(F.grid_sample(face, grid, padding_mode="zeros", align_corners=False), finer) + lost
    return torch.cat([1 - cut.sum(1, keepdim=True), cut], dim=1)


def _is_labels(maps: Tensor) -> bool:
    return maps.ndim == 4 and not maps.is_floating_point() and maps.dtype != torch.bool


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"video: expected labels in [0, {classes}), got {int(labels.min())} … {int(labels.max())}; "
            "mouth_groups makes them from the classes of a parser"
        )
