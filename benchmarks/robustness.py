"""Effect of crop, image size and input length on the scores of experts.

    python benchmarks/robustness.py --model whisper-rgb hubert-rgb --data DIR --json out/robustness.json

Every row scores the same clips and pairs (one seed): crops 10 % looser and tighter, shifted by 10 % in each
direction, frames of 96 x 96 and 256 x 256, a tight box resized to a square as by Wav2Lip's face detector, and inputs
of five frames (one window at a time, each with its own 3200 samples). The reference is the unchanged clip.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unisync_loss import UniSyncExpert, load_expert
from unisync_loss.data import ClipEntry, list_clips, load_clip
from unisync_loss.evaluation import ClipEmbedding, embed_clips, score_pairs, summarise_pairs, voiced_windows


def crop(x: float, y: float, width: float, height: float, size: int | None = None) -> Callable[[Tensor], Tensor]:
    """Crop given by centre and size as fractions of the frame, with the border repeated outside.

    Args:
        x: horizontal centre.
        y: vertical centre.
        width: width of the crop.
        height: height of the crop.
        size: side of the result in pixels; None keeps that of the frame.
    """

    def apply(video: Tensor) -> Tensor:
        frames = rearrange(video, "b t c h w -> (b t) c h w")
        side = size or frames.shape[-1]
        theta = torch.tensor([[width, 0, 2 * x - 1], [0, height, 2 * y - 1]]).expand(len(frames), 2, 3)
        # oversampled by two and averaged to avoid aliasing in smaller images
        grid = F.affine_grid(theta, [len(frames), 3, 2 * side, 2 * side], align_corners=False)
        cut = F.avg_pool2d(F.grid_sample(frames, grid, padding_mode="border", align_corners=False), 2)
        return rearrange(cut, "(b t) c h w -> b t c h w", b=video.shape[0])

    return apply


#: the tight face box of clips whose side is 1.7 faces: forehead to chin, 0.59 high and 0.46 wide
CONDITIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "unchanged": None,
    "10 % looser": crop(0.5, 0.5, 1.1, 1.1),
    "10 % tighter": crop(0.5, 0.5, 0.9, 0.9),
    "shifted left": crop(0.4, 0.5, 1, 1),
    "shifted right": crop(0.6, 0.5, 1, 1),
    "shifted up": crop(0.5, 0.4, 1, 1),
    "shifted down": crop(0.5, 0.6, 1, 1),
    "96 x 96": crop(0.5, 0.5, 1, 1, 96),
    "256 x 256": crop(0.5, 0.5, 1, 1, 256),
    "tight box, resized to 96 x 96": crop(0.5, 0.5, 0.46, 0.59, 96),
    "tight box, resized to 256 x 256": crop(0.5, 0.5, 0.46, 0.59, 256),
}
ALONE = "five frames at a time"


def embed_by_window(expert: UniSyncExpert, entries: Sequence[ClipEntry]) -> list[ClipEmbedding]:
    """Embed every window from its own five frames and 3200 samples, without context."""
    clips = []
    for entry in entries:
        clip = load_clip(entry)
        frames = rearrange(torch.from_numpy(clip.frames), "t h w c -> t c h w").float() / 255
        windows = rearrange(frames.unfold(0, 5, 1), "n c h w t -> n t c h w")
        waveform = torch.from_numpy(clip.waveform).unfold(0, 3200, 640)
        with torch.inference_mode():
            audio = torch.cat([expert.encode_audio(part, 5)[:, 0] for part in waveform.split(256)])
            visual = torch.cat([expert.encode_visual(part)[:, 0] for part in windows.split(32)])
        clips.append(ClipEmbedding(entry, audio, visual, voiced_windows(clip.waveform, len(visual))))
    return clips


def measure(name: str, entries: Sequence[ClipEntry], seed: int) -> dict[str, Any]:
    """Score every condition with one expert."""
    expert, report = load_expert(name), {}
    for title in (*CONDITIONS, ALONE):
        if title == ALONE:
            clips = embed_by_window(expert, entries)
        else:
            clips = list(embed_clips(expert, entries, CONDITIONS[title]))
        row = summarise_pairs(score_pairs(clips, seed), expert.config.threshold, seed)
        report[title] = row
        figures = f"accuracy {row['accuracy']:.3f} {row['ci95']}  AUC {row['auc']:.3f} {row['ci95_auc']}"
        print(f"{name:20} {title:34} {figures}", flush=True)
    return report


def main() -> None:
    """Score every condition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["mel-rgb"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="use every n-th clip")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    entries = list_clips(options.data)[:: options.every]
    experts = {name: measure(name, entries, options.seed) for name in options.model}
    if options.json:
        report = {"seed": options.seed, "clips": len(entries), "experts": experts}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
