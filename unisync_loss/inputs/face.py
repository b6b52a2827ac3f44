"""Whether frames show a face where an expert on RGB looks for its mouth.

The mouth aligner answers a pose for any picture. Of a whole face, the pose moves as the picture is moved, and its size,
place and shape are usual; of a part of a face, or of anything else, they are not.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from unisync_loss.inputs.calls import Finding
from unisync_loss.inputs.frames import GeneratorFrames
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.mouth_aligner import MOUTH_CENTRE, MouthAligner, pose_error
from unisync_loss.utils.image import compose_affine, resize, sample_region

_MOST_FRAMES = 12  # of a batch
_SIDE = 96  # pixels to which frames are reduced
#: parts of a frame whose pose is compared with its own: magnified, moved up, moved left, turned by 12 degrees
_VIEWS = (
    ((0.8, 0.0, 0.1), (0.0, 0.8, 0.1)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, -0.1)),
    ((1.0, 0.0, -0.1), (0.0, 1.0, 0.0)),
    ((0.978, -0.208, 0.115), (0.208, 0.978, -0.093)),
)
#: constant and weights of the log odds that a frame shows no whole face, linear in the numbers of `measure_pose`:
#: benchmarks/face_check.py fits them and measures false alarms
COEFFICIENTS = (8.72, 3.436, -2.613, -4.852, -1.535, 13.26, 12.5, 24.51, 6.874, 18.99, -20.67, 122.3, -3.363, -71.63)
THRESHOLD, FEW_THRESHOLD = 2.0, 3.5  # of the median of four clips or more, and of fewer; right crops have -5
HALF_THRESHOLD, HALF_ASPECT = 0.0, 1.8  # where the picture is as wide, in heights, as half a face is


@torch.no_grad()
def measure_pose(aligner: MouthAligner, frames: Tensor) -> Tensor:
    """Numbers that differ between whole faces and other pictures, from the poses of a frame and of parts of it.

    Args:
        aligner: of the expert.
        frames: (N, 3, H, W) RGB in [0, 1].

    Returns:
        (N, 13): log of the disagreement of the poses; log size, log aspect, height of mouth and of nose base; squares
        of these four, of tilt and shear, and of the horizontal places of mouth and nose base.
    """
    with torch.autocast(device_type=frames.device.type, enabled=False):
        frames = resize(frames.to(aligner.coarse.mean_pose.dtype), _SIDE, _SIDE)
        count = len(frames)
        regions = repeat(frames.new_tensor(_VIEWS), "v i j -> (v n) i j", n=count)
        repeated = repeat(frames, "n c h w -> (v n) c h w", v=len(_VIEWS))
        poses = aligner(torch.cat([frames, sample_region(repeated, regions, _SIDE, oversample=1)]))
        pose = poses[:count]
        again = compose_affine(regions, poses[count:])
        disagreement = reduce(
            pose_error(again, repeat(pose, "n i j -> (v n) i j", v=len(_VIEWS))), "(v n) -> n", "mean", n=count
        )
    linear = pose[:, :, :2]
    size = torch.linalg.det(linear).abs().clamp(min=1e-4).sqrt()
    across, down = linear[:, :, 0], linear[:, :, 1]
    aspect = (across.norm(dim=1) / down.norm(dim=1).clamp(min=1e-3)).clamp(min=1e-3).log()
    tilt, shear = torch.atan2(across[:, 1], across[:, 0]), (across * down).sum(1) / size.square()
    mouth = pose @ pose.new_tensor([*MOUTH_CENTRE, 1.0])
    # the mean pose is near zero in all of them
    usual = [(size / 0.39).log(), aspect, mouth[:, 1] - 0.7, pose[:, 1, 2] - 0.38]
    even = [tilt, shear, mouth[:, 0] - 0.5, pose[:, 0, 2] - 0.5]
    squares = [value.square() for value in (*usual, *even)]
    return torch.stack([disagreement.clamp(min=0.003).log(), *usual, *squares], dim=1)


def no_face(aligner: MouthAligner, frames: Tensor) -> Tensor:
    """Log odds that a frame shows no whole face where the aligner looks for one.

    Args:
        aligner: of the expert.
        frames: (N, 3, H, W) RGB in [0, 1].

    Returns:
        (N,).
    """
    constant, *weights = COEFFICIENTS
    measured = measure_pose(aligner, frames)
    return measured @ measured.new_tensor(weights) + constant


def check_face(
    expert: UniSyncExpert, convert: GeneratorFrames, video: Tensor, boxes: Tensor | None, mask: Tensor | None
) -> list[Finding]:
    """Check, on up to 12 frames of the batch, that the expert finds a face.

    Args:
        expert: on any representation; only those that locate the mouth themselves are checked.
        convert: of the loss.
        video: (B, T, 3, H, W) as the generator made it.
        boxes: of the faces, or None.
        mask: (B, T) booleans of frames that are not padding, or None.

    Returns:
        A finding if most frames show no whole face.

    Raises:
        ValueError: where the picture has the shape of half a face, too.
    """
    aligner = getattr(expert.visual_tower, "aligner", None)
    if not isinstance(aligner, MouthAligner):
        return []
    clips, frames = _spread(len(video), _MOST_FRAMES), _spread(video.shape[1], -(-_MOST_FRAMES // len(video)))
    chosen = video.detach()[clips][:, frames]
    if boxes is not None:
        boxes = boxes[clips] if boxes.ndim == 2 else boxes[clips][:, frames]
        chosen = convert.crop(chosen, boxes)
    faces = rearrange(convert.convert(chosen), "b t c h w -> (b t) c h w")
    if mask is not None:
        faces = faces[mask[clips][:, frames].flatten()]
    if len(faces) == 0:
        return []
    odds = no_face(aligner, faces).median().item()
    height, width = faces.shape[2:]
    got = f"got frames of {height} x {width} pixels in which no whole face was found"
    expected = "video: expected one whole face, tight or up to 1.8 times its size"
    if width >= HALF_ASPECT * height and odds > HALF_THRESHOLD:
        raise ValueError(
            f"{expected}, {got}: they look like the lower half, and the mouth is located by eyes and nose; "
            "pass the frames before they are cut, or boxes= for pictures larger than the face"
        )
    if odds <= (THRESHOLD if len(video) >= 4 else FEW_THRESHOLD):
        return []
    causes = "the lower half or the mouth only, a face too small in the picture (pass boxes=), or turned on its side"
    return [Finding("face", f"{expected}, {got}: usual causes are {causes}; before training, there is no face yet")]


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` places, evenly spread."""
    used = min(count, most)
    return [int((i + 0.5) * count / used) for i in range(used)]
