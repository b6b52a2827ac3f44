"""Augmentation in training: other crops, cameras, voices and rooms. Constant over a segment unless said otherwise."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.models.mouth_aligner import MOUTH_SIDE, PATCH_SIZE
from unisync_loss.representations.face_topology import MIRRORED_MOUTH
from unisync_loss.training.data.cache import CUT_SIDE
from unisync_loss.utils.image import FACE_SIZE

DB = 8 / 100  # a decibel on the mel scale of -4 … 4


def spread(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform numbers in [low, high)."""
    return torch.empty(shape).uniform_(low, high)


def chance(count: int, probability: float) -> Tensor:
    """Booleans (count,), true with the probability."""
    return torch.rand(count) < probability


def random_affine(
    count: int, *, scale: float, aspect: float, turn: float, shift: float, flip: Tensor | None = None
) -> Tensor:
    """Random affine maps around the centre, (count, 2, 3).

    Args:
        count: maps.
        scale: largest log scale.
        aspect: largest log ratio of width to height.
        turn: largest angle in radians.
        shift: largest shift in the map's units.
        flip: (count,) which ones are mirrored.
    """
    size = spread((count, 1), -scale, scale) + torch.stack(
        [spread((count,), -aspect, aspect) / 2] * 2, 1
    ) * torch.tensor([1.0, -1.0])
    angle = spread((count,), -turn, turn)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(count, 2, 2)
    linear = rotation * size.exp()[:, None, :]
    if flip is not None:
        linear = linear * torch.stack([1 - 2 * flip.float(), torch.ones(count)], 1)[:, None, :]
    return torch.cat([linear, spread((count, 2, 1), -shift, shift)], dim=2)


def augment_mouths(pixels: Tensor, mirrored: Tensor) -> Tensor:
    """Cut 64² mouths out of 80² ones as an unsure aligner would, and change camera and light.

    Args:
        pixels: (N * L, 3, 80, 80) in [0, 1].
        mirrored: (N,) which segments to mirror.

    Returns:
        (N * L, 3, 64, 64) in [0, 1].
    """
    segments, length = len(mirrored), len(pixels) // len(mirrored)
    base = random_affine(segments, scale=0.08, aspect=0.06, turn=0.08, shift=0.045, flip=mirrored)
    tremble = torch.randn(segments, length, 2) * spread((segments, 1, 1), 0.0, 0.008)
    drift = torch.linspace(-1, 1, length)[None, :, None] * spread((segments, 1, 2), -0.02, 0.02)
    theta = repeat(base, "n i j -> n l i j", l=length).clone()
    theta[..., 2] += tremble + drift
    theta = rearrange(theta, "n l i j -> (n l) i j") * (MOUTH_SIDE / CUT_SIDE)
    grid = F.affine_grid(theta, [len(pixels), 3, PATCH_SIZE, PATCH_SIZE], align_corners=False)
    grid = grid + repeat(_bend(segments), "n h w d -> (n l) h w d", l=length)
    cut = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return augment_camera(_wear_another_face(cut, length, 0.3), length)


def _bend(count: int) -> Tensor:
    """Smooth displacements (count, 64, 64, 2) of a sampling grid: lips and chins of another shape."""
    knots = torch.randn(count, 2, 4, 4) * spread((count, 1, 1, 1), 0.0, 0.06)
    field = F.interpolate(knots, (PATCH_SIZE, PATCH_SIZE), mode="bicubic", align_corners=True)
    return rearrange(field, "n d h w -> n h w d")


def _wear_another_face(pixels: Tensor, length: int, share: float) -> Tensor:
    """Replace part of what stays in a share of the segments by what stays in another one; what moves is kept."""
    x = rearrange(pixels, "(n l) c h w -> n l c h w", l=length)
    still = x.mean(1, keepdim=True)
    weight = spread((len(x), 1, 1, 1, 1), 0.0, 0.7) * chance(len(x), share).float()[:, None, None, None, None]
    return rearrange(x + weight * (still[torch.randperm(len(x))] - still), "n l c h w -> (n l) c h w")


