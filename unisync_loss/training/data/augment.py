"""Augmentation in training: crop, camera, speaker and room; constant over a segment unless stated otherwise.

The paper names no augmentation. The last stage of ``mel-rgb`` 0.1 was run again with stronger ranges: with the weaker
ones its AUC was 0.958 on training clips and 0.895 on val.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.models.mouth_aligner import MOUTH_SIDE, PATCH_SIZE
from unisync_loss.representations.face_topology import MIRRORED_MOUTH
from unisync_loss.utils.image import FACE_SIZE

DB = 8 / 100  # one decibel in mel units: Wav2Lip's 100 dB span mapped to -4 … 4
CUT_SIDE = 1.25  # template units of a cached mouth crop; the trainer's crop is smaller by the range of its shifts


def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform numbers in [low, high)."""
    return torch.empty(shape).uniform_(low, high)


def random_mask(count: int, probability: float) -> Tensor:
    """Booleans (count,), each True with the given probability."""
    return torch.rand(count) < probability


def random_affine(
    count: int, *, scale: float, aspect: float, turn: float, shift: float, flip: Tensor | None = None
) -> Tensor:
    """Random affine maps about the centre, (count, 2, 3).

    Args:
        count: number of maps.
        scale: largest log scale.
        aspect: largest log ratio of width to height.
        turn: largest rotation in radians.
        shift: largest shift in the map's units, where 1 is half of its side.
        flip: (count,) which of them mirror.
    """
    size = uniform((count, 1), -scale, scale) + torch.stack(
        [uniform((count,), -aspect, aspect) / 2] * 2, 1
    ) * torch.tensor([1.0, -1.0])
    angle = uniform((count,), -turn, turn)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(count, 2, 2)
    linear = rotation * size.exp()[:, None, :]
    if flip is not None:
        linear = linear * torch.stack([1 - 2 * flip.float(), torch.ones(count)], 1)[:, None, :]
    return torch.cat([linear, uniform((count, 2, 1), -shift, shift)], dim=2)


def augment_mouths(pixels: Tensor, mirrored: Tensor) -> Tensor:
    """Cut 64² mouths out of 80² crops with the errors of a mouth aligner, and change camera and light.

    Args:
        pixels: (N * L, 3, 80, 80) in [0, 1].
        mirrored: (N,) which segments to mirror.

    Returns:
        (N * L, 3, 64, 64) in [0, 1].
    """
    segments, length = len(mirrored), len(pixels) // len(mirrored)
    # 8 % in size, 5 degrees, 1.4 of 64 pixels: all at once just reach the edge of the cached crop (CUT_SIDE)
    base = random_affine(segments, scale=0.08, aspect=0.06, turn=0.08, shift=0.045, flip=mirrored)
    # an aligner jitters from frame to frame, here by up to 0.26 pixels (deviation), and drifts over a segment, by 1.3
    jitter = torch.randn(segments, length, 2) * uniform((segments, 1, 1), 0.0, 0.008)
    drift = torch.linspace(-1, 1, length)[None, :, None] * uniform((segments, 1, 2), -0.02, 0.02)
    theta = repeat(base, "n i j -> n l i j", l=length).clone()
    theta[..., 2] += jitter + drift
    theta = rearrange(theta, "n l i j -> (n l) i j") * (MOUTH_SIDE / CUT_SIDE)
    grid = F.affine_grid(theta, [len(pixels), 3, PATCH_SIZE, PATCH_SIZE], align_corners=False)
    grid = grid + repeat(_warp_field(segments), "n h w d -> (n l) h w d", l=length)
    cut = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return augment_camera(_mix_static_appearance(cut, length, 0.3), length)


def _warp_field(count: int) -> Tensor:
    """Smooth displacements (count, 64, 64, 2) of a sampling grid, which change the shape of lips and chin."""
    # deviation of a knot: up to 0.06 of half a crop, 2.4 of its 80 pixels
    knots = torch.randn(count, 2, 4, 4) * uniform((count, 1, 1, 1), 0.0, 0.06)
    field = F.interpolate(knots, (PATCH_SIZE, PATCH_SIZE), mode="bicubic", align_corners=True)
    return rearrange(field, "n d h w -> n h w d")


def _mix_static_appearance(pixels: Tensor, length: int, share: float) -> Tensor:
    """Blend the temporal mean of a share of the segments with that of another segment; the motion is kept."""
    x = rearrange(pixels, "(n l) c h w -> n l c h w", l=length)
    still = x.mean(1, keepdim=True)
    # below 1, so that a segment does not get the whole face of another speaker with its own motion
    weight = uniform((len(x), 1, 1, 1, 1), 0.0, 0.7) * random_mask(len(x), share).float()[:, None, None, None, None]
    return rearrange(x + weight * (still[torch.randperm(len(x))] - still), "n l c h w -> (n l) c h w")


