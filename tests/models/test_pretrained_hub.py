"""Checkpoints from the Hub: the real client against a Hub on loopback."""

from __future__ import annotations

import pickle
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import REPO, SMALLEST, SOON, Bomb, contents, edit_config, edit_weights
from helpers.fake_hub import FakeHub, Stopwatch, black_hole, dead_port, run_cold, set_constants, use_hub

from unisync_loss.config import UniSyncConfig
from unisync_loss.models import pretrained
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import CONFIG, WEIGHTS, load_expert


class TestHub:
    def test_loads_and_then_asks_little(self, hub: FakeHub, original: Path, tiny_expert: UniSyncExpert) -> None:
        commit = hub.add(REPO, contents(original))
        loaded = load_expert(REPO)
        assert loaded.config == SMALLEST
        # the client may ask for other things once per process
        assert sum(request.startswith("GET") and "/resolve/" in request for request in hub.requests) == 2
        hub.requests.clear()
        load_expert(REPO)
        assert {request.split()[0] for request in hub.requests} == {"HEAD"}
        hub.requests.clear()
        load_expert(f"{REPO}@{commit}")
        assert hub.requests == []

    @pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", "commit"])
    def test_revision(self, hub: FakeHub, checkpoint: Path, revision: str) -> None:
        hub.add(REPO, contents(checkpoint))
        edit_config(checkpoint, threshold=0.25)
        commit = hub.add(REPO, contents(checkpoint), revision="v1.0")
        hub.refs[REPO, "refs/pr/3"] = commit
        assert load_expert(f"{REPO}@{commit if revision == 'commit' else revision}").config.threshold == 0.25
        assert load_expert(REPO).config.threshold == 0.375

    def test_both_files_are_of_one_commit(
        self, hub: FakeHub, original: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A push between the two downloads must not mix two checkpoints."""
        hub.add(REPO, contents(original))
        edit_weights(checkpoint, lambda tensors: [value.zero_() for value in tensors.values()])
        read_config = pretrained._read_config

        def push(path: Path) -> UniSyncConfig:
            hub.add(REPO, contents(checkpoint))
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
        with pytest.raises(ValueError, match=rf"access denied \(HTTP {status}\): run `.* login`"):
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

    def test_wrong_shapes_and_keys(self, hub: FakeHub, checkpoint: Path) -> None:
        edit_weights(
            checkpoint, lambda tensors: tensors.update({"more": torch.zeros(1), next(iter(tensors)): torch.zeros(2)})
        )
        hub.add(REPO, contents(checkpoint))
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
        hub.add(REPO, contents(original))
        load_expert(REPO)
        hub.status = 503 if gone == "error" else None
        hub.identify = gone != "portal"
        set_constants({"HF_HUB_OFFLINE": gone == "offline"}, monkeypatch)
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
                pytest.raises(ValueError, match=f"{REPO}@v2: .*`.* download {REPO} --revision v2`"),
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
            "from helpers.fake_hub import Stopwatch\n"
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
