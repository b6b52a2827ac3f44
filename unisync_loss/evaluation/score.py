"""Everything behind ``unisync score``: which videos, one after the other, and what is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unisync_loss.evaluation.compare import compare, find_twins
from unisync_loss.evaluation.film import write_film
from unisync_loss.evaluation.video_page import draw_video, pack_matrices, write_page
from unisync_loss.evaluation.video_scores import VideoScores, score_video
from unisync_loss.evaluation.video_summary import judge
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import find_videos
from unisync_loss.video.face_detection import MediaPipeFinder


def score_paths(
    paths: Sequence[Path],
    expert: UniSyncExpert,
    model: str,
    *,
    report: Path | None = None,
    film: bool = False,
    versus: bool = False,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score videos and folders of videos; what cannot be scored gets an ``error``, the rest goes on.

    Args:
        paths: files, or folders that are searched.
        expert: of any pair, in eval mode.
        model: its name.
        report: folder for ``report.html`` and, for each video, a picture and the sync matrix; made where missing.
        film: write every video into that folder, too, with its curve burnt in.
        versus: the first path holds real videos, the others generated twins of them, compared pair by pair.
        seed: of the intervals.
        log: takes lines of progress.

    Returns:
        ``{"model", "threshold", "seed", "videos": [...]}`` and, for ``versus``, ``"comparison"``; ready for JSON.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when a folder holds no video, or, for ``versus``, there is nothing to pair.
        ImportError: without PyAV, MediaPipe, or, for a report, matplotlib.
    """
    groups = {str(path): find_videos(path) for path in paths}
    todo = [(group, video) for group, videos in groups.items() for video in videos]
    _begin(groups, report, film=film, versus=versus)
    finder, progress, threshold = MediaPipeFinder(), Progress(log, len(todo)), expert.config.threshold
    videos: list[dict[str, Any]] = []
    for index, (group, video) in enumerate(todo):
        place, share = f"{index + 1}/{len(todo)} {video.name}", 0.5 if film else 1.0
        watch = partial(_report, progress, index, share, place)
        try:
            scores = score_video(video, expert, finder=finder, on_progress=watch)
            judged = judge(video.as_posix(), scores, threshold, seed)
        except (ValueError, OSError) as error:
            videos.append({"video": video.as_posix(), "group": group, "error": str(error).removeprefix(f"{video}: ")})
            continue
        videos.append({**judged, "group": group})
        if report:
            name = f"{index:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', video.stem)}"
            videos[-1]["sync_matrix"] = f"{name}.npz"
            _write(report / name, judged, scores, threshold)
            if film:
                watch = partial(_report, progress, index + share, share, f"{place}, film")
                write_film(video, scores, threshold, report / f"{name}.mp4", watch)
    result = {"model": model, "threshold": threshold, "seed": seed, "videos": videos}
    if versus:
        real, *made = ([video for video in videos if video["group"] == group] for group in groups)
        result["comparison"] = compare(real, dict(zip(list(groups)[1:], made, strict=True)), seed)
    if report:
        write_page(result, report)
    return result


def _begin(groups: Mapping[str, Sequence[Path]], report: Path | None, *, film: bool, versus: bool) -> None:
    """Refuse what cannot be done before any work, and make the folder of the report."""
    if versus and len(groups) < 2:
        raise ValueError("compare: expected real videos and at least one path of generated ones, got one path")
    if versus:
        real, *made = (
            [{"video": video.as_posix(), "group": group} for video in videos] for group, videos in groups.items()
        )
        for videos in made:
            find_twins(real, videos)
    if film and report is None:
        raise ValueError("film: expected a folder for the report, got none")
    if report:
        report.mkdir(parents=True, exist_ok=True)


def _write(place: Path, judged: Mapping[str, Any], scores: VideoScores, threshold: float) -> None:
    """Picture and sync matrix of a video."""
    write_atomically(place.with_name(f"{place.name}.npz"), pack_matrices(scores))
    write_atomically(place.with_name(f"{place.name}.png"), draw_video(judged, scores, threshold))


def _report(progress: Progress, before: float, share: float, name: str, done: float, seconds: float) -> None:
    """Report progress within a share of one video; the lengths of the others are unknown."""
    progress.update(
        before + share * min(1.0, done / max(seconds, done, 1e-9)), f"{name}: {done:.0f} of {seconds:.0f} s"
    )
