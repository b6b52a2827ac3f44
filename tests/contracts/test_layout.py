"""Tests mirror the package: unisync_loss/X/y.py is tested in tests/X/test_y.py."""

import pytest
from helpers.paths import ROOT
from helpers.source import ADAPTERS, MODULES, PACKAGE

#: modules tested through others, with the file that does; this list may only shrink
ELSEWHERE = {
    "cli/train.py": "cli/test_app.py",
    "demo/clip.py": "end_to_end/test_demo.py",
    "demo/generator.py": "end_to_end/test_demo.py",
    "demo/report.py": "end_to_end/test_demo.py",
    "demo/run.py": "end_to_end/test_demo.py",
    "evaluation/results.py": "evaluation/test_video_summary.py",
    "representations/face_topology.py": "representations/test_landmarks.py",
    "training/data/cache_parts.py": "training/data/test_cache.py",
    "training/data/visual_frames.py": "training/data/test_dataset.py",
    "utils/hub.py": "models/test_pretrained_hub.py",
    "video/face_detection.py": "video/test_face_tracking.py",
}
MIRRORED = [path for path in [*MODULES, *ADAPTERS] if not path.name.startswith("__")]


def module_name(path):
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def test_of(name):
    folder, _, file = name.rpartition("/")
    return ROOT / "tests" / folder / f"test_{file}"


test_of.__test__ = False


@pytest.mark.parametrize("name", [module_name(path) for path in MIRRORED])
def test_every_module_has_a_test_file(name):
    if name in ELSEWHERE:
        assert not test_of(name).is_file(), f"{name} has its test file: take it out of ELSEWHERE"
        assert (ROOT / "tests" / ELSEWHERE[name]).is_file(), ELSEWHERE[name]
    else:
        assert test_of(name).is_file(), f"expected {test_of(name).relative_to(ROOT)}"


def test_exceptions_are_modules():
    assert set(ELSEWHERE) <= {module_name(path) for path in MIRRORED}
