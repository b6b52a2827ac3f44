"""Plots and page style shared by the HTML reports."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    pass


INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"truth": "#52606d", "reconstruction": "#d9822b", "unisync": "#0b7285"}

Picture = NDArray[np.uint8]


def new_figure(width: float, height: float) -> Figure:
    """Make a figure without pyplot, whose global state would be the caller's.

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


def dress(axes: Axes, title: str, label: str, *, legend: bool = False) -> None:
    """Give a chart the look they share."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=9)


def smooth(values: Sequence[float], span: int = 15) -> NDArray[np.float64]:
    """Centred moving average that shrinks at the ends."""
    span = min(span, len(values))
    kernel = np.ones(span)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()


#: the look of all reports
STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;background:#f5f7fa;margin:0}
main{max-width:1040px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:34px;line-height:1.2;margin:0 0 8px}h2{font-size:20px;margin:40px 0 8px}
.lead{color:#52606d;margin:0 0 24px;max-width:48em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:16px}
.card{background:#fff;border-radius:10px;padding:16px 20px;box-shadow:0 1px 3px #0002;border-top:4px solid #9aa5b1}
.card b{display:block;font-size:36px;line-height:1.2}.card span{color:#52606d;font-size:14px}
.rec{border-color:#d9822b}.uni{border-color:#0b7285}.uni b{color:#0b7285}
img,video{width:100%;background:#fff;border-radius:10px;box-shadow:0 1px 3px #0002;display:block}
table{border-collapse:collapse;background:#fff;border-radius:10px;box-shadow:0 1px 3px #0002;width:100%}
td,th{padding:7px 14px;text-align:right;border-bottom:1px solid #e4e7eb}td:first-child,th:first-child{text-align:left}
th{font-size:13px;color:#52606d;font-weight:600}.note{background:#fff3c4;padding:10px 16px;border-radius:10px}
li{margin:4px 0}small{color:#52606d}a{color:#0b7285}
"""
