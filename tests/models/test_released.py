"""Released experts load from the files of their towers, exactly or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import REPO, SMALLEST, Bomb, contents, edit_config, edit_tensors, release_one
from helpers.fake_hub import FakeHub
from safetensors.torch import load_file

from unisync_loss.models.pretrained import CONFIG, WEIGHTS, load_expert, save_pretrained
from unisync_loss.models.released import RELEASED, SIDES, list_pretrained

TOWERS = {"audio": "audio-hubert", "visual": "visual-3dmm"}
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of released experts with one, ``tiny-one``."""
    return release_one(checkpoint, monkeypatch)


def tower_file(weights: Path, side: str) -> Path:
    return weights / "towers" / f"{TOWERS[side]}.safetensors"


def pin(weights: Path, side: str) -> None:
    """Record the present content of a tower as the released one."""
    table = json.loads((weights / RELEASED).read_text())
    content = tower_file(weights, side).read_bytes()
    table["towers"][TOWERS[side]]["sha256"] = hashlib.sha256(content).hexdigest()
    (weights / RELEASED).write_text(json.dumps(table))


class TestList:
    def test_information(self, weights: Path, checkpoint: Path) -> None:
        assert list(list_pretrained()) == ["tiny-one"]
        info = list_pretrained()["tiny-one"]
        assert (info.name, info.config, info.path, info.repo) == ("tiny-one", SMALLEST, weights / "tiny-one", None)
        assert {side: tower.name for side, tower in info.towers.items()} == TOWERS
        for side, tower in info.towers.items():
            content = tower_file(weights, side).read_bytes()
            assert tower.path == tower_file(weights, side)
            assert (tower.size, tower.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert info.size == info.audio_tower.size + info.visual_tower.size
        assert info.parameters == sum(value.numel() for value in load_expert(checkpoint).parameters())

    def test_in_alphabetical_order(self, weights: Path) -> None:
        table = json.loads((weights / RELEASED).read_text())
        for name in ("zebra-one", "ant-one"):
            table["pairs"][name] = table["pairs"]["tiny-one"]
        (weights / RELEASED).write_text(json.dumps(table))
        assert list(list_pretrained()) == ["ant-one", "tiny-one", "zebra-one"]

    def test_none(self, weights: Path) -> None:
        (weights / RELEASED).unlink()
        assert list_pretrained() == {}


class TestLoad:
    def test_weights_are_those_of_the_checkpoint(self, weights: Path, checkpoint: Path) -> None:
        loaded, expected = load_expert("tiny-one"), load_expert(checkpoint)
        assert loaded.config == expected.config
        assert not loaded.training
        assert loaded.state_dict().keys() == expected.state_dict().keys()
        for key, value in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key

    def test_as_a_folder(self, weights: Path, checkpoint: Path, tmp_path: Path) -> None:
        save_pretrained(load_expert("tiny-one"), tmp_path / "saved", dtype=torch.float16)
        for file in (CONFIG, WEIGHTS):
            assert (tmp_path / "saved" / file).read_bytes() == (checkpoint / file).read_bytes()

    def test_a_folder_goes_first(self, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "here" / "tiny-one").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ValueError, match="got an empty folder"):
            load_expert("tiny-one")

    @pytest.mark.parametrize("inside", ["", "weights", "weights/tiny-one"])
    def test_its_folder_has_no_weights(self, weights: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
        monkeypatch.chdir(weights.parent / inside)
        path = {"": "weights/tiny-one", "weights": "tiny-one", "weights/tiny-one": "."}[inside]
        with pytest.raises(
            ValueError,
            match=rf"expected {CONFIG} and {WEIGHTS}, got {CONFIG}; .* by its name, 'tiny-one', from outside",
        ):
            load_expert(path)

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize(
        "damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:-9]]
    )
    def test_changed_tower(self, weights: Path, side: str, damage: Callable[[bytes], bytes]) -> None:
        file = tower_file(weights, side)
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(
            ValueError, match=rf"{file}: expected {TOWERS[side]} of sha256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}"
        ):
            load_expert("tiny-one")

    @pytest.mark.parametrize("side", SIDES)
    def test_missing_tower(self, weights: Path, side: str) -> None:
        tower_file(weights, side).unlink()
        with pytest.raises(
            ValueError, match=f"{tower_file(weights, side)}: expected the {side} tower of 'tiny-one', got no file"
        ):
            load_expert("tiny-one")

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda tensors, key: tensors.pop(key), "missing {}"),
            (lambda tensors, _: tensors.update(stranger=torch.zeros(3)), "unexpected stranger"),
            (
                lambda tensors, key: tensors.update({key: torch.zeros(3, 1, 1)}),
                r"{}: expected shape .*, got \(3, 1, 1\)",
            ),
            (lambda tensors, key: tensors[key].fill_(float("nan")), "{}: expected finite values"),
        ],
    )
    def test_tower_of_another_network(
        self, weights: Path, side: str, change: Callable[[Tensors, str], Any], message: str
    ) -> None:
        """Pinned, so that only the comparison with the network finds it."""
        file = tower_file(weights, side)
        key = sorted(load_file(file))[-1]
        edit_tensors(file, lambda tensors: change(tensors, key))
        pin(weights, side)
        with pytest.raises(ValueError, match=rf"{file}: does not fit config\.json: {message.format(key)}"):
            load_expert("tiny-one")

    def test_a_tower_does_not_reach_into_the_other(self, weights: Path) -> None:
        other = load_file(tower_file(weights, "visual"))
        edit_tensors(tower_file(weights, "audio"), lambda tensors: tensors.update(other))
        pin(weights, "audio")
        with pytest.raises(ValueError, match=r"does not fit .*unexpected visual_"):
            load_expert("tiny-one")

    def test_exchanged_towers(self, weights: Path) -> None:
        table = json.loads((weights / RELEASED).read_text())
        table["pairs"]["tiny-one"]["audio_tower"] = TOWERS["visual"]
        (weights / RELEASED).write_text(json.dumps(table))
        with pytest.raises(ValueError, match=f"{TOWERS['visual']}.safetensors: does not fit .*missing audio_tower"):
            load_expert("tiny-one")

    def test_pickle_in_place_of_a_tower(self, weights: Path, tmp_path: Path) -> None:
        tower_file(weights, "audio").write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
        pin(weights, "audio")
        with pytest.raises(ValueError, match="pickles are never loaded"):
            load_expert("tiny-one")
        assert not (tmp_path / "mark").exists()

    def test_changed_config(self, weights: Path) -> None:
        edit_config(weights / "tiny-one", threshold=0.9)
        with pytest.raises(ValueError, match="expected the config released as 'tiny-one', got another"):
            load_expert("tiny-one")

    def test_missing_config(self, weights: Path) -> None:
        (weights / "tiny-one" / CONFIG).rename(weights / "tiny-one" / "notes.txt")
        with pytest.raises(ValueError, match=rf"tiny-one: expected {CONFIG}, got notes\.txt$"):
            load_expert("tiny-one")

    def test_missing_from_the_installation(self, weights: Path) -> None:
        shutil.rmtree(weights / "tiny-one")
        with pytest.raises(ValueError, match="tiny-one: expected a checkpoint folder, got no such folder"):
            load_expert("tiny-one")


class TestOnlyOnTheHub:
    @pytest.fixture
    def commit(self, checkpoint: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> str:
        commit = hub.add(REPO, contents(checkpoint))
        shutil.rmtree(release_one(checkpoint, monkeypatch, repo=REPO, revision=commit) / "tiny-one")
        return commit

    def test_loads(self, commit: str, checkpoint: Path) -> None:
        assert list_pretrained()["tiny-one"].path is None
        loaded = load_expert("tiny-one").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in load_expert(checkpoint).state_dict().items())

    def test_changed(self, commit: str, checkpoint: Path, hub: FakeHub) -> None:
        files = contents(checkpoint)
        hub.files[REPO, commit] = {**files, WEIGHTS: files[WEIGHTS][:-1] + b"!"}
        with pytest.raises(ValueError, match=f"{REPO}@{commit}: .*{WEIGHTS}: expected .*sha256"):
            load_expert("tiny-one")
