"""Training studies: speed of convergence of recipes, and the ablations of the paper's Table V. Resumable.

    python benchmarks/study.py convergence --data TRAIN --val VAL --out out/convergence --json out/convergence.json
    python benchmarks/study.py ablations --data TRAIN --val VAL --test TEST --out out/ablations --json out/t5.json

``convergence``: samples (windows that enter a loss, all stages) needed to reach a validation AUC, for Wav2Lip's
recipe (random pairs within one clip, no margin, Adam at 1e-4), ``paper`` and ``fast``; equal network, clips and
augmentation. ``ablations``: cross-speaker share and margins with random pairs; `pairs` protocol of ``unisync eval``
on TEST with intervals. A repeated command continues; finished runs are skipped. All runs use the same number of
samples (``--samples``), from scratch or from one expert (``--init``, which compares where a loss leads, not when it
leaves the plateau). Settings of `unisync train` may follow, such as data.audio_model=hubert-small or
run.device=cuda optimiser.precision=bf16.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unisync_loss import load_expert
from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.evaluation import summarise
from unisync_loss.training.config import RandomPairsRecipe, TrainConfig
from unisync_loss.training.data.loading import list_folders, load_clips
from unisync_loss.training.model import TrainingModel, build_audio_encoder
from unisync_loss.training.settings import MARGINS as PAPER_MARGINS
from unisync_loss.training.settings import resolve
from unisync_loss.training.trainer import build_trainer
from unisync_loss.training.validation import embed_data
from unisync_loss.utils.files import write_atomically

AUCS = (0.75, 0.8, 0.88)
#: settings of all runs: the small network without its aligner (validation crops mouths by landmarks), augmented
SMALL = ["expert.architecture=small", "data.augment=true"]
WAV2LIP = [
    "recipe.cross_share=0",
    "optimiser.betas=[0.9, 0.999]",
    "optimiser.weight_decay=0",
    "expert.margin_same=0",
    "expert.margin_cross=0",
]
CONVERGENCE = {
    "wav2lip": ("paper", WAV2LIP),
    "paper": ("paper", []),
    "fast": ("fast", []),
}
SHARES = (0.0, 0.2, 0.5)
MARGINS = ((0.0, 0.0), (0.1, 0.3), (0.3, 0.7))


def ablations(audio: str) -> dict[str, tuple[str, list[str]]]:
    """Cells of Table V: shares of cross-speaker negatives at the paper's margins, and margins at its share."""
    cells = {f"cross {share}": ("paper", [f"recipe.cross_share={share}"]) for share in SHARES}
    for margins in MARGINS:
        if margins != PAPER_MARGINS[audio]:  # this cell is "cross 0.2"
            same, cross = margins
            settings = [f"expert.margin_same={same}", f"expert.margin_cross={cross}"]
            cells[f"margins {same} {cross}"] = ("paper", settings)
    return cells


def budget(config: TrainConfig, samples: int) -> list[str]:
    """Settings for a run of ``samples`` samples that is validated about every 11,520."""
    recipe = config.recipe
    if isinstance(recipe, RandomPairsRecipe):
        windows = recipe.batch
    else:
        windows = recipe.clips * recipe.segments * (recipe.frames - WINDOW_FRAMES + 1)
    windows *= config.optimiser.accumulate
    steps = samples // windows
    if not steps:
        sys.exit(f"--samples: expected a batch of {windows} or more, got {samples}")
    counts = {"steps": steps}
    if recipe.name == "mouth_first":
        geometry, sync = steps // 6, steps // 5
        counts = {"geometry_steps": geometry, "sync_steps": sync, "joint_steps": steps - geometry - sync}
    if recipe.name != "contrast":
        counts["aligner_steps"] = 0
    return [*(f"recipe.{name}={count}" for name, count in counts.items()), f"run.val_every={max(1, 11_520 // windows)}"]


