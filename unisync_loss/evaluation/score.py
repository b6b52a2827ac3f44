"""The ``unisync score`` command: videos, folders of videos and clip stores, with report, film and comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from unisync_loss.data.clips import ClipEntry, list_clips
from unisync_loss.data.store import is_store_or_split
from unisync_loss.evaluation.compare import NamedVideo, compare, pair_videos
from unisync_loss.evaluation.film import write_film
from unisync_loss.evaluation.protocols import calibration_of
from unisync_loss.evaluation.results import Comparison, ScoredVideo, ScoreReport, VideoResult
from unisync_loss.evaluation.video_page import draw_video, pack_matrices, write_score_page
from unisync_loss.evaluation.video_scores import OnProgress, VideoScores, score_clip, score_video
from unisync_loss.evaluation.video_summary import summarise_video
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import find_videos
from unisync_loss.video.reading import check_audio

_Source: TypeAlias = Path | ClipEntry  # video file, or clip of a store


def score_paths(
    paths: Sequence[Path],
    experts: Sequence[UniSyncExpert],
    model: str,
    *,
    report: Path | None = None,
    film: bool = False,
    reference: bool = False,
    audio: Path | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> ScoreReport:
    """Score videos and clips of stores; one that cannot be scored gets an ``error``, the others go on.

    Args:
        paths: video files, folders that are searched, and stores of ``unisync prepare`` or splits of them, whose
            clips are named ``STORE/<corpus>/<speaker>/<clip>.mp4``.
        experts: one or more of any pair, in eval mode; probability, threshold and calibration are the means of theirs.
        model: their names.
        report: folder for ``report.html`` and a figure and the sync matrix of every video; created if missing.
        film: also write every video into that folder, with its curve drawn below the image; not for stores.
        reference: the first path holds real videos, the others generated versions of them, paired by file name.
        audio: file whose sound is taken; of one video only, without ``film``.
        seed: of the intervals.
        log: takes lines of progress.

    Returns:
        The report; ``comparison`` only with ``reference``.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: for a folder without a video, or settings that do not go together.
        ImportError: without PyAV, MediaPipe, or, for a report, matplotlib.
    """
    groups = {str(path): _find(path) for path in paths}
    _check(groups, report, film=film, reference=reference, audio=audio)
    todo = [(group, name, source) for group, sources in groups.items() for name, source in sources.items()]
    progress, (threshold, calibration) = Progress(log, len(todo)), _mean_settings(experts)
    videos: list[VideoResult] = []
    for index, (group, name, source) in enumerate(todo):
        label, share = f"{index + 1}/{len(todo)} {Path(name).name}", 0.5 if film else 1.0
        try:
            scores = _score(source, experts, audio, partial(_report, progress, index, share, label))
            scored = summarise_video(name, scores, threshold, seed, calibration)
        except (ValueError, OSError) as error:
            videos.append({"video": name, "group": group, "error": _reason(error, source)})
            continue
        scored["group"] = group
        videos.append(scored)
        if report:
            stem = report / _stem(index, name)
            _write_figure(stem, scored, scores, threshold)
            if film:
                _write_film(stem, scored, scores, threshold, partial(_report, progress, index + share, share, label))
    result = ScoreReport(model=model, threshold=threshold, seed=seed, videos=videos)
    if reference:
        result["comparison"] = _compare(videos, list(groups), seed)
    if report:
        write_score_page(result, report)
    return result


def _stem(index: int, name: str) -> str:
    return f"{index:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(name).stem)}"


def _mean_settings(experts: Sequence[UniSyncExpert]) -> tuple[float, tuple[float, float] | None]:
    """Threshold and calibration of the mean of several experts."""
    configs = [expert.config for expert in experts]
    return round(fmean(config.threshold for config in configs), 4), calibration_of(configs)


def _find(path: Path) -> dict[str, _Source]:
    """Clips of a store or of a split, or video files, by name."""
    if is_store_or_split(path):
        return {(path / entry.name).as_posix(): entry for entry in list_clips(path)}
    return {video.as_posix(): video for video in find_videos(path)}


def _score(
    source: _Source, experts: Sequence[UniSyncExpert], audio: Path | None, on_progress: OnProgress
) -> VideoScores:
    if isinstance(source, Path):
        return score_video(source, experts, audio=audio, on_progress=on_progress, isolated=True)
    scores = score_clip(source, experts, isolated=True)
    on_progress(scores.seconds, scores.seconds)
    return scores


def _reason(error: Exception, source: _Source) -> str:
    """Message of an error without the name of the video, which stands beside it."""
    names = (source,) if isinstance(source, Path) else (source.name, source.path)
    text = str(error)
    for name in names:
        text = text.removeprefix(f"{name}: ")
    return text


def _compare(videos: Sequence[VideoResult], groups: Sequence[str], seed: int) -> list[Comparison]:
    """Compare the videos of each later group with those of the first."""
    real, *generated = ([video for video in videos if video["group"] == group] for group in groups)
    return compare(real, dict(zip(groups[1:], generated, strict=True)), seed)


def _check(
    groups: Mapping[str, Mapping[str, _Source]],
    report: Path | None,
    *,
    film: bool,
    reference: bool,
    audio: Path | None,
) -> None:
    """Refuse impossible settings before any work, and create the folder of the report."""
    if reference and len(groups) < 2:
        raise ValueError("compare: expected real videos and at least one path of generated ones, got one path")
    if reference:
        real, *generated = ([NamedVideo(name, group) for name in sources] for group, sources in groups.items())
        for videos in generated:
            pair_videos(real, videos)
    if film and report is None:
        raise ValueError("film: expected a folder for the report, got none")
    check_audio(audio, sum(map(len, groups.values())))
    stores = [group for group in groups if is_store_or_split(group)]
    if audio and (film or stores):
        raise ValueError(f"audio: expected a video file{', and no film' if film else f', got a store: {stores[0]}'}")
    if film and stores:
        raise ValueError(f"film: expected video files, got a store of clips: {stores[0]}")
    if report:
        report.mkdir(parents=True, exist_ok=True)


def _write_figure(path: Path, result: ScoredVideo, scores: VideoScores, threshold: float) -> None:
    """Write figure and sync matrix of a video, and note the name of the matrix in its result."""
    result["sync_matrix"] = f"{path.name}.npz"
    write_atomically(path.with_name(f"{path.name}.npz"), pack_matrices(scores))
    write_atomically(path.with_name(f"{path.name}.png"), draw_video(result, scores, threshold))


def _write_film(stem: Path, result: ScoredVideo, scores: VideoScores, threshold: float, watch: OnProgress) -> None:
    """Write the film of a video; that it could not be written is a note."""
    source = Path(result["video"])
    try:
        write_film(source, scores, threshold, stem.with_name(f"{stem.name}.mp4"), watch, isolated=True)
    except (ValueError, OSError) as error:
        result["notes"].append(f"no film: {_reason(error, source)}")


def _report(progress: Progress, before: float, share: float, name: str, done: float, seconds: float) -> None:
    """Report progress within a share of one video; the lengths of the others are unknown."""
    progress.update(
        before + share * min(1.0, done / max(seconds, done, 1e-9)), f"{name}: {done:.0f} of {seconds:.0f} s"
    )
