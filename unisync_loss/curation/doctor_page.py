"""What ``unisync doctor`` shows: a table, and a page that holds a picture of every clip with a problem."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from unisync_loss.config import FPS, SAMPLE_RATE
from unisync_loss.curation.checks import LATE, REMEDIES
from unisync_loss.curation.doctor import examine, list_patients
from unisync_loss.curation.measurements import read_head
from unisync_loss.curation.offset_curves import centred_offset_curve
from unisync_loss.data.clips import ClipEntry
from unisync_loss.evaluation.embeddings import embed_clip
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import COLOURS, FAINT, INK, STYLE, dress, new_figure, png
from unisync_loss.utils.progress import printable
from unisync_loss.video.clip import Clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MOST_LINES = 20  # of a verdict in the table for people
_MOST_PICTURES = 60  # on the page
_STRIP = 8  # frames of a film strip

Report = Mapping[str, Any]


def report_on(
    paths: Sequence[Path], expert: UniSyncExpert, folder: Path | None, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Examine stores, folders and files, and write the page where a folder is given for it.

    Args:
        paths: see `doctor.list_patients`.
        expert: mel-rgb, in eval mode.
        folder: for ``report.html``; made where missing.
        log: takes lines of progress.

    Returns:
        The report of `doctor.examine`.

    Raises:
        ValueError: when there are no clips, an index cannot be read, or for another expert.
        OSError: when a path does not exist, or the folder cannot be written.
        ImportError: without PyAV, MediaPipe, SciPy or, for the page, matplotlib.
    """
    patients = list_patients(paths)
    if folder:
        new_figure(1, 1)  # matplotlib, or the folder, is missed before the work
        folder.mkdir(parents=True, exist_ok=True)
    report = examine(patients, expert, log)
    if folder:
        write_page(report, {each.name: each.entry for each in patients}, expert, folder / "report.html", log)
    return report


def to_table(report: Report) -> str:
    """The report as text: sums of the splits, then the problems by verdict."""
    lines = [_line_of(name, split) for name, split in report["splits"].items()]
    for verdict, count in report["verdicts"].items():
        mine = [problem for problem in report["problems"] if problem["verdict"] == verdict]
        lines.append(f"\n{verdict} ({count}): {REMEDIES[verdict]}")
        lines += [f"  {printable(problem['clip'])}: {printable(problem['detail'])}" for problem in mine[:_MOST_LINES]]
        if count > _MOST_LINES:
            lines.append(f"  … and {count - _MOST_LINES} more, see --json")
    lines.append(f"\n{len(report['clips'])} clips, {len(report['problems'])} problems; {_untold(report)}")
    return "\n".join(lines)


def _line_of(name: str, split: Report) -> str:
    rates = ", ".join(f"{rate} fps: {count}" for rate, count in split["fps"].items())
    sounds = ", ".join(f"{rate} Hz: {count}" for rate, count in split["sample_rate"].items())
    offsets = "no sure offsets"
    if split["offset_percentiles"]:
        low, middle, high = split["offset_percentiles"]
        offsets = f"{split['sure_offsets']} sure offsets, median {middle:+.1f} ({low:+.1f} … {high:+.1f}) frames"
    silence = "-" if split["silence"] is None else f"{split['silence']:.0%}"
    start = f"{name}: " if name else ""
    return (
        f"{start}{split['clips']} clips, {split['speakers']} speakers, {split['minutes']:.1f} min, silence {silence}; "
        f"{rates}; {sounds}; {offsets}"
    )


def _untold(report: Report) -> str:
    return f"{len(report['not_told'])} too short or too quiet for their sync to be told one by one"


