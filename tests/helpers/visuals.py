"""Visual representations of whole clips, made in one piece."""

import torch
from einops import rearrange

from unisync_loss.video.extraction import check_provided, visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps


def visual_of_frames(config, frames):
    """Representation (1, T, …) of frames (T, H, W, 3) that show one face."""
    if config.visual == "rgb":
        return rearrange(torch.from_numpy(frames), "t h w c -> 1 t c h w").float() / 255
    check_provided(config)
    return visual_of_mesh(config, fill_gaps(face_mesh(frames, depth=True)), frames.shape[1:3])
