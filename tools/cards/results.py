"""Published results: the part of the benchmarks' JSON that cards and tables quote, in ``benchmarks/results``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisync_loss.config import UniSyncConfig
from unisync_loss.utils.files import write_atomically

Report = dict[str, Any]  # of one model, as `benchmarks/pairs.py` writes it
#: data sets of the tables, in the order of their columns; the first is the main one
DATA = ("test", "test_wild", "val")
RETRIEVAL = ("5", "9", "15")
#: parts of a report that are published
KEPT = (
    *("data", "clips", "speakers", "seed", "pairs", "voiced", "unvoiced", "retrieval", "offset_within_1"),
    *("by_corpus", "by_language", "calibration", "cost"),
)
KEPT_SHIFTS = ("within_1", "exact", "mean_absolute_error_ms", "interval_holds_the_shift")


@dataclass(frozen=True)
class Results:
    """Results of all benchmarks.

    Attributes:
        pairs: report of every model by data set.
        robustness: of ``benchmarks/robustness.py``; None where there is none.
        shifts: of ``benchmarks/shift_study.py``; None where there is none.
    """

    pairs: dict[str, dict[str, Report]]
    robustness: dict[str, Any] | None
    shifts: dict[str, Any] | None


def publish(source: Path, name: str, folder: Path) -> None:
    """Copy the published part of a result file, rounded to four digits.

    Args:
        source: JSON of the benchmark.
        name: ``"val"``, ``"test"``, ``"test_wild"``, ``"robustness"`` or ``"shifts"``.
        folder: of the published results; created if missing.

    Raises:
        ValueError: for a file that is not the JSON of that benchmark.
    """
    content = _read(source)
    try:
        if name in DATA:
            content = {model: _part(report, KEPT) for model, report in content.items()}
        elif name == "robustness":
            experts = {model: dict(rows) for model, rows in content["experts"].items()}
            content = {"clips": content["clips"], "seed": content["seed"], "experts": experts}
        elif name == "shifts":
            experts = {model: _part(row, KEPT_SHIFTS) for model, row in content["experts"].items()}
            content = {"clips": len(content["clips"]), "seed": content["seed"], "experts": experts}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: expected results for {name}, got another JSON: {error!r}") from error
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", _lines(_rounded(content)) + "\n")


def read_results(folder: Path, configs: Mapping[str, UniSyncConfig]) -> Results:
    """Read the published results and check that they belong to the released experts.

    Args:
        folder: of the published results.
        configs: of the released experts, by name.

    Raises:
        ValueError: for a missing file, results of another data set or on other clips, a released expert without
            results or, on the first data set, without its cost, or one that was measured at another threshold.
    """
    pairs = {data: _read(folder / f"{data}.json") for data in DATA}
    for data, reports in pairs.items():
        _check(folder / f"{data}.json", data, reports, configs)
    without = sorted(name for name in configs if "cost" not in pairs[DATA[0]][name])
    if without:
        raise ValueError(f"{folder / DATA[0]}.json: expected the cost of every released expert, not of {without[0]}")
    others = {name: folder / f"{name}.json" for name in ("robustness", "shifts")}
    found = {name: _read(path) if path.is_file() else None for name, path in others.items()}
    return Results(pairs, **found)


def _check(path: Path, data: str, reports: Mapping[str, Report], configs: Mapping[str, UniSyncConfig]) -> None:
    missing = sorted(configs.keys() - reports.keys())
    if missing:
        raise ValueError(f"{path}: expected results of every released expert, {', '.join(missing)} is missing")
    for name, report in reports.items():
        if report["data"] != data:
            raise ValueError(f"{path}: expected results on {data!r}, got {report['data']!r} for {name}")
    sizes = {(report["clips"], report["speakers"]) for report in reports.values()}
    if len(sizes) > 1:
        raise ValueError(f"{path}: expected all models on the same clips, got {sorted(sizes)} clips and speakers")
    for name, config in configs.items():
        measured, own = reports[name]["pairs"]["threshold"], round(config.threshold, 4)
        if measured != own:
            raise ValueError(f"{path}: expected {name} at its threshold {own}, got {measured}: measure it again")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON file of results: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object of results, got {type(content).__name__}")
    return content


def _part(report: Mapping[str, Any], keys: tuple[str, ...]) -> Report:
    """Published part of a report; the cost may be missing."""
    return {key: report[key] for key in keys if key != "cost" or key in report}


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def _lines(value: Any, depth: int = 0) -> str:  # noqa: ANN401 - any JSON
    """JSON with a line per entry of the two outer levels: small, and readable in a comparison of versions."""
    if not isinstance(value, dict) or depth == 2:
        return json.dumps(value)
    indent = " " * (depth + 1)
    entries = [
        f"{indent}{json.dumps(key, ensure_ascii=False)}: {_lines(part, depth + 1)}" for key, part in value.items()
    ]
    return "{\n" + ",\n".join(entries) + f"\n{' ' * depth}}}"
