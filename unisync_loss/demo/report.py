"""Results of the demonstration and their report: curves, film strip, side-by-side video, and the page of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLE_RATE, WINDOW_FRAMES
from unisync_loss.evaluation.bootstrap import block_mean_ci
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
from unisync_loss.utils.tensors import Array
from unisync_loss.video.encoding import write_clip

LABELS = {
    "truth": "true video",
    "truth_shifted": "true video, audio ±5 frames off",
    "reconstruction": "reconstruction only",
    "unisync": "with UniSyncLoss",
    "unisync_shifted": "with UniSyncLoss, audio 5 frames late",
}
LEAST_GAIN = 0.05  # of probability, to count as learnt; measured on the bundled clip: 0.34 in 240 steps, 0.0004 in 12
_BLOCK = 10  # windows resampled together, because neighbouring ones are correlated
_PANEL = 288  # pixels of a frame in the video


@dataclass(frozen=True)
class Measure:
    """Mean over the held-out windows with its 95 % interval."""

    mean: float
    low: float
    high: float
    windows: int


def mean_over_time(values: Array, seed: int) -> Measure:
    """Mean of the values (W,) of consecutive windows, with its 95 % interval."""
    return Measure(float(values.mean()), *block_mean_ci(values, _BLOCK, seed=seed), len(values))


@dataclass(frozen=True)
class RunResult:
    """One training, measured on held-out frames."""

    seconds: float
    l1: float  # mean absolute error of the lower half
    psnr: float  # the same in dB
    mouth_correlation: float  # of the mouth's motion over time with that of the true frames
    mouth_correlation_shifted: float  # the same for audio delayed by 5 frames
    offset_frames: int  # estimated by the expert, positive = audio late
    reconstruction: list[float]  # L1 of each step
    sync: list[float]  # sync loss of each step; empty without it
    check_steps: list[int]  # steps at which held-out frames were scored
    check_probability: list[float]  # their mean probability; no choice depends on it


@dataclass(frozen=True)
class DemoResult:
    """Content of ``demo.json``."""

    clip: str  # file name
    expert: str  # representations and architecture
    seed: int
    steps: int  # of each training
    sync_weight: float  # final weight of the sync loss
    parameters: int  # of the generator
    frames: int
    train: tuple[int, int]  # [first, last) frame
    held: tuple[int, int]
    probability: dict[str, Measure]  # of held-out windows, by the keys of LABELS
    gain: Measure  # unisync minus reconstruction, per window
    truth_offset_frames: int  # estimated on the whole clip, positive = audio late
    runs: dict[str, RunResult]  # reconstruction and unisync
    series: dict[str, list[float]]  # probability of every held-out window
    seconds: float
    notes: list[str]  # warnings about the clip

    @property
    def learnt(self) -> bool:
        """Whether the intervals lie above :data:`LEAST_GAIN` (gain) and above that of late audio (probability)."""
        late = self.probability["unisync_shifted"].high
        return self.gain.low > LEAST_GAIN and self.probability["unisync"].low > late

    @property
    def headline(self) -> str:
        """Outcome in a sentence."""
        if self.learnt:
            return "The generator learnt to move the lips in time"
        return "No clear gain from the sync loss on this clip"

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, mean and interval of each probability and of the gain."""
        rows = [(LABELS[key], f"{m.mean:.3f}", f"{m.low:.3f} to {m.high:.3f}") for key, m in self.probability.items()]
        return [*rows, ("gain", f"{self.gain.mean:+.3f}", f"{self.gain.low:+.3f} to {self.gain.high:+.3f}")]

    def table(self) -> str:
        """Return the measures as lines of text, the outcome last."""
        rows = [("held-out sync probability", "mean", "95 % interval"), *self.rows()]
        return "\n".join([*(f"{label:<39}{mean:>7}  {ends}" for label, mean, ends in rows), *self.notes, self.headline])

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps({**asdict(self), "learnt": self.learnt}, indent=2) + "\n"


def write_report(result: DemoResult, videos: Mapping[str, Tensor], waveform: NDArray[np.float32], out: Path) -> None:
    """Write figures, video, JSON and page to a folder; ``videos`` are (T, 3, 96, 96), the waveform is (640 · T,)."""
    curves, film = draw_curves(result), draw_film_strip(videos, waveform)
    write_clip(out / "demo.mp4", draw_video(result, videos), np.ascontiguousarray(waveform), crf=18)
    write_atomically(out / "curves.png", curves)
    write_atomically(out / "film.png", film)
    write_atomically(out / "demo.json", result.to_json())
    write_atomically(out / "report.html", write_page(result, curves, film))