def write_page(
    report: Report,
    entries: Mapping[str, ClipEntry],
    expert: UniSyncExpert,
    path: Path,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the page, whole or not at all; the first 60 clips with a problem are decoded again for their pictures.

    Args:
        report: of `doctor.examine`.
        entries: clips by their name in the report.
        expert: for the curves over the offset.
        path: the HTML file; its folder must exist.
        log: takes lines of progress.

    Raises:
        ImportError: without matplotlib.
    """
    problems: dict[str, list[Report]] = {}
    for problem in report["problems"]:
        problems.setdefault(problem["clip"], []).append(problem)
    shown = list(problems)[:_MOST_PICTURES]
    rows = {row["clip"]: row for row in report["clips"]}
    figures = []
    for number, name in enumerate(shown, 1):
        if number % 10 == 0:
            log(f"pictures: {number}/{len(shown)}")
        words = "".join(_note(problem) for problem in problems[name])
        picture = _draw(entries[name], expert, rows[name]) if name in entries else b""
        figures.append(f"<h3>{html.escape(printable(name))}</h3>{words}{_image(picture, name)}")
    text = Template(PAGE).substitute(
        style=STYLE,
        clips=len(report["clips"]),
        problems=len(report["problems"]),
        untold=_untold(report),
        splits="".join(f"<li>{html.escape(_line_of(name, split))}</li>" for name, split in report["splits"].items()),
        verdicts="".join(_cells((verdict, count, REMEDIES[verdict])) for verdict, count in report["verdicts"].items()),
        listed="".join(_cells((row["clip"], row["verdict"], row["detail"])) for row in report["problems"]),
        figures="".join(figures),
        overview=_image(_overview(report["clips"]), "all clips"),
    )
    write_atomically(path, text)


def _draw(entry: ClipEntry, expert: UniSyncExpert, row: Report) -> bytes:
    """Film strip, loudness, and how well picture and sound fit at each offset, as PNG; nothing where unreadable."""
    try:
        clip = read_head(entry)
    except (ValueError, OSError):
        return b""
    figure = new_figure(13, 3.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(2.2, 1), hspace=0.12, wspace=0.12)
    strip, sound, curve = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
    _draw_strip(strip, clip)
    _draw_sound(sound, clip)
    if "offset_frames" in row:
        seen = embed_clip(expert, entry, clip)
        offsets = np.arange(-MAX_OFFSET, MAX_OFFSET + 1)
        curve.axvspan(-LATE, LATE, color=COLOURS["unisync"], alpha=0.12, lw=0)
        curve.plot(offsets, centred_offset_curve(seen.audio, seen.visual).mean, color=COLOURS["unisync"], lw=2)
        curve.axvline(row["offset_frames"], color=COLOURS["reconstruction"], lw=1.5)
        curve.set_yticks([])
        dress(curve, f"fit by offset; confidence {row['confidence']:.1f}", "audio late by, frames")
    else:
        curve.set_axis_off()
    return png(figure)


def _draw_strip(axes: Axes, clip: Clip) -> None:
    chosen = np.linspace(0, len(clip.frames) - 1, _STRIP).round().astype(int)
    axes.imshow(np.concatenate(list(clip.frames[chosen]), axis=1))
    axes.set_axis_off()


def _draw_sound(axes: Axes, clip: Clip) -> None:
    step = max(1, clip.waveform.size // 2000)
    loud = np.abs(clip.waveform[: clip.waveform.size // step * step]).reshape(-1, step).max(1)
    times = np.arange(len(loud)) * step / SAMPLE_RATE
    axes.fill_between(times, -loud, loud, color=FAINT, lw=0)
    axes.set_xlim(0, len(clip.frames) / FPS)
    axes.set_yticks([])
    dress(axes, "", "seconds")


def _overview(rows: Sequence[Report]) -> bytes:
    """Offsets against confidence, and shares of silence and of the face, of all clips."""
    heard = [row for row in rows if "offset_frames" in row]
    figure = new_figure(13, 3.6)
    axes: Any = figure.subplots(1, 3)
    axes[0].axvspan(-LATE, LATE, color=COLOURS["unisync"], alpha=0.12, lw=0)
    axes[0].plot(
        [row["offset_frames"] for row in heard], [row["confidence"] for row in heard], ".", color=COLOURS["unisync"]
    )
    dress(axes[0], "confidence by offset", "audio late by, frames")
    for place, key, label in (
        (1, "silence", "share of silence"),
        (2, "face_width", "width of the face in the picture"),
    ):
        axes[place].hist([row[key] for row in rows if key in row], bins=25, range=(0, 1), color=COLOURS["unisync"])
        dress(axes[place], "clips", label)
    for each in axes:
        each.title.set_color(INK)
    return png(figure)


def _note(problem: Report) -> str:
    text = f"{problem['verdict']}: {printable(problem['detail'])}. Remedy: {problem['remedy']}."
    return f'<p class="note">{html.escape(text)}</p>'


def _image(picture: bytes, name: str) -> str:
    if not picture:
        return ""
    data = base64.b64encode(picture).decode()
    return f'<img loading="lazy" alt="{html.escape(printable(name), quote=True)}" src="data:image/png;base64,{data}">'


def _cells(cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(printable(str(cell)))}</td>" for cell in cells) + "</tr>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>unisync doctor</title>
<style>$style td{text-align:left}h3{font-size:15px;margin:28px 0 6px}</style></head><body><main>
<h1>$problems problems in $clips clips</h1>
<p class="lead">$untold.</p>
<ul>$splits</ul>
$overview
<h2>Verdicts</h2>
<table><tr><th>verdict</th><th>number</th><th>remedy</th></tr>$verdicts</table>
<h2>Problems</h2>
<table><tr><th>clip</th><th>verdict</th><th>detail</th></tr>$listed</table>
<h2>Clips with problems</h2>
<p><small>Left: frames over loudness. Right: how well picture and sound fit at each offset; shaded: in sync.</small></p>
$figures
</main></body></html>
"""
