"""The tables of ``README.md`` and ``docs/scores.md``, and ``docs/pairs.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.cards.results import DATA, RETRIEVAL, Report, Results
from unisync_loss.config import UniSyncConfig

#: what the public data sets are, after their number of clips and people
PEOPLE = {"test": "", "test_wild": " who film themselves with phones and webcams, which is harder"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([head, f"{'|---' * len(header)}|", *body])


def with_interval(value: float, interval: Sequence[float]) -> str:
    """A figure with its 95 % interval."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def accuracy(report: Report) -> str:
    """Accuracy at the model's threshold, with its interval."""
    return with_interval(report["pairs"]["accuracy"], report["pairs"]["ci95"])


def area(report: Report) -> str:
    """AUC with its interval."""
    return with_interval(report["pairs"]["auc"], report["pairs"]["ci95_auc"])


def calibration_error(row: Mapping[str, Any]) -> str:
    """Expected calibration error, with its interval."""
    return with_interval(row["error"], row["ci95_error"])


def retrieval(report: Report, frames: str) -> str:
    """Share of correct offsets from ``frames`` frames, with its interval; empty where no clip is long enough."""
    row = report["retrieval"].get(frames)
    return with_interval(row["accuracy"], row["ci95"]) if row else ""


def millions(number: float) -> str:
    """Number of parameters, in millions."""
    return f"{number / 1e6:.2f} M"


def sets(results: Results) -> str:
    """What the public data sets are."""
    described = []
    for data, people in PEOPLE.items():
        first = next(iter(results.pairs[data].values()))
        described.append(f"`{data}`: {first['clips']} clips of {first['speakers']} people{people}")
    return "; ".join(described)


def best_first(names: Iterable[str], reports: Mapping[str, Report]) -> list[str]:
    """Names of models in order of their AUC."""
    return sorted(names, key=lambda name: -float(reports[name]["pairs"]["auc"]))


def readme_section(results: Results, configs: Mapping[str, UniSyncConfig]) -> str:
    """The table of the released experts, without intervals, and what was measured."""
    test, wild = (results.pairs[data] for data in ("test", "test_wild"))
    rows = [
        [
            f"[`{name}`](unisync_loss/weights/{name}/README.md)",
            encoder(configs[name], test[name]),
            millions(test[name]["cost"]["parameters"]),
            *(f"{reports[name]['pairs'][key]:.3f}" for reports in (test, wild) for key in ("accuracy", "auc")),
            f"{test[name]['retrieval']['5']['accuracy']:.3f}",
        ]
        for name in best_first(configs, test)
    ]
    header = ["model", "audio encoder", "parameters"]
    header += [f"{measure}, `{data}`" for data in ("test", "test_wild") for measure in ("accuracy", "AUC")]
    lines = [
        table([*header, "retrieval@5, `test`"], rows),
        "",
        f"{sets(results)}. None of these people is in the training data.",
        "Measured with `python benchmarks/pairs.py`; 95 % intervals over clips are at most "
        f"±{widest(test, configs):.3f} of accuracy on `test` and ±{widest(wild, configs):.3f} on `test_wild`",
        "([all figures](docs/scores.md#pairs), [as CSV](docs/pairs.csv)).",
    ]
    return "\n".join(lines)


def encoder(config: UniSyncConfig, report: Report) -> str:
    """Encoder that computes the audio features from a waveform, and its size."""
    if config.audio == "mel":
        return "none"
    return f"`{config.audio_model}`, {report['cost']['encoder_parameters'] / 1e6:.1f} M"


def widest(reports: Mapping[str, Report], names: Iterable[str]) -> float:
    """Largest distance from an accuracy to an end of its interval."""
    pairs = [reports[name]["pairs"] for name in names]
    return max(abs(end - row["accuracy"]) for row in pairs for end in row["ci95"])


