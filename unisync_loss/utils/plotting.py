"""Figures and HTML shared by the reports."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unisync_loss.utils.progress import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"truth": "#52606d", "reconstruction": "#d9822b", "unisync": "#0b7285"}

Picture = NDArray[np.uint8]


def new_figure(width: float, height: float) -> Figure:
    """Make a white figure of ``width`` by ``height`` inches at 100 dpi, without pyplot and its global state.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the report needs matplotlib: pip install 'unisync_loss[report]'") from error
    figure = Figure((width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, title: str, label: str, *, legend: bool = False) -> None:
    """Apply the common style: title on the left, x label, light grid, no frame on top and right."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=9)


def draw_strip(
    axes: Axes, frames: Sequence[Picture], count: int, extent: tuple[float, float, float, float] | None = None
) -> None:
    """Draw a film strip: ``count`` frames (H, W, 3), or all of fewer, evenly spread and side by side.

    Args:
        axes: to draw on; ticks and frame are switched off.
        frames: of equal size.
        count: the largest number of frames drawn.
        extent: left, right, bottom and top in data coordinates; the strip is then stretched to the axes.
    """
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    strip = np.concatenate([frames[index] for index in chosen], axis=1)
    axes.imshow(strip, extent=extent, aspect="auto" if extent else "equal")
    axes.set_axis_off()


def draw_waveform(axes: Axes, waveform: NDArray[np.float32], sample_rate: int, start: float = 0.0) -> None:
    """Draw the envelope of a waveform (S,) whose first sample is at ``start`` seconds, in at most 4000 points."""
    step = max(1, waveform.size // 2000)
    envelope = np.abs(waveform[: waveform.size // step * step]).reshape(-1, step).max(1)
    times = start + np.arange(len(envelope)) * step / sample_rate
    axes.fill_between(times, -envelope, envelope, color=FAINT, lw=0)
    axes.set_xlim(start, start + waveform.size / sample_rate)
    axes.set_yticks([])
    style_axes(axes, "", "seconds")


def moving_average(values: Sequence[float], span: int = 15) -> NDArray[np.float64]:
    """Centred moving average over ``span`` values, fewer at the ends."""
    span = min(span, len(values))
    kernel = np.ones(span)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def figure_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()


def figure_pixels(figure: Figure) -> Picture:
    """Render a figure of :func:`new_figure` as pixels (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def html_page(title: str, body: str, style: str = "") -> str:
    """Return a whole HTML page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS rules that follow :data:`STYLE`.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(title)}</title>\n<style>{STYLE}{style}</style></head><body><main>\n{body}</main></body></html>\n"
    )


def html_text(value: object) -> str:
    """Escape any value as text for HTML, attributes included; control characters are written out."""
    return html.escape(printable(str(value)))


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a header row; cells are escaped."""
    header = "".join(f"<th>{html_text(cell)}</th>" for cell in head)
    body = ("".join(f"<td>{html_text(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{header}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def html_note(text: str) -> str:
    """Return a highlighted paragraph."""
    return f'<p class="note">{html_text(text)}</p>'


def html_image(picture: bytes | str, alt: str) -> str:
    """Return an image tag: a PNG held by the page itself, or a file beside the page."""
    source = picture if isinstance(picture, str) else f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return f'<img loading="lazy" alt="{html_text(alt)}" src="{html_text(source)}">'


#: style of all reports
STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;background:#f5f7fa;margin:0}
main{max-width:1040px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:34px;line-height:1.2;margin:0 0 8px}h2{font-size:20px;margin:40px 0 8px}
.lead{color:#52606d;margin:0 0 24px;max-width:48em}
img,video{width:100%;background:#fff;border-radius:10px;box-shadow:0 1px 3px #0002;display:block}
table{border-collapse:collapse;background:#fff;border-radius:10px;box-shadow:0 1px 3px #0002;width:100%}
td,th{padding:7px 14px;text-align:right;border-bottom:1px solid #e4e7eb}td:first-child,th:first-child{text-align:left}
th{font-size:13px;color:#52606d;font-weight:600}.note{background:#fff3c4;padding:10px 16px;border-radius:10px}
li{margin:4px 0}small{color:#52606d}a{color:#0b7285}
"""
