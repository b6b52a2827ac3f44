"""Tables of the documentation against their files."""

import re

import pytest
from helpers.paths import ROOT

from tools import tables

DOCUMENTS = [ROOT / name for name in tables.DOCUMENTS]
#: tables of figures that tools.cards writes, between its own markers
WRITTEN = re.compile(r"<!-- written by python -m tools\.cards: begin -->.*?<!-- end -->", re.DOTALL)
TABLE = re.compile(r"(?P<mark><!-- docs/tables/[\w-]+\.csv -->\n)?(?P<rows>(?:^\|.*\n)+)", re.MULTILINE)
FIGURE = re.compile(r"\d\.\d")


def marks(text):
    return re.findall(r"<!-- (docs/tables/[\w-]+\.csv) -->", text)


def test_documents_hold_what_their_files_hold():
    for path, text in tables.render(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"run python -m tools.tables: {path}"


def test_every_file_is_shown_once():
    shown = [name for path in DOCUMENTS for name in marks(path.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/tables/*.csv"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_table_of_figures_has_a_file(path):
    text = WRITTEN.sub("", path.read_text(encoding="utf-8"))
    for match in TABLE.finditer(text):
        cells = [cell for row in match["rows"].splitlines()[2:] for cell in row.strip("|").split("|")[1:]]
        share = sum(bool(FIGURE.search(cell)) for cell in cells) / max(1, len(cells))
        assert match["mark"] or share <= 0.5, match["rows"].splitlines()[0]


def test_a_table_is_written_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "docs/tables").mkdir(parents=True)
    (tmp_path / "docs/tables/one.csv").write_text('name,"a, b"\nx,0.5\n')
    monkeypatch.setattr(tables, "DOCUMENTS", ("page.md",))
    (tmp_path / "page.md").write_text("before\n<!-- docs/tables/one.csv -->\n| old |\n|---|\n| 1 |\n\nafter\n")
    (text,) = tables.render(tmp_path).values()
    assert text == "before\n<!-- docs/tables/one.csv -->\n| name | a, b |\n|---|---|\n| x | 0.5 |\n\nafter\n"


@pytest.mark.parametrize(
    ("content", "expected"), [("a,b\n", "a header and rows"), ("a,b\n1\n", "same length"), ("a\n1|2\n", "without |")]
)
def test_a_file_that_is_no_table(tmp_path, content, expected):
    (tmp_path / "one.csv").write_text(content)
    with pytest.raises(ValueError, match=re.escape(expected)):
        tables.markdown(tmp_path / "one.csv")
    with pytest.raises(ValueError, match="got none"):
        tables.markdown(tmp_path / "missing.csv")
