"""Accuracy of experts that subtract the mean face, on whole clips and on short segments of them.

    python benchmarks/segment_length.py --data TEST --model mel-3dmm mel-landmarks --json out/segment_length.json

Every clip is embedded as a whole and in segments of n frames, each with its own mean. Segments share four frames, so
that the windows are the same. Pairs, protocol and threshold are those of `unisync eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unisync_loss import UniSyncExpert, load_expert
from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.data import list_clips, load_clip
from unisync_loss.evaluation import ClipEmbedding, embed_video, summarise
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.video.extraction import visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

SEGMENTS = (5, 9, 13, 25, 50)  # frames


@torch.inference_mode()
def in_segments(expert: UniSyncExpert, video: Tensor, frames: int) -> Tensor:
    """Embeddings (W, D) of a video (1, T, …) that is encoded in segments; the last one ends with the video."""
    windows, step = video.shape[1] - WINDOW_FRAMES + 1, min(frames, video.shape[1]) - WINDOW_FRAMES + 1
    parts = []
    for start in range(0, windows, step):
        first = min(start, windows - step)
        embedding = expert.encode_visual(video[:, first : first + step + WINDOW_FRAMES - 1])[0]
        parts.append(embedding[start - first :])
    return torch.cat(parts)


def main() -> None:
    """Measure and print one line per expert and length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["mel-3dmm", "mel-landmarks"])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    experts = {name: load_expert(name) for name in options.model}
    found: dict[tuple[str, str], list[ClipEmbedding]] = {}
    entries = list_clips(options.data)
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for done, entry in enumerate(entries, 1):
        clip = load_clip(entry)
        try:
            mesh = fill_gaps(face_mesh(clip.frames, depth=True))
        except ValueError as error:
            print(f"skipped {entry.name}: {error}", file=sys.stderr)
            continue
        for name, expert in experts.items():
            video = visual_of_mesh(expert.config, mesh, clip.frames.shape[1:3])
            whole = embed_video(expert, entry, video, clip.waveform)
            found.setdefault((name, "whole"), []).append(whole)
            for frames in SEGMENTS:
                part = replace(whole, visual=in_segments(expert, video, frames))
                found.setdefault((name, str(frames)), []).append(part)
        progress.update(done)
    rows = []
    for (name, frames), clips in found.items():
        pairs = summarise(clips, name, experts[name].config.threshold, 0)["pairs"]
        rows.append({"model": name, "frames": frames, **pairs})
        print(
            name, frames, f"accuracy {pairs['accuracy']:.3f}", f"AUC {pairs['auc']:.3f}", pairs["ci95_auc"], flush=True
        )
    write_atomically(options.json, json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
