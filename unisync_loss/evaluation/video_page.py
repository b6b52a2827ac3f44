"""HTML report of ``unisync score``: a figure per video and the page that shows them."""

from __future__ import annotations

import io
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET, offset_curve
from unisync_loss.evaluation.results import Comparison, ScoredVideo, ScoreReport, TrackResult
from unisync_loss.evaluation.video_scores import MAX_DRAWN_FACES, TrackScores, VideoScores
from unisync_loss.evaluation.video_summary import FRAME_MS, format_share
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import (
    COLOURS,
    FAINT,
    INK,
    draw_strip,
    figure_png,
    html_image,
    html_note,
    html_page,
    html_table,
    html_text,
    moving_average,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_STRIP = 11  # mouth crops in the film strip
_COLUMNS = 1200  # of the sync matrix, and points of the curve, at most: about the figure's pixels
_FAR = 8  # frames of offset from which windows count as out of sync in the histogram: no common frames or syllable
_HEAD = (
    "", "offset, frames", "95 % interval", "confidence", "probability", "in sync", "in sync, voiced", "speaks",
    "drift, ms per min",
)  # fmt: skip
_HEAD_OF_ERRORS = ("video", "not scored because")
_BLUE, _ORANGE = COLOURS["unisync"], COLOURS["reconstruction"]


def draw_video(result: ScoredVideo, scores: VideoScores, threshold: float) -> bytes:
    """Draw film strip, probability, sync matrix and histogram of every face, as PNG.

    Args:
        result: of :func:`unisync_loss.evaluation.video_summary.summarise_video`.
        scores: of the same video.
        threshold: drawn as a line.

    Raises:
        ImportError: without matplotlib.
    """
    tracks = _scored(scores)[:MAX_DRAWN_FACES]
    height = 5.6 * len(tracks) + 0.4
    figure = new_figure(14, height)
    figure.suptitle(_plain(Path(result["video"]).name), x=0.07, ha="left", fontsize=13, color=INK, weight="bold")
    margins = {"left": 0.07, "right": 0.98, "top": 1 - 0.75 / height, "bottom": 0.08 / len(tracks)}
    outer = figure.add_gridspec(len(tracks), 1, hspace=0.3, **margins)
    for row, (numbers, track) in enumerate(zip(result["tracks"], tracks, strict=False)):
        grid = outer[row].subgridspec(3, 2, width_ratios=(4, 1), height_ratios=(1.1, 2, 2), hspace=0.62, wspace=0.16)
        cells = [[figure.add_subplot(grid[line, column]) for column in range(2)] for line in range(3)]
        draw_mouths(cells[0][0], track, numbers)
        draw_numbers(cells[0][1], numbers)
        draw_curve(cells[1][0], track, threshold)
        draw_histogram(cells[1][1], track, threshold)
        draw_matrix(cells[2][0], track, numbers)
        draw_offsets(cells[2][1], track, numbers)
    return figure_png(figure)


def pack_matrices(scores: VideoScores) -> bytes:
    """Pack the sync matrix of every face as NPZ.

    Args:
        scores: of :func:`unisync_loss.evaluation.video_scores.score_video`.

    Returns:
        ``face_0``, ``face_1``, … numbered as the tracks of the report: (W, 31) float32, the probability of every window
        of 0.2 s at every offset, NaN without audio; ``start_0``, …: seconds at which the first window begins, the
        others follow every 40 ms; ``offsets``: (31,) frames, positive = audio late.
    """
    file = io.BytesIO()
    tracks = dict(enumerate(_scored(scores)))
    tables = {f"face_{number}": track.table for number, track in tracks.items()}
    starts = {f"start_{number}": np.float64(track.start / FPS) for number, track in tracks.items()}
    np.savez_compressed(file, offsets=np.arange(-MAX_OFFSET, MAX_OFFSET + 1), **starts, **tables)
    return file.getvalue()


def _scored(scores: VideoScores) -> list[TrackScores]:
    """Tracks of the report, in the order of their numbers."""
    return [track for track in scores.tracks if track.has_scores]


def draw_mouths(axes: Axes, track: TrackScores, numbers: TrackResult) -> None:
    """Mouth crops, evenly spread over the track."""
    draw_strip(axes, [mouth for _, mouth in track.mouths], _STRIP, (*_span(track), 0, 1))
    axes.set_title(f"face {numbers['track']}", loc="left", fontsize=11, color=INK)


def draw_numbers(axes: Axes, numbers: TrackResult) -> None:
    """The measures as text."""
    low, high = numbers["offset_ci95"]
    lines = [
        f"offset {numbers['offset_frames']:+d} frames, {numbers['offset_ms']:+d} ms",
        f"95 % interval {low:+d} … {high:+d}, + = audio late",
        f"confidence {numbers['confidence']:.2f}",
        f"in sync: {format_share(numbers['voiced']['share_in_sync'])} of voiced windows, "
        f"{format_share(numbers['unvoiced']['share_in_sync'])} of the others",
    ]
    if numbers["drift_ms_per_minute"] is not None:
        lines.append(f"drift {numbers['drift_ms_per_minute']:+.0f} ms per minute {numbers['drift_ci95']}")
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=9.5, color=INK, linespacing=1.5)
    axes.set_axis_off()


