"""The page of the demonstration's report: HTML that holds its pictures and links its film."""

from __future__ import annotations

import base64
import html
from string import Template

from unisync_loss.config import FPS
from unisync_loss.demo.results import LABELS, DemoResult, Measure
from unisync_loss.utils.plotting import STYLE


def page(result: DemoResult, curves: bytes, film: bytes) -> str:
    """Fill in the page; everything but the film is inside it."""
    seconds = {name: (stop - start) / FPS for name, (start, stop) in (("train", result.train), ("held", result.held))}
    probability = result.probability
    if result.learnt:
        headline = "The lips learnt to move in time."
    else:
        headline = "No sure gain from the sync loss on this clip."
    return Template(PAGE).substitute(
        style=STYLE,
        headline=headline,
        clip=html.escape(result.clip),
        expert=html.escape(result.expert),
        before=f"{probability['reconstruction'].mean:.2f}",
        after=f"{probability['unisync'].mean:.2f}",
        truth=f"{probability['truth'].mean:.2f}",
        off=f"{probability['unisync_shifted'].mean:.2f}",
        gain=f"{result.gain.mean:+.2f} (95 % interval {result.gain.low:+.2f} to {result.gain.high:+.2f})",
        notes="".join(f'<p class="note">{html.escape(note)}</p>' for note in result.notes),
        probabilities="".join(map(probability_row, probability, probability.values())),
        others=other_rows(result),
        film=base64.b64encode(film).decode(),
        curves=base64.b64encode(curves).decode(),
        train=f"{seconds['train']:.1f}",
        held=f"{seconds['held']:.1f}",
        steps=result.steps,
        seed=result.seed,
        weight=f"{result.sync_weight:g}",
        parameters=f"{result.parameters / 1e6:.2f}",
        minutes=f"{result.seconds / 60:.1f}",
    )


def probability_row(name: str, measure: Measure) -> str:
    """A row of the table of probabilities."""
    interval = f"{measure.low:.3f} to {measure.high:.3f}"
    return f"<tr><td>{LABELS[name]}</td><td>{measure.mean:.3f}</td><td>{interval}</td><td>{measure.windows}</td></tr>"


def other_rows(result: DemoResult) -> str:
    """Rows of what does not come from the expert, then of the offset and the time."""
    before, after = result.runs["reconstruction"], result.runs["unisync"]
    rows = (
        ("error of the lower half (L1) ↓", f"{before.l1:.4f}", f"{after.l1:.4f}"),
        ("the same as PSNR ↑", f"{before.psnr:.2f} dB", f"{after.psnr:.2f} dB"),
        (
            "motion, correlation with the true lips ↑",
            f"{before.mouth_correlation:.3f}",
            f"{after.mouth_correlation:.3f}",
        ),
        (
            "… when the audio that drives them is 5 frames late",
            f"{before.mouth_correlation_shifted:.3f}",
            f"{after.mouth_correlation_shifted:.3f}",
        ),
        (
            "offset estimated by the expert, + = audio late",
            f"{before.offset_frames:+d} frames ({before.offset_frames * 40:+d} ms)",
            f"{after.offset_frames:+d} frames ({after.offset_frames * 40:+d} ms)",
        ),
        ("training took", f"{before.seconds:.0f} s", f"{after.seconds:.0f} s"),
    )
    return "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>UniSyncLoss: one generator, with and without</title>
<style>$style</style></head><body><main>
<h1>$headline</h1>
<p class="lead">The same small generator was trained twice on $train s of <em>$clip</em>: once to reconstruct the
face, once with UniSyncLoss added. Below: how probable it is that lips and voice belong together, on $held s that
neither saw.</p>
<div class="cards">
<div class="card rec"><b>$before</b><span>reconstruction only</span></div>
<div class="card uni"><b>$after</b><span>with UniSyncLoss</span></div>
<div class="card"><b>$truth</b><span>true video</span></div>
<div class="card"><b>$off</b><span>with UniSyncLoss, audio put 5 frames late</span></div>
</div>
<p>Gain, window by window: <strong>$gain</strong>.</p>
$notes
<h2>Look</h2>
<video src="demo.mp4" controls loop></video>
<p><small>Sound on. The film is <a href="demo.mp4">demo.mp4</a>, beside this page.</small></p>
<img alt="film strip of held-out frames" src="data:image/png;base64,$film">
<h2>Curves</h2>
<img alt="losses and probabilities" src="data:image/png;base64,$curves">
<h2>Sync probability of held-out windows of 0.2 s</h2>
<table><tr><th></th><th>mean</th><th>95 % interval</th><th>windows</th></tr>$probabilities</table>
<h2>Other measures of the held-out frames (the first four owe nothing to the expert)</h2>
<table><tr><th></th><th>reconstruction only</th><th>with UniSyncLoss</th></tr>$others</table>
<h2>How it was made</h2>
<ul>
<li>Generator: a U-Net of $parameters M parameters with Wav2Lip's inputs (target without its lower half, a reference,
0.2 s of mel) at 96 &times; 96. It draws the lower half; the upper half is the target's. The reference is the mean of
six training frames of other times in the most similar pose, not one frame: that spares such a small network the turning
of the head.</li>
<li>Both trainings: seed $seed, the same first weights, data order and $steps steps. The only difference: L1 against
L1 + $weight &times; UniSyncLoss, faded in from 10 % to 35 % of the steps.</li>
<li>Held out: the end of the clip, after a gap of 5 frames. Nothing was chosen on the held-out
part; it gives the generator sound and, of pictures, upper halves only.</li>
<li>Intervals: bootstrap over stretches of up to 10 neighbouring windows. Judge: $expert. All of it took $minutes
min.</li>
</ul>
<h2>What this does not show</h2>
<ul>
<li>The expert that judges is the one that trained: a generator may please it without pleasing people. The measures
that owe nothing to the expert, and your own eyes, are the check; for a verdict take an expert that was not trained
with.</li>
<li>One clip, one voice, a tiny generator and a few hundred steps: a demonstration, not a benchmark.</li>
</ul>
</main></body></html>
"""