def mirror_motion(motion: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the mouth motion (N, L, 52, 2) of the segments where ``mirrored`` (N,) is True."""
    image = motion[:, :, MIRRORED_MOUTH] * torch.tensor([-1.0, 1.0])
    return torch.where(mirrored[:, None, None, None], image, motion)


def augment_motion(motion: Tensor) -> Tensor:
    """Give measured motion (N, L, 52, 2) the errors of motion predicted from single frames.

    Returns:
        Same shape.
    """
    count, length = motion.shape[:2]
    # mouths open up to 16 % (e^0.15) more or less widely than those of the training speakers
    change = random_affine(count, scale=0.15, aspect=0.1, turn=0.08, shift=0.0)[:, :, :2]
    changed = torch.einsum("nij,nlpj->nlpi", change, motion)
    # a single frame does not show where the mouth rests: add a constant displacement, a third of another segment's
    other = motion[torch.randperm(count), torch.randint(length, (count,))][:, None]
    # up to 0.3 of the deviation of motion, which is 1 / MOTION_SCALE template units
    noise = torch.randn_like(motion) * uniform((count, 1, 1, 1), 0.0, 0.008)
    return changed + 0.35 * torch.randn(count, 1, 1, 1) * other + noise


def augment_crops(frames: Tensor, length: int) -> Tensor:
    """Change the crop of whole frames (N * L, C, H, W), alike over a segment of L; half of them are mirrored."""
    segments = len(frames) // length
    # 10 % looser and tighter, which benchmarks/robustness.py measures, too
    theta = random_affine(segments, scale=0.1, aspect=0.06, turn=0.08, shift=0.06, flip=random_mask(segments, 0.5))
    theta = repeat(theta, "n i j -> (n l) i j", l=length)
    grid = F.affine_grid(theta, list(frames.shape), align_corners=False)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def augment_face_features(per_frame: Tensor, clip_mean: Tensor, mirrored: Tensor) -> Tensor:
    """Change face and tracker: blend and perturb the clip's mean, scale the motion, add noise.

    Linear in the features, so it needs no face model; only the mirrored view, where there is one, does.

    Args:
        per_frame: (N, L, V, E) of :mod:`unisync_loss.training.data.face_features`.
        clip_mean: (N, 1, V, E) mean over the clip.
        mirrored: (N,) segments that use the second view.

    Returns:
        (N, L, E).
    """
    count = len(per_frame)
    rows, view = torch.arange(count), mirrored.long()
    own = clip_mean[rows, :, view]
    motion = per_frame[rows, :, view] - own
    deviation = motion.std((0, 1))
    # with few speakers (96 for the released experts), face shapes are memorised unless they are blended, and perturbed
    # beyond those in the data
    face = own + uniform((count, 1, 1), 0.0, 1.0) * (own[torch.randperm(count)] - own)
    face = face + torch.randn_like(own) * uniform((count, 1, 1), 0.0, 0.3) * own.std(0)
    noise = torch.randn_like(motion) * uniform((count, 1, 1), 0.0, 0.15) * deviation
    return face + motion * uniform((count, 1, 1), -0.2, 0.2).exp() + noise


def augment_points_crop(rings: Tensor) -> Tensor:
    """Change the crop of a face: shift, scale and rotate points (N, L, P, 2), shares of width and height."""
    count = len(rings)
    crop = random_affine(count, scale=0.12, aspect=0.1, turn=0.1, shift=0.05)
    turned = torch.einsum("nij,nlpj->nlpi", crop[:, :, :2], rings - 0.5)
    return turned + 0.5 + rearrange(crop[:, :, 2], "n d -> n 1 1 d")


def centre_mouths(pixels: Tensor) -> Tensor:
    """Cut the central 64² mouths (N, 3, 64, 64) out of 80² crops (N, 3, 80, 80)."""
    theta = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]) * (MOUTH_SIDE / CUT_SIDE)
    grid = F.affine_grid(theta.expand(len(pixels), 2, 3), [len(pixels), 3, PATCH_SIZE, PATCH_SIZE], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def augment_camera(pixels: Tensor, length: int) -> Tensor:
    """Change contrast, brightness, gamma, white balance, saturation, blur, noise and occlusion, alike over a segment.

    Args:
        pixels: (N * L, 3, H, W) in [0, 1].
        length: frames L of a segment.

    Returns:
        Same shape, in [0, 1].
    """
    segments = len(pixels) // length
    x = rearrange(pixels, "(n l) c h w -> n l c h w", l=length)
    one = (segments, 1, 1, 1, 1)
    # a fifth is more or less grey, as old and infrared video
    grey = random_mask(segments, 0.2).float()[:, None, None, None, None] * uniform(one, 0.5, 1.0)
    x = x + grey * (x.mean(2, keepdim=True) - x)
    x = x.clamp(1e-3, 1) ** uniform(one, -0.4, 0.4).exp()  # gamma 0.67 … 1.5
    # white balance ±12 %, exposure ±0.5 stops (e^0.35), black level
    x = x * uniform((segments, 1, 3, 1, 1), -0.12, 0.12).exp() * uniform(one, -0.35, 0.35).exp() + uniform(
        one, -0.12, 0.12
    )
    x = _blur(x, 0.25)
    x = x + torch.randn_like(x) * (
        uniform(one, 0.0, 0.04) * random_mask(segments, 0.5).float()[:, None, None, None, None]
    )
    return rearrange(_occlude(x, 0.1), "n l c h w -> (n l) c h w").clamp(0, 1)


def _blur(x: Tensor, share: float) -> Tensor:
    """Resize a share of the segments to a lower resolution and back."""
    chosen = random_mask(len(x), share).nonzero()[:, 0]
    if not len(chosen):
        return x
    picked = rearrange(x[chosen], "n l c h w -> (n l) c h w")
    side = int(torch.randint(26, 50, ()).item())  # of 64 pixels: faces of small or strongly compressed videos
    small = F.interpolate(picked, (side, side), mode="bilinear", antialias=True)
    blurred = F.interpolate(small, x.shape[-2:], mode="bilinear")
    x = x.clone()
    x[chosen] = rearrange(blurred, "(n l) c h w -> n l c h w", l=x.shape[1])
    return x


def _occlude(x: Tensor, share: float) -> Tensor:
    """Cover one grey box in a share of the segments, as a hand, a microphone or a caption does."""
    height, width = x.shape[-2:]
    count = len(x)
    top, left = uniform((count, 1), -0.2, 0.9), uniform((count, 1), -0.2, 0.9)
    tall, wide = uniform((count, 1), 0.1, 0.35), uniform((count, 1), 0.1, 0.35)
    ys, xs = torch.linspace(0, 1, height)[None], torch.linspace(0, 1, width)[None]
    rows, columns = (ys > top) & (ys < top + tall), (xs > left) & (xs < left + wide)
    box = rows[:, :, None] & columns[:, None, :] & random_mask(count, share)[:, None, None]
    return torch.where(box[:, None, None], uniform((count, 1, 1, 1, 1), 0, 1), x)


def augment_mel(mel: Tensor, *, clean: float = 0.2) -> Tensor:
    """Change the vocal tract length, the equaliser, the level, the noise and the noise floor.

    Args:
        mel: (N, 80, M) in [-4, 4].
        clean: share of segments left unchanged.

    Returns:
        Same shape and range.
    """
    count, bins, steps = mel.shape
    # 0.89 … 1.13; vocal tract length perturbation (Jaitly and Hinton, 2013) draws 0.9 … 1.1
    changed = _warp_frequencies(mel, uniform((count,), -0.12, 0.12).exp())
    # equaliser: six points over the band with a deviation of 3 dB
    curve = F.interpolate(torch.randn(count, 1, 6) * 3, bins, mode="linear", align_corners=True)[:, 0, :, None]
    # rather quieter than louder, because mel values above 4 are clipped
    changed = changed + DB * (curve + uniform((count, 1, 1), -12, 8))
    changed = _add_noise(changed, mel[torch.randperm(count)], 0.4)
    # -4 is the floor of Wav2Lip's mel; recordings of few bits or with a steady noise have one up to 19 dB above
    floor = torch.where(random_mask(count, 0.3), uniform((count,), -4, -2.5), torch.full((count,), -4.0))[:, None, None]
    changed = torch.maximum(changed, floor + torch.randn(count, bins, steps) * 0.1 * (floor > -4))
    changed = _mask_band(changed, 0.3)
    unchanged = random_mask(count, clean)[:, None, None]  # experts are applied to clean audio, too
    return torch.where(unchanged, mel, changed).clamp(-4, 4)


def augment_features(features: Tensor, *, clean: float = 0.35) -> Tensor:
    """Add noise, in units of each feature's deviation, to features (N, M, F) of an encoder, and zero some."""
    count, _, width = features.shape
    noise = torch.randn_like(features) * uniform((count, 1, 1), 0.0, 0.4) * features.std((0, 1))
    kept = torch.rand(count, 1, width) > uniform((count, 1, 1), 0.0, 0.2)
    unchanged = random_mask(count, clean)[:, None, None]
    return torch.where(unchanged, features, (features + noise) * kept)


def _warp_frequencies(mel: Tensor, ratio: Tensor) -> Tensor:
    """Scale the frequency axis of (N, 80, M) by (N,), as vocal tract length does."""
    count, bins, steps = mel.shape
    rows = (torch.arange(bins) + 0.5)[None] * ratio[:, None] - 0.5
    grid_y = (2 * rows + 1) / bins - 1
    grid_x = (2 * torch.arange(steps) + 1) / steps - 1
    grid = torch.stack([grid_x.expand(count, bins, steps), grid_y[:, :, None].expand(count, bins, steps)], dim=-1)
    return F.grid_sample(mel[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def _add_noise(mel: Tensor, other: Tensor, share: float) -> Tensor:
    """Add stationary coloured noise, or another segment's speech 10 to 30 dB lower, in the power domain."""
    count, bins, _ = mel.shape
    tilt = torch.linspace(0, 1, bins)[None, :, None] * uniform((count, 1, 1), -2, 0.5)
    # 6 to 44 dB above the floor; 0.45 is 5.6 dB, the deviation of the level of white noise in one spectral bin
    steady = uniform((count, 1, 1), -3.5, -0.5) + tilt + torch.randn_like(mel) * 0.45
    babble = other - uniform((count, 1, 1), 10, 30) * DB
    noise = torch.where(random_mask(count, 0.3)[:, None, None], babble, steady)
    # -9 is 62 dB below the floor: nothing is added
    noise = torch.where(random_mask(count, share)[:, None, None], noise, torch.full_like(mel, -9.0))
    to_log = math.log(10) / 10 / DB  # mel units to natural logarithm of power
    return torch.logaddexp(mel * to_log, noise * to_log) / to_log


def _mask_band(mel: Tensor, share: float) -> Tensor:
    """Set a band of 2 to 12 mel bins to the floor in a share of the segments, as telephones and codecs do."""
    count, bins, _ = mel.shape
    low = uniform((count, 1), 0, bins)
    band = (torch.arange(bins)[None] >= low) & (torch.arange(bins)[None] < low + uniform((count, 1), 2, 12))
    return torch.where((band & random_mask(count, share)[:, None])[:, :, None], torch.full_like(mel, -4.0), mel)


def augment_views(views: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Random crops of whole faces, from tight and squeezed to loose, with the pose in each.

    Args:
        views: (N, 3, 96, 96).
        poses: (N, 2, 3) affine maps from template coordinates to shares of width and height.

    Returns:
        Crops (N, 3, 64, 64) and poses in them (N, 2, 3).
    """
    count = len(views)
    # a tight box is 0.59 of a view's height (scale -0.53) and narrower than high; 0.1 is looser than any view
    height = uniform((count,), -0.62, 0.12)
    width = height - uniform((count,), -0.12, 0.32)  # Wav2Lip resizes boxes of any shape to a square
    mirrored = random_mask(count, 0.5)
    crop = random_affine(count, scale=0.0, aspect=0.0, turn=0.3, shift=0.0, flip=mirrored)
    crop[:, :, :2] = crop[:, :, :2] * torch.stack([width, height], 1).exp()[:, None, :]
    face = torch.einsum("nij,j->ni", poses, torch.tensor([0.0, 0.3, 1.0]))  # middle of the face
    room = torch.stack([width, height], 1).exp()
    middle = (2 * face - 1) * (1 - (room - 0.59).clamp(0, 0.41) / 0.41)  # loose crops are centred on the view
    crop[:, :, 2] = middle + uniform((count, 2), -0.26, 0.26) * room
    grid = F.affine_grid(crop, [count, 3, FACE_SIZE, FACE_SIZE], align_corners=False)
    cropped = F.grid_sample(views, grid, padding_mode="border", align_corners=False)
    # a mirrored face looks like any other: mirror its template as well, or the pose would be ambiguous
    upright = torch.stack([1 - 2 * mirrored.float(), torch.ones(count)], 1)[:, None, :]
    pose = pose_in_crop(poses, crop)
    return augment_camera(cropped, 1), torch.cat([pose[:, :, :2] * upright, pose[:, :, 2:]], dim=2)


def pose_in_crop(poses: Tensor, crop: Tensor) -> Tensor:
    """Poses (N, 2, 3) as shares of a crop, for crops (N, 2, 3) given as affine maps on [-1, 1] from crop to view."""
    inverse = torch.linalg.inv(crop[:, :, :2])
    linear = inverse @ poses[:, :, :2]
    shift = inverse @ (2 * poses[:, :, 2:] - 1 - crop[:, :, 2:])
    return torch.cat([linear, (shift + 1) / 2], dim=2)
