"""Detection of faults planted in real clips by `unisync doctor`, and its false alarms on clean clips.

    python benchmarks/doctor_faults.py --data VAL --music TUNE.mp3 … --json out/doctor_faults.json

20 clips of 2 s or more are drawn, alternating between corpora, and cut to 5 s. Each fault is planted in all of them;
the files are re-encoded and examined as a folder. *Found*: a problem is reported for the clip; *named*: with the
correct verdict. ``clean`` examines all clips of 2 s or more unchanged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisync_loss import UniSyncExpert, load_expert
from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.curation.doctor import ClipRef, examine, list_clip_refs
from unisync_loss.data import Clip, ClipEntry, list_clips, load_clip, shift_audio, write_clip
from unisync_loss.video.audio_decoding import stream_audio
from unisync_loss.video.decoding import open_media

SHORTEST, LONGEST = 2 * FPS, 5 * FPS  # frames
#: fault: verdicts that name it
NAMED = {
    "frame rate tag": {"lengths differ"},
    "frame rate tag, cut to one length": {"wrong frame rate"},
    "3 frames late or early": {"out of sync"},
    "swapped sound": {"sound of another clip"},
    "silent": {"silent"},
    "copy": {"duplicate"},
    "speaker in two splits": {"speaker in two splits"},
    "half of the face": {"no whole face"},
    "BGR": {"red and blue swapped"},
    "still picture": {"static picture"},
    "panned photograph": {"frozen mouth"},
    "music": {"music"},
}
Made = Iterator[tuple[str, Clip, dict[str, int]]]


def plant(fault: str, clips: Sequence[Clip], tunes: Sequence[np.ndarray]) -> Made:
    """Name, clip and encoding options of every file with the fault; names start with the number of the clip."""
    draw = np.random.default_rng(0)
    for number, clip in enumerate(clips):
        frames, sound = clip
        name, side, options = f"{number:02d}", frames.shape[2], {}
        if fault == "frame rate tag":
            options = {"fps": 30}
        elif fault == "frame rate tag, cut to one length":
            fast = (np.arange(int(len(frames) / 1.2)) * 1.2).astype(int)
            clip = Clip(frames[fast], sound[: len(fast) * SAMPLES_PER_FRAME])
        elif fault == "3 frames late or early":
            clip = shift_audio(clip, 3 if number % 2 else -3)
        elif fault == "swapped sound":
            other = clips[number ^ 1].waveform
            length = min(len(frames), len(other) // SAMPLES_PER_FRAME)
            clip = Clip(frames[:length], other[: length * SAMPLES_PER_FRAME])
        elif fault == "silent":
            clip = Clip(frames, np.zeros_like(sound))
        elif fault == "copy":  # trimmed, lighter, quieter, more strongly compressed
            yield f"{name}/copied", Clip(np.clip(frames[8:], 0, 249) + 6, 0.6 * sound[8 * 640 :]), {"crf": 30}
            name = f"{name}/clip"
        elif fault == "half of the face":  # half of its height or width, enlarged
            twice = frames.repeat(2, 1).repeat(2, 2)
            left, top = ((0, side // 2), (side, side // 2), (side // 2, side))[number % 3]
            clip = Clip(twice[:, top : top + side, left : left + side], sound)
        elif fault == "BGR":
            clip = Clip(frames[..., ::-1], sound)
        elif fault == "still picture":
            clip = Clip(frames[len(frames) // 3][None].repeat(len(frames), 0), sound)
        elif fault == "panned photograph":
            clip = Clip(pan(frames[len(frames) // 3], len(frames)), sound)
        elif fault == "music":
            start = int(draw.integers(0, tunes[number % len(tunes)].size))
            clip = Clip(frames, np.roll(tunes[number % len(tunes)], -start)[: sound.size])
        yield name, clip, options


def pan(picture: np.ndarray, frames: int) -> np.ndarray:
    """A camera that moves over a photograph, (T, H, W, 3)."""
    side, times = picture.shape[0], np.arange(frames)
    wide = np.pad(picture, ((4, 4), (4, 4), (0, 0)), "edge")
    places = np.round(4 + 4 * np.stack([np.sin(times / 12), np.cos(times / 18)], 1)).astype(int)
    return np.stack([wide[top : top + side, left : left + side] for top, left in places])


def examine_planted(
    fault: str, clips: Sequence[Clip], tunes: Sequence[np.ndarray], expert: UniSyncExpert
) -> dict[str, Any]:
    """Write the clips with the fault, examine them and count the results."""
    with tempfile.TemporaryDirectory() as folder:
        for name, clip, options in plant(fault, clips, tunes):
            path = Path(folder) / f"{name}.mp4"
            path.parent.mkdir(exist_ok=True)
            write_clip(path, np.ascontiguousarray(clip.frames), clip.waveform, **options)
        refs = list_clip_refs([Path(folder)])
        if fault == "speaker in two splits":  # every second clip has the speaker of the previous one, in another split
            refs = [
                replace(each, split=("train", "val")[place % 2], entry=replace(each.entry, speaker=f"a/{place // 2}"))
                for place, each in enumerate(refs)
            ]
        examined = examine(refs, expert)
    speakers = fault == "speaker in two splits"
    found: dict[str, set[str]] = {}
    for problem in examined["problems"]:
        if problem["clip"].startswith("a/") == speakers:
            found.setdefault(problem["clip"] if speakers else problem["clip"][:2], set()).add(problem["verdict"])
    return {
        "planted": len(clips) // 2 if speakers else len(clips),
        "found": len(found),
        "named": sum(bool(verdicts & NAMED[fault]) for verdicts in found.values()),
        "verdicts": examined["verdicts"],
    }


def draw_clips(data: str, count: int) -> tuple[list[ClipEntry], list[ClipEntry]]:
    """All clips of 2 s or more, and a sample of them that alternates between corpora."""
    long = [entry for entry in list_clips(data) if len(load_clip(entry).frames) >= SHORTEST]
    order = np.random.default_rng(0).permutation(len(long))
    turn: Counter[str] = Counter()
    ranked = []
    for index in order.tolist():
        ranked.append((turn[long[index].corpus], len(ranked), index))
        turn[long[index].corpus] += 1
    return long, [long[index] for *_, index in sorted(ranked)[:count]]


def read_tune(path: Path) -> np.ndarray:
    """Waveform of a music file at 16 kHz."""
    with open_media(path) as container:
        return np.concatenate(list(stream_audio(container, 0.0)))


def main() -> None:
    """Run every fault and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--music", type=Path, nargs="+", required=True)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--faults", nargs="+", choices=[*NAMED, "clean"], default=[*NAMED, "clean"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tunes = [np.tile(tune, 1 + 100_000 // tune.size) for tune in map(read_tune, arguments.music)]
    long, drawn = draw_clips(arguments.data, arguments.clips)
    clips = [Clip(frames[:LONGEST], sound[: LONGEST * SAMPLES_PER_FRAME]) for frames, sound in map(load_clip, drawn)]
    expert, log = load_expert("mel-rgb"), lambda line: print(line, file=sys.stderr, flush=True)
    report: dict[str, Any] = {"drawn": [entry.name for entry in drawn]}
    for fault in arguments.faults:
        if fault == "clean":
            examined = examine([ClipRef(entry.name, "", entry) for entry in long], expert, log)
            counts = ("problems", "verdicts", "not_told")
            report[fault] = {"clips": len(long), **{key: examined[key] for key in counts}}
        else:
            report[fault] = examine_planted(fault, clips, tunes, expert)
        print(fault, json.dumps(report[fault]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
