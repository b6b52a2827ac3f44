"""The ``unisync score`` command: videos and folders of videos, with report, film and comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from unisync_loss.evaluation.compare import NamedVideo, compare, pair_videos
from unisync_loss.evaluation.film import write_film
from unisync_loss.evaluation.results import Comparison, ScoredVideo, ScoreReport, VideoResult
from unisync_loss.evaluation.video_page import draw_video, pack_matrices, write_score_page
from unisync_loss.evaluation.video_scores import VideoScores, score_video
from unisync_loss.evaluation.video_summary import summarise_video
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
    reference: bool = False,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> ScoreReport:
    """Score videos and folders of videos; a video that cannot be scored gets an ``error``, the others go on.

    Args:
        paths: files, or folders that are searched.
        expert: of any pair of representations, in eval mode.
        model: its name.
        report: folder for ``report.html`` and a figure and the sync matrix of every video; created if missing.
        film: also write every video into that folder, with its curve drawn below the image.
        reference: the first path holds real videos; each of the others holds generated versions of them, which are
            compared with the real ones, paired by file name.
        seed: of the intervals.
        log: takes lines of progress.

    Returns:
        The report; ``comparison`` only with ``reference``.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when a folder holds no video, or, with ``reference``, no video has a pair.
        ImportError: without PyAV, MediaPipe, or, for a report, matplotlib.
    """
    groups = {str(path): find_videos(path) for path in paths}
    todo = [(group, video) for group, videos in groups.items() for video in videos]
    _check(groups, report, film=film, reference=reference)
    finder, progress, threshold = MediaPipeFinder(), Progress(log, len(todo)), expert.config.threshold
    videos: list[VideoResult] = []
    for index, (group, video) in enumerate(todo):
        label, share = f"{index + 1}/{len(todo)} {video.name}", 0.5 if film else 1.0
        watch = partial(_report, progress, index, share, label)
        try:
            scores = score_video(video, expert, finder=finder, on_progress=watch)
            scored = summarise_video(video.as_posix(), scores, threshold, seed)
        except (ValueError, OSError) as error:
            videos.append({"video": video.as_posix(), "group": group, "error": str(error).removeprefix(f"{video}: ")})
            continue
        scored["group"] = group
        videos.append(scored)
        if report:
            name = f"{index:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', video.stem)}"
            _write_figure(report / name, scored, scores, threshold)
            if film:
                watch = partial(_report, progress, index + share, share, f"{label}, film")
                write_film(video, scores, threshold, report / f"{name}.mp4", watch)
    result: ScoreReport = {"model": model, "threshold": threshold, "seed": seed, "videos": videos}
    if reference:
        result["comparison"] = _compare(videos, list(groups), seed)
    if report:
        write_score_page(result, report)
    return result


def _compare(videos: Sequence[VideoResult], groups: Sequence[str], seed: int) -> list[Comparison]:
    """Compare the videos of each later group with those of the first."""
    real, *generated = ([video for video in videos if video["group"] == group] for group in groups)
    return compare(real, dict(zip(groups[1:], generated, strict=True)), seed)


def _check(groups: Mapping[str, Sequence[Path]], report: Path | None, *, film: bool, reference: bool) -> None:
    """Refuse impossible settings before any work, and create the folder of the report."""
    if reference and len(groups) < 2:
        raise ValueError("compare: expected real videos and at least one path of generated ones, got one path")
    if reference:
        real, *generated = (
            [NamedVideo(video.as_posix(), group) for video in videos] for group, videos in groups.items()
        )
        for videos in generated:
            pair_videos(real, videos)
    if film and report is None:
        raise ValueError("film: expected a folder for the report, got none")
    if report:
        report.mkdir(parents=True, exist_ok=True)


def _write_figure(path: Path, result: ScoredVideo, scores: VideoScores, threshold: float) -> None:
    """Write figure and sync matrix of a video, and note the name of the matrix in its result."""
    result["sync_matrix"] = f"{path.name}.npz"
    write_atomically(path.with_name(f"{path.name}.npz"), pack_matrices(scores))
    write_atomically(path.with_name(f"{path.name}.png"), draw_video(result, scores, threshold))


def _report(progress: Progress, before: float, share: float, name: str, done: float, seconds: float) -> None:
    """Report progress within a share of one video; the lengths of the others are unknown."""
    progress.update(
        before + share * min(1.0, done / max(seconds, done, 1e-9)), f"{name}: {done:.0f} of {seconds:.0f} s"
    )