def draw_curve(axes: Axes, track: TrackScores, threshold: float) -> None:
    """Probability over time: per window (thin) and averaged over a second (thick)."""
    values = _narrow(track.table[:, MAX_OFFSET : MAX_OFFSET + 1])[:, 0]
    begin, end = _span(track)
    times = begin + (np.arange(len(values)) + 0.5) / len(values) * (end - begin)
    known = ~np.isnan(values)
    axes.plot(times, values, color=_BLUE, alpha=0.3, lw=0.8)
    if known.any():
        axes.plot(times[known], moving_average(values[known].tolist(), FPS), color=_BLUE, lw=2)
    axes.axhline(threshold, color=FAINT, ls="--", lw=1)
    axes.set_xlim(begin, end)
    axes.set_ylim(0, 1)
    style_axes(axes, "Sync probability at offset 0; dashed: the checkpoint's threshold", "seconds")


def draw_histogram(axes: Axes, track: TrackScores, threshold: float) -> None:
    """Probabilities at offset 0, and at offsets far from it."""
    aligned = track.table[:, MAX_OFFSET]
    far = np.concatenate([track.table[:, : MAX_OFFSET - _FAR + 1], track.table[:, MAX_OFFSET + _FAR :]], axis=1)
    for values, colour, label in ((far, FAINT, f"{_FAR} or more frames off"), (aligned, _BLUE, "offset 0")):
        known = values[~np.isnan(values)]
        if known.size:
            weights = np.full(known.size, 1 / known.size)
            axes.hist(known, bins=25, range=(0, 1), weights=weights, color=colour, alpha=0.75, label=label)
    axes.axvline(threshold, color=INK, ls="--", lw=1)
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])  # room for the legend
    axes.set_yticks([])
    style_axes(axes, "Share of windows", "probability", legend=True)


def draw_matrix(axes: Axes, track: TrackScores, numbers: TrackResult) -> None:
    """Probability of every offset over time, with the offset of every 4 s."""
    matrix = _narrow(track.table)
    reach = MAX_OFFSET + 0.5
    axes.imshow(
        matrix.T, aspect="auto", origin="lower", extent=(*_span(track), -reach, reach), cmap="magma", vmin=0, vmax=1
    )
    local = numbers["offset_over_time"]
    times = [min(segment["seconds"], _span(track)[1]) for segment in local]
    axes.plot(times, [segment["offset_frames"] for segment in local], "o", color="white", ms=3, mec=INK, mew=0.5)
    axes.set_ylabel("offset, frames", color=INK, fontsize=9)
    style_axes(axes, "Sync matrix: bright where lips and audio match; dots: best offset of each 4 s", "seconds")
    axes.grid(visible=False)


def draw_offsets(axes: Axes, track: TrackScores, numbers: TrackResult) -> None:
    """Mean probability of every offset."""
    offsets = np.arange(-MAX_OFFSET, MAX_OFFSET + 1)
    axes.axvspan(numbers["offset_ci95"][0] - 0.5, numbers["offset_ci95"][1] + 0.5, color=_ORANGE, alpha=0.25, lw=0)
    axes.plot(offsets, offset_curve(track.table.astype(np.float64)), color=_BLUE, lw=2)
    axes.axvline(0, color=FAINT, lw=1)
    style_axes(axes, "Mean by offset; band: 95 % interval", f"offset, frames of {FRAME_MS} ms")


