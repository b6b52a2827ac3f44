"""Output of ``unisync doctor``: a table for the terminal, and a page with a figure of every clip with a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from unisync_loss.config import SAMPLE_RATE
from unisync_loss.curation.checks import FIXES, LATE
from unisync_loss.curation.doctor import DoctorReport, Problem, SplitSummary, examine, list_clip_refs
from unisync_loss.curation.measurements import read_head
from unisync_loss.curation.offset_curves import centred_offset_curve
from unisync_loss.data.clips import ClipEntry
from unisync_loss.evaluation.embeddings import embed_clip
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import (
    COLOURS,
    draw_strip,
    draw_waveform,
    figure_png,
    html_image,
    html_note,
    html_page,
    html_table,
    html_text,
    new_figure,
    style_axes,
)
from unisync_loss.utils.progress import Progress, printable

_MOST_LINES = 20  # per verdict in the table
_MOST_FIGURES = 60  # on the page
_STRIP = 8  # frames of a film strip


def examine_and_report(
    paths: Sequence[Path], expert: UniSyncExpert, folder: Path | None, log: Callable[[str], None] = lambda line: None
) -> DoctorReport:
    """Examine stores, folders and files, and write the page where a folder is given for it.

    Args:
        paths: see :func:`.doctor.list_clip_refs`.
        expert: see :func:`.doctor.examine`.
        folder: for ``report.html``; made where missing.
        log: takes lines of progress.

    Raises:
        ValueError: when there are no clips, an index cannot be read, or the expert cannot be served.
        OSError: when a path does not exist, or the folder cannot be written.
        ImportError: without PyAV, MediaPipe, SciPy or, for the page, matplotlib.
    """
    refs = list_clip_refs(paths)
    if folder:
        new_figure(1, 1)  # a missing matplotlib is an error before the work, not after
        folder.mkdir(parents=True, exist_ok=True)
    report = examine(refs, expert, log)
    if folder:
        write_page(report, {ref.name: ref.entry for ref in refs}, expert, folder / "report.html", log)
    return report


def report_table(report: DoctorReport) -> str:
    """Format a report as text: sums of the splits, then the problems by verdict."""
    lines = [_split_line(name, split) for name, split in report["splits"].items()]
    for verdict, count in report["verdicts"].items():
        mine = [problem for problem in report["problems"] if problem["verdict"] == verdict]
        lines.append(f"\n{verdict} ({count}): {FIXES[verdict]}")
        lines += [f"  {printable(problem['clip'])}: {printable(problem['detail'])}" for problem in mine[:_MOST_LINES]]
        if count > _MOST_LINES:
            lines.append(f"  … and {count - _MOST_LINES} more, see --json")
    lines.append(f"\n{len(report['clips'])} clips, {len(report['problems'])} problems; {_undecided(report)}")
    return "\n".join(lines)


def _split_line(name: str, split: SplitSummary) -> str:
    rates = ", ".join(f"{rate} fps: {count}" for rate, count in split["fps"].items())
    sample_rates = ", ".join(f"{rate} Hz: {count}" for rate, count in split["sample_rate"].items())
    offsets = "no confident offsets"
    if split["offset_percentiles"]:
        low, middle, high = split["offset_percentiles"]
        offsets = f"{split['sure_offsets']} confident offsets, median {middle:+.1f} ({low:+.1f} … {high:+.1f}) frames"
    silence = "-" if split["silence"] is None else f"{split['silence']:.0%}"
    start = f"{name}: " if name else ""
    return (
        f"{start}{split['clips']} clips, {split['speakers']} speakers, {split['minutes']:.1f} min, silence {silence}; "
        f"{rates}; {sample_rates}; {offsets}"
    )


def _undecided(report: DoctorReport) -> str:
    return f"{len(report['not_told'])} undecided: too short or too quiet to assess their sync"


def write_page(
    report: DoctorReport,
    entries: Mapping[str, ClipEntry],
    expert: UniSyncExpert,
    path: Path,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the page atomically; the first 60 clips with a problem are decoded again for their figures.

    Args:
        report: of :func:`.doctor.examine`.
        entries: clips by their name in the report.
        expert: for the curves over the offset.
        path: the HTML file; its folder must exist.
        log: takes lines of progress.

    Raises:
        ImportError: without matplotlib.
    """
    problems: dict[str, list[Problem]] = {}
    for problem in report["problems"]:
        problems.setdefault(problem["clip"], []).append(problem)
    shown = list(problems)[:_MOST_FIGURES]
    rows = {row["clip"]: row for row in report["clips"]}
    figures = []
    progress = Progress(log, len(shown), "figures")
    for number, name in enumerate(shown, 1):
        notes = "".join(_note(problem) for problem in problems[name])
        figure = _draw(entries[name], expert, rows[name]) if name in entries else b""
        figures.append(f"<h3>{html_text(name)}</h3>{notes}{html_image(figure, name) if figure else ''}")
        progress.update(number)
    body = Template(_BODY).substitute(
        clips=len(report["clips"]),
        problems=len(report["problems"]),
        undecided=_undecided(report),
        splits="".join(f"<li>{html_text(_split_line(name, split))}</li>" for name, split in report["splits"].items()),
        verdicts=html_table(
            ("verdict", "number", "fix"),
            ((verdict, count, FIXES[verdict]) for verdict, count in report["verdicts"].items()),
        ),
        listed=html_table(
            ("clip", "verdict", "detail"), ((row["clip"], row["verdict"], row["detail"]) for row in report["problems"])
        ),
        figures="".join(figures),
        overview=html_image(_overview(report["clips"]), "all clips"),
    )
    write_atomically(path, html_page("unisync doctor", body, _STYLE))


