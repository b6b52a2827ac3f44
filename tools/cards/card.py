"""The card of one expert."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.cards import texts
from tools.cards.results import DATA, RETRIEVAL, Report, Results
from tools.cards.tables import accuracy, area, calibration_error, millions, retrieval, table, with_interval
from unisync_loss.config import LANDMARK_SHAPES, UniSyncConfig

Reports = Mapping[str, Report]  # of one expert, by data set


def card(name: str, config: UniSyncConfig, results: Results) -> str:
    """Markdown of a card, with the front matter of the Hugging Face Hub.

    Args:
        name: of the released expert.
        config: of that expert.
        results: of all experts.

    Raises:
        ValueError: for a representation on which ``texts.py`` has no paragraph.
    """
    reports = {data: results.pairs[data][name] for data in DATA}
    parts = [
        front_matter(name, reports),
        f"# {name}",
        introduction(name, config, reports["test"]),
        f"## Input contract\n\n{input_contract(config)}",
        f"## Scores\n\n{scores(config, reports)}",
        f"## Calibration\n\n{calibration(config, reports)}",
        *robustness(name, results.robustness),
        *shifts(name, results.shifts),
        f"## Training data and recipe\n\n{recipe(name, config)}",
        f"## Limits\n\n{texts.LIMITS}",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(name: str, reports: Reports) -> str:
    """YAML with the scores as the Hub shows them; strings are written as JSON, which YAML includes."""
    lines = [
        "---",
        "library_name: unisync_loss",
        "license: other",
        "license_name: research-only",
        "pipeline_tag: video-classification",  # of the Hub's tasks, the one with this input
        "tags:",
        *(f"- {tag}" for tag in ("lip-sync", "audio-visual-synchronisation", "talking-face")),
        "model-index:",
        f"- name: {name}",
        "  results:",
    ]
    for data in ("test", "test_wild"):
        report = reports[data]
        size = f"{data}: {report['clips']} clips of {report['speakers']} people"
        lines += [
            "  - task:",
            "      type: audio-visual-synchronisation",
            f"      name: {json.dumps('pairs: windows of 5 frames, audio of the same clip 2 or more frames away')}",
            "    dataset:",
            f"      type: unisync-loss-{data.replace('_', '-')}",
            f"      name: {json.dumps(size)}",
            "    metrics:",
        ]
        for kind, title, value in metrics(report):
            lines += [
                f"    - type: {kind}",
                f"      name: {json.dumps(title, ensure_ascii=False)}",
                f"      value: {value}",
            ]
    return "\n".join([*lines, "---"])


def metrics(report: Report) -> list[tuple[str, str, float]]:
    """Type, name and value of the figures that the Hub shows."""
    pairs, found = report["pairs"], report["retrieval"]
    return [
        ("accuracy", f"pairs, accuracy at {pairs['threshold']}", pairs["accuracy"]),
        ("roc_auc", "pairs, AUC", pairs["auc"]),
        *(
            ("accuracy", f"retrieval@{frames}, ±1 frame among 31", found[frames]["accuracy"])
            for frames in RETRIEVAL
            if frames in found
        ),
    ]


def introduction(name: str, config: UniSyncConfig, report: Report) -> str:
    """What the expert is, and how it is loaded."""
    audio = texts.AUDIO_NAMES[config.audio].format(model=config.audio_model)
    parameters = millions(report["cost"]["parameters"])
    plain = name.removesuffix("-robust")
    robust = "" if plain == name else f"\n\n{texts.ROBUST.format(plain=plain)}"
    return f"""\
Lip-sync expert of [unisync_loss](../../../README.md). Input: {texts.VISUAL_NAMES[config.visual]} and
{audio}. Output: for every window of five frames, the probability that they are in sync.
Architecture `{config.architecture}`: {parameters} parameters. After UniSync, arXiv 2503.16357; the network is not the
paper's (which is `architecture="paper"`).{robust}

```python
from unisync_loss import UniSyncLoss, load_expert

sync_loss = UniSyncLoss.from_pretrained("{name}")
expert = load_expert("{name}")
```"""


def input_contract(config: UniSyncConfig) -> str:
    """Shapes, ranges and units of the expert's inputs, and its threshold."""
    parts = [
        texts.VISUAL_INPUT[config.visual].format(shape=visual_shape(config)),
        texts.AUDIO_INPUT[config.audio].format(shape=audio_shape(config), model=config.audio_model),
    ]
    parts += [] if config.visual == "rgb" else [texts.MEAN_FACE]
    return "\n\n".join([*parts, f"Decision threshold {config.threshold:.3f}, chosen on `val`."])


def visual_shape(config: UniSyncConfig) -> str:
    """Axes of the video."""
    if config.visual in ("rgb", "parsing"):
        return f"(B, T, {config.visual_features}, H, W)"
    if config.visual == "landmarks":
        points, axes = LANDMARK_SHAPES[config.visual_features]
        return f"(B, T, {points}, {axes})"
    return f"(B, T, {config.visual_features})"


def audio_shape(config: UniSyncConfig) -> str:
    """Axes of the audio features."""
    return "(B, 80, L)" if config.audio == "mel" else f"(B, 2·T, {config.audio_features})"


