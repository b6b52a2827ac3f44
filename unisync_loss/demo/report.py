"""Report of the demonstration: curves, film strip, side-by-side video, and the page of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLE_RATE, WINDOW_FRAMES
from unisync_loss.demo.clip import SIZE
from unisync_loss.demo.generator import SYNC_WARM_UP
from unisync_loss.demo.quality import BLOCK, Box
from unisync_loss.demo.results import LABELS, WORST_RATIO, DemoResult
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import (
    COLOURS,
    Picture,
    draw_strip,
    draw_waveform,
    figure_pixels,
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
from unisync_loss.video.encoding import write_clip

_PANEL = 288  # pixels of a frame in the video
_MOMENTS, _MOUTH = 10, 144  # frames of the film strip, and pixels of a mouth crop in it


def write_report(
    result: DemoResult, videos: Mapping[str, Tensor], mouth: Box, waveform: NDArray[np.float32], out: Path
) -> None:
    """Write figures, video, JSON and page to a folder; ``videos`` are (T, 3, 96, 96), the waveform is (640 · T,)."""
    curves, film = draw_curves(result), draw_film_strip(videos, mouth, waveform)
    write_clip(out / "demo.mp4", draw_video(result, videos), np.ascontiguousarray(waveform), crf=18)
    write_atomically(out / "curves.png", curves)
    write_atomically(out / "film.png", film)
    write_atomically(out / "demo.json", result.to_json())
    write_atomically(out / "report.html", write_page(result, curves, film))


def draw_curves(result: DemoResult) -> bytes:
    """Draw both losses and the held-out probability during training, as PNG."""
    figure = new_figure(15, 4)
    loss, sync, checks = figure.subplots(1, 3, gridspec_kw={"wspace": 0.2})
    first = len(result.first_loss)
    loss.plot(range(1, first + 1), moving_average(result.first_loss), color=COLOURS["truth"], label="both", lw=2)
    for name, run in result.runs.items():
        style = {"color": COLOURS[name], "label": LABELS[name], "lw": 2}
        for axes, values in ((loss, run.reconstruction), (sync, run.sync)):
            if values:
                steps = range(first + 1, first + result.settings.steps + 1)
                axes.plot(steps, values, color=COLOURS[name], alpha=0.25, lw=0.8)
                axes.plot(steps, moving_average(values), **style)
        checks.plot([first + step for step in run.check_steps], run.check_probability, "o-", ms=4, **style)
    checks.axhline(result.probability["truth"].value, color=COLOURS["truth"], ls="--", lw=1.2, label=LABELS["truth"])
    checks.set_ylim(0, 1)
    style_axes(loss, "Reconstruction loss (L1), training part", "step", legend=True)
    style_axes(sync, f"Sync loss, added with weight {result.settings.sync_weight:g}", "step", legend=True)
    style_axes(checks, "Sync probability of held-out frames", "step", legend=True)
    return figure_png(figure)


def draw_film_strip(videos: Mapping[str, Tensor], mouth: Box, waveform: NDArray[np.float32]) -> bytes:
    """Draw the mouth at ten held-out moments of each video over the waveform of all, as PNG."""
    figure = new_figure(15, 6)
    *films, wave = figure.subplots(len(videos) + 1, 1, gridspec_kw={"height_ratios": (4, 4, 4, 1.5), "hspace": 0.03})
    for axes, (name, video) in zip(films, videos.items(), strict=True):
        draw_strip(axes, list(_pixels(mouth.square(SIZE).cut(video), _MOUTH)), _MOMENTS, (0, 1, 0, 1))
        label = {"ha": "right", "va": "center", "size": 12, "weight": "bold", "color": COLOURS[name]}
        axes.text(-0.01, 0.5, LABELS[name].replace(" ", "\n", 1), **label)
    draw_waveform(wave, waveform, SAMPLE_RATE)
    wave.set_xlabel("seconds of the held-out part")
    return figure_png(figure)


def _pixels(video: Tensor, side: int) -> Picture:
    """(T, 3, H, W) in [0, 1] → (T, side, side, 3) uint8."""
    large = F.interpolate(video, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    return np.ascontiguousarray((rearrange(large, "t c h w -> t h w c") * 255).round().byte().numpy())


def draw_video(result: DemoResult, videos: Mapping[str, Tensor]) -> Picture:
    """Draw the three videos side by side over their probability, with a cursor; (T, 528, 864, 3) uint8."""
    faces = np.concatenate([_pixels(video, _PANEL) for video in videos.values()], axis=2)
    frames, width = len(faces), faces.shape[2]
    figure = new_figure(width / 100, 2.4)
    axes = figure.add_axes((0.06, 0.2, 0.92, 0.5))
    for column, name in enumerate(videos):
        x = (column + 0.5) / len(videos)
        figure.text(x, 0.88, LABELS[name], ha="center", color=COLOURS[name], fontsize=14, weight="bold")
        times = (np.arange(len(result.series[name])) + WINDOW_FRAMES / 2) / FPS
        axes.plot(times, result.series[name], color=COLOURS[name], lw=1.8)
    axes.set_xlim(0, frames / FPS)
    axes.set_ylim(0, 1)
    style_axes(axes, "sync probability of 0.2 s around each moment, held-out frames", "seconds")
    curves = np.repeat(figure_pixels(figure)[None], frames, axis=0)
    for frame in range(frames):  # the cursor
        middle = round(width * (0.06 + 0.92 * (frame + 0.5) / frames))
        curves[frame, 72:192, middle - 1 : middle + 1] = (200, 30, 60)
    return np.concatenate([faces, curves], axis=1)


def write_page(result: DemoResult, curves: bytes, film: bytes) -> str:
    """Return the HTML page; everything but the video is inside it."""
    settings = result.settings
    train, held = (f"{(end - first) / FPS:.1f} s" for first, end in (result.train, result.held))
    measures = ("", LABELS["reconstruction"], LABELS["unisync"], "change", "95 % interval")
    body = f"""<h1>{html_text(result.headline)}.</h1>
