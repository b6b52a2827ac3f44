"""The demonstration's report: curves, a film strip, a side-by-side film, and the page that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.demo.page import page
from unisync_loss.demo.results import LABELS, DemoResult, Measure
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import (
    COLOURS,
    INK,
    Picture,
    draw_waveform,
    figure_png,
    moving_average,
    new_figure,
    style_axes,
)
from unisync_loss.video.encoding import write_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP_FRAMES, STRIP_STEP = 10, 2  # of the film strip: every second frame
PANEL = 288  # pixels of a picture in the film


def write_report(result: DemoResult, videos: Mapping[str, Tensor], sound: NDArray[np.float32], out: Path) -> None:
    """Write ``curves.png``, ``film.png``, ``demo.mp4``, ``demo.json`` and ``report.html``.

    Args:
        result: what was measured.
        videos: held-out frames (T, 3, 96, 96) of the truth and of each run.
        sound: (640 · T,) of the same time.
        out: an existing folder. Each file is written under a temporary name first.
    """
    curves, film = curves_picture(result), film_picture(videos, sound)
    write_clip(out / "demo.mp4", side_by_side(result, videos, sound), np.ascontiguousarray(sound), crf=18)
    write_atomically(out / "curves.png", curves)
    write_atomically(out / "film.png", film)
    write_atomically(out / "demo.json", result.to_json().encode())
    write_atomically(out / "report.html", page(result, curves, film).encode())


def curves_picture(result: DemoResult) -> bytes:
    """Losses, held-out probability during training, and final probabilities as bars, as PNG."""
    figure = new_figure(13, 8)
    axes: Any = figure.subplots(2, 2, gridspec_kw={"hspace": 0.36, "wspace": 0.34})
    loss, sync, checks, bars = axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]
    steps = np.arange(1, result.steps + 1)
    for name, run in result.runs.items():
        loss.plot(steps, run.reconstruction, color=COLOURS[name], alpha=0.25, lw=0.8)
        loss.plot(steps, moving_average(run.reconstruction), color=COLOURS[name], lw=2, label=LABELS[name])
        checks.plot(run.check_steps, run.check_probability, "o-", color=COLOURS[name], ms=4, lw=2, label=LABELS[name])
    trained = result.runs["unisync"].sync
    sync.plot(steps, trained, color=COLOURS["unisync"], alpha=0.25, lw=0.8)
    sync.plot(steps, moving_average(trained), color=COLOURS["unisync"], lw=2)
    truth = result.probability["truth"]
    checks.axhline(truth.mean, color=COLOURS["truth"], ls="--", lw=1.2, label=LABELS["truth"])
    checks.set_ylim(0, 1)
    style_axes(loss, "Reconstruction loss (L1), training part", "step", legend=True)
    style_axes(sync, f"Sync loss of the second training, added with weight {result.sync_weight:g}", "step")
    style_axes(checks, "Sync probability of held-out frames while training", "step", legend=True)
    bar_chart(bars, result.probability)
    return figure_png(figure)


def bar_chart(axes: Axes, probability: Mapping[str, Measure]) -> None:
    """Draw the held-out probabilities with their intervals."""
    for row, (name, measure) in enumerate(probability.items()):
        plain = name.removesuffix("_shifted")
        axes.barh(row, measure.mean, 0.62, color=COLOURS[plain], alpha=0.35 if name != plain else 0.9)
        axes.plot([measure.low, measure.high], [row, row], color=INK, lw=1.6, solid_capstyle="butt")
        axes.text(measure.high + 0.02, row, f"{measure.mean:.2f}", va="center", color=INK, fontsize=10)
    axes.set_yticks(range(len(probability)), [LABELS[name].replace(", ", ",\n") for name in probability])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    style_axes(axes, "Sync probability of held-out windows (mean, 95 % interval)", "probability")


def film_picture(videos: Mapping[str, Tensor], sound: NDArray[np.float32]) -> bytes:
    """Rows of held-out frames, ground truth on top, over their sound, as PNG."""
    truth = videos["truth"]
    span = min(len(truth), STRIP_FRAMES * STRIP_STEP)
    moves = (truth[1:, :, truth.shape[2] // 2 :] - truth[:-1, :, truth.shape[2] // 2 :]).abs().mean((1, 2, 3)).numpy()
    # where the true lips move most
    start = int(np.convolve(moves, np.ones(max(1, span - 1)), "valid").argmax())
    shown = list(range(start, start + span, STRIP_STEP))
    strip = np.concatenate([montage(video[shown]) for video in videos.values()])
    figure = new_figure(13, 13 * strip.shape[0] / strip.shape[1] + 0.9)
    picture, wave = figure.subplots(2, 1, gridspec_kw={"height_ratios": (strip.shape[0], 70), "hspace": 0.02})
    picture.imshow(strip, aspect="auto")
    picture.spines[:].set_visible(False)
    picture.set_xticks([])
    rows = (np.arange(len(videos)) + 0.5) * strip.shape[0] / len(videos)
    picture.set_yticks(rows, [LABELS[name].replace(" ", "\n", 1) for name in videos], weight="bold")
    picture.tick_params(length=0, labelsize=11)
    for label, name in zip(picture.get_yticklabels(), videos, strict=True):
        label.set_color(COLOURS[name])
    shown_sound = sound[start * SAMPLES_PER_FRAME : (start + span) * SAMPLES_PER_FRAME]
    draw_waveform(wave, shown_sound, SAMPLE_RATE, start / FPS)
    style_axes(wave, "", "seconds of the held-out part")
    return figure_png(figure)


def montage(frames: Tensor) -> Picture:
    """Put frames (T, 3, 96, 96) beside one another, (H, W, 3), cut to the face: the mouth is what matters."""
    side = 2 * frames.shape[-1]
    pictures = to_pictures(frames, side)[:, side // 4 :, side // 8 : -side // 8]
    framed = np.pad(pictures, ((0, 0), (0, 4), (2, 2), (0, 0)), constant_values=255)
    return rearrange(framed, "t h w c -> h (t w) c")


def to_pictures(video: Tensor, side: int) -> Picture:
    """Enlarge (T, 3, H, W) in [0, 1] to (T, side, side, 3) uint8."""
    large = F.interpolate(video, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    return np.ascontiguousarray((rearrange(large, "t c h w -> t h w c") * 255).round().byte().numpy())


def side_by_side(result: DemoResult, videos: Mapping[str, Tensor], sound: NDArray[np.float32]) -> Picture:
    """Draw the three versions beside one another over the probability of each moment.

    Returns:
        (T, H, W, 3) uint8.
    """
    gap, top, below = 24, 56, 200
    width, height = 3 * PANEL + 4 * gap, top + PANEL + below
    figure = new_figure(width / 100, height / 100)
    left, span = 64, width - 64 - gap
    axes = figure.add_axes((left / width, 52 / height, span / width, (below - 84) / height))
    frames = len(videos["truth"])
    for column, name in enumerate(videos):
        middle = (gap + column * (PANEL + gap) + PANEL / 2) / width
        figure.text(middle, 1 - 34 / height, LABELS[name], ha="center", color=COLOURS[name], fontsize=14, weight="bold")
        times = (np.arange(len(result.series[name])) + WINDOW_FRAMES / 2) / FPS
        axes.plot(times, result.series[name], color=COLOURS[name], lw=1.8)
    axes.set_xlim(0, frames / FPS)
    axes.set_ylim(0, 1)
    style_axes(axes, "sync probability, 0.2 s around each moment, frames never trained on", "seconds")
    figure.canvas.draw()
    canvas: Picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    film = np.repeat(canvas[None], frames, axis=0)
    for column, video in enumerate(videos.values()):
        x = gap + column * (PANEL + gap)
        film[:, top : top + PANEL, x : x + PANEL] = to_pictures(video, PANEL)
    for frame in range(frames):  # the cursor
        x = left + round(span * (frame + 0.5) / frames)
        film[frame, top + PANEL + 32 : height - 52, x - 1 : x + 1] = (200, 30, 60)
    return film[:, : height - height % 2, : width - width % 2]
