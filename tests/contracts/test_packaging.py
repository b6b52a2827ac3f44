"""What is installed is what is here: version, program, data, dependencies, licence."""

import ast
import configparser
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGE = ROOT / "unisync_loss"
#: names of imports whose distribution is called otherwise
DISTRIBUTIONS = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text):
    """Lines that say something."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def requirements(setup, *, extras):
    text = [setup["options"]["install_requires"]]
    text += setup["options.extras_require"].values() if extras is None else []
    text += [setup["options.extras_require"][extra] for extra in extras or ()]
    return [Requirement(line) for part in text for line in lines(part)]


def declared_version():
    """The version as setuptools reads it: a literal, so that a build does not import torch."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__version__"]:
            return ast.literal_eval(node.value)
    pytest.fail("unisync_loss/__init__.py assigns no __version__")


def data_files(setup):
    """Files that the patterns of package data cover, relative to the package."""
    patterns = setup["options.package_data"]["unisync_loss"].split(",")
    found = (path for pattern in patterns for path in PACKAGE.glob(pattern.strip()))
    return {path.relative_to(PACKAGE).as_posix() for path in found if path.is_file()}


def files_below(folder):
    paths = (path for path in (PACKAGE / folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(PACKAGE).as_posix() for path in paths}


def test_one_version(setup):
    assert setup["metadata"]["version"] == "attr: unisync_loss.__version__"
    assert declared_version().count(".") == 2


def test_the_program_is_declared(setup):
    assert lines(setup["options.entry_points"]["console_scripts"]) == ["unisync = unisync_loss.cli:main"]
    tree = ast.parse((PACKAGE / "cli" / "__init__.py").read_text(encoding="utf-8"))
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_package_is_listed(setup):
    listed = set(lines(setup["options"]["packages"]))
    here = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert listed == here | {"unisync_loss.adapters"}
    assert lines(setup["options"]["package_dir"]) == ["unisync_loss.adapters = adapters"]
    assert (ROOT / "adapters" / "__init__.py").is_file()


def test_package_data_covers_every_file(setup):
    wanted = files_below("weights") | files_below("assets") | {"py.typed"}
    missing = wanted - data_files(setup)
    assert not missing, f"not in [options.package_data] of setup.cfg: {sorted(missing)}"


def test_the_weights_leave_room_in_the_wheel():
    """PyPI accepts 100 MB, and float16 weights hardly compress."""
    assert sum((PACKAGE / file).stat().st_size for file in files_below("weights") | files_below("assets")) < 90e6


def test_licence(setup):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert setup["metadata"]["license"] == "Apache-2.0"


def test_imports_are_declared(setup):
    """All but W&B, which asks for a protobuf that MediaPipe cannot use, and what only mypy imports and brings."""
    brought = {"unisync_loss", "wandb", "typing_extensions"}
    declared = {
        canonicalize_name(one.name)
        for one in requirements(setup, extras=["video", "train", "report", "metrics", "export"])
    }
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "adapters").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - brought - sys.stdlib_module_names:
                assert DISTRIBUTIONS.get(top, top) in declared, f"{path}: {top} is in no list of setup.cfg"


def test_pins_lie_within_the_ranges(setup):
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(one.name): one for one in map(Requirement, lines(text))}
    for wanted in requirements(setup, extras=None):
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted.name} has no line in constraints.txt"
        (version,) = (one.version for one in pin.specifier if one.operator == "==")
        assert wanted.specifier.contains(version), f"constraints.txt pins {pin}, setup.cfg asks for {wanted}"


def test_the_oldest_versions_are_tested(setup):
    """The floors of setup.cfg, but for the last number, are the versions of `make test-oldest`."""
    text = (ROOT / "tests" / "constraints" / "oldest.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(one.name): one.specifier for one in map(Requirement, lines(text))}
    for wanted in requirements(setup, extras=[]):
        floors = [one.version for one in wanted.specifier if one.operator == ">="]
        assert len(floors) == len(wanted.specifier), f"{wanted}: an upper bound"
        if floors:
            (version,) = (one.version for one in pins[canonicalize_name(wanted.name)])
            assert wanted.specifier.contains(version), f"{wanted}: {version} is below"
            assert Version(version).release[:2] == Version(floors[0]).release[:2], (
                f"{wanted}: {version} is not the oldest"
            )


@pytest.mark.skipif(
    int(metadata.version("setuptools").split(".")[0]) < 77, reason="needs setuptools>=77, as in the extra `dev`"
)
def test_the_wheel_holds_everything(setup, tmp_path):
    source = tmp_path / "source"  # a copy: a build leaves folders beside setup.cfg
    for folder in ("unisync_loss", "adapters"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for weights in source.rglob("*.safetensors"):
        weights.write_bytes(b"")  # names are what counts, and to compress them takes seconds
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", tmp_path, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.split("-")[1] == declared_version()
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    modules |= {f"unisync_loss/adapters/{path.name}" for path in (ROOT / "adapters").glob("*.py")}
    data = {f"unisync_loss/{name}" for name in data_files(setup)}
    data |= {f"unisync_loss/adapters/patches/{path.name}" for path in (ROOT / "adapters" / "patches").iterdir()}
    assert modules | data <= names, sorted((modules | data) - names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    outside = {name.split("/")[0] for name in names} - {"unisync_loss"}
    assert all(name.endswith(".dist-info") for name in outside), outside
