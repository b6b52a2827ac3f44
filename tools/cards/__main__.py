"""Write the model cards and the tables of the released experts from the results of the benchmarks.

    python -m tools.cards --val out/val.json --test out/test.json --wild out/test_wild.json

The published part of each file is copied to ``benchmarks/results``; cards, tables and ``docs/pairs.csv`` are written
from these copies, so the command without options writes them again, such as after a change of ``texts.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tools.cards.card import card
from tools.cards.reliability import draw_reliability
from tools.cards.results import publish, read_results
from tools.cards.tables import csv_rows, readme_section, scores_section
from unisync_loss import list_pretrained
from unisync_loss.config import UniSyncConfig
from unisync_loss.utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("benchmarks/results")
DRAWN = ("whisper-rgb", "hubert-rgb", "mel-rgb", "whisper-landmarks")  # experts in docs/calibration.png
BEGIN, END = "<!-- written by python -m tools.cards: begin -->", "<!-- end -->"


def render(root: Path, configs: Mapping[str, UniSyncConfig]) -> dict[Path, str]:
    """Content of every file that is written.

    Args:
        root: of the repository, with the published results, ``README.md`` and ``docs/scores.md``.
        configs: of the released experts, by name.

    Returns:
        Text by path.

    Raises:
        ValueError: for results that do not belong to these experts, or a document without markers.
    """
    results = read_results(root / RESULTS, configs)
    cards = {root / f"unisync_loss/weights/{name}/README.md": card(name, configs[name], results) for name in configs}
    sections = {root / "README.md": readme_section(results, configs), root / "docs/scores.md": scores_section(results)}
    documents = {path: between_markers(path, text) for path, text in sections.items()}
    return {**cards, **documents, root / "docs/pairs.csv": csv_rows(results)}


def between_markers(path: Path, text: str) -> str:
    """Document with another text between its markers.

    Raises:
        ValueError: when it does not have each marker once, in order.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"{path}: expected one line {BEGIN} and below it one line {END}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def main() -> None:
    """Publish the given results and write everything."""
    parser = argparse.ArgumentParser(prog="python -m tools.cards", description=__doc__.splitlines()[0])
    given = {
        "val": parser.add_argument("--val", type=Path, help="of benchmarks/pairs.py on validation data"),
        "test": parser.add_argument("--test", type=Path, help="of benchmarks/pairs.py on test data"),
        "test_wild": parser.add_argument("--wild", type=Path, help="of benchmarks/pairs.py on test_wild"),
        "robustness": parser.add_argument("--robustness", type=Path, help="of benchmarks/robustness.py"),
        "shifts": parser.add_argument("--shifts", type=Path, help="of benchmarks/shift_study.py"),
    }
    options = parser.parse_args()
    for name, argument in given.items():
        source = getattr(options, argument.dest)
        if source is not None:
            publish(source, name, ROOT / RESULTS)
    configs = {name: info.config for name, info in list_pretrained().items()}
    plot = draw_reliability(read_results(ROOT / RESULTS, configs), DRAWN)
    contents: dict[Path, str | bytes] = {**render(ROOT, configs), ROOT / "docs/calibration.png": plot}
    for path, content in contents.items():
        write_atomically(path, content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