def _draw(entry: ClipEntry, expert: UniSyncExpert, row: Mapping[str, Any]) -> bytes:
    """Draw film strip, waveform and match by offset as PNG; empty where the clip is unreadable."""
    try:
        clip = read_head(entry)
    except (ValueError, OSError):
        return b""
    figure = new_figure(13, 3.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(2.2, 1), hspace=0.12, wspace=0.12)
    strip, sound, curve = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
    draw_strip(strip, list(clip.frames), _STRIP)
    draw_waveform(sound, clip.waveform, SAMPLE_RATE)
    if "offset_frames" in row:
        embedding = embed_clip(expert, entry, clip)
        match = centred_offset_curve(embedding.audio, embedding.visual).mean
        curve.axvspan(-LATE, LATE, color=COLOURS["unisync"], alpha=0.12, lw=0)
        curve.plot(np.arange(-MAX_OFFSET, MAX_OFFSET + 1), match, color=COLOURS["unisync"], lw=2)
        curve.axvline(row["offset_frames"], color=COLOURS["reconstruction"], lw=1.5)
        curve.set_yticks([])
        style_axes(curve, f"match by offset; peak z {row['peak_z']:.1f}", "audio late by, frames")
    else:
        curve.set_axis_off()
    return figure_png(figure)


def _overview(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw all clips: peak z over offset, and histograms of silence and of the face's width, as PNG."""
    with_offset = [row for row in rows if "offset_frames" in row]
    figure = new_figure(13, 3.6)
    axes: Any = figure.subplots(1, 3)
    axes[0].axvspan(-LATE, LATE, color=COLOURS["unisync"], alpha=0.12, lw=0)
    axes[0].plot(
        [row["offset_frames"] for row in with_offset],
        [row["peak_z"] for row in with_offset],
        ".",
        color=COLOURS["unisync"],
    )
    style_axes(axes[0], "peak z by offset", "audio late by, frames")
    for each, key, label in (
        (axes[1], "silence", "share of silence"),
        (axes[2], "face_width", "width of the face, share of the frame"),
    ):
        each.hist([row[key] for row in rows if key in row], bins=25, range=(0, 1), color=COLOURS["unisync"])
        style_axes(each, "clips", label)
    return figure_png(figure)


def _note(problem: Problem) -> str:
    return html_note(f"{problem['verdict']}: {printable(problem['detail'])}. Fix: {problem['remedy']}.")


_STYLE = "td{text-align:left}h3{font-size:15px;margin:28px 0 6px}"
_BODY = """<h1>$problems problems in $clips clips</h1>
<p class="lead">$undecided.</p>
<ul>$splits</ul>
$overview
<h2>Verdicts</h2>
$verdicts
<h2>Problems</h2>
$listed
<h2>Clips with problems</h2>
<p><small>Left: frames over the waveform. Right: match of video and audio at each offset; shaded: in sync.</small></p>
$figures
"""
