"""CPU time of ``unisync prepare`` per second of 25 fps video, by stage.

    python -m benchmarks.prepare_cost [VIDEO …] --json prepare_cost.json

Inputs are prepared one after the other in one process with one decoding thread and measured in process time, so other
programs do not matter. Each stage is charged for its own work, without the stages that it calls. Without videos, a
drawn face of 512 x 512 is used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.synthetic.clip import synthesize_clip
from unisync_loss.config import FPS
from unisync_loss.data import face_clips as footage
from unisync_loss.data import preparation as prepare
from unisync_loss.data import write_clip
from unisync_loss.data.datasets import list_sources
from unisync_loss.data.store_writer import StagedInput
from unisync_loss.video import face_tracking as tracks
from unisync_loss.video.decoding import read_facts
from unisync_loss.video.face_detection import Boxes, Frame

#: stages from a frame to its landmarks; the target for these is 0.35 CPU seconds
PATH = ("decode", "scene cut", "faces", "tracking", "crop", "landmarks")
STAGES = (*PATH, "sound", "encode", "write", "other")


class Costs:
    """CPU seconds by stage; time is charged to the innermost running stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._running = ["other"]
        self._since = time.process_time()

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def enter(self, stage: str) -> None:
        """Start charging a stage."""
        self._charge()
        self._running.append(stage)

    def leave(self) -> None:
        """Return to the enclosing stage."""
        self._charge()
        self._running.pop()

    def of(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time is charged to a stage."""

        def charged(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - arguments and result of the stage
            self.enter(stage)
            try:
                return function(*arguments, **options)
            finally:
                self.leave()

        return charged

    def each(self, stage: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Wrap a generator function so that its steps are charged to a stage."""

        def charged(*arguments: Any, **options: Any) -> Iterator[Any]:  # noqa: ANN401
            items = function(*arguments, **options)
            step = self.of(stage, lambda: next(items, self))
            while (item := step()) is not self:
                yield item

        return charged


def watch(costs: Costs) -> None:
    """Measure every stage from now on."""
    finder = costs.of("faces", footage.MediaPipeFinder())

    def find(frame: Frame, number: int) -> Boxes:
        return finder(frame, number)

    footage.shared_finder = lambda: find
    footage.stream_frames = costs.each("decode", footage.stream_frames)
    footage.stream_audio = costs.each("sound", footage.stream_audio)
    footage.track_faces = costs.each("tracking", footage.track_faces)
    footage.face_mesh = costs.of("landmarks", footage.face_mesh)
    tracks.thumbnail = costs.of("scene cut", tracks.thumbnail)
    tracks.crop_square = costs.of("crop", tracks.crop_square)
    prepare.encode_frames = costs.of("encode", prepare.encode_frames)
    prepare.encode_wav = costs.of("encode", prepare.encode_wav)
    StagedInput.add, StagedInput.finish = costs.of("write", StagedInput.add), costs.of("write", StagedInput.finish)


def main() -> None:
    """Measure each input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="*")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    footage.face_mesh(np.zeros((1, 192, 192, 3), np.uint8))  # loads the model
    costs, rows = Costs(), []
    watch(costs)
    print(f"start-up, once per process: {time.process_time():.1f} CPU seconds")
    with tempfile.TemporaryDirectory() as folder:
        for video in arguments.videos or [draw(Path(folder, "drawn_512.mp4"))]:
            costs.seconds |= dict.fromkeys(STAGES, 0.0)
            costs.enter("other")
            seconds = run(video, Path(folder))
            costs.leave()
            rows.append(row(video, seconds, costs.seconds))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def draw(path: Path) -> Path:
    """Write a drawn face that fills frames of 512 x 512."""
    clip = synthesize_clip(1, seconds=8, size=512)
    write_clip(path, clip.frames, clip.waveform)
    return path


def run(video: Path, folder: Path) -> float:
    """Prepare one input; returns its length in seconds."""
    (source,) = list_sources([video])
    part = prepare.prepare_one(prepare.Task(source, str(folder), None, False))
    line = json.loads((folder / f"{part}.json").read_text())
    if not line["clips"]:
        raise SystemExit(f"{video}: {line['reason']}")
    return float(read_facts(video).seconds)


def row(video: Path, seconds: float, spent: dict[str, float]) -> dict[str, Any]:
    """CPU seconds per second of video of one input."""
    facts = read_facts(video)
    parts = {stage: round(value / seconds, 4) for stage, value in spent.items()}
    total, path = sum(spent.values()) / seconds, sum(spent[stage] for stage in PATH) / seconds
    size = f"{facts.width} x {facts.height}, {facts.fps:.4g} fps, {facts.video_codec}"
    return {
        "video": video.name,
        "size": size,
        "seconds": round(seconds, 2),
        **parts,
        "to landmarks": round(path, 3),
        "total": round(total, 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """CPU seconds per second of 25 fps video, one column per input."""
    lines = [f"CPU seconds per second of video, to {FPS} fps"]
    lines += [f"{number}: {row['video']}, {row['size']}, {row['seconds']} s" for number, row in enumerate(rows)]
    for name in (*STAGES, "to landmarks", "total"):
        lines.append(f"{name:13}" + "".join(f"{row[name]:8.3f}" for row in rows))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
