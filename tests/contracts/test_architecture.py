"""Who may import whom, and how large things may grow."""

import ast
import subprocess
import sys

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "unisync_loss"
#: a folder (or file at the top) imports from lines above its own and from itself
LAYERS = [
    "utils",
    "config functional",
    "representations",
    "models video",
    "loss data lse",
    "evaluation metrics",
    "training curation demo",
    "cli",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
HEAVY = (
    "transformers",
    "av",
    "mediapipe",
    "matplotlib",
    "torchaudio",
    "torchmetrics",
    "yaml",
    "huggingface_hub",
    "wandb",
)


def room(path):
    """First part of a module's name inside the package: representations/mel.py is in `representations`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Absolute names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path):
    here = room(path)
    assert here in RANK, f"{here} is in no layer: put it into LAYERS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "unisync_loss" or parts[1:2] == ["__version__"]:
            continue
        assert len(parts) > 1, f"{path}: import the module needed, not the whole library"
        assert parts[1] in RANK, f"{path}: imports {name}, which is in no layer"
        below = parts[1] == here or RANK[parts[1]] < RANK[here]
        assert below, f"{path}: {here} must not import {parts[1]}, which is not below it"


def test_nothing_imports_the_program():
    importers = [path for path in MODULES if any(f"{name}.".startswith("unisync_loss.cli.") for name in imports(path))]
    assert importers == []


@pytest.mark.parametrize("folder", ["adapters", "examples", "benchmarks", "tools", "research"])
def test_outsiders_use_public_names(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name in imports(path):
            if name.startswith("unisync_loss"):
                assert not any(part.startswith("_") for part in name.split(".")), f"{path}: {name} is private"


def test_what_is_installed_imports_nothing_else():
    outside = {"tools", "research", "benchmarks", "examples", "tests"}
    for path in [*MODULES, *(ROOT / "adapters").glob("*.py")]:
        assert not outside & {name.split(".")[0] for name in imports(path)}, path


def test_adapters_use_the_front_door():
    for path in sorted((ROOT / "adapters").glob("*.py")):
        inner = [name for name in imports(path) if name.startswith("unisync_loss.") and name.count(".") > 1]
        assert inner == [], f"{path}: {inner}"


def test_the_library_loads_without_its_heavy_friends():
    code = f"import sys, unisync_loss; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "adapters").glob("*.py")], ids=lambda path: path.name)
def test_size(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 350
    for function in functions(path):
        assert (function.end_lineno or 0) - function.lineno < 60, f"{path}: {function.name} is too long"


def test_no_pickle_is_loaded():
    for path in [*MODULES, *(ROOT / "adapters").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        # SyncNet's authors publish no other format; weights_only unpickles nothing but tensors
        free = [line for line in text.splitlines() if "torch.load" in line and "weights_only=True" not in line]
        assert free == [], path
        assert "torch.load" not in text or path.name == "syncnet.py", path
        assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(path)}, path
