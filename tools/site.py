"""Lay out the pages of the documentation site, for mkdocs: the repository's documents as they are, and an API page.

    python -m tools.site out/site-source && mkdocs build

Every Markdown document keeps its place, so links between them hold; files that they show or link to are copied beside
them. A link to a folder becomes its words. It needs no more than the standard library.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: documents and folders of documents
SOURCES = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"),
    *("docs", "adapters", "benchmarks", "research", "tools", "unisync_loss", "examples"),
)
#: modules with public names, as the API page lists them
PUBLIC = (
    "unisync_loss",
    *(f"unisync_loss.{name}" for name in ("functional", "metrics", "representations", "data", "evaluation", "lse")),
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]*)(#[^)\s]*)?\)")
_STYLE = """\
.md-grid { max-width: 70rem; }
.md-typeset table:not([class]) { font-size: .62rem; }
.md-typeset table:not([class]) td, .md-typeset table:not([class]) th { padding: .5em .7em; min-width: 0; }
"""


def documents() -> list[Path]:
    """Markdown documents of the site, relative to the repository."""
    found: list[Path] = []
    for source in (ROOT / name for name in SOURCES):
        found += [source] if source.is_file() else sorted(source.rglob("*.md"))
    return [path.relative_to(ROOT) for path in found]


def lay_out(out: Path) -> list[Path]:
    """Write the pages.

    Args:
        out: folder of the pages; replaced.

    Returns:
        The documents, relative to the repository.

    Raises:
        ValueError: for a link to a file that does not exist, naming the document.
    """
    shutil.rmtree(out, ignore_errors=True)
    pages = documents()
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in _targets(page, text):
            if target.is_file() and target.suffix != ".md":
                _copy(target, out)
        _write(out / page, _without_folders(page, text))
    _write(out / "api.md", api_page())
    _write(out / "site.css", _STYLE)
    return pages


def api_page() -> str:
    """Page of all public names, for mkdocstrings."""
    parts = ["# API\n"]
    for module in PUBLIC:
        parts.append(f"## Module `{module}`\n")
        parts += [f"::: {module}.{name}\n    options:\n      heading_level: 3\n" for name in public_names(module)]
    return "\n".join(parts)


def public_names(module: str) -> list[str]:
    """Names in ``__all__`` of a module of the package, which is not imported."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return [name for name in names if name != "__version__"]
    raise ValueError(f"{file}: expected __all__")


def _targets(page: Path, text: str) -> Iterator[Path]:
    """Files and folders of the repository that a document links to."""
    for _, _, target, _ in _LINK.findall(text):
        path = (ROOT / page).parent.joinpath(target).resolve()
        if target and not path.exists():
            raise ValueError(f"{page}: expected {target} to exist")
        if target:
            yield path


def _without_folders(page: Path, text: str) -> str:
    """The document with the words in place of links to folders, which have no page."""

    def keep(match: re.Match[str]) -> str:
        path = (ROOT / page).parent.joinpath(match[3])
        return match[2] if match[3] and path.is_dir() else match[0]

    return _LINK.sub(keep, text)


def _copy(path: Path, out: Path) -> None:
    target = out / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Lay the pages out."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the pages, docs_dir of mkdocs.yml; replaced")
    pages = lay_out(parser.parse_args().out)
    print(f"{len(pages)} documents")


if __name__ == "__main__":
    main()
