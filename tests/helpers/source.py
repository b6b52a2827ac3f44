"""Readers of source files and documents for the contract tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT

PACKAGE = ROOT / "unisync_loss"
ADAPTERS = sorted((ROOT / "adapters").glob("*.py"))
#: modules of the package, without the one that names the public interface
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
#: folders with code that uses the package and is not installed
OUTSIDE = ["benchmarks", "examples", "research", "tools"]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """Absolute names imported anywhere below a node of a syntax tree."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            assert inner.level == 0, "relative imports hide who imports whom"
            yield from (f"{inner.module}.{alias.name}" for alias in inner.names)


def imports(path: Path) -> set[str]:
    return set(imported(tree(path)))


def functions(node: ast.AST) -> list[ast.FunctionDef]:
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)]


def documents() -> list[Path]:
    """Every Markdown file of the repository, model cards included."""
    folders = ["adapters", "docs", "benchmarks", "examples", "research", "tools", "unisync_loss"]
    return sorted([*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))])


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