def runs(cells: dict[str, tuple[str, list[str]]], options: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    """Train every cell with every seed, seed by seed, so that an early end leaves complete comparisons."""
    for seed in options.seeds:
        for name, (preset, settings) in cells.items():
            out = options.out / name.replace(" ", "-").replace(",", "") / str(seed)
            done = out / "done"
            if not done.exists():
                given = {"folders": options.data, "val": options.val, "out": str(out), "preset": preset, "seed": seed}
                given |= {"init": [options.init.format(seed=seed)]} if options.init else {}
                given |= {"audio": options.audio, "visual": options.visual, "cache": str(options.out / "cache")}
                own = [*SMALL, *settings]
                config, _ = resolve(given, None, [*own, *options.settings])
                bound = budget(config, options.samples)
                config, expert = resolve(given, None, [*own, *bound, *options.settings])
                log(f"{name}, seed {seed}")
                trainer = build_trainer(config, expert, log)
                trainer.begin(resume=True)
                trainer.run()
                if trainer.stopped:
                    sys.exit("stopped; the same command continues from here")
                write_atomically(done, "")
            yield name, seed, out


def samples_until(log: Path, auc: float) -> int | None:
    """Samples at the first validation that reaches an AUC; None if none does."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return next((record["samples"] for record in records if record.get("val_auc", 0) >= auc), None)


def convergence_row(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Samples that a run needed, and its curve."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [[record["samples"], record["val_auc"]] for record in records if "val_auc" in record]
    reached = {f"samples_to_{auc}": samples_until(out / "log.jsonl", auc) for auc in AUCS}
    return {"recipe": name, "seed": seed, **reached, "best_auc": max(value for _, value in curve), "curve": curve}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the curves of all runs, one colour per recipe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(row["recipe"] for row in rows))}
    for row in rows:
        label = row["recipe"] if row["seed"] == rows[0]["seed"] else None
        axes.plot(*zip(*row["curve"], strict=True), color=colours[row["recipe"]], label=label, linewidth=1)
    axes.set(xlabel="samples", ylabel="validation AUC", ylim=(0.5, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def ablation_row(name: str, seed: int, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of the best checkpoint of a run on TEST by the `pairs` protocol, saved in the folder of the run."""
    path = out / "eval.json"
    if not path.exists():
        expert = load_expert(out / "best")
        config, features = build_audio_encoder(expert.config, None, options.out / "cache")
        data = load_clips(
            options.test, list_folders([options.test]), options.out / "cache", config, WINDOW_FRAMES, 2, features, log
        )
        learner = TrainingModel(config)
        learner.expert.load_state_dict(expert.state_dict())
        # from the cache: these experts have no aligner, and computing face meshes takes 0.9 of an evaluation
        clips = embed_data(learner.eval(), data)
        report = summarise(clips, name, config.threshold, 0)
        write_atomically(path, json.dumps({part: report[part] for part in ("pairs", "cross_speaker")}))
    return {"cell": name, "seed": seed, **json.loads(path.read_text(encoding="utf-8"))}


def log(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def main() -> None:
    """Run a study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=["convergence", "ablations"])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--test", help="for ablations")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--audio", default="mel")
    parser.add_argument("--visual", default="rgb")
    parser.add_argument("--cells", nargs="+", help="only these recipes or ablations; settings come before")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds, not their number")
    parser.add_argument("--samples", type=int, default=1_000_000, help="samples per run")
    parser.add_argument("--init", help="expert that all runs start from; {seed} is replaced by the seed of the run")
    parser.add_argument("--plot", type=Path, help="image of the convergence curves")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of all runs")
    options = parser.parse_intermixed_args()
    if options.study == "ablations" and (options.plot or not options.test):
        parser.error("expected --test for ablations, and no --plot")
    cells = CONVERGENCE if options.study == "convergence" else ablations(options.audio)
    if not set(options.cells or []) <= set(cells):
        parser.error(f"--cells: expected some of {', '.join(cells)}, got {', '.join(options.cells)}")
    rows = []
    for name, seed, out in runs({name: cells[name] for name in options.cells or cells}, options):
        if options.study == "convergence":
            rows.append(convergence_row(name, seed, out))
            print(name, seed, {key: value for key, value in rows[-1].items() if key != "curve"})
        else:
            rows.append(ablation_row(name, seed, out, options))
            print(name, seed, rows[-1]["pairs"])
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.json, json.dumps({"study": options.study, "rows": rows}, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot)
    if options.study == "ablations":
        for name in dict.fromkeys(row["cell"] for row in rows):
            values = np.array([row["pairs"]["accuracy"] for row in rows if row["cell"] == name])
            print(f"{name}: accuracy {values.mean():.3f} ± {values.std():.3f}, max {values.max():.3f} of {len(values)}")


if __name__ == "__main__":
    main()