def _span(track: TrackScores) -> tuple[float, float]:
    """Seconds at which the track begins and ends, at the middle of its first and last window."""
    begin = (track.start + WINDOW_FRAMES / 2) / FPS
    return begin, begin + max(1, len(track.table)) / FPS


def _narrow(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of neighbouring windows, at most 1200 rows; NaN where no window has a score."""
    starts = np.arange(0, len(table), -(-len(table) // _COLUMNS))
    known = ~np.isnan(table)
    sums = np.add.reduceat(np.where(known, table, 0).astype(np.float64), starts)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def write_score_page(report: ScoreReport, out: Path) -> None:
    """Write ``report.html``.

    Args:
        report: JSON of ``unisync score``.
        out: existing folder with a figure (PNG) beside every sync matrix (NPZ).
    """
    scored: list[ScoredVideo] = []
    failed: list[tuple[str, str]] = []
    for video in report["videos"]:
        if "error" in video:
            failed.append((video["video"], video["error"]))
        else:
            scored.append(video)
    body = Template(BODY).substitute(
        model=html_text(report["model"]),
        scored=len(scored),
        failed=len(failed),
        scores=html_table(_HEAD, (_row(video, track) for video in scored for track in video["tracks"])),
        errors=html_table(_HEAD_OF_ERRORS, failed) if failed else "",
        comparison="".join(_comparison(row) for row in report.get("comparison", ())),
        figures="".join(_figure(video) for video in scored),
    )
    write_atomically(out / "report.html", html_page("unisync score", body))


def _row(video: ScoredVideo, track: TrackResult) -> tuple[str, ...]:
    low, high = track["offset_ci95"]
    drift = track["drift_ms_per_minute"]
    return (
        f"{video['video']}, face {track['track']}",
        f"{track['offset_frames']:+d} ({track['offset_ms']:+d} ms)",
        f"{low:+d} … {high:+d}",
        f"{track['confidence']:.2f}",
        format_share(track["probability_mean"]),
        format_share(track["share_in_sync"]),
        format_share(track["voiced"]["share_in_sync"]),
        format_share(track["speaking_share"]),
        "-" if drift is None else f"{drift:+.0f}",
    )


def _comparison(row: Comparison) -> str:
    lines = (
        (
            f"{name.replace('_', ' ')} ({values['better']} is better)",
            f"{values['real']:.3f}",
            f"{values['generated']:.3f}",
            f"{values['difference']:+.3f}",
            " to ".join(f"{end:+.3f}" for end in values["ci95"]) if values["ci95"] else "-",
        )
        for name, values in row["measures"].items()
    )
    title = f"<h2>{html_text(row['group'])} against real, {row['pairs']} pairs</h2>"
    return title + html_table(("", "real", "generated", "difference", "95 % interval"), lines)


def _figure(video: ScoredVideo) -> str:
    name = video["video"]
    notes = [*video["notes"], *(f"A face was skipped: {reason}" for reason in video["dropped"][:MAX_DRAWN_FACES])]
    image = html_image(Path(video["sync_matrix"]).with_suffix(".png").name, f"scores of {name}")
    matrix = html_text(video["sync_matrix"])
    return (
        f"<h2>{html_text(name)}</h2>{''.join(map(html_note, notes))}{image}"
        f'<p class="note"><a href="{matrix}">the sync matrix as numbers</a> (NPZ)</p>'
    )


BODY = """<h1>Lip sync per video</h1>
<p class="lead">$scored videos scored with <em>$model</em>, $failed not scored. The probability is that lips and audio
of 0.2 s belong together. A positive offset means that the audio is late.</p>
$scores
$errors
$comparison
$figures
<h2>How to read it</h2>
<ul>
<li>Confidence: the highest mean probability over all offsets minus their median. Near 0, no offset stands out, and the
interval shows how far the offset may be off.</li>
<li>In sync: share of windows above the checkpoint's threshold. Closed mouths and silence match any audio a little.</li>
<li>Speaks: share of the voiced windows in which this face has the highest score, and one above the threshold.</li>
<li>Offset 0 is that of the training corpora, to about a frame.</li>
</ul>
"""
