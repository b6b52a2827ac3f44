"""A Hub that lies: every download has a bound on size and time, and nothing of it stays as a whole file."""

import json
import os
import subprocess
import sys
import time

import pytest
from helpers.checkpoints import REPO, contents, edit_config
from helpers.fake_hub import Stopwatch

from unisync_loss.models.pretrained import CONFIG, WEIGHTS, load_expert
from unisync_loss.representations import HubertEncoder, WhisperEncoder
from unisync_loss.utils import hub as client

MIB = 2**20


@pytest.fixture
def lying(hub, checkpoint):
    hub.add(REPO, contents(checkpoint))
    return hub


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cached_files(tmp_path):
    """Names of what a snapshot of the cache holds."""
    return sorted(path.name for path in (tmp_path / "cache").glob("models--*/snapshots/*/*"))


def left_behind(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*.incomplete") if path.stat().st_size]


class TestLies:
    def test_endless_body(self, lying, tmp_path):
        lying.lies[WEIGHTS] = "endless"
        with pytest.raises(ValueError, match=rf"{REPO}@main: {WEIGHTS}: expected at most [\d,]+ bytes, got more"):
            load_expert(REPO)
        assert lying.sent < 30 * MIB  # what the socket's buffers took beyond the bound
        assert cached_files(tmp_path) == [CONFIG]
        assert sum(path.stat().st_size for path in left_behind(tmp_path)) < 3 * MIB

    @pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
    def test_announced_size(self, lying, file):
        lying.sizes[file] = 3 * 10**9
        with pytest.raises(ValueError, match=rf"{file}: expected at most [\d,]+ bytes, got 3,000,000,000, as the Hub"):
            load_expert(REPO)
        assert not [request for request in lying.requests if request.startswith("GET") and request.endswith(file)]

    def test_one_byte_a_second(self, lying, tmp_path, monkeypatch):
        lying.lies[WEIGHTS] = "drip"
        client.hub_source(REPO, "main", (CONFIG,))(CONFIG, MIB)
        monkeypatch.setattr(client, "PATIENCE", 4.0)  # not before: on a busy machine, the process takes time to begin
        with (
            Stopwatch() as watch,
            pytest.raises(ValueError, match=r"less than 1024 bytes a second for 4 s\); try again"),
        ):
            load_expert(REPO)
        assert watch.seconds < 30  # it went on for ever
        assert cached_files(tmp_path) == [CONFIG]

    @pytest.mark.parametrize("lie", ["longer", "shorter", "other", "error", "loop"])
    def test_other_answers(self, lying, lie, tmp_path):
        lying.lies[WEIGHTS] = lie
        with pytest.raises(ValueError, match=rf"{REPO}@main: .*{WEIGHTS}"):
            load_expert(REPO)
        assert left_behind(tmp_path) == []
        lying.lies.clear()
        load_expert(REPO)  # nothing wrong was kept

    def test_a_slow_honest_connection(self, lying, monkeypatch):
        """More patience than any pause, and a rate below the connection's."""
        monkeypatch.setattr(client, "SLOWEST", 1)
        load_expert(REPO)


def test_whisper_of_its_own_size_only(hub, tiny_whisper):
    content = {path.name: path.read_bytes() for path in tiny_whisper.iterdir()}
    hub.add(REPO, {**content, "model.safetensors": content["model.safetensors"] + bytes(3 * MIB)})
    with pytest.raises(
        ValueError, match=r"Whisper .*model\.safetensors: expected at most 1,\d+,\d+ bytes, got 3,\d+,\d+"
    ):
        WhisperEncoder.from_pretrained(REPO)


def test_large_files_in_folders(checkpoint):
    with (checkpoint / WEIGHTS).open("ab") as file:
        file.truncate(10**10)  # sparse
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: expected at most [\d,]+ bytes, got 10,000,000,000"):
        load_expert(checkpoint)
    with (checkpoint / CONFIG).open("ab") as file:
        file.truncate(10**10)
    with pytest.raises(ValueError, match=f"{CONFIG}: expected at most 1,048,576 bytes, got 10,000,000,000"):
        load_expert(checkpoint)


def test_a_config_that_asks_for_too_much(checkpoint):
    edit_config(checkpoint, embedding=10**9)
    with pytest.raises(ValueError, match="embedding: expected a whole number from 1 to 65536, got 1000000000"):
        load_expert(checkpoint)


class TestHubertConfig:
    def edit(self, source, target, **values):
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        config = json.loads((source / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | values))
        return target

    @pytest.mark.parametrize(
        "values",
        [
            {"attn_implementation": "someone/kernels"},
            {"_attn_implementation": "someone/kernels"},
            {"_attn_implementation_internal": "someone/kernels"},
            {"auto_map": {"AutoModel": "someone/code--modeling.Model"}, "trust_remote_code": True},
            {"quantization_config": {"quant_method": "gptq"}},
            {"_name_or_path": "someone/else", "base_model_name_or_path": "someone/else"},
            {"use_kernels": True, "device_map": "auto", "dtype": "float64"},
        ],
    )
    def test_code_is_not_taken(self, tiny_hubert, tmp_path, values, monkeypatch):
        """Nothing but numbers and switches of the network reaches transformers."""
        from transformers import HubertConfig, HubertModel

        taken = []
        load = HubertModel.from_pretrained.__func__

        def spy(cls, *names, **options):
            taken.append(options["config"].to_diff_dict() | {"type": type(options["config"])})
            return load(cls, *names, **options)

        monkeypatch.setattr(HubertModel, "from_pretrained", classmethod(spy))
        copy = self.edit(tiny_hubert, tmp_path / "copy", **values)
        HubertEncoder.from_pretrained(tiny_hubert)
        HubertEncoder.from_pretrained(copy)
        assert taken[0] == taken[1]
        assert taken[0]["type"] is HubertConfig

    def test_other_files_of_the_folder_are_not_read(self, tiny_hubert, tmp_path):
        copy = self.edit(tiny_hubert, tmp_path / "copy")
        (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else", "peft_type": "LORA"}')
        (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere"}}')
        HubertEncoder.from_pretrained(copy)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_hidden_layers": 20_000}, "num_hidden_layers: expected a whole number from 1 to 128, got 20000"),
            ({"num_hidden_layers": "3"}, "num_hidden_layers: expected a whole number .* got '3'"),
            ({"num_hidden_layers": True}, "num_hidden_layers: expected a whole number .* got True"),
            ({"hidden_size": 8192, "num_hidden_layers": 128}, r"at most 4,000,000,000 parameters, got \d"),
            ({"conv_dim": [10**9] * 7}, "conv_dim: expected a whole number from 1 to 4096, got 1000000000"),
            ({"conv_dim": {"a": 1}}, "conv_dim: expected 1 to 16 whole numbers"),
            ({"conv_dim": [16]}, "expected as many conv_dim, conv_kernel, conv_stride"),
            ({"hidden_size": 33}, "hidden_size: expected a multiple of 4 heads, got 33"),
            ({"hidden_act": "someone/kernels"}, "hidden_act: expected one of .* got 'someone/kernels'"),
            ({"do_stable_layer_norm": 1}, "do_stable_layer_norm: expected one of"),
            ({"layer_norm_eps": 0}, "layer_norm_eps: expected a number"),
        ],
    )
    def test_absurd(self, tiny_hubert, tmp_path, values, message, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)  # refused before it is imported
        copy = self.edit(tiny_hubert, tmp_path / "copy", **values)
        with pytest.raises(ValueError, match=rf"HuBERT .*config\.json: .*{message}"):
            HubertEncoder.from_pretrained(copy)


def test_the_process_that_downloads_ends_with_its_parent(lying, monkeypatch):
    """Killed while it waits for a slow download, a program leaves no process behind."""
    from huggingface_hub import constants

    lying.lies[WEIGHTS] = "drip"
    values = {"HF_ENDPOINT": lying.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_HUB_OFFLINE": "0"}
    for name, value in {**values, "PYTHONPATH": os.pathsep.join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    program = f"from unisync_loss import load_expert\nload_expert('{REPO}')"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    wait_until(lambda: lying.dripping)
    process.kill()
    process.wait()
    wait_until(lambda: not lying.dripping)
