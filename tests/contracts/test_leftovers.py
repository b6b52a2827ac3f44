"""Nothing unfinished is published: no placeholders, no broken tables."""

import re

import pytest
from helpers.paths import ROOT
from helpers.source import ADAPTERS, MODULES, OUTSIDE, documents

#: notes to oneself, filler text and names of numbers to be filled in, such as the row R3 of a table
PLACEHOLDER = re.compile(r"\b(?:TODO|FIXME|XXX|TBD)\b|\?\?\?|\b[A-Z0-9]+ROW\b|(?i:lorem ipsum)|NotImplementedError")
CODE = [*MODULES, *ADAPTERS, *(path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py"))]
#: this file names what it refuses
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_leftovers.py")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def cells(row):
    return len(re.findall(r"(?<!\\)\|", row)) - 1


def broken_rows(text):
    """Rows of Markdown tables that have another number of cells than their header."""
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"\|(?:\s*:?-+:?\s*\|)+", line.strip())]
    for rule in rules:
        table = [rule - 1]
        while table[-1] + 1 < len(lines) and lines[table[-1] + 1].strip().startswith("|"):
            table.append(table[-1] + 1)
        yield from (lines[number] for number in table if cells(lines[number]) != cells(lines[rule]))


@pytest.mark.parametrize("path", [*CODE, *documents()], ids=relative)
def test_no_placeholder(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if PLACEHOLDER.search(line)] == []


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_tables_are_whole(path):
    assert list(broken_rows(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("line", ["| three rounds | R3ROW |", "# TODO: units", "accuracy ???", "| a | TBD |"])
def test_placeholders_are_found(line):
    assert PLACEHOLDER.search(line)


def test_broken_tables_are_found():
    table = "| labels | clips | AUC |\n|---|---|---|\n| as found | 2,558 | 0.794 |\n| three rounds | 0.8 |\n"
    assert list(broken_rows(table)) == ["| three rounds | 0.8 |"]


#: metaphors of perception: code encodes, computes and reports
PERCEPTION = re.compile(r"\b(?:heard|hears|seen|sees|told|tells)\b")


@pytest.mark.parametrize("path", [*CODE, *TESTS, *documents()], ids=relative)
def test_no_metaphors_of_perception(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if PERCEPTION.search(line)] == []