def draw_curves(result: DemoResult) -> bytes:
    """Draw both losses and the held-out probability during training, as PNG."""
    figure = new_figure(15, 4)
    loss, sync, checks = figure.subplots(1, 3, gridspec_kw={"wspace": 0.2})
    for name, run in result.runs.items():
        style = {"color": COLOURS[name], "label": LABELS[name], "lw": 2}
        for axes, values in ((loss, run.reconstruction), (sync, run.sync)):
            if values:
                steps = range(1, result.steps + 1)
                axes.plot(steps, values, color=COLOURS[name], alpha=0.25, lw=0.8)
                axes.plot(steps, moving_average(values), **style)
        checks.plot(run.check_steps, run.check_probability, "o-", ms=4, **style)
    checks.axhline(result.probability["truth"].mean, color=COLOURS["truth"], ls="--", lw=1.2, label=LABELS["truth"])
    checks.set_ylim(0, 1)
    style_axes(loss, "Reconstruction loss (L1), training part", "step", legend=True)
    style_axes(sync, f"Sync loss, added with weight {result.sync_weight:g}", "step", legend=True)
    style_axes(checks, "Sync probability of held-out frames", "step", legend=True)
    return figure_png(figure)


def draw_film_strip(videos: Mapping[str, Tensor], waveform: NDArray[np.float32]) -> bytes:
    """Draw ten held-out frames of each video over the waveform of all, as PNG."""
    figure = new_figure(13, 4.6)
    *films, wave = figure.subplots(len(videos) + 1, 1, gridspec_kw={"height_ratios": (3, 3, 3, 1.5), "hspace": 0.03})
    for axes, (name, video) in zip(films, videos.items(), strict=True):
        draw_strip(axes, list(_pixels(video[:, :, 24:, 12:-12], 144)), 10, (0, 1, 0, 1))
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
    train, held = (f"{(end - first) / FPS:.1f} s" for first, end in (result.train, result.held))
    body = f"""<h1>{result.headline}.</h1>
<p class="lead">The same small generator was trained twice on {train} of <em>{html_text(result.clip)}</em>: once to
reconstruct the face, once with UniSyncLoss added. The table gives the probability that lips and speech are in sync in
0.2 s of the later {held}, which were held out.</p>
{html_table(("", "mean", "95 % interval"), result.rows())}
{"".join(map(html_note, result.notes))}
<h2>Video</h2>
<video src="demo.mp4" controls loop></video>
<p><small>With sound; from <a href="demo.mp4">demo.mp4</a> beside this page.</small></p>
{html_image(film, "film strip of held-out frames")}
<h2>Curves</h2>
{html_image(curves, "losses and probabilities")}
<h2>Other measures of the held-out frames</h2>
{html_table(("", LABELS["reconstruction"], LABELS["unisync"]), _other_rows(result))}
<h2>Method and limits</h2>
<ul>
<li>Generator: a U-Net of {result.parameters / 1e6:.2f} M parameters with the inputs of Wav2Lip at 96 &times; 96: target
without its lower half, 0.2 s of mel, and as reference the mean of six training frames of the most similar pose.</li>
<li>Both trainings have seed {result.seed}, the same initial weights and data, and {result.steps} steps; the loss is L1,
or L1 + {result.sync_weight:g} &times; UniSyncLoss by {html_text(result.expert)}, faded in from 10 % to 35 % of the
steps.</li>
<li>Intervals: bootstrap over blocks of up to {_BLOCK} neighbouring windows. The lips count as in time if the interval
of the gain is above {LEAST_GAIN} and that of the probability above the one for late audio.</li>
<li>The expert that scores is the one that trained, so a generator may raise its score without improving for viewers:
check the video and the measures without an expert; for an evaluation take another expert.</li>
<li>One clip, one speaker, a tiny generator and a few hundred steps: a demonstration, not a benchmark.</li>
</ul>
"""
    return html_page("UniSyncLoss: one generator, with and without", body)


def _other_rows(result: DemoResult) -> list[tuple[str, ...]]:
    runs = [result.runs[name] for name in ("reconstruction", "unisync")]
    rows = [
        ("error of the lower half (L1) ↓", [f"{run.l1:.4f}" for run in runs]),
        ("motion, correlation with the true lips ↑", [f"{run.mouth_correlation:.3f}" for run in runs]),
        ("the same with audio delayed by 5 frames", [f"{run.mouth_correlation_shifted:.3f}" for run in runs]),
        ("offset by the expert in frames, + = audio late", [f"{run.offset_frames:+d}" for run in runs]),
    ]
    return [(label, *cells) for label, cells in rows]
