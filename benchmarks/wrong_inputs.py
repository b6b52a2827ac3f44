"""What `UniSyncLoss` says of wrong inputs, and the loss that it gives for them in sync and late.

    python benchmarks/wrong_inputs.py --data VAL

One batch of clips of 1.6 s, drawn with seed 0, with a face in every frame. *in sync* and *late* are the
losses with the audio of the video and with that of 8 frames before; an expert that can judge its input gives a clearly
smaller one in sync. The last column is the error, or what was logged.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from face_check import TIGHT, WHOLE, Cut, around, find_faces, lower_half, mouth, turned
from torch import Tensor
from torch.nn import functional as F

from unisync_loss import UniSyncLoss
from unisync_loss.config import SAMPLES_PER_FRAME
from unisync_loss.data import list_clips, load_clip
from unisync_loss.representations import mel_spectrogram
from unisync_loss.utils.image import resize

FRAMES, LATE = 40, 8
Change = Callable[[Tensor], Tensor]


def resampled(rate: int) -> Change:
    """Waveforms of the same seconds at another rate."""
    return lambda wave: F.interpolate(wave[:, None], scale_factor=rate / 16000, mode="linear")[:, 0]


def finer_mel(wave: Tensor) -> Tensor:
    """Mel spectrogram of 100 steps per second instead of 80."""
    return F.interpolate(mel_spectrogram(wave), scale_factor=1.25, mode="linear")


CUTS: dict[str, Cut] = {
    "tight box (right)": TIGHT,
    "1.6 faces (right)": around(1.6),
    "lower half": lower_half(TIGHT),
    "lower half, stretched": lambda frames, boxes: resize(lower_half(TIGHT)(frames, boxes), 96, 96),
    "mouth": mouth(0.65),
    "picture of 2.5 faces": around(2.5),
    "turned by 90 degrees": turned(90),
    "BGR": lambda frames, boxes: TIGHT(frames, boxes).flip(1),
    "frames in [0, 255]": lambda frames, boxes: 255 * WHOLE(frames, boxes),
    "frames in [-1, 1]": lambda frames, boxes: 2 * WHOLE(frames, boxes) - 1,
}
SOUNDS: dict[str, Change] = {
    "mel (right)": mel_spectrogram,
    "waveform in the range of int16": lambda wave: 32768 * wave,
    "waveform at 22,050 Hz": resampled(22050),
    "waveform at 24,000 Hz": resampled(24000),
    "waveform at 32,000 Hz": resampled(32000),
    "silence": torch.zeros_like,
    "mel in [0, 1]": lambda wave: (mel_spectrogram(wave) + 4) / 8,
    "mel of 100 steps per second": finer_mel,
}


def load_batch(data: Path, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames (B T, 3, 192, 192), boxes (B T, 4), and waveforms (B, S) in sync and late."""
    entries, size = list_clips(data), SAMPLES_PER_FRAME
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for index in np.random.default_rng(0).permutation(len(entries)).tolist():
        if len(found) == count:
            break
        clip = load_clip(entries[index])
        faces = find_faces(clip.frames[LATE : LATE + FRAMES]) if len(clip.frames) >= LATE + FRAMES else None
        if faces is not None:
            wave = torch.from_numpy(clip.waveform)
            found.append((*faces, wave[LATE * size : (LATE + FRAMES) * size], wave[: FRAMES * size]))
    images, boxes, in_sync, late = zip(*found, strict=True)
    return torch.cat(images), torch.cat(boxes), torch.stack(in_sync), torch.stack(late)


def try_input(model: str, video: Tensor, in_sync: Tensor, late: Tensor) -> dict[str, float | str | None]:
    """Losses of a new `UniSyncLoss`, and what it says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("unisync_loss").addHandler(handler)
    loss = UniSyncLoss.from_pretrained(model)
    try:
        with torch.no_grad():
            values = [loss(video, audio).item() for audio in (in_sync, late)]
    except ValueError as error:
        return {"in sync": None, "late": None, "says": f"error: {error}"}
    finally:
        logging.getLogger("unisync_loss").removeHandler(handler)
    return {"in sync": round(values[0], 3), "late": round(values[1], 3), "says": "; ".join(dict.fromkeys(said))}


def main() -> None:
    """Try all inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images, boxes, in_sync, late = load_batch(options.data, options.clips)
    right = rearrange(TIGHT(images, boxes), "(b t) c h w -> b t c h w", t=FRAMES)
    rows = {}
    for name, cut in CUTS.items():
        video = rearrange(cut(images, boxes), "(b t) c h w -> b t c h w", t=FRAMES)
        rows[name] = try_input(options.model, video, in_sync, late)
    for name, change in SOUNDS.items():
        rows[name] = try_input(options.model, right, change(in_sync), change(late))
    for name, row in rows.items():
        print(f"| {name} | {row['in sync'] or ''} | {row['late'] or ''} | {row['says']} |")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"model": options.model, "clips": len(right), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
