"""The plot of ``docs/calibration.png``: calibrated probability and share of windows in sync."""

from __future__ import annotations

from collections.abc import Sequence

from tools.cards.results import Results
from tools.cards.tables import PEOPLE
from unisync_loss.utils.plotting import FAINT, figure_png, new_figure, style_axes


def draw_reliability(results: Results, names: Sequence[str]) -> bytes:
    """Reliability curves on every public data set.

    Args:
        results: of all experts.
        names: of the experts that are drawn.

    Returns:
        A PNG.
    """
    figure = new_figure(10, 5)
    grid = figure.subplots(1, len(PEOPLE), sharey=True)
    for axes, data in zip(grid, PEOPLE, strict=True):
        axes.plot([0, 1], [0, 1], color=FAINT, ls="--", lw=1)
        for name in names:
            row = results.pairs[data][name]["calibration"]
            axes.plot(row["predicted"], row["observed"], marker="o", ms=3, lw=1, label=f"{name}, {row['error']:.3f}")
        style_axes(axes, f"{data}: share of windows in sync", "calibrated probability")
        axes.legend(title="expected calibration error", frameon=False, fontsize=8, title_fontsize=8)
    figure.tight_layout()
    return figure_png(figure)