def scores_section(results: Results) -> str:
    """Scores of all models with intervals, averages of experts included, and the costs of the experts."""
    test, wild, val = (results.pairs[data] for data in DATA)
    seed = next(iter(test.values()))["seed"]
    scores = [
        [f"`{name}`", accuracy(test[name]), area(test[name])]
        + ([accuracy(wild[name]), area(wild[name])] if name in wild else ["", ""])
        + [f"{val[name]['pairs']['auc']:.3f}" if name in val else ""]
        + [retrieval(test[name], frames) for frames in ("5", "15")]
        for name in best_first(test, test)
    ]
    header = ["model", "accuracy, `test`", "AUC, `test`", "accuracy, `test_wild`", "AUC, `test_wild`", "AUC, `val`"]
    reliability = [
        [f"`{name}`"]
        + [cell for row in (test[name], wild.get(name)) if row for cell in calibration_cells(row["calibration"])]
        for name in best_first(test, test)
    ]
    costs = [[f"`{name}`", *cost_cells(row["cost"])] for name, row in sorted(test.items()) if "cost" in row]
    lines = [
        f"`python benchmarks/pairs.py --data TEST`, seed {seed}. {sets(results)}.",
        "One training run each; brackets are 95 % intervals over clips. A name with + is the mean probability of these",
        "experts.",
        "",
        table([*header, "retrieval@5, `test`", "retrieval@15, `test`"], scores),
        "",
        "### Calibration",
        "",
        "Expected calibration error (10 bins of equally many pairs) of the score and of the calibrated probability,",
        "`expert.calibrate`, fitted on `val`; for a name with +, the mean of the experts' temperatures and midpoints.",
        "",
        table(["model", *(f"{kind}, `{data}`" for data in PEOPLE for kind in ("score", "calibrated"))], reliability),
        "",
        "![calibrated probability and share of windows in sync](calibration.png)",
        "",
        "### Cost",
        "",
        "Cost: multiply-adds per window of five frames, *alone* for a single window and *in one second* within a",
        "segment of that length, and of the audio encoder per second of audio. *ms* is the time of one loss step per",
        "window on two threads of a machine that was also doing other work: use it for comparison only.",
        "",
        table(["expert", "parameters", "audio encoder", "encoder, a second", "alone", "in one second", "ms"], costs),
    ]
    return "\n".join(lines)


def calibration_cells(row: Mapping[str, Any]) -> list[str]:
    """Cells of one data set in the table of calibration errors."""
    return [f"{row['error_of_score']:.3f}", calibration_error(row)]


def cost_cells(cost: Mapping[str, float]) -> list[str]:
    """Cells of one row of the costs."""
    has_encoder = cost["encoder_parameters"] > 0
    return [
        millions(cost["parameters"]),
        millions(cost["encoder_parameters"]) if has_encoder else "none",
        f"{cost['encoder_multiply_adds_a_second']:.0f} M" if has_encoder else "",
        f"{cost['multiply_adds_alone']:.0f} M",
        f"{cost['multiply_adds_in_a_second']:.0f} M",
        f"{cost['milliseconds']:.2f}",
    ]


def csv_rows(results: Results) -> str:
    """One row per model and data set."""
    costs = {name: report.get("cost", {}) for name, report in results.pairs[DATA[0]].items()}
    rows = [
        csv_row(name, report) | {key: costs.get(name, {}).get(key, "") for key in ("parameters", "encoder_parameters")}
        for reports in results.pairs.values()
        for name, report in reports.items()
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_row(name: str, report: Report) -> dict[str, Any]:
    """Figures of one model on one data set; empty where there is none."""
    pairs = report["pairs"]
    row: dict[str, Any] = {"model": name, "data": report["data"]}
    row |= {"clips": report["clips"], "speakers": report["speakers"], "pairs": pairs["n"]}
    row |= {"threshold": pairs["threshold"]}
    row |= _with_ends("accuracy", pairs["accuracy"], pairs["ci95"])
    row |= _with_ends("accuracy_at_0.5", pairs["accuracy_at_0.5"], pairs["ci95_accuracy_at_0.5"])
    row |= _with_ends("auc", pairs["auc"], pairs["ci95_auc"])
    row |= {"calibration_error_of_score": report["calibration"]["error_of_score"]}
    row |= _with_ends("calibration_error", report["calibration"]["error"], report["calibration"]["ci95_error"])
    for frames in RETRIEVAL:
        found = report["retrieval"].get(frames, {"accuracy": "", "ci95": ["", ""]})
        row |= _with_ends(f"retrieval_{frames}", found["accuracy"], found["ci95"])
    return row | {"offset_within_1": report["offset_within_1"]}


def _with_ends(name: str, value: object, interval: Sequence[object]) -> dict[str, object]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}
