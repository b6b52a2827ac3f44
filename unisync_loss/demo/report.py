"""Report of the demonstration: curves, film strip, side-by-side video, and the page that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.demo.results import LABELS, DemoResult
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.plotting import (
    COLOURS,
    INK,
    Picture,
    draw_waveform,
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

_STRIP_FRAMES, _STRIP_STEP = 10, 2  # of the film strip: every second frame
_PANEL = 288  # pixels of a frame in the video
_FRAME_MS = 1000 // FPS


def write_report(result: DemoResult, videos: Mapping[str, Tensor], waveform: NDArray[np.float32], out: Path) -> None:
    """Write ``curves.png``, ``film.png``, ``demo.mp4``, ``demo.json`` and ``report.html``, each atomically.

    Args:
        result: the measures.
        videos: held-out frames (T, 3, 96, 96) of the true video and of each run.
        waveform: (640 · T,) of the same time.
        out: an existing folder.
    """
    curves, film = draw_curves(result), draw_film_strip(videos, waveform)
    write_clip(out / "demo.mp4", draw_video(result, videos), np.ascontiguousarray(waveform), crf=18)
    write_atomically(out / "curves.png", curves)
    write_atomically(out / "film.png", film)
    write_atomically(out / "demo.json", result.to_json())
    write_atomically(out / "report.html", write_page(result, curves, film))


def draw_curves(result: DemoResult) -> bytes:
    """Draw losses, held-out probability during training, and final probabilities as bars, as PNG."""
    figure = new_figure(13, 8)
    axes: Any = figure.subplots(2, 2, gridspec_kw={"hspace": 0.36, "wspace": 0.34})
    loss, sync, checks, bars = axes.ravel()
    steps = np.arange(1, result.steps + 1)
    for name, run in result.runs.items():
        for axis, values in ((loss, run.reconstruction), (sync, run.sync)):
            if values:
                axis.plot(steps, values, color=COLOURS[name], alpha=0.25, lw=0.8)
                axis.plot(steps, moving_average(values), color=COLOURS[name], lw=2, label=LABELS[name])
        checks.plot(run.check_steps, run.check_probability, "o-", color=COLOURS[name], ms=4, lw=2, label=LABELS[name])
    truth = result.probability["truth"].mean
    checks.axhline(truth, color=COLOURS["truth"], ls="--", lw=1.2, label=LABELS["truth"])
    checks.set_ylim(0, 1)
    style_axes(loss, "Reconstruction loss (L1), training part", "step", legend=True)
    style_axes(sync, f"Sync loss of the second training, added with weight {result.sync_weight:g}", "step")
    style_axes(checks, "Sync probability of held-out frames during training", "step", legend=True)
    for row, (name, measure) in enumerate(result.probability.items()):
        plain = name.removesuffix("_shifted")
        bars.barh(row, measure.mean, 0.62, color=COLOURS[plain], alpha=0.35 if name != plain else 0.9)
        bars.plot([measure.low, measure.high], [row, row], color=INK, lw=1.6, solid_capstyle="butt")
        bars.text(measure.high + 0.02, row, f"{measure.mean:.2f}", va="center", color=INK, fontsize=10)
    bars.set_yticks(range(len(result.probability)), [LABELS[name].replace(", ", ",\n") for name in result.probability])
    bars.invert_yaxis()
    bars.set_xlim(0, 1)
    style_axes(bars, "Sync probability of held-out windows (mean, 95 % interval)", "probability")
    return figure_png(figure)


def draw_film_strip(videos: Mapping[str, Tensor], waveform: NDArray[np.float32]) -> bytes:
    """Draw held-out frames of each video over their waveform, where the true lips move most, as PNG."""
    truth = videos["truth"]
    span = min(len(truth), _STRIP_FRAMES * _STRIP_STEP)
    lower = truth[:, :, truth.shape[2] // 2 :]
    motion = (lower[1:] - lower[:-1]).abs().mean((1, 2, 3)).numpy()
    start = int(np.convolve(motion, np.ones(max(1, span - 1)), "valid").argmax())
    strip = np.concatenate([_montage(video[start : start + span : _STRIP_STEP]) for video in videos.values()])
    figure = new_figure(13, 13 * strip.shape[0] / strip.shape[1] + 0.9)
    film, wave = figure.subplots(2, 1, gridspec_kw={"height_ratios": (strip.shape[0], 70), "hspace": 0.02})
    film.imshow(strip, aspect="auto")
    film.spines[:].set_visible(False)
    film.set_xticks([])
    rows = (np.arange(len(videos)) + 0.5) * strip.shape[0] / len(videos)
    film.set_yticks(rows, [LABELS[name].replace(" ", "\n", 1) for name in videos], weight="bold")
    film.tick_params(length=0, labelsize=11)
    for label, name in zip(film.get_yticklabels(), videos, strict=True):
        label.set_color(COLOURS[name])
    shown = waveform[start * SAMPLES_PER_FRAME : (start + span) * SAMPLES_PER_FRAME]
    draw_waveform(wave, shown, SAMPLE_RATE, start / FPS)
    wave.set_xlabel("seconds of the held-out part")
    return figure_png(figure)


def _montage(frames: Tensor) -> Picture:
    """Put frames (T, 3, 96, 96) side by side, (H, W, 3), cropped towards the mouth."""
    side = 2 * frames.shape[-1]
    crops = _enlarge(frames, side)[:, side // 4 :, side // 8 : -side // 8]
    framed = np.pad(crops, ((0, 0), (0, 4), (2, 2), (0, 0)), constant_values=255)
    return rearrange(framed, "t h w c -> h (t w) c")


def _enlarge(video: Tensor, side: int) -> Picture:
    """(T, 3, H, W) in [0, 1] → (T, side, side, 3) uint8."""
    large = F.interpolate(video, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    return np.ascontiguousarray((rearrange(large, "t c h w -> t h w c") * 255).round().byte().numpy())


def draw_video(result: DemoResult, videos: Mapping[str, Tensor]) -> Picture:
    """Draw the three videos side by side over their probability, with a cursor; (T, H, W, 3) uint8."""
    gap, top, below = 24, 56, 200
    width, height = 3 * _PANEL + 4 * gap, top + _PANEL + below
    figure = new_figure(width / 100, height / 100)
    left, span = 64, width - 64 - gap
    axes = figure.add_axes((left / width, 52 / height, span / width, (below - 84) / height))
    frames = len(videos["truth"])
    for column, name in enumerate(videos):
        middle = (gap + column * (_PANEL + gap) + _PANEL / 2) / width
        figure.text(middle, 1 - 34 / height, LABELS[name], ha="center", color=COLOURS[name], fontsize=14, weight="bold")
        times = (np.arange(len(result.series[name])) + WINDOW_FRAMES / 2) / FPS
        axes.plot(times, result.series[name], color=COLOURS[name], lw=1.8)
    axes.set_xlim(0, frames / FPS)
    axes.set_ylim(0, 1)
    style_axes(axes, "sync probability of 0.2 s around each moment, held-out frames", "seconds")
    figure.canvas.draw()
    canvas: Picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    film = np.repeat(canvas[None], frames, axis=0)
    for column, video in enumerate(videos.values()):
        x = gap + column * (_PANEL + gap)
        film[:, top : top + _PANEL, x : x + _PANEL] = _enlarge(video, _PANEL)
    for frame in range(frames):  # the cursor
        x = left + round(span * (frame + 0.5) / frames)
        film[frame, top + _PANEL + 32 : height - 52, x - 1 : x + 1] = (200, 30, 60)
    return film[:, : height - height % 2, : width - width % 2]  # H.264 needs even sides


def write_page(result: DemoResult, curves: bytes, film: bytes) -> str:
    """Return the HTML page; everything but the video is inside it."""
    probability = result.probability
    body = Template(_BODY).substitute(
        headline=result.headline,
        clip=html_text(result.clip),
        expert=html_text(result.expert),
        before=f"{probability['reconstruction'].mean:.2f}",
        after=f"{probability['unisync'].mean:.2f}",
        truth=f"{probability['truth'].mean:.2f}",
        late=f"{probability['unisync_shifted'].mean:.2f}",
        gain=f"{result.gain.mean:+.2f} (95 % interval {result.gain.low:+.2f} to {result.gain.high:+.2f})",
        notes="".join(map(html_note, result.notes)),
        probabilities=html_table(("", "mean", "95 % interval", "windows"), _probability_rows(result)),
        others=html_table(("", LABELS["reconstruction"], LABELS["unisync"]), _other_rows(result)),
        film=html_image(film, "film strip of held-out frames"),
        curves=html_image(curves, "losses and probabilities"),
        train=f"{(result.train[1] - result.train[0]) / FPS:.1f}",
        held=f"{(result.held[1] - result.held[0]) / FPS:.1f}",
        steps=result.steps,
        seed=result.seed,
        weight=f"{result.sync_weight:g}",
        parameters=f"{result.parameters / 1e6:.2f}",
        minutes=f"{result.seconds / 60:.1f}",
    )
    return html_page("UniSyncLoss: one generator, with and without", body)


def _probability_rows(result: DemoResult) -> list[tuple[object, ...]]:
    return [
        (LABELS[name], f"{measure.mean:.3f}", f"{measure.low:.3f} to {measure.high:.3f}", measure.windows)
        for name, measure in result.probability.items()
    ]


def _other_rows(result: DemoResult) -> list[tuple[str, ...]]:
    runs = [result.runs[name] for name in ("reconstruction", "unisync")]
    return [
        ("error of the lower half (L1) ↓", *(f"{run.l1:.4f}" for run in runs)),
        ("the same as PSNR ↑", *(f"{run.psnr:.2f} dB" for run in runs)),
        ("motion, correlation with the true lips ↑", *(f"{run.mouth_correlation:.3f}" for run in runs)),
        ("the same with audio delayed by 5 frames", *(f"{run.mouth_correlation_shifted:.3f}" for run in runs)),
        (
            "offset estimated by the expert, + = audio late",
            *(f"{run.offset_frames:+d} frames ({run.offset_frames * _FRAME_MS:+d} ms)" for run in runs),
        ),
        ("duration of the training", *(f"{run.seconds:.0f} s" for run in runs)),
    ]


_BODY = """<h1>$headline.</h1>
<p class="lead">The same small generator was trained twice on $train s of <em>$clip</em>: once to reconstruct the face,
once with UniSyncLoss added. Below is the probability that lips and speech are in sync, on $held s of held-out
video.</p>
<div class="cards">
<div class="card rec"><b>$before</b><span>reconstruction only</span></div>
<div class="card uni"><b>$after</b><span>with UniSyncLoss</span></div>
<div class="card"><b>$truth</b><span>true video</span></div>
<div class="card"><b>$late</b><span>with UniSyncLoss, audio 5 frames late</span></div>
</div>
<p>Gain per window: <strong>$gain</strong>.</p>
$notes
<h2>Video</h2>
<video src="demo.mp4" controls loop></video>
<p><small>Sound on. The video is <a href="demo.mp4">demo.mp4</a>, beside this page.</small></p>
$film
<h2>Curves</h2>
$curves
<h2>Sync probability of held-out windows of 0.2 s</h2>
$probabilities
<h2>Other measures of the held-out frames (the first four do not use the expert)</h2>
$others
<h2>Method</h2>
<ul>
<li>Generator: a U-Net of $parameters M parameters with the inputs of Wav2Lip (target without its lower half, a
reference, 0.2 s of mel) at 96 &times; 96. It generates the lower half; the upper half is the target's. The reference is
the mean of six training frames of the most similar pose instead of one frame, so that such a small network need not
learn to turn the head.</li>
<li>Both trainings: seed $seed, the same initial weights, data order and $steps steps. The only difference is the loss:
L1, or L1 + $weight &times; UniSyncLoss, faded in from 10 % to 35 % of the steps.</li>
<li>Held out: the end of the clip, after a gap of 5 frames. No choice was made on it; the generator gets its audio
and the upper halves of its frames.</li>
<li>Intervals: bootstrap over blocks of up to 10 neighbouring windows. Expert: $expert. Total time: $minutes min.</li>
</ul>
<h2>Limits</h2>
<ul>
<li>The expert that scores is the one that trained, so a generator may raise its score without improving for viewers.
The measures without the expert, and watching the video, are the check; for an evaluation take an expert that was not
trained with.</li>
<li>One clip, one speaker, a tiny generator and a few hundred steps: a demonstration, not a benchmark.</li>
</ul>
"""
