"""The table and the page hold every problem with its fix; the exit code says whether there is one."""

import json
import sys

import pytest

from unisync_loss import load_expert
from unisync_loss.cli import main
from unisync_loss.curation.doctor_page import examine_and_report, report_table

pytest.importorskip("mediapipe")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")


@pytest.fixture
def unisync(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unisync", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return run


def test_every_problem_has_a_fix_in_table_and_page(folder, tmp_path):
    (folder / "a/ann/2.mp4").unlink()
    (folder / "a/ben/1.mp4").write_bytes(b"no video")
    report = examine_and_report([folder], load_expert("mel-rgb"), tmp_path / "new/folder")
    assert report["verdicts"] == {"out of sync": 1, "unreadable": 1}
    table, page = report_table(report), (tmp_path / "new/folder/report.html").read_text(encoding="utf-8")
    for row in report["problems"]:
        assert f"  {row['clip']}: {row['detail']}" in table
        for text in (row["remedy"], row["clip"]):
            assert text in table
            assert text in page
    assert page.count("data:image/png;base64,") == 2  # all clips, and the late one; the other cannot be read
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["report.html"]


def test_exit_code_0_is_clean_and_1_is_not(folder, unisync, tmp_path):
    code, out = unisync("doctor", folder / "a/ben/1.mp4", "--json", tmp_path / "facts.json")
    assert (code, json.loads((tmp_path / "facts.json").read_text())["problems"]) == (0, [])
    assert "1 clips, 0 problems" in out
    code, out = unisync("doctor", folder / "a/ann/1.mp4")
    assert code == 1
    assert "out of sync (1): unisync align" in out