<p class="lead">A small generator was trained on {train} of <em>{html_text(result.clip)}</em> to reconstruct the face;
then one copy was trained on in the same way, and one with UniSyncLoss added. The table compares their frames with the
true ones in the later {held}, which were held out. No sync expert takes part in it.</p>
{"".join(map(html_note, [*result.notes, *result.advice]))}
{html_table(measures, [*_named(result.lip_rows(), "correlation"), *_named(result.picture_rows(), "ratio")])}
{html_image(film, "film strip of the mouth in held-out frames")}
<h2>Video</h2>
<video src="demo.mp4" controls loop></video>
<p><small>With sound; from <a href="demo.mp4">demo.mp4</a> beside this page.</small></p>
<h2>Curves</h2>
{html_image(curves, "losses and probabilities")}
<h2>Probability by the expert that trained, for information</h2>
{html_table(("", "mean", "95 % interval"), result.probability_rows())}
<h2>Method and limits</h2>
<ul>
<li>Generator: a U-Net of {result.parameters / 1e6:.2f} M parameters with the inputs of Wav2Lip at 96 &times; 96: target
without its lower half, 0.2 s of mel, and as reference the mean of six training frames of the most similar pose.</li>
<li>Seed {settings.seed}: {settings.first_steps} steps with the L1 alone, then {settings.steps} steps from the same
weights on the same data with the L1, or with L1 + {settings.sync_weight:g} &times; UniSyncLoss by
{html_text(result.expert)}, whose weight grows over the first {SYNC_WARM_UP:.0%} of these steps.</li>
<li>Lips: opening and width of the inner lips by MediaPipe's face mesh in every frame, correlated over time with those
of the true frames. They follow the audio better if the interval of the gain, mean of both, is above zero.</li>
<li>Picture: mean absolute errors in a box around the mouth, of the pixels, of their colour, and of their detail (the
brightness minus its mean over 3 &times; 3 pixels). It is worse if one of them is more than {WORST_RATIO} times that of
reconstruction alone.</li>
<li>Intervals: bootstrap over blocks of up to {BLOCK} neighbouring frames.</li>
<li>The probability is that of the expert that trained. A generator may raise it without better lips, so it takes no
part in the verdict.</li>
<li>One clip, one speaker, a tiny generator and a few hundred steps: a demonstration, not a benchmark.</li>
</ul>
"""
    return html_page("UniSyncLoss: one generator, with and without", body)


def _named(rows: list[tuple[str, ...]], change: str) -> list[tuple[str, ...]]:
    return [(f"{label}, {change}", *cells) for label, *cells in rows]
