"""A checkpoint goes to a Hub on loopback by the real client, and loads from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import REPO, edit_config
from helpers.fake_hub import FakeHub, dead_port, set_constants

from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import CARD, UNSTATED, load_expert, save_pretrained
from unisync_loss.models.publishing import FILES, portable_card, prepare_repository, push_folder

STATED = "---\nlibrary_name: unisync_loss\nlicense: mit\npipeline_tag: video-classification\n---\n\n# Mine\n"


@pytest.fixture
def stated(tiny_expert: UniSyncExpert, tmp_path: Path) -> Path:
    save_pretrained(tiny_expert, tmp_path / "mine", card=STATED)
    return tmp_path / "mine"


def same_weights(one: UniSyncExpert, other: UniSyncExpert) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return one.config == other.config and all(torch.equal(first, second) for first, second in pairs)


def test_what_was_pushed_loads_by_its_commit(hub: FakeHub, stated: Path, tmp_path: Path) -> None:
    sizes = prepare_repository(stated, tmp_path / "repository")
    assert {name: (stated / name).stat().st_size for name in FILES} == sizes
    commit = push_folder(tmp_path / "repository", REPO)
    assert sorted(hub.files[REPO, commit]) == sorted(FILES)
    assert hub.uploads.private == {REPO: False}
    assert len(hub.uploads.stored) == 1  # the weights, as a large file
    assert same_weights(load_expert(f"{REPO}@{commit}"), load_expert(stated))


def test_a_second_push_is_another_commit_of_the_same_repository(hub: FakeHub, stated: Path) -> None:
    first = push_folder(stated, REPO, private=True)
    edit_config(stated, threshold=0.25)
    second = push_folder(stated, REPO, private=True)
    assert hub.uploads.private == {REPO: True}
    assert first != second == hub.refs[REPO, "main"]
    assert load_expert(REPO).config.threshold == 0.25


def test_a_released_expert_is_written_whole(tmp_path: Path) -> None:
    prepare_repository("mel-landmarks", tmp_path)
    assert same_weights(load_expert(tmp_path), load_expert("mel-landmarks"))
    assert "](../" not in (tmp_path / CARD).read_text()


def test_links_to_files_beside_a_card_become_words() -> None:
    text = "[a](../../x.md) ![p](p.png) [b](https://b.example/x) [c](#scores)"
    assert portable_card(text) == "a p [b](https://b.example/x) [c](#scores)"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (STATED.replace("license: mit\n", ""), "expected license in the front matter"),
        ("# no front matter\n", "expected library_name, license, pipeline_tag"),
        (STATED + UNSTATED, "in place of"),
        (STATED.replace("license: mit", "license: [mit"), "front matter that the Hub accepts"),
        (STATED.replace("license: mit", "license: mit\nmodel-index: 3"), "front matter that the Hub accepts"),
    ],
)
def test_a_card_must_state_what_people_need(stated: Path, tmp_path: Path, card: str, expected: str) -> None:
    (stated / CARD).write_text(card)
    with pytest.raises(ValueError, match=expected):
        prepare_repository(stated, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_the_default_card_is_refused(tiny_expert: UniSyncExpert, tmp_path: Path) -> None:
    save_pretrained(tiny_expert, tmp_path / "mine")
    with pytest.raises(ValueError, match="expected license"):
        prepare_repository(tmp_path / "mine", tmp_path / "repository")
    (tmp_path / "mine" / CARD).unlink()
    with pytest.raises(ValueError, match="expected a card"):
        prepare_repository(tmp_path / "mine", tmp_path / "repository")


def test_an_audio_model_on_this_disk_is_refused(stated: Path, tmp_path: Path) -> None:
    config = json.loads((stated / "config.json").read_text())
    changed = config | {"audio": "hubert", "audio_features": 32, "audio_model": str(tmp_path)}
    from unisync_loss.config import UniSyncConfig

    save_pretrained(UniSyncExpert(UniSyncConfig(**changed)), stated)
    with pytest.raises(ValueError, match=f"come from {tmp_path} on this disk"):
        prepare_repository(stated, tmp_path / "repository")


def test_only_an_empty_folder_is_filled(stated: Path) -> None:
    with pytest.raises(ValueError, match="expected a new or an empty folder"):
        prepare_repository(stated, stated)


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "a/b@main", ""])
def test_names_that_are_no_repository(repo: str, stated: Path) -> None:
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        push_folder(stated, repo)


@pytest.mark.parametrize("place", ["create", "preupload", "lfs", "store", "commit"])
def test_a_refusal_says_to_log_in_and_leaves_nothing(hub: FakeHub, stated: Path, place: str) -> None:
    hub.uploads.refused[place] = 403
    with pytest.raises(ValueError, match=f"{REPO}: not uploaded"):
        push_folder(stated, REPO)
    assert hub.files == {}


def test_no_hub_is_one_error(hub: FakeHub, stated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_constants({"ENDPOINT": dead_port()}, monkeypatch)
    with pytest.raises(ValueError, match=f"{REPO}: not uploaded"):
        push_folder(stated, REPO)
