import hashlib
import json
import sys

import pytest

from tools import release
from unisync_loss.models.pretrained import RELEASED, WEIGHTS, save_pretrained


@pytest.fixture
def checkpoint(expert, tmp_path):
    folder = tmp_path / "tiny"
    save_pretrained(expert, folder)
    return folder


def test_entry(checkpoint, expert, monkeypatch):
    table = checkpoint.parent / RELEASED
    table.write_text(json.dumps({"zebra": {"size": 1}}))
    where = ["--repo", "owner/name", "--revision", "0" * 40]
    monkeypatch.setattr(sys, "argv", ["release", str(checkpoint), *where])
    release.main()
    entries = json.loads(table.read_text())
    assert list(entries) == ["tiny", "zebra"]
    assert entries["zebra"] == {"size": 1}
    content = (checkpoint / WEIGHTS).read_bytes()
    assert entries["tiny"] == {
        "config": json.loads(expert.config.to_json()),
        "parameters": sum(parameter.numel() for parameter in expert.parameters()),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "repo": "owner/name",
        "revision": "0" * 40,
    }


@pytest.mark.parametrize("where", [{"repo": "a/b"}, {"revision": "0" * 40}, {"repo": "a/b", "revision": "main"}])
def test_repository_needs_a_commit(checkpoint, where):
    with pytest.raises(ValueError, match="revision of 40 hex digits"):
        release.pin(checkpoint, **where)
    assert not (checkpoint.parent / RELEASED).exists()


def test_broken_checkpoint(checkpoint):
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"expected .* and {WEIGHTS}"):
        release.pin(checkpoint)
    assert not (checkpoint.parent / RELEASED).exists()
