"""Draw talking faces: a data folder for a first training, or one clip.

    python -m tools.synthetic --out DIR --speakers 24 --clips 3 --seconds 3
    python -m tools.synthetic --clip unisync_loss/assets/demo.mp4 --seconds 9 --seed 21 --crf 26

The second line made the clip that `unisync demo` uses. Every speaker has one face and one voice; the first line takes
speaker seeds from 700 on, so that none of its speakers is that of the demo.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.synthetic.clip import synthesize_clip
from unisync_loss.data import write_clip

FIRST_SPEAKER = 700
FIRST_CLIP = 5000


def main() -> None:
    """Write a folder or a clip."""
    parser = argparse.ArgumentParser(prog="python -m tools.synthetic", description=__doc__.splitlines()[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder to fill with synthetic/<speaker>/<clip>.mp4")
    target.add_argument("--clip", type=Path, help="write one clip here instead")
    parser.add_argument("--speakers", type=int, default=24)
    parser.add_argument("--clips", type=int, default=3, help="per speaker")
    parser.add_argument("--seconds", type=float, default=3.0, help="per clip")
    parser.add_argument("--size", type=int, default=192, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crf", type=int, default=23, help="H.264 quality, lower is better")
    options = parser.parse_args()
    if options.clip is not None:
        clip = synthesize_clip(options.seed, options.seconds, size=options.size)
        write_clip(options.clip, clip.frames, clip.waveform, crf=options.crf)
        return
    for speaker in range(options.speakers):
        folder = options.out / "synthetic" / f"s{speaker:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(options.clips):
            seed = FIRST_CLIP + options.seed + 20 * speaker + number
            clip = synthesize_clip(seed, options.seconds, size=options.size, speaker_seed=FIRST_SPEAKER + speaker)
            write_clip(folder / f"{number}.mp4", clip.frames, clip.waveform, crf=options.crf)
        print(f"speaker {speaker + 1}/{options.speakers}", file=sys.stderr)


if __name__ == "__main__":
    main()