def mirror_motion(motion: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the mouth's motion (N, L, 52, 2) of some segments, (N,)."""
    image = motion[:, :, MIRRORED_MOUTH] * torch.tensor([-1.0, 1.0])
    return torch.where(mirrored[:, None, None, None], image, motion)


def augment_motion(motion: Tensor) -> Tensor:
    """Make measured motion as uncertain as a network's guess from one picture.

    Args:
        motion: (N, L, 52, 2).

    Returns:
        Same shape.
    """
    count, length = motion.shape[:2]
    change = random_affine(count, scale=0.15, aspect=0.1, turn=0.08, shift=0.0)[:, :, :2]
    changed = torch.einsum("nij,nlpj->nlpi", change, motion)
    # nobody's rest is known from one picture: another mouth's displacement is added to the whole segment
    other = motion[torch.randperm(count), torch.randint(length, (count,))][:, None]
    noise = torch.randn_like(motion) * spread((count, 1, 1, 1), 0.0, 0.008)
    return changed + 0.35 * torch.randn(count, 1, 1, 1) * other + noise


def augment_pictures(pictures: Tensor, length: int) -> Tensor:
    """Other crops of whole pictures (N * L, 3, H, W), alike over a segment of L, half of them mirrored."""
    segments = len(pictures) // length
    theta = random_affine(segments, scale=0.1, aspect=0.06, turn=0.08, shift=0.06, flip=chance(segments, 0.5))
    theta = repeat(theta, "n i j -> (n l) i j", l=length)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def augment_series(series: Tensor, rest: Tensor, mirrored: Tensor) -> Tensor:
    """Other faces and other trackers: part of another face's rest, faces of chance, larger and smaller motion, noise.

    Args:
        series: (N, L, 2, E) of :mod:`unisync_loss.training.data.face_features`.
        rest: (N, 1, 2, E) its mean over the clip.
        mirrored: (N,) which segments to mirror.

    Returns:
        (N, L, E).
    """
    count = len(series)
    rows, view = torch.arange(count), mirrored.long()
    own = rest[rows, :, view]
    motion = series[rows, :, view] - own
    deviation = motion.std((0, 1))
    # few people are filmed: without other faces, and faces that nobody has, their shapes are learnt by heart
    face = own + spread((count, 1, 1), 0.0, 1.0) * (own[torch.randperm(count)] - own)
    face = face + torch.randn_like(own) * spread((count, 1, 1), 0.0, 0.3) * own.std(0)
    noise = torch.randn_like(motion) * spread((count, 1, 1), 0.0, 0.15) * deviation
    return face + motion * spread((count, 1, 1), -0.2, 0.2).exp() + noise


def augment_crop(rings: Tensor) -> Tensor:
    """Other crops of a face: points (N, L, P, 2) as shares of width and height, shifted, scaled and turned."""
    count = len(rings)
    crop = random_affine(count, scale=0.12, aspect=0.1, turn=0.1, shift=0.05)
    turned = torch.einsum("nij,nlpj->nlpi", crop[:, :, :2], rings - 0.5)
    return turned + 0.5 + rearrange(crop[:, :, 2], "n d -> n 1 1 d")


def centre_mouths(pixels: Tensor) -> Tensor:
    """Cut 64² mouths out of 80² ones where the landmarks say they are."""
    theta = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]) * (MOUTH_SIDE / CUT_SIDE)
    grid = F.affine_grid(theta.expand(len(pixels), 2, 3), [len(pixels), 3, PATCH_SIZE, PATCH_SIZE], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def augment_camera(pixels: Tensor, length: int) -> Tensor:
    """Contrast, brightness, gamma, white balance, grey, blur, noise and hidden patches, alike over a segment.

    Args:
        pixels: (N * L, 3, H, W) in [0, 1].
        length: L.

    Returns:
        Same shape, in [0, 1].
    """
    segments = len(pixels) // length
    x = rearrange(pixels, "(n l) c h w -> n l c h w", l=length)
    one = (segments, 1, 1, 1, 1)
    grey = chance(segments, 0.2).float()[:, None, None, None, None] * spread(one, 0.5, 1.0)
    x = x + grey * (x.mean(2, keepdim=True) - x)
    x = x.clamp(1e-3, 1) ** spread(one, -0.4, 0.4).exp()
    x = x * spread((segments, 1, 3, 1, 1), -0.12, 0.12).exp() * spread(one, -0.35, 0.35).exp() + spread(
        one, -0.12, 0.12
    )
    x = _blur_some(x, 0.25)
    x = x + torch.randn_like(x) * (spread(one, 0.0, 0.04) * chance(segments, 0.5).float()[:, None, None, None, None])
    return rearrange(_hide_some(x, 0.1), "n l c h w -> (n l) c h w").clamp(0, 1)


def _blur_some(x: Tensor, share: float) -> Tensor:
    """Pass a share of the segments through a lower resolution."""
    chosen = chance(len(x), share).nonzero()[:, 0]
    if not len(chosen):
        return x
    picked = rearrange(x[chosen], "n l c h w -> (n l) c h w")
    side = int(torch.randint(26, 50, ()).item())
    small = F.interpolate(picked, (side, side), mode="bilinear", antialias=True)
    blurred = F.interpolate(small, x.shape[-2:], mode="bilinear")
    x = x.clone()
    x[chosen] = rearrange(blurred, "(n l) c h w -> n l c h w", l=x.shape[1])
    return x


def _hide_some(x: Tensor, share: float) -> Tensor:
    """Grey out one box in a share of the segments: a hand, a microphone, a caption."""
    height, width = x.shape[-2:]
    count = len(x)
    top, left = spread((count, 1), -0.2, 0.9), spread((count, 1), -0.2, 0.9)
    tall, wide = spread((count, 1), 0.1, 0.35), spread((count, 1), 0.1, 0.35)
    ys, xs = torch.linspace(0, 1, height)[None], torch.linspace(0, 1, width)[None]
    rows, columns = (ys > top) & (ys < top + tall), (xs > left) & (xs < left + wide)
    box = rows[:, :, None] & columns[:, None, :] & chance(count, share)[:, None, None]
    return torch.where(box[:, None, None], spread((count, 1, 1, 1, 1), 0, 1), x)


def augment_voice(mel: Tensor, *, clean: float = 0.2) -> Tensor:
    """Change the speaker's vocal tract, the equaliser, the level, the noise and the noise floor.

    Args:
        mel: (N, 80, M) in [-4, 4].
        clean: share of segments left as they are.

    Returns:
        Same shape and range.
    """
    count, bins, steps = mel.shape
    changed = _warp(mel, spread((count,), -0.12, 0.12).exp())
    curve = F.interpolate(torch.randn(count, 1, 6) * 3, bins, mode="linear", align_corners=True)[:, 0, :, None]
    changed = changed + DB * (curve + spread((count, 1, 1), -12, 8))
    changed = _add_noise(changed, mel[torch.randperm(count)], 0.4)
    floor = torch.where(chance(count, 0.3), spread((count,), -4, -2.5), torch.full((count,), -4.0))[:, None, None]
    changed = torch.maximum(changed, floor + torch.randn(count, bins, steps) * 0.1 * (floor > -4))
    changed = _mask_bands(changed, 0.3)
    keep = chance(count, clean)[:, None, None]
    return torch.where(keep, mel, changed).clamp(-4, 4)


def augment_features(features: Tensor, *, clean: float = 0.35) -> Tensor:
    """Make learnt features of a voice (N, M, F) less sure: noise in units of their deviation, silent channels."""
    count, _, width = features.shape
    noise = torch.randn_like(features) * spread((count, 1, 1), 0.0, 0.4) * features.std((0, 1))
    heard = torch.rand(count, 1, width) > spread((count, 1, 1), 0.0, 0.2)
    keep = chance(count, clean)[:, None, None]
    return torch.where(keep, features, (features + noise) * heard)


def _warp(mel: Tensor, ratio: Tensor) -> Tensor:
    """Stretch the frequency axis: a longer or shorter vocal tract. (N, 80, M), (N,)."""
    count, bins, steps = mel.shape
    rows = (torch.arange(bins) + 0.5)[None] * ratio[:, None] - 0.5
    grid_y = (2 * rows + 1) / bins - 1
    grid_x = (2 * torch.arange(steps) + 1) / steps - 1
    grid = torch.stack([grid_x.expand(count, bins, steps), grid_y[:, :, None].expand(count, bins, steps)], dim=-1)
    return F.grid_sample(mel[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def _add_noise(mel: Tensor, other: Tensor, share: float) -> Tensor:
    """Add steady coloured noise, or another voice, as powers."""
    count, bins, _ = mel.shape
    tilt = torch.linspace(0, 1, bins)[None, :, None] * spread((count, 1, 1), -2, 0.5)
    steady = spread((count, 1, 1), -3.5, -0.5) + tilt + torch.randn_like(mel) * 0.45
    babble = other - spread((count, 1, 1), 10, 30) * DB
    noise = torch.where(chance(count, 0.3)[:, None, None], babble, steady)
    noise = torch.where(chance(count, share)[:, None, None], noise, torch.full_like(mel, -9.0))
    to_log = math.log(10) / 10 / DB  # mel units to natural logarithm of power
    return torch.logaddexp(mel * to_log, noise * to_log) / to_log


def _mask_bands(mel: Tensor, share: float) -> Tensor:
    """Silence a band of a share of the segments, as telephones and codecs do."""
    count, bins, _ = mel.shape
    low = spread((count, 1), 0, bins)
    band = (torch.arange(bins)[None] >= low) & (torch.arange(bins)[None] < low + spread((count, 1), 2, 12))
    return torch.where((band & chance(count, share)[:, None])[:, :, None], torch.full_like(mel, -4.0), mel)


def augment_views(views: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Random crops of whole faces, from tight and squeezed to loose, with the pose that goes with each.

    Args:
        views: (N, 3, 96, 96).
        poses: (N, 2, 3) from template coordinates to shares of width and height.

    Returns:
        (N, 3, 64, 64) and (N, 2, 3).
    """
    count = len(views)
    # a tight box is 0.59 of a view's height (scale -0.53) and narrower than high; 0.1 is looser than any view
    height = spread((count,), -0.62, 0.12)
    width = height - spread((count,), -0.12, 0.32)
    mirrored = chance(count, 0.5)
    crop = random_affine(count, scale=0.0, aspect=0.0, turn=0.3, shift=0.0, flip=mirrored)
    crop[:, :, :2] = crop[:, :, :2] * torch.stack([width, height], 1).exp()[:, None, :]
    face = torch.einsum("nij,j->ni", poses, torch.tensor([0.0, 0.3, 1.0]))  # middle of the face
    room = torch.stack([width, height], 1).exp()
    middle = (2 * face - 1) * (1 - (room - 0.59).clamp(0, 0.41) / 0.41)  # loose crops are centred on the view
    crop[:, :, 2] = middle + spread((count, 2), -0.26, 0.26) * room
    grid = F.affine_grid(crop, [count, 3, FACE_SIZE, FACE_SIZE], align_corners=False)
    picture = F.grid_sample(views, grid, padding_mode="border", align_corners=False)
    # a mirrored face is a face like any other: its template is mirrored along, or nobody could tell the pose
    upright = torch.stack([1 - 2 * mirrored.float(), torch.ones(count)], 1)[:, None, :]
    pose = pose_in_crop(poses, crop)
    return augment_camera(picture, 1), torch.cat([pose[:, :, :2] * upright, pose[:, :, 2:]], dim=2)


def pose_in_crop(poses: Tensor, crop: Tensor) -> Tensor:
    """Poses in shares of a crop, for crops given as affine maps on [-1, 1] (crop to view); both (N, 2, 3)."""
    inverse = torch.linalg.inv(crop[:, :, :2])
    linear = inverse @ poses[:, :, :2]
    shift = inverse @ (2 * poses[:, :, 2:] - 1 - crop[:, :, 2:])
    return torch.cat([linear, (shift + 1) / 2], dim=2)
