import ast
import importlib
import re
import shutil
import subprocess

import pytest
from unisync_loss.adapters import check

ORIGINAL = [f"line {number}" for number in range(1, 21)]
PATCH = """owner/generator at 0123456789abcdef0123456789abcdef01234567, MIT
--- a/train.py
+++ b/train.py
@@ -4,3 +4,3 @@
 line 4
-line 5
+ours
 line 6
@@ -15,4 +15,2 @@
 line 15
-line 16
-line 17
 line 18
"""
CHANGED = [*ORIGINAL[:4], "ours", *ORIGINAL[5:15], *ORIGINAL[17:]]


@pytest.fixture
def patches(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "PATCHES", tmp_path / "patches")
    check.PATCHES.mkdir()
    (check.PATCHES / "generator.lines").write_text(check.hash_lines(PATCH))


@pytest.fixture
def repository(tmp_path, patches):
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def write(folder, lines, ending="\n"):
    (folder / "train.py").write_bytes("".join(line + ending for line in lines).encode())


def lines_of(folder):
    return (folder / "train.py").read_text().splitlines()


def run(folder, *options):
    return check.main(["generator", str(folder), *options])


def test_the_documented_commit(repository, capsys):
    write(repository, ORIGINAL)
    assert run(repository) == 0
    assert "train.py:4: as documented\ntrain.py:15: as documented" in capsys.readouterr().out
    assert lines_of(repository) == ORIGINAL  # nothing is written without --apply
    assert run(repository, "--apply") == 0
    assert lines_of(repository) == CHANGED
    assert run(repository, "--apply") == 0
    assert capsys.readouterr().out.count("applied already") == 2
    assert lines_of(repository) == CHANGED


def test_a_later_commit_that_moved_lines(repository, capsys):
    write(repository, ["new", *ORIGINAL[:10], "new", "new", *ORIGINAL[10:]])
    assert run(repository, "--apply") == 0
    assert "train.py:4: moved to line 5\ntrain.py:15: moved to line 18" in capsys.readouterr().out
    assert lines_of(repository) == ["new", *CHANGED[:10], "new", "new", *CHANGED[10:]]


def test_a_later_commit_that_changed_a_line(repository, capsys):
    changed = [*ORIGINAL[:15], "another", *ORIGINAL[16:]]
    write(repository, changed)
    assert run(repository, "--apply") == 1
    printed = capsys.readouterr().out
    assert "train.py:4: as documented\ntrain.py:15: changed (line 16 of that commit is gone)" in printed
    assert "no change was made" in printed
    assert lines_of(repository) == changed


def test_the_nearest_of_several_places(repository):
    write(repository, [*ORIGINAL, *ORIGINAL])
    assert run(repository, "--apply") == 0
    assert lines_of(repository) == [*CHANGED, *ORIGINAL]


def test_endings_and_spaces_of_lines_are_kept(repository):
    write(repository, [line + " " for line in ORIGINAL], "\r\n")
    assert run(repository, "--apply") == 0
    text = (repository / "train.py").read_bytes()
    assert text.startswith(b"line 1 \r\nline 2 \r\nline 3 \r\nline 4 \r\nours\r\nline 6 \r\n")


def test_another_repository(repository, capsys):
    assert run(repository) == 1
    assert capsys.readouterr().out.count("no such file") == 2


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_makes_the_same_changes(tmp_path):
    write(tmp_path, ORIGINAL)
    (tmp_path / "changes").write_text(PATCH)
    subprocess.run(["git", "apply", "changes"], cwd=tmp_path, check=True)
    assert lines_of(tmp_path) == CHANGED


SHIPPED = sorted(check.PATCHES.iterdir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_patches(path):
    title, hunks = check.read_patch(path.read_text(encoding="utf-8"))
    assert re.match(r"[\w.-]+/[\w.-]+ at [0-9a-f]{40}, ", title)
    assert len(hunks) > 1
    for hunk in hunks:
        assert {sign for sign, _ in hunk.entries} <= {" ", "-", "+"}
        assert hunk.old != hunk.new
        assert all(re.fullmatch(r"sha256:[0-9a-f]{16}", text) for text in hunk.old)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_patches_import_public_names(path):
    added = [text.strip() for hunk in check.read_patch(path.read_text(encoding="utf-8"))[1]
             for sign, text in hunk.entries if sign == "+"]  # fmt: skip
    statements = [ast.parse(line).body[0] for line in added if line.startswith("from unisync_loss")]
    assert statements
    for statement in statements:
        module = importlib.import_module(statement.module)
        assert {alias.name for alias in statement.names} <= set(module.__all__)
