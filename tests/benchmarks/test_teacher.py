"""`benchmarks/teacher.py` and its segments, on drawn faces with random experts."""

import json
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.data import list_clips, load_clip

pytest.importorskip("av")
pytest.importorskip("mediapipe")
sys.path.insert(0, str(ROOT / "benchmarks"))
import teacher
import teacher_attacks
from teacher import compare_openings, summarise_rows
from teacher_segments import LATE, choose_segments, cut_segment, draw_order, lip_opening, mouth_region


def make_row(in_sync, late, change=(0.0,), wanted=(0.0,)):
    clean = {name: in_sync for name in teacher.ACCURACIES}
    raised = {name: late for name in teacher.ACCURACIES}
    gradient = {name: 0.5 for name in teacher.GRADIENT}
    return {
        "in_sync": clean,
        "late": raised,
        **gradient,
        "opening_change": list(change),
        "opening_wanted": list(wanted),
    }


def test_accuracy_and_gain():
    row = make_row([0.9, 0.5], [0.1, 0.8])
    row["late"] = {**row["late"], "clean": [0.0, 0.3]}
    summary = summarise_rows([row, row], 0.6, 0)
    assert summary["PGD 8"]["value"] == 0.5  # 0.9 and 0.1 are right
    assert summary["clean"]["value"] == 0.75
    assert summary["gain"] == {"value": pytest.approx(0.3), "ci95": [0.3, 0.3]}
    assert "clean" not in summarise_rows([row], None, 0)


def test_intervals_are_over_clips():
    rows = [make_row([0.9] * 5, [0.1] * 5)] * 8 + [make_row([0.1] * 5, [0.9] * 5)] * 8
    low, high = summarise_rows(rows, 0.5, 0)["clean"]["ci95"]
    assert 0.2 < low < 0.35 < 0.65 < high < 0.8


def test_correlation_and_slope_of_openings():
    random = np.random.default_rng(0)
    wanted, noise = random.normal(size=(2, 6, 50))
    changes = 0.5 * wanted + noise
    rows = [make_row([1.0], [0.0], [None, *y], [0.2, *x]) for x, y in zip(wanted, changes, strict=True)]
    found = compare_openings(rows, 0)
    x, y = wanted.ravel(), changes.ravel()
    assert found["lips"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-4)
    assert found["share"]["value"] == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-4)
    assert found["share"]["ci95"][0] < 0.5 < found["share"]["ci95"][1]


def test_speakers_take_turns(folder):
    entries = list_clips(folder)
    order = draw_order(entries, 0)
    assert sorted(entry.name for entry in order) == [entry.name for entry in entries]
    assert len({entry.speaker for entry in order[:3]}) == len({entry.speaker for entry in order[3:]}) == 3
    assert [entry.name for entry in order] != [entry.name for entry in draw_order(entries, 1)]


def test_segment(folder):
    entry = list_clips(folder)[0]
    segment = cut_segment(entry, 9, 0)
    clip = load_clip(entry)
    frames = torch.from_numpy(clip.frames).movedim(-1, 1).float() / 255
    size = frames.shape[-1] // 96
    small = torch.nn.functional.avg_pool2d(frames, size)
    assert segment.start >= LATE
    for part, start in ((segment.given, segment.start), (segment.wanted, segment.start - LATE)):
        errors = [(part - small[first : first + 9]).abs().mean().item() for first in range(len(small) - 8)]
        assert int(np.argmin(errors)) == start
    assert segment.waveform.shape == (1, 640 * segment.frames)
    assert np.isfinite(segment.opening).all()
    assert np.isfinite(segment.opening_wanted).all()


def test_short_clips_are_replaced(folder, capsys):
    entries = list_clips(folder)
    length = len(load_clip(entries[0]).frames)
    assert len(choose_segments(entries, 2, length - LATE, 0)) == 2
    with pytest.raises(ValueError, match=f"expected clips of at least {length + 1} frames"):
        choose_segments(entries, 2, length + 1 - LATE, 0)
    assert "skipped drawn/s0/0.mp4: expected at least" in capsys.readouterr().err


def test_opening_and_region():
    mesh = np.full((2, 468, 2), 0.5, np.float32)
    mesh[:, [33, 263], 0] = 0.3, 0.7
    mesh[:, [82, 13, 312], 1], mesh[:, [87, 14, 317], 1] = 0.6, [[0.62] * 3, [0.66] * 3]
    assert lip_opening(mesh) == pytest.approx([0.05, 0.15], abs=1e-5)
    mesh[:, [61, 291], 0] = 0.42, 0.58
    mesh[:, [2, 152], 1] = 0.52, 0.79
    assert mouth_region(mesh) == (slice(48, 80), slice(32, 64))  # 36.5 … 59.5 across, with a margin of 3.8
    mesh[:, 152, 1] = 1.2  # below the frame
    assert mouth_region(mesh)[0] == slice(48, 96)


@pytest.fixture
def experts(tmp_path):
    torch.manual_seed(5)
    for name, options in (("one", {}), ("grey", {"colour": False})):
        save_pretrained(UniSyncExpert(UniSyncConfig(embedding=16, **options)).eval(), tmp_path / name)
    return [tmp_path / "one", tmp_path / "grey"]


@pytest.fixture
def measure(folder, tmp_path, monkeypatch):
    def run(*arguments):
        given = ["--data", folder, "--clips", 1, "--frames", 5, "--cache", tmp_path / "cache"]
        given += ["--json", tmp_path / "out" / "teacher.json"]
        monkeypatch.setattr(sys, "argv", [str(part) for part in ("teacher", *arguments, *given)])
        teacher.main()
        return json.loads((tmp_path / "out" / "teacher.json").read_text())

    return run


def test_command(measure, experts, capsys, monkeypatch):
    monkeypatch.setattr(teacher_attacks, "STEPS", 1)
    report = measure(*experts)
    names = ["random noise", "wanted change", "wanted, within 8", *map(str, experts)]
    assert list(report["summaries"]) == names
    printed = capsys.readouterr().out
    assert all(name in printed for name in ["clean", *names])
    assert report["summaries"][str(experts[0])]["chroma"]["value"] > 0.01
    assert report["summaries"][str(experts[1])]["chroma"]["value"] == 0
    assert [row["clip"] for row in report["rows"][names[0]]] == [row["clip"] for row in report["rows"][names[3]]]

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(teacher, "measure_segment", fail)  # all of it is in the cache
    assert measure(*experts) == report
