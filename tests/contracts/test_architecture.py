"""Import order of the rooms, and limits on the size of folders, files and functions."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers.paths import ROOT
from helpers.source import ADAPTERS, MODULES, OUTSIDE, PACKAGE, functions, imported, imports, tree

#: a folder (or file at the top) imports from lines above its own and from itself
LAYERS = [
    "utils",
    "config functional",
    "representations",
    "models video",
    "inputs",
    "loss data lse",
    "evaluation metrics",
    "training curation demo",
    "cli",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
#: modules in a folder, beside __init__.py
FOLDER_SIZE = range(4, 13)
SMALLER_FOLDERS = {"adapters": "one module per generator that needs one, two so far, and the checker"}
HEAVY = "transformers av mediapipe matplotlib torchmetrics yaml huggingface_hub scipy wandb".split()


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def room(path):
    """First part of a module's name inside the package: representations/mel.py is in `representations`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def file_of(name):
    """File that holds an imported name: a module, or the module or `__init__.py` that defines it."""
    parts = name.split(".")
    for length in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [name_of(path) for path in error.args[1]]
    return []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
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


def test_no_circle_of_files():
    graph = {path: {file_of(name) for name in imports(path)} & set(MODULES) - {path} for path in MODULES}
    assert circle(graph) == []
    assert circle({MODULES[0]: {MODULES[1]}, MODULES[1]: {MODULES[0]}}), "the check itself finds none"


@pytest.mark.parametrize("path", [path for path in [*MODULES, *ADAPTERS] if "cli" not in path.parts], ids=str)
def test_own_modules_are_imported_at_the_top(path):
    """Functions import heavy libraries only: an import of our own in a function hides a circle."""
    inside = {name for function in functions(tree(path)) for name in imported(function)}
    assert [name for name in inside if name.startswith("unisync_loss")] == []


def test_folders_hold_4_to_12_modules():
    folders = {path.parent for path in MODULES} - {PACKAGE} | {ROOT / "adapters"}
    sizes = {folder.relative_to(ROOT).as_posix(): len([*folder.glob("*.py")]) - 1 for folder in folders}
    wrong = {name for name, size in sizes.items() if size not in FOLDER_SIZE}
    assert wrong == set(SMALLER_FOLDERS), sizes


def test_what_is_installed_imports_nothing_else():
    for path in [*MODULES, *ADAPTERS]:
        assert not {*OUTSIDE, "tests"} & {name.split(".")[0] for name in imports(path)}, path


def test_the_library_loads_without_heavy_libraries():
    code = f"import sys, unisync_loss; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


OTHERS = [path for folder in OUTSIDE for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", [*MODULES, *ADAPTERS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_size(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    for function in functions(tree(path)):
        assert (function.end_lineno or 0) - function.lineno < 60, f"{path}: {function.name} is too long"


def test_no_pickle_is_loaded():
    for path in [*MODULES, *ADAPTERS, *OTHERS]:
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        # SyncNet's authors publish no other format; weights_only unpickles nothing but tensors
        assert not loads or path == PACKAGE / "lse" / "syncnet.py", path
        assert all("weights_only=True" in ast.unparse(call) for call in loads), path
        assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(path)}, path
