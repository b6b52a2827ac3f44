"""Checkpoints load exactly or not at all: folders, released names and the real Hub client against a Hub on loopback."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fake_hub import FakeHub, Stopwatch, black_hole, dead_port, run_cold, use_hub
from safetensors.torch import load_file, save_file

from tools.release import pin
from unisync_loss.config import UniSyncConfig
from unisync_loss.models import pretrained
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import CARD, CONFIG, WEIGHTS, list_pretrained, load_expert, save_pretrained

SMALLEST = UniSyncConfig(
    audio="hubert", visual="3dmm", audio_features=4, visual_features=4, embedding=8, threshold=0.375, hubert_layer=9
)
REPO = "tiny/expert"
#: seconds in which an unreachable Hub must be reported, with room for a busy machine; left alone, the client takes 23 s
#: where nothing listens and 393 s where nothing answers
SOON = 8.0


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def expert() -> UniSyncExpert:
    torch.manual_seed(0)
    made = UniSyncExpert(SMALLEST)
    for name, buffer in made.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(70_000)  # would be infinite in float16
    return made.eval()


@pytest.fixture(scope="module")
def original(expert: UniSyncExpert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_pretrained(expert, folder, dtype=torch.float16)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_config(folder: Path, **values: Any) -> None:
    config = {**json.loads((folder / CONFIG).read_text()), **values}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


class TestFolder:
    def test_round_trip_is_bit_exact(self, expert: UniSyncExpert, tmp_path: Path) -> None:
        save_pretrained(expert, tmp_path / "new" / "deep")
        loaded = load_expert(tmp_path / "new" / "deep")
        assert loaded.config == expert.config
        assert not loaded.training
        for key, value in expert.state_dict().items():
            got = loaded.state_dict()[key]
            assert got.dtype == value.dtype
            assert torch.equal(got, value), key
        video, audio = torch.randn(2, 7, 4), torch.randn(2, 14, 4)
        assert torch.equal(loaded(video, audio), expert(video, audio))
        assert sorted(contents(tmp_path / "new" / "deep")) == [CARD, CONFIG, WEIGHTS]

    def test_half_is_stored_and_float32_is_used(self, expert: UniSyncExpert, folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}
        loaded = load_expert(str(folder)).state_dict()
        for key, value in expert.state_dict().items():
            assert loaded[key].dtype == value.dtype
            torch.testing.assert_close(
                loaded[key], value, rtol=2**-11, atol=2**-24
            )  # half a unit in float16's last place

    def test_random_numbers_are_left_alone(self, folder: Path) -> None:
        before = torch.get_rng_state()
        load_expert(folder)
        assert torch.equal(torch.get_rng_state(), before)

    def test_device(self, folder: Path) -> None:
        assert {value.device.type for value in load_expert(folder, device="meta").parameters()} == {"meta"}

    def test_default_dtype_does_not_matter(self, folder: Path) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            assert {value.dtype for value in load_expert(folder).parameters()} == {torch.float32}
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize(
        "name", ["nowhere", "not a name", "", "../up", "a/b/c", "owner/name@", "C:\\models\\x", "a" * 9999]
    )
    def test_unknown_name_lists_the_known(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        release(folder, monkeypatch)
        with pytest.raises(
            ValueError, match=r"expected a released name \(tiny-one\), an existing folder or owner/name"
        ):
            load_expert(name)

    def test_a_path_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected a checkpoint folder, got no such folder"):
            load_expert(tmp_path / "owner" / "name")

    @pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
    def test_missing_file(self, folder: Path, file: str) -> None:
        (folder / file).unlink()
        with pytest.raises(ValueError, match=f"copy: expected {CONFIG} and {WEIGHTS}, got README.md, "):
            load_expert(folder)

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="got an empty folder"):
            load_expert(tmp_path)

    @pytest.mark.parametrize("file", ["pytorch_model.bin", "expert.pth", "last.ckpt"])
    def test_only_a_pickle(self, folder: Path, tmp_path: Path, file: str) -> None:
        (folder / WEIGHTS).unlink()
        (folder / file).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
        with pytest.raises(ValueError, match=f"{file}; pickles are never loaded, convert"):
            load_expert(folder)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("protocol", [0, 2, 4, 5, None])
    def test_a_pickle_named_safetensors(self, folder: Path, tmp_path: Path, protocol: int | None) -> None:
        bomb = Bomb(tmp_path / "mark")
        if protocol is None:
            torch.save(bomb, folder / WEIGHTS)
        else:
            (folder / WEIGHTS).write_bytes(pickle.dumps(bomb, protocol))
        expected = "pickle under its name" if protocol != 0 else "cannot be read"  # protocol 0 is plain text
        with pytest.raises(ValueError, match=f"{WEIGHTS}: expected .*{expected}"):
            load_expert(folder)
        assert not (tmp_path / "mark").exists()
        pickle.loads(pickle.dumps(bomb))
        assert (tmp_path / "mark").exists()  # it would have been seen

    @pytest.mark.parametrize("keep", [0, 7, 100, 20_000, -1])
    def test_truncated(self, folder: Path, keep: int) -> None:
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
        with pytest.raises(
            ValueError, match=f"{WEIGHTS}: expected a whole safetensors file, got (an empty one|one that cannot)"
        ):
            load_expert(folder)

    def test_keys_and_shapes_are_all_named(self, folder: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            keys = [key for key, value in tensors.items() if value.ndim > 1]
            tensors["stranger"] = torch.zeros(3)
            del tensors[keys[0]]
            tensors[keys[1]] = tensors[keys[1]][:1].clone()
            self.keys = keys

        edit_weights(folder, change)
        with pytest.raises(ValueError, match=r"does not fit config\.json") as caught:
            load_expert(folder)
        for part in (
            f"missing {self.keys[0]}",
            "unexpected stranger",
            f"{self.keys[1]}: expected shape (",
            str(folder),
        ):
            assert part in str(caught.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, folder: Path, value: float) -> None:
        edit_weights(folder, lambda tensors: next(v for v in tensors.values() if v.is_floating_point()).fill_(value))
        with pytest.raises(ValueError, match="expected finite values, got NaN or infinity"):
            load_expert(folder)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
    def test_wrong_kind(self, folder: Path, dtype: torch.dtype) -> None:
        edit_weights(folder, lambda tensors: tensors.update({key: tensors[key].to(dtype) for key in list(tensors)}))
        with pytest.raises(ValueError, match=f"expected torch.float32, got {dtype}"):
            load_expert(folder)

    def test_many_problems_are_counted(self, folder: Path) -> None:
        edit_weights(folder, lambda tensors: tensors.update({f"x{i}": torch.zeros(1) for i in range(50)}))
        with pytest.raises(ValueError, match="and 44 more"):
            load_expert(folder)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"dropout": 0.1}, "unknown fields dropout"),
            ({"threshold": ...}, "expected every field of the config, got none of threshold"),
            ({"threshold": float("nan")}, "threshold: expected a number"),
            ({"audio": "opus"}, "audio: expected one of mel, hubert"),
            ({"value_range": None}, r"config\.json: value_range: expected \[0\.0, 1\.0\], got None"),
            ({"embedding": 10**12}, "embedding|does not fit|cannot be built"),
            ({"embedding": 10**30}, "embedding|does not fit|cannot be built"),
            ({"visual": "landmarks", "visual_features": 136}, "does not fit config.json"),
        ],
    )
    def test_config_is_exact(self, folder: Path, values: dict[str, Any], message: str) -> None:
        edit_config(folder, **values)
        with pytest.raises(ValueError, match=message) as caught:
            load_expert(folder)
        assert str(folder) in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
    def test_config_is_json(self, folder: Path, content: bytes) -> None:
        (folder / CONFIG).write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json: "):
            load_expert(folder)


class TestSave:
    def test_card(self, expert: UniSyncExpert, folder: Path) -> None:
        assert "hubert-3dmm" in (folder / CARD).read_text()
        save_pretrained(expert, folder, card="# mine\n")
        save_pretrained(expert, folder)
        assert (folder / CARD).read_text() == "# mine\n"

    def test_overwrites_with_another_config(self, folder: Path) -> None:
        other = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=4, embedding=8))
        save_pretrained(other, folder, dtype=torch.bfloat16)
        assert load_expert(folder).config == other.config
        assert sorted(contents(folder)) == [CARD, CONFIG, WEIGHTS]

    def test_same_config_is_one_rename(
        self, expert: UniSyncExpert, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renamed: list[str] = []
        replace = os.replace

        def record(source: Path, target: Path) -> None:
            renamed.append(Path(target).name)
            replace(source, target)

        monkeypatch.setattr(os, "replace", record)
        save_pretrained(expert, folder)
        assert renamed == [WEIGHTS]

    def test_refuses_what_would_not_load(self, expert: UniSyncExpert, folder: Path, tmp_path: Path) -> None:
        large = load_expert(folder)
        next(large.parameters()).data.view(-1)[0] = 1e6
        before = contents(folder)
        with pytest.raises(ValueError, match=r"expected values that are finite in torch.float16"):
            save_pretrained(large, folder, dtype=torch.float16)
        with pytest.raises(ValueError, match=r"dtype: expected a floating-point type, got torch\.int8"):
            save_pretrained(expert, folder, dtype=torch.int8)
        assert contents(folder) == before

    @pytest.mark.parametrize("fail_at", range(1, 7))
    def test_interrupted_rename(
        self, expert: UniSyncExpert, folder: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three files go away and three come in; whichever fails, the earlier checkpoint is back."""
        other = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=4, embedding=8))
        before, renamed, replace = contents(folder), [], os.replace

        def failing(source: Path, target: Path) -> None:
            renamed.append(Path(target).name)
            if len(renamed) == fail_at:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(other, folder, card="# other\n")
        assert contents(folder) == before
        order = ["old-config.json", "old-README.md", "old-model.safetensors", WEIGHTS, CARD, CONFIG]
        assert renamed[:fail_at] == order[:fail_at]

    @pytest.mark.parametrize("fail_at", [1, 2, 3])
    def test_interrupted_first_save(
        self, expert: UniSyncExpert, tmp_path: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls, replace = 0, os.replace

        def failing(source: Path, target: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(expert, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_rollback_that_fails_loses_nothing(
        self, expert: UniSyncExpert, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, calls, replace = contents(folder), 0, os.replace

        def dying(source: Path, target: Path) -> None:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise OSError(errno.EIO, "gone")
            replace(source, target)

        monkeypatch.setattr(os, "replace", dying)
        other = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=4, embedding=8))
        with pytest.raises(OSError, match="gone"):
            save_pretrained(other, folder, card="# other\n")
        (kept,) = folder.glob(".saving-*")
        assert (folder / WEIGHTS).read_bytes() == before[WEIGHTS]
        assert {file: (kept / f"old-{file}").read_bytes() for file in (CONFIG, CARD)} == {
            file: before[file] for file in (CONFIG, CARD)
        }
        with pytest.raises(ValueError, match=r"expected config\.json"):
            load_expert(folder)

    @pytest.mark.parametrize("existing", [True, False])
    def test_full_disk(
        self, expert: UniSyncExpert, folder: Path, tmp_path: Path, existing: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = folder if existing else tmp_path / "new"
        before = contents(folder)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_pretrained(expert, target)
        assert contents(folder) == before
        assert existing or not target.exists()


def release(folder: Path, monkeypatch: pytest.MonkeyPatch, **where: str) -> Path:
    """Make a weights folder of the package that holds one released checkpoint."""
    weights = folder.parent / "weights"
    shutil.copytree(folder, weights / "tiny-one")
    monkeypatch.setattr(pretrained, "BUNDLED", weights)
    pin(weights / "tiny-one", **where)
    return weights / "tiny-one"


class TestReleased:
    def test_shipped_table_is_right(self) -> None:
        for name, info in list_pretrained().items():
            assert info.name == name
            assert info.path is not None or info.repo is not None
            if info.path is not None:
                load_expert(name)

    def test_listed_and_loaded(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = release(folder, monkeypatch)
        info = list_pretrained()["tiny-one"]
        assert list(list_pretrained()) == ["tiny-one"]
        assert (info.config, info.path, info.repo) == (SMALLEST, path, None)
        assert info.size == (path / WEIGHTS).stat().st_size
        assert info.parameters == sum(value.numel() for value in load_expert("tiny-one").parameters())

    def test_a_folder_goes_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        release(folder, monkeypatch)
        (tmp_path / "here" / "tiny-one").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ValueError, match="got an empty folder"):
            load_expert("tiny-one")

    def test_tampered_weights(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = release(folder, monkeypatch) / WEIGHTS
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{WEIGHTS}: expected sha256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}"):
            load_expert("tiny-one")
        load_expert(path.parent)  # as a folder it is what it is

    def test_tampered_config(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = release(folder, monkeypatch)
        edit_config(path, threshold=0.9)
        with pytest.raises(ValueError, match="expected the config released as 'tiny-one', got another"):
            load_expert("tiny-one")

    def test_missing_from_the_installation(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(release(folder, monkeypatch))
        with pytest.raises(ValueError, match="tiny-one: expected a checkpoint folder, got no such folder"):
            load_expert("tiny-one")

    def test_only_on_the_hub(self, folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        files = contents(folder)
        commit = hub.add(REPO, files)
        shutil.rmtree(release(folder, monkeypatch, repo=REPO, revision=commit))
        hub.files[REPO, commit] = {**files, WEIGHTS: files[WEIGHTS][:-1] + b"!"}
        with pytest.raises(ValueError, match=f"{REPO}@{commit}: .*expected sha256"):
            load_expert("tiny-one")
        assert list_pretrained()["tiny-one"].path is None


class TestHub:
    def test_loads_and_then_asks_little(self, hub: FakeHub, original: Path, expert: UniSyncExpert) -> None:
        commit = hub.add(REPO, contents(original))
        loaded = load_expert(REPO)
        assert loaded.config == SMALLEST
        assert sorted(request.split()[0] for request in hub.requests).count("GET") == 2
        hub.requests.clear()
        load_expert(REPO)
        assert {request.split()[0] for request in hub.requests} == {"HEAD"}
        hub.requests.clear()
        load_expert(f"{REPO}@{commit}")
        assert hub.requests == []

    @pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", "commit"])
    def test_revision(self, hub: FakeHub, folder: Path, revision: str) -> None:
        hub.add(REPO, contents(folder))
        edit_config(folder, threshold=0.25)
        commit = hub.add(REPO, contents(folder), revision="v1.0")
        hub.refs[REPO, "refs/pr/3"] = commit
        assert load_expert(f"{REPO}@{commit if revision == 'commit' else revision}").config.threshold == 0.25
        assert load_expert(REPO).config.threshold == 0.375

    def test_both_files_are_of_one_commit(
        self, hub: FakeHub, original: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A push between the two downloads must not mix two checkpoints."""
        hub.add(REPO, contents(original))
        edit_weights(folder, lambda tensors: [value.zero_() for value in tensors.values()])
        read_config = pretrained._read_config

        def push(path: Path) -> UniSyncConfig:
            hub.add(REPO, contents(folder))
            return read_config(path)

        monkeypatch.setattr(pretrained, "_read_config", push)
        assert any(bool(value.any()) for value in load_expert(REPO).parameters())

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("other/expert", "other/expert@main: no such repository on the Hub"),
            (f"{REPO}@v9", f"{REPO}@v9: no such revision"),
            (f"{REPO}@{'0' * 40}", "no such revision"),
            ("gated/expert", "gated/expert@main: access is gated: accept its terms"),
            ("bare/expert", f"bare/expert@main: no {CONFIG} in that repository"),
            ("pickled/expert", rf"pickled/expert@main: no {WEIGHTS} in that repository; pickles .* are never loaded"),
            ("bad--name/expert", "bad--name/expert@main: .*bad--name/expert"),
        ],
    )
    def test_refused(self, hub: FakeHub, original: Path, name: str, message: str) -> None:
        files = contents(original)
        hub.add(REPO, files)
        hub.add("gated/expert", files)
        hub.gated.add("gated/expert")
        hub.add("bare/expert", {WEIGHTS: files[WEIGHTS]})
        hub.add("pickled/expert", {CONFIG: files[CONFIG], "pytorch_model.bin": b"\x80\x04."})
        with pytest.raises(ValueError, match=message):
            load_expert(name)

    @pytest.mark.parametrize("status", [401, 403])
    def test_denied(self, hub: FakeHub, status: int) -> None:
        hub.status = status
        with pytest.raises(ValueError, match=rf"access denied \(HTTP {status}\): run `hf auth login`"):
            load_expert(REPO)

    def test_foreign_repository_is_refused_before_its_weights(self, hub: FakeHub, original: Path) -> None:
        hub.add(REPO, {**contents(original), CONFIG: b'{"model_type": "llama"}'})
        with pytest.raises(ValueError, match="unknown fields model_type"):
            load_expert(REPO)
        assert not any(WEIGHTS in request for request in hub.requests)

    def test_truncated_on_the_wire(self, hub: FakeHub, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import file_download

        monkeypatch.setattr(
            file_download, "time", types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        )
        hub.add(REPO, contents(original))
        hub.cut[WEIGHTS] = 10_000
        with pytest.raises(ValueError, match=rf"{REPO}@main: {WEIGHTS} could not be downloaded .*try again"):
            load_expert(REPO)
        hub.cut.clear()
        load_expert(REPO)

    def test_truncated_on_the_hub(self, hub: FakeHub, original: Path) -> None:
        files = contents(original)
        hub.add(REPO, {**files, WEIGHTS: files[WEIGHTS][:-100]})
        with pytest.raises(ValueError, match=f"{REPO}@main: .*{WEIGHTS}: expected a whole safetensors file"):
            load_expert(REPO)

    def test_wrong_shapes_and_keys(self, hub: FakeHub, folder: Path) -> None:
        edit_weights(
            folder, lambda tensors: tensors.update({"more": torch.zeros(1), next(iter(tensors)): torch.zeros(2)})
        )
        hub.add(REPO, contents(folder))
        with pytest.raises(ValueError, match=rf"{REPO}@main: .*unexpected more.* expected shape .*, got \(2,\)"):
            load_expert(REPO)

    def test_pickle_in_place_of_weights(self, hub: FakeHub, original: Path, tmp_path: Path) -> None:
        hub.add(REPO, {**contents(original), WEIGHTS: pickle.dumps(Bomb(tmp_path / "mark"))})
        with pytest.raises(ValueError, match="pickles are never loaded"):
            load_expert(REPO)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("gone", ["dead", "offline", "error", "portal"])
    def test_cached_copy_serves_when_the_hub_is_gone(
        self, hub: FakeHub, original: Path, gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        hub.add(REPO, contents(original))
        load_expert(REPO)
        hub.status = 503 if gone == "error" else None
        hub.identify = gone != "portal"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", gone == "offline")
        if gone == "dead":
            use_hub(dead_port(), tmp_path, monkeypatch)
        assert load_expert(REPO).config == SMALLEST
        hub.add("tiny/other", contents(original))
        with pytest.raises(ValueError, match=r"tiny/other@main: the Hub at http.* gave no answer .* no copy is cached"):
            load_expert("tiny/other")

    def test_half_a_cached_copy_is_none(
        self, hub: FakeHub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.add(REPO, {CONFIG: contents(original)[CONFIG]})
        with pytest.raises(ValueError, match=f"no {WEIGHTS}"):
            load_expert(REPO)
        use_hub(dead_port(), tmp_path, monkeypatch)
        with pytest.raises(ValueError, match="no copy is cached"):
            load_expert(REPO)

    def test_black_hole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with black_hole() as url:
            use_hub(url, tmp_path, monkeypatch)
            with (
                Stopwatch() as watch,
                pytest.raises(ValueError, match=f"{REPO}@v2: .*`hf download {REPO} --revision v2`"),
            ):
                load_expert(f"{REPO}@v2")
            assert watch.seconds < SOON

    def test_name_server_that_hangs(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """No timeout of a client bounds looking up a name."""
        monkeypatch.setattr("unisync_loss.utils.hub._HUB_SECONDS", 0.2)
        answered = threading.Event()
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: answered.wait(60))
        with Stopwatch() as watch, pytest.raises(ValueError, match=r"nothing within 0\.2 s"):
            load_expert(REPO)
        answered.set()
        assert watch.seconds < 2

    def test_dead_port_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        """With the environment variables as a user sets them; importing the library must not import the client."""
        program = (
            "import sys\n"
            "from fake_hub import Stopwatch\n"
            "from unisync_loss.models.pretrained import load_expert\n"
            "assert 'huggingface_hub' not in sys.modules\n"
            "with Stopwatch() as watch:\n"
            "    try:\n        load_expert('tiny/expert')\n"
            "    except ValueError as error:\n        message = str(error)\n"
            "print(watch.seconds, message)\n"
        )
        seconds, _, message = run_cold(program, tmp_path).partition(" ")
        assert float(seconds) < SOON
        assert message.startswith("tiny/expert@main: the Hub at http://127.0.0.1:")
        assert "pass a folder" in message