def scores(config: UniSyncConfig, reports: Reports) -> str:
    """Tables of the scores on all data sets, and by corpus and language on the first."""
    main = reports[DATA[0]]
    header = ["", *(f"`{data}`: {row['clips']} clips, {row['speakers']} people" for data, row in reports.items())]
    rows = {
        f"pairs, accuracy at {config.threshold:.3f}": accuracy,
        "pairs, accuracy at 0.5": accuracy_at_half,
        "pairs, AUC": area,
        **{f"retrieval@{frames}, ±1 among 31": retrieval_at(frames) for frames in RETRIEVAL},
        "whole clips with the correct offset ±1": whole_clips,
    }
    overview = table(header, [[title, *(cell(row) for row in reports.values())] for title, cell in rows.items()])
    groups = {
        "voiced windows": main["voiced"],
        "windows without speech": main["unvoiced"],
        **{f"corpus {name}": row for name, row in main["by_corpus"].items()},
        **{f"language {name}": row for name, row in main["by_language"].items()},
    }
    parts = [
        [title, f"{row['accuracy']:.3f}", f"{row['auc']:.3f}", str(row["n"])] for title, row in groups.items() if row
    ]
    return f"""\
No person of `test`, `test_wild` or `val` is in the training data; all choices were made on `val`, so the accuracy in
that column is slightly optimistic. `test_wild`: people who film themselves with phones and webcams. Brackets are 95 %
intervals over clips (`python benchmarks/pairs.py`, seed {main["seed"]}).

{overview}

*pairs*: each window against the audio of another place in the same clip, at least two frames away, balanced (random
guessing gives 0.5).

{table(["`test`", "accuracy", "AUC", "pairs"], parts)}"""


def calibration(config: UniSyncConfig, reports: Reports) -> str:
    """Calibration, its error on the data sets it was not fitted on, and the reliability curve."""
    found = {data: row["calibration"] for data, row in reports.items() if data != "val"}
    errors = [[f"`{data}`", f"{row['error_of_score']:.3f}", calibration_error(row)] for data, row in found.items()]
    bins = len(found[DATA[0]]["predicted"])
    curve = [
        [f"`{data}`, {kind}", *(f"{value:.2f}" for value in row[kind])]
        for data, row in found.items()
        for kind in ("predicted", "observed")
    ]
    return f"""\
`expert.calibrate(p)` = sigmoid((p - {config.midpoint:.3f}) / {config.temperature:.3f}), fitted on `val`: of windows
with this score, where half of all are in sync, the share that is in sync.

{table(["expected calibration error", "of the score", "calibrated"], errors)}

Reliability: mean calibrated probability and share in sync of {bins} bins of equally many pairs.

{table(["bin", *map(str, range(1, bins + 1))], curve)}"""


def accuracy_at_half(report: Report) -> str:
    """Accuracy at 0.5, with its interval."""
    return with_interval(report["pairs"]["accuracy_at_0.5"], report["pairs"]["ci95_accuracy_at_0.5"])


def whole_clips(report: Report) -> str:
    """Share of clips whose offset is correct."""
    return f"{report['offset_within_1']:.3f}"


def retrieval_at(frames: str) -> Any:  # noqa: ANN401 - a function
    """Function that formats ``retrieval@frames`` of a report."""
    return lambda report: retrieval(report, frames)


def robustness(name: str, found: dict[str, Any] | None) -> list[str]:
    """Table of other crops and lengths; nothing for experts that were not measured."""
    if found is None or name not in found["experts"]:
        return []
    rows = [
        [title, with_interval(row["accuracy"], row["ci95"]), with_interval(row["auc"], row["ci95_auc"])]
        for title, row in found["experts"][name].items()
    ]
    text = f"Other crops and lengths, the same pairs of {found['clips']} clips (`python benchmarks/robustness.py`):"
    return [f"{text}\n\n{table(['', 'accuracy', 'AUC'], rows)}"]


def shifts(name: str, found: dict[str, Any] | None) -> list[str]:
    """Errors of the offset of shifted audio; nothing for experts that were not measured."""
    if found is None or name not in found["experts"]:
        return []
    row = found["experts"][name]
    error = row["mean_absolute_error_ms"]
    return [
        f"With the audio of {found['clips']} clips shifted by -10 … +10 frames (`python benchmarks/shift_study.py`), "
        f"{with_interval(row['within_1']['mean'], row['within_1']['ci95'])}\nof the estimated offsets are within ±1 "
        f"frame; mean absolute error {error['mean']:.1f} ms [{error['ci95'][0]:.1f}, {error['ci95'][1]:.1f}]."
    ]


def recipe(name: str, config: UniSyncConfig) -> str:
    """Training data and how both towers were trained."""
    data = texts.DATA if name == texts.FIRST else texts.SAME_DATA.format(first=texts.FIRST)
    towers = []
    for side, kind, paragraphs in (
        ("Audio", config.audio, texts.AUDIO_TOWERS),
        ("Visual", name.partition("-")[2], texts.VISUAL_TOWERS),
    ):
        if kind not in paragraphs:
            raise ValueError(f"tools/cards/texts.py: expected how the {side.lower()} tower of {kind} was trained")
        towers.append(f"{side} tower: {paragraphs[kind]}")
    return "\n\n".join([data, *towers, texts.CHOICE])
