"""Files of HuBERT and Whisper models: every failure within seconds and in one message."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.fake_hub import Stopwatch, black_hole, dead_port, run_cold, use_hub

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.representations import HubertEncoder, WhisperEncoder
from unisync_loss.utils import model_files
from unisync_loss.utils.hub import hub_command

REPO = "tiny/hubert"
WIDTH = 32
SOON = 8.0  # seconds; by default, the client takes 23 s to 47 s where nothing listens


@pytest.fixture
def waveform():
    """Three seconds whose loudness changes, not zero on average."""
    time = torch.arange(48000) / 16000
    return (0.3 * torch.randn(48000) * (1 + torch.sin(3 * time)) + 0.05)[None]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hubert_config(folder, revision="main", **changes):
    values = {"audio": "hubert", "audio_features": WIDTH, "embedding": 8, "audio_model": str(folder), **changes}
    return UniSyncConfig(audio_revision=revision, **values)


class TestFiles:
    @pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
    def test_incomplete_folder(self, tiny_hubert, tmp_path, missing):
        copy = Path(shutil.copytree(tiny_hubert, tmp_path / "copy"))
        (copy / missing).unlink()
        with pytest.raises(ValueError, match=rf"HuBERT .*copy@main: .*missing \['{missing}'\]"):
            HubertEncoder.from_pretrained(copy)

    def test_weights_left_out(self, tiny_hubert, tmp_path):
        """Transformers fills the gaps with random numbers and a note."""
        from safetensors.torch import load_file, save_file

        copy = Path(shutil.copytree(tiny_hubert, tmp_path / "copy"))
        tensors = load_file(copy / "model.safetensors")
        gone = next(name for name in tensors if "layers.0" in name)
        rest = {name: value for name, value in tensors.items() if name != gone}
        save_file(rest, copy / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=rf"lacks 1 weights of the model, such as {gone}"):
            HubertEncoder.from_pretrained(copy)

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", b'{"model_type": "wav2vec2"}', "expected a model of type 'hubert', got 'wav2vec2'"),
            ("config.json", b"[]", "config.json: expected a JSON object, got list"),
            ("preprocessor_config.json", b'{"sampling_rate": 8000}', "expected a model of 16000 Hz, got 8000"),
            ("model.safetensors", b"nonsense", "cannot be loaded"),
        ],
    )
    def test_broken_file(self, tiny_hubert, tmp_path, file, content, message):
        copy = Path(shutil.copytree(tiny_hubert, tmp_path / "copy"))
        (copy / file).write_bytes(content)
        with pytest.raises(ValueError, match=f"HuBERT .*{message}"):
            HubertEncoder.from_pretrained(copy)

    def test_no_such_layer(self, tiny_hubert):
        with pytest.raises(ValueError, match=r"audio_layer: expected -1 … 1, got 4"):
            HubertEncoder.from_pretrained(tiny_hubert, layer=4)

    @pytest.mark.parametrize("waveform", [torch.randn(1, 399), torch.randn(16000), torch.ones(1, 400).short()])
    def test_wrong_waveform(self, tiny_hubert, waveform):
        with pytest.raises(ValueError, match=r"waveform: expected \(B, S\) floating point with S at least 400, got"):
            HubertEncoder.from_pretrained(tiny_hubert)(waveform)

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    def test_incomplete_whisper(self, tiny_whisper, tmp_path, missing):
        copy = Path(shutil.copytree(tiny_whisper, tmp_path / "copy"))
        (copy / missing).unlink()
        with pytest.raises(ValueError, match=rf"Whisper .*copy@main: .*missing \['{missing}'\]"):
            WhisperEncoder.from_pretrained(copy)

    def test_pickles_of_whisper_are_not_loaded(self, tiny_whisper, tmp_path):
        copy = Path(shutil.copytree(tiny_whisper, tmp_path / "copy"))
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"missing \['model\.safetensors'\]"):
            WhisperEncoder.from_pretrained(copy)

    def test_shards(self, tiny_whisper, tmp_path):
        copy = Path(shutil.copytree(tiny_whisper, tmp_path / "copy"))
        (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
        (copy / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(ValueError, match=r"Whisper .*got shards .*such as openai/whisper-medium"):
            WhisperEncoder.from_pretrained(copy)

    def test_the_sha256_of_a_folder(self, tiny_whisper):
        identity = WhisperEncoder.from_pretrained(tiny_whisper).identity
        assert identity == hashlib.sha256((tiny_whisper / "model.safetensors").read_bytes()).hexdigest()
        assert WhisperEncoder.from_pretrained(tiny_whisper, revision=identity).identity == identity
        with pytest.raises(ValueError, match=f"expected weights of sha256 {'0' * 64}, got {identity}"):
            WhisperEncoder.from_pretrained(tiny_whisper, revision="0" * 64)

    def test_bundled(self, tiny_whisper, waveform, tmp_path, monkeypatch):
        monkeypatch.setattr(model_files, "BUNDLED", tmp_path)
        expert = UniSyncExpert(UniSyncConfig(audio="whisper", audio_features=WIDTH, embedding=8))
        with pytest.raises(ValueError, match="Whisper whisper-base@main: expected an existing folder, a bundled name"):
            expert.audio_input(waveform)
        shutil.copytree(tiny_whisper, tmp_path / "whisper-base")
        assert torch.equal(expert.audio_input(waveform), WhisperEncoder.from_pretrained(tiny_whisper)(waveform))


class TestHub:
    def test_whisper_from_the_hub_then_from_the_cache(self, hub, tiny_whisper, waveform):
        commit = hub.add(REPO, files(tiny_whisper))
        encoder = WhisperEncoder.from_pretrained(REPO)
        assert encoder.identity == commit
        assert torch.equal(encoder(waveform), WhisperEncoder.from_pretrained(tiny_whisper)(waveform))
        hub.requests.clear()
        assert WhisperEncoder.from_pretrained(REPO, revision=commit).identity == commit
        assert hub.requests == []

    def test_shards_on_the_hub(self, hub, tiny_whisper):
        content = files(tiny_whisper)
        hub.add(REPO, {"config.json": content["config.json"], "model.safetensors.index.json": b"{}"})
        with pytest.raises(ValueError, match=f"Whisper {REPO}@main: .*got shards .*such as openai/whisper-medium"):
            WhisperEncoder.from_pretrained(REPO)

    def test_whisper_without_safetensors(self, hub, tiny_whisper):
        content = files(tiny_whisper)
        hub.add(REPO, {"config.json": content["config.json"], "pytorch_model.bin": content["model.safetensors"]})
        with pytest.raises(ValueError, match=f"Whisper {REPO}@main: no model.safetensors in that repository; pickles"):
            WhisperEncoder.from_pretrained(REPO)

    def test_from_the_hub_then_from_the_cache(self, hub, tiny_hubert, waveform):
        commit = hub.add(REPO, files(tiny_hubert))
        encoder = HubertEncoder.from_pretrained(REPO)
        assert encoder.identity == commit
        assert torch.equal(encoder(waveform), HubertEncoder.from_pretrained(tiny_hubert)(waveform))
        hub.requests.clear()
        expert = UniSyncExpert(hubert_config(REPO, commit))
        assert torch.equal(expert.audio_input(waveform), encoder(waveform))
        assert hub.requests == []  # a full commit is for ever

    def test_repository_without_safetensors(self, hub, tiny_hubert, waveform, tmp_path, monkeypatch):
        """As facebook's; PyTorch's restricted reader."""
        from safetensors.torch import load

        content = files(tiny_hubert)
        torch.save(load(content.pop("model.safetensors")), tmp_path / "pytorch_model.bin")
        commit = hub.add(REPO, {**content, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
        assert torch.equal(
            HubertEncoder.from_pretrained(REPO, revision=commit)(waveform),
            HubertEncoder.from_pretrained(tiny_hubert)(waveform),
        )
        use_hub(dead_port(), tmp_path, monkeypatch)
        assert HubertEncoder.from_pretrained(REPO, revision=commit).identity == commit

    def test_repository_without_weights(self, hub, tiny_hubert):
        content = files(tiny_hubert)
        del content["model.safetensors"]
        hub.add(REPO, content)
        with pytest.raises(ValueError, match=f"HuBERT {REPO}@main: no pytorch_model.bin"):
            HubertEncoder.from_pretrained(REPO)

    def test_no_such_repository(self, hub):
        with pytest.raises(ValueError, match="HuBERT tiny/nobody@main: no such repository"):
            HubertEncoder.from_pretrained("tiny/nobody")

    @pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./gone", ""])
    def test_neither_folder_nor_repository(self, name):
        with pytest.raises(ValueError, match="expected an existing folder, a bundled name, or owner/name on the Hub"):
            HubertEncoder.from_pretrained(name)

    def test_nobody_answers(self, tmp_path, monkeypatch):
        with black_hole() as url:
            use_hub(url, tmp_path, monkeypatch)
            expert = UniSyncExpert(UniSyncConfig(audio="hubert", embedding=8))
            with (
                Stopwatch() as watch,
                pytest.raises(
                    ValueError,
                    match=r"HuBERT facebook/hubert-large-ls960-ft@ece5.* no copy is cached.*"
                    " download facebook/hubert-large-ls960-ft --revision ece5",
                ),
            ):
                expert(torch.rand(1, 5, 3, 32, 32), torch.randn(1, 3200))
            assert watch.seconds < SOON

    def test_offline_in_a_fresh_process(self, tmp_path):
        """The client as it comes, cold and offline: no retries, and transformers is not even loaded."""
        program = (
            "import sys, torch\n"
            "from helpers.fake_hub import Stopwatch\n"
            "from unisync_loss import UniSyncConfig, UniSyncExpert\n"
            "expert = UniSyncExpert(UniSyncConfig(audio='hubert', embedding=8)).eval()\n"
            "expert.encode_audio(torch.randn(1, 10, 1024), 5)\n"
            "with Stopwatch() as watch:\n"
            "    try:\n        expert.encode_audio(torch.randn(1, 3200), 5)\n"
            "    except ValueError as error:\n        message = str(error)\n"
            "assert 'transformers' not in sys.modules\n"
            "print(watch.seconds, message)\n"
        )
        seconds, message = run_cold(program, tmp_path).split(" ", 1)
        assert float(seconds) < SOON
        assert " download facebook/hubert-large-ls960-ft --revision ece5" in message


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        (["hf", "tiny-agents"], ("hf auth login", "hf download owner/name")),
        (["huggingface-cli"], ("huggingface-cli login", "huggingface-cli download owner/name")),
    ],
)
def test_commands_are_those_of_the_installed_client(monkeypatch, scripts, expected):
    entries = SimpleNamespace(entry_points=[SimpleNamespace(name=name) for name in scripts])
    monkeypatch.setattr("unisync_loss.utils.hub.distribution", lambda name: entries)
    assert (hub_command("auth login"), hub_command("download owner/name")) == expected
