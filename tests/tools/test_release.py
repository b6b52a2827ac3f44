import hashlib
import json
import sys
from dataclasses import replace

import pytest
import torch
from helpers.checkpoints import SMALLEST
from safetensors.torch import load_file

from tools import release as tool
from tools.release import describe, release
from unisync_loss import UniSyncExpert, load_expert, save_pretrained
from unisync_loss.models import released

AUDIO, VISUAL = "towers/audio-hubert.safetensors", "towers/visual-3dmm.safetensors"


@pytest.fixture
def tiny():
    return UniSyncExpert(SMALLEST).eval()


@pytest.fixture
def weights(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    for module in (tool, released):
        monkeypatch.setattr(module, "BUNDLED", folder)
    return folder


@pytest.fixture
def saved(tmp_path):
    """Function that saves an expert as a run leaves it, in float32: its folder."""

    def save(expert, name="best"):
        save_pretrained(expert, tmp_path / name)
        return tmp_path / name

    return save


def with_other(side, expert):
    """The same expert with other weights on one side."""
    other = UniSyncExpert(replace(expert.config, threshold=0.25)).eval()
    kept = {key: value for key, value in expert.state_dict().items() if not key.startswith(side)}
    other.load_state_dict({**other.state_dict(), **kept})
    return other


def files(weights):
    """Content and time of every file."""
    paths = [path for path in weights.rglob("*") if path.is_file()]
    return {path.relative_to(weights).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def changed(before, weights):
    after = files(weights)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_files_and_rows(tiny, saved, weights, monkeypatch, capsys):
    where = ["--repo", "owner/name", "--revision", "0" * 40]
    monkeypatch.setattr(sys, "argv", ["release", str(saved(tiny)), "--name", "tiny-one", *where])
    tool.main()
    assert files(weights).keys() == {AUDIO, VISUAL, "tiny-one/config.json", "released.json"}
    assert (weights / "tiny-one" / "config.json").read_text() == SMALLEST.to_json()
    table = json.loads((weights / "released.json").read_text())
    towers = {"audio_tower": "audio-hubert", "visual_tower": "visual-3dmm"}
    config = json.loads(SMALLEST.to_json())
    assert table["pairs"] == {
        "tiny-one": {"config": config, **towers, "repo": "owner/name", "revision": "0" * 40},
    }
    assert list(table["towers"]) == ["audio-hubert", "visual-3dmm"]
    for file, module in (AUDIO, tiny.audio_tower), (VISUAL, tiny.visual_tower):
        content = (weights / file).read_bytes()
        assert table["towers"][(weights / file).stem] == {
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    printed = capsys.readouterr().out
    assert "audio-hubert: tiny-one" in printed
    assert "tiny-one/README.md: missing, python -m tools.cards writes it" in printed


def test_every_weight_is_in_one_tower(tiny, saved, weights):
    release(saved(tiny), "tiny-one", weights=weights)
    stored = [load_file(weights / file) for file in (AUDIO, VISUAL)]
    assert all(key.startswith(("audio_input.", "audio_tower.")) for key in stored[0])
    assert sum(len(tensors) for tensors in stored) == len(tiny.state_dict())
    for key, value in tiny.state_dict().items():
        half = value.half() if value.is_floating_point() else value
        assert torch.equal((stored[0] | stored[1])[key], half), key
        assert (stored[0] | stored[1])[key].dtype == half.dtype


def test_a_second_run_changes_nothing(tiny, saved, weights):
    release(saved(tiny), "tiny-one", weights=weights)
    before = files(weights)
    release(saved(tiny), "tiny-one", weights=weights)
    release(saved(load_expert("tiny-one"), "again"), "tiny-one", weights=weights)
    assert changed(before, weights) == set()


@pytest.mark.parametrize(("side", "own", "shared"), [("visual", VISUAL, "audio"), ("audio", AUDIO, "visual")])
def test_an_equal_tower_is_shared(tiny, saved, weights, side, own, shared):
    release(saved(tiny), "tiny-one", weights=weights, towers={"audio": "audio-first", "visual": "visual-first"})
    before = files(weights)
    other = with_other(side, tiny)
    release(saved(other, "other"), "tiny-two", weights=weights)
    assert changed(before, weights) == {own, "tiny-two/config.json", "released.json"}
    assert f"{shared}-first: tiny-one, tiny-two" in describe(weights, "tiny-two")
    for name, expert in ("tiny-one", tiny), ("tiny-two", other):
        assert all(
            torch.equal(load_expert(name).state_dict()[k], v.half().float()) for k, v in expert.named_parameters()
        )


def test_the_sign_of_zero_does_not_matter(tiny, saved, weights):
    weight = next(tiny.audio_tower.parameters()).data.view(-1)
    weight[0] = 0.0
    release(saved(tiny), "tiny-one", weights=weights)
    before = files(weights)
    weight[0] = -1e-9  # -0 in float16
    release(saved(tiny, "other"), "tiny-one", weights=weights)
    assert changed(before, weights) == set()


def test_another_content_needs_another_name_or_replace(tiny, saved, weights):
    release(saved(tiny), "tiny-one", weights=weights)
    before = files(weights)
    other = saved(with_other("visual", tiny), "other")
    with pytest.raises(
        ValueError, match=rf"expected the content of .*{VISUAL}, got another: .*--visual-tower, or --rep"
    ):
        release(other, "tiny-two", weights=weights)
    assert changed(before, weights) == set()
    release(other, "tiny-two", weights=weights, replace=True)
    assert changed(before, weights) == {VISUAL, "tiny-two/config.json", "released.json"}
    one, two = load_expert("tiny-one"), load_expert("tiny-two")
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_a_tower_is_not_stored_twice(tiny, saved, weights):
    release(saved(tiny), "tiny-one", weights=weights)
    with pytest.raises(
        ValueError, match="audio tower: expected 'audio-hubert', the file that has this content already"
    ):
        release(saved(tiny), "tiny-two", weights=weights, towers={"audio": "audio-other"})


def test_towers_without_use_are_named(tiny, saved, weights):
    release(saved(tiny), "tiny-one", weights=weights)
    other = saved(with_other("visual", tiny), "other")
    release(other, "tiny-one", weights=weights, towers={"visual": "visual-other"})
    assert f"{weights / VISUAL}: no expert uses it, delete it" in describe(weights, "tiny-one")
    assert list(json.loads((weights / "released.json").read_text())["towers"]) == ["audio-hubert", "visual-other"]


@pytest.mark.parametrize("name", ["", "towers", "../up", "a/b", "Mel-rgb", "mel-"])
def test_names(tiny, saved, weights, name):
    with pytest.raises(ValueError, match="name: expected words joined by hyphens, such as 'mel-rgb'"):
        release(saved(tiny), name, weights=weights)
    with pytest.raises(ValueError, match="visual tower: expected a name such as 'visual-3dmm'"):
        release(saved(tiny), "tiny-one", weights=weights, towers={"visual": name or "audio-hubert"})
    assert not weights.exists()


@pytest.mark.parametrize("where", [{"repo": "a/b"}, {"revision": "0" * 40}, {"repo": "a/b", "revision": "main"}])
def test_repository_needs_a_commit(tiny, saved, weights, where):
    with pytest.raises(ValueError, match="revision of 40 hex digits"):
        release(saved(tiny), "tiny-one", weights=weights, **where)
    assert not weights.exists()


def test_broken_checkpoint(tiny, saved, weights):
    folder = saved(tiny)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected .* and model\.safetensors"):
        release(folder, "tiny-one", weights=weights)
    assert not weights.exists()


def test_not_finite_in_float16(tiny, saved, weights):
    next(tiny.visual_tower.parameters()).data.view(-1)[0] = 1e6
    with pytest.raises(ValueError, match=r"visual_tower\..*: expected values that are finite in torch\.float16"):
        release(saved(tiny), "tiny-one", weights=weights)
    assert not weights.exists()


@pytest.mark.parametrize("fail_at", [1, 2])
def test_interrupted(tiny, saved, weights, monkeypatch, fail_at):
    """The table is written last: experts released before load as before, and a second run completes the new one."""
    release(saved(tiny), "tiny-one", weights=weights)
    other, written = saved(with_other("visual", tiny), "other"), []
    write = tool.write_atomically

    def failing(path, content):
        written.append(path)
        if len(written) == fail_at:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(tool, "write_atomically", failing)
        with pytest.raises(KeyboardInterrupt):
            release(other, "tiny-two", weights=weights, towers={"visual": "visual-other"})
    assert list(released.list_pretrained()) == ["tiny-one"]
    load_expert("tiny-one")
    release(other, "tiny-two", weights=weights, towers={"visual": "visual-other"})
    load_expert("tiny-two")
