"""The report of ``unisync score``: a picture of every video, and the page that shows them all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET, offset_curve
from unisync_loss.evaluation.video_scores import MOST_FACES, TrackScores, VideoScores
from unisync_loss.evaluation.video_summary import FRAME_MS
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


_STRIP = 11  # mouths in the film strip
_COLUMNS = 1200  # of the sync matrix, and points of the curve, at most
_HEAD = (
    "", "offset, frames", "95 % interval", "confidence", "probability", "in sync", "… while voiced", "speaks",
    "drift, ms per min",
)  # fmt: skip
_HEAD_OF_ERRORS = ("video", "not scored because")
_BLUE, _ORANGE = COLOURS["unisync"], COLOURS["reconstruction"]


def draw_video(judged: Mapping[str, Any], scores: VideoScores, threshold: float) -> bytes:
    """Film strip, probability, sync matrix and histogram of every face, as PNG.

    Args:
        judged: of :func:`unisync_loss.evaluation.video_summary.judge`.
        scores: of the same video.
        threshold: drawn as a line.

    Raises:
        ImportError: without matplotlib.
    """
    heard = _heard(scores)[:MOST_FACES]
    figure = new_figure(14, 5.6 * len(heard) + 0.4)
    figure.suptitle(_plain(Path(str(judged["video"])).name), x=0.07, ha="left", fontsize=13, color=INK, weight="bold")
    top = 1 - 0.75 / (5.6 * len(heard) + 0.4)
    outer = figure.add_gridspec(len(heard), 1, hspace=0.3, left=0.07, right=0.98, top=top, bottom=0.08 / len(heard))
    for row, (numbers, track) in enumerate(zip(judged["tracks"], heard, strict=False)):
        grid = outer[row].subgridspec(3, 2, width_ratios=(4, 1), height_ratios=(1.1, 2, 2), hspace=0.62, wspace=0.16)
        cells = [[figure.add_subplot(grid[line, column]) for column in range(2)] for line in range(3)]
        draw_mouths(cells[0][0], track, numbers)
        draw_words(cells[0][1], numbers)
        draw_curve(cells[1][0], track, threshold)
        draw_histogram(cells[1][1], track, threshold)
        draw_matrix(cells[2][0], track, numbers)
        draw_offsets(cells[2][1], track, numbers)
    return figure_png(figure)


def pack_matrices(scores: VideoScores) -> bytes:
    """The sync matrix of every face as numbers, NPZ.

    Args:
        scores: of :func:`unisync_loss.evaluation.video_scores.score_video`.

    Returns:
        ``face_0``, ``face_1``, … with the numbers of the report: (W, 31) float32, the probability of every window of
        0.2 s at every offset, NaN where there is no sound; ``start_0``, …: seconds at which its first window begins,
        the others following every 40 ms; ``offsets``: (31,) frames, positive = audio late.
    """
    file = io.BytesIO()
    heard = dict(enumerate(_heard(scores)))
    tables = {f"face_{number}": track.table for number, track in heard.items()}
    starts = {f"start_{number}": np.float64(track.start / FPS) for number, track in heard.items()}
    np.savez_compressed(file, offsets=np.arange(-MAX_OFFSET, MAX_OFFSET + 1), **starts, **tables)
    return file.getvalue()


def _heard(scores: VideoScores) -> list[TrackScores]:
    """Faces with a number, in the order of their numbers."""
    return [track for track in scores.tracks if not np.isnan(track.table).all()]


def draw_mouths(axes: Axes, track: TrackScores, numbers: Mapping[str, Any]) -> None:
    """Mouths of the track, evenly spread over its time."""
    draw_strip(axes, [mouth for _, mouth in track.mouths], _STRIP, (*_span(track), 0, 1))
    axes.set_title(f"face {numbers['track']}", loc="left", fontsize=11, color=INK)


def draw_words(axes: Axes, numbers: Mapping[str, Any]) -> None:
    """The verdict in figures."""
    low, high = numbers["offset_ci95"]
    lines = [
        f"offset {numbers['offset_frames']:+d} frames, {numbers['offset_ms']:+d} ms",
        f"95 % interval {low:+d} … {high:+d}, + = audio late",
        f"confidence {numbers['confidence']:.2f}",
        f"in sync: {_number(numbers['voiced']['share_in_sync'])} of voiced windows, "
        f"{_number(numbers['unvoiced']['share_in_sync'])} of the others",
    ]
    if numbers["drift_ms_per_minute"] is not None:
        lines.append(f"drift {numbers['drift_ms_per_minute']:+.0f} ms per minute {numbers['drift_ci95']}")
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=9.5, color=INK, linespacing=1.5)
    axes.set_axis_off()


def draw_curve(axes: Axes, track: TrackScores, threshold: float) -> None:
    """Probability over time, thin as it is and thick over a second."""
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
    style_axes(axes, "Sync probability as the video is; dashed: the checkpoint's threshold", "seconds")


def draw_histogram(axes: Axes, track: TrackScores, threshold: float) -> None:
    """Probabilities as the video is, and with the audio elsewhere."""
    shown = track.table[:, MAX_OFFSET]
    far = np.concatenate([track.table[:, : MAX_OFFSET - 7], track.table[:, MAX_OFFSET + 8 :]], axis=1)
    for values, colour, label in ((far, FAINT, "8 or more frames off"), (shown, _BLUE, "as it is")):
        known = values[~np.isnan(values)]
        if known.size:
            weights = np.full(known.size, 1 / known.size)
            axes.hist(known, bins=25, range=(0, 1), weights=weights, color=colour, alpha=0.75, label=label)
    axes.axvline(threshold, color=INK, ls="--", lw=1)
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])  # room for the legend
    axes.set_yticks([])
    style_axes(axes, "Share of windows", "probability", legend=True)


def draw_matrix(axes: Axes, track: TrackScores, numbers: Mapping[str, Any]) -> None:
    """Probability of every offset over time, with the offset of every 4 s."""
    matrix = _narrow(track.table)
    reach = MAX_OFFSET + 0.5
    axes.imshow(
        matrix.T, aspect="auto", origin="lower", extent=(*_span(track), -reach, reach), cmap="magma", vmin=0, vmax=1
    )
    local = numbers["offset_over_time"]
    times = [min(place["seconds"], _span(track)[1]) for place in local]
    axes.plot(times, [place["offset_frames"] for place in local], "o", color="white", ms=3, mec=INK, mew=0.5)
    axes.set_ylabel("offset, frames", color=INK, fontsize=9)
    style_axes(axes, "Sync matrix: bright where lips and voice fit; dots: best offset of each 4 s", "seconds")
    axes.grid(visible=False)


def draw_offsets(axes: Axes, track: TrackScores, numbers: Mapping[str, Any]) -> None:
    """Mean probability of every offset."""
    offsets = np.arange(-MAX_OFFSET, MAX_OFFSET + 1)
    axes.axvspan(numbers["offset_ci95"][0] - 0.5, numbers["offset_ci95"][1] + 0.5, color=_ORANGE, alpha=0.25, lw=0)
    axes.plot(offsets, offset_curve(track.table.astype(np.float64)), color=_BLUE, lw=2)
    axes.axvline(0, color=FAINT, lw=1)
    style_axes(axes, "Mean by offset, with its interval", f"offset, frames of {FRAME_MS} ms")


def _span(track: TrackScores) -> tuple[float, float]:
    """Seconds at which the track begins and ends, in middles of windows."""
    begin = (track.start + WINDOW_FRAMES / 2) / FPS
    return begin, begin + max(1, len(track.table)) / FPS


def _narrow(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of neighbouring windows, so that at most 1200 rows are left; NaN where there is none."""
    starts = np.arange(0, len(table), -(-len(table) // _COLUMNS))
    there = ~np.isnan(table)
    sums = np.add.reduceat(np.where(there, table, 0).astype(np.float64), starts)
    counts = np.add.reduceat(there.astype(np.float64), starts)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _plain(text: str) -> str:
    """Without what matplotlib would take for mathematics."""
    return text.replace("$", r"\$")


def write_page(report: Mapping[str, Any], out: Path) -> None:
    """Write ``report.html``.

    Args:
        report: as the JSON of ``unisync score``.
        out: an existing folder with a picture beside every sync matrix.
    """
    scored = [video for video in report["videos"] if "tracks" in video]
    failed = [video for video in report["videos"] if "error" in video]
    body = Template(BODY).substitute(
        model=html_text(report["model"]),
        scored=len(scored),
        failed=len(failed),
        scores=html_table(_HEAD, (_row(video, track) for video in scored for track in video["tracks"])),
        errors=html_table(_HEAD_OF_ERRORS, ((video["video"], video["error"]) for video in failed)) if failed else "",
        comparison="".join(_comparison(row) for row in report.get("comparison", ())),
        pictures="".join(_figure(video) for video in scored),
    )
    write_atomically(out / "report.html", html_page("unisync score", body))


def _row(video: Mapping[str, Any], track: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = track["offset_ci95"]
    drift = track["drift_ms_per_minute"]
    return (
        f"{video['video']}, face {track['track']}",
        f"{track['offset_frames']:+d} ({track['offset_ms']:+d} ms)",
        f"{low:+d} … {high:+d}",
        f"{track['confidence']:.2f}",
        _number(track["probability_mean"]),
        _number(track["share_in_sync"]),
        _number(track["voiced"]["share_in_sync"]),
        _number(track["speaking_share"]),
        "-" if drift is None else f"{drift:+.0f}",
    )


def _comparison(row: Mapping[str, Any]) -> str:
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


def _figure(video: Mapping[str, Any]) -> str:
    name = video["video"]
    notes = [*video["notes"], *(f"A face was left out: {reason}" for reason in video["dropped"][:MOST_FACES])]
    picture = html_image(Path(video["sync_matrix"]).with_suffix(".png").name, f"scores of {name}")
    matrix = html_text(video["sync_matrix"])
    return (
        f"<h2>{html_text(name)}</h2>{''.join(map(html_note, notes))}{picture}"
        f'<p class="note"><a href="{matrix}">the sync matrix as numbers</a> (NPZ)</p>'
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


BODY = """<h1>Lips and voice, video by video</h1>
<p class="lead">$scored videos scored with <em>$model</em>, $failed not. The probability is that of 0.2 s of lips and
voice belonging together. A positive offset means that the audio is late.</p>
$scores
$errors
$comparison
$pictures
<h2>How to read it</h2>
<ul>
<li>Confidence: the highest mean probability of all offsets less their median. Near 0: no offset stands out, and the
interval says how far it may be off.</li>
<li>In sync: share of windows above the checkpoint's threshold. Closed mouths and silence fit everything a little.</li>
<li>Speaks: share of the voiced windows in which this face fits the voice best, and well enough.</li>
<li>Zero is that of the training corpora, to about a frame.</li>
</ul>
"""
