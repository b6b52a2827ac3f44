"""Throughput and memory of `unisync score`.

    python benchmarks/score_speed.py VIDEO --json out/score_speed.json
    ffmpeg -stream_loop 359 -i CLIP_OF_20_S -c copy two_hours.mp4      # a long one, for the memory

Measures the whole path: decoding, faces, network, summary and report figure, in wall time and CPU time. Memory is
that of the process including libraries (Linux): at every minute of the video, its peak, and the peak after the
summary and figure of two hours, made by repeating the scores of the video: frames are streamed, so only the scores
grow.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisync_loss import load_expert
from unisync_loss.config import FPS
from unisync_loss.evaluation import score_video
from unisync_loss.evaluation.video_page import draw_video
from unisync_loss.evaluation.video_scores import TrackScores
from unisync_loss.evaluation.video_summary import summarise_video
from unisync_loss.video.face_detection import MediaPipeFinder

MIB = 1024**2


def main() -> None:
    """Score one video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = measure(options.video, options.model)
    report["threads"] = options.threads
    print(
        f"{report['video_s']:.0f} s of video in {report['wall_s']:.0f} s, {report['cpu_s']:.0f} s of CPU time: "
        f"{report['video_s_per_wall_s']} and {report['video_s_per_cpu_s']} s per second; "
        f"at most {report['peak_mib']} MiB, {report['peak_mib_of_two_hours']} MiB with the summary of two hours"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(video: Path, model: str) -> dict[str, Any]:
    """Time and memory of one video, without the time to load the models."""
    expert, finder = load_expert(model), MediaPipeFinder()
    minutes: list[dict[str, int]] = []

    def watch(done: float, seconds: float) -> None:
        if done >= 60 * len(minutes):
            minutes.append({"video_s": round(done), "mib": held()})
            print(f"{done:.0f} of {seconds:.0f} s, {minutes[-1]['mib']} MiB", flush=True)

    wall, cpu = time.perf_counter(), time.process_time()
    scores = score_video(video, [expert], finder=finder, on_progress=watch)
    judged = summarise_video(video.name, scores, expert.config.threshold)
    draw_video(judged, scores, expert.config.threshold)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = highest()
    long = scores._replace(tracks=[repeated(track) for track in scores.tracks], seconds=7200.0)
    draw_video(summarise_video(video.name, long, expert.config.threshold), long, expert.config.threshold)
    return {
        "video": video.name,
        "model": model,
        "faces": len(judged["tracks"]),
        "video_s": round(scores.seconds, 2),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "video_s_per_wall_s": round(scores.seconds / wall, 2),
        "video_s_per_cpu_s": round(scores.seconds / cpu, 2),
        "peak_mib": peak,
        "peak_mib_of_two_hours": highest(),
        "mib_by_minute": minutes,
    }


def repeated(track: TrackScores) -> TrackScores:
    """Scores of a track, repeated to two hours."""
    windows = np.arange(7200 * FPS) % len(track.table)
    return TrackScores(0, track.table[windows], track.level[windows], track.mouths)


def highest() -> int:
    """Peak memory of this process in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB)


def held() -> int:
    """Current memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / MIB)


if __name__ == "__main__":
    main()
