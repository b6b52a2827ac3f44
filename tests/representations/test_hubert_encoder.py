"""HuBERT: every number against transformers' own code with a small random model, every failure within seconds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_hub import Stopwatch, black_hole, dead_port, run_cold, use_hub

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.representations import hubert_encoder as hubert
from unisync_loss.representations.hubert_encoder import HubertEncoder, cached_features, read_features

REPO = "tiny/hubert"
WIDTH = 32
SOON = 8.0  # seconds; left alone, the client takes 23 s to 47 s where nothing listens


@pytest.fixture(scope="module", params=["group", "layer"])
def folder(request, tmp_path_factory):
    """A small random HuBERT of either family: base (group norm) and large (layer norms)."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        feat_extract_norm=request.param,
        do_stable_layer_norm=request.param == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    path = tmp_path_factory.mktemp(request.param)
    HubertModel(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    return path


@pytest.fixture
def waveform():
    """Three seconds whose loudness changes, not zero on average."""
    time = torch.arange(48000) / 16000
    return (0.3 * torch.randn(48000) * (1 + torch.sin(3 * time)) + 0.05)[None]


def peer(folder, waveform, layer=-1):
    """Features as transformers' own two objects make them."""
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(list(waveform.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        out = HubertModel.from_pretrained(folder).eval()(values, output_hidden_states=True)
    return out.last_hidden_state if layer == -1 else out.hidden_states[layer]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hubert_config(folder, revision="main", **changes):
    values = {"audio": "hubert", "audio_features": WIDTH, "embedding": 8, "hubert_model": str(folder), **changes}
    return UniSyncConfig(hubert_revision=revision, **values)


class TestNumbers:
    @pytest.mark.parametrize("layer", [-1, 0, 1, 3])
    def test_equals_transformers(self, folder, waveform, layer):
        own = HubertEncoder.from_pretrained(folder, layer=layer)(waveform)
        reference = peer(folder, waveform, layer)
        assert own.dtype == torch.float32
        assert torch.allclose(own[:, :-1], reference, atol=1e-5)
        assert torch.equal(own[:, -1], own[:, -2])  # the edge rule

    @pytest.mark.parametrize("frames", [1, 5, 74, 75])
    @pytest.mark.parametrize("extra", [-159, 0, 79, 80, 159])
    def test_two_steps_a_frame(self, folder, frames, extra):
        waveform = torch.randn(1, 640 * frames + extra)
        assert HubertEncoder.from_pretrained(folder)(waveform).shape == (1, 2 * frames, WIDTH)

    @pytest.mark.parametrize("piece", [97, 1000])
    def test_a_long_clip_in_pieces_equals_the_whole(self, folder, piece, monkeypatch):
        """Attention of a random network is nearly even: whatever it does not see shows."""
        waveform = torch.randn(1, 16000 * 25) * (1 + torch.sin(torch.arange(400000) / 9000)) / 3
        monkeypatch.setattr(hubert, "_CHUNK", piece)
        pieces, whole = HubertEncoder.from_pretrained(folder)(waveform)[:, :-1], peer(folder, waveform)
        assert whole.std() > 0.1
        assert (pieces - whole).abs().max() < 1e-4

    def test_batch_is_clip_by_clip(self, folder):
        encoder, waveforms = HubertEncoder.from_pretrained(folder), torch.randn(3, 9600) * torch.tensor([[1], [9], [3]])
        assert torch.allclose(encoder(waveforms), torch.cat([encoder(w[None]) for w in waveforms]), atol=1e-5)

    def test_loudness_and_offset_do_not_matter(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        assert torch.allclose(encoder(waveform), encoder(0.1 * waveform + 0.3), atol=1e-3)

    def test_the_preprocessor_decides_on_normalising(self, folder, waveform, tmp_path):
        copy = Path(shutil.copytree(folder, tmp_path / "plain"))
        settings = json.loads((copy / "preprocessor_config.json").read_text())
        (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
        own = HubertEncoder.from_pretrained(copy)(waveform)
        assert torch.allclose(own[:, :-1], peer(copy, waveform), atol=1e-5)
        assert not torch.equal(own, HubertEncoder.from_pretrained(folder)(waveform))

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.2)])
    def test_half_precision(self, folder, waveform, dtype, tolerance):
        half = HubertEncoder.from_pretrained(folder, dtype=dtype)(waveform)
        assert half.dtype == torch.float32
        error = (half - HubertEncoder.from_pretrained(folder)(waveform)).abs().max()
        assert 0 < error < tolerance

    def test_autocast_does_not_round(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(waveform)
        assert torch.equal(rounded, encoder(waveform))

    def test_gradient_reaches_the_waveform(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        weight = torch.randn(150, WIDTH)
        waveform.requires_grad_()
        (encoder(waveform)[0] * weight).sum().backward()
        step = 1e-3 * waveform.grad / waveform.grad.norm()
        with torch.no_grad():
            rise = ((encoder(waveform + step) - encoder(waveform - step))[0] * weight).sum()
        assert rise.item() == pytest.approx(2 * (step * waveform.grad).sum().item(), rel=0.02)

    def test_random_numbers_are_left_alone(self, folder):
        state = torch.random.get_rng_state()
        HubertEncoder.from_pretrained(folder)
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches of 2 s with half a second on either side, in place of 20 s and 5 s."""
    for name, steps in (("SEGMENT", 100), ("CONTEXT", 25), ("_WHOLE", 150)):
        monkeypatch.setattr(hubert, name, steps)


@pytest.mark.usefixtures("short_stretches")
class TestLongSound:
    @pytest.mark.parametrize("steps", [150, 151, 200, 325, 400])
    def test_each_stretch_is_heard_with_its_margins_alone(self, folder, steps):
        waveform = torch.randn(1, 320 * steps)
        heard = HubertEncoder.from_pretrained(folder)(waveform)
        assert heard.shape == (1, steps, WIDTH)
        for start in range(0, steps, 100):
            first, last = max(0, start - 25), start + 125
            if steps <= 150:  # whole
                first, last = 0, steps
            piece = waveform[:, 320 * first : 320 * last if last < steps else None]
            expected = peer(folder, piece)[:, start - first :][:, :100]
            assert torch.allclose(heard[:, start : start + 100][:, : expected.shape[1]], expected, atol=1e-5)
        assert (heard[:, -1] == heard[:, -2]).all()

    def test_a_part_is_heard_as_in_the_whole_away_from_its_edges(self, folder):
        encoder, waveform = HubertEncoder.from_pretrained(folder), torch.randn(1, 320 * 500)
        whole, part = encoder(waveform), encoder(waveform[:, 320 * 200 :])
        assert (whole[:, 300:] - part[:, 100:]).abs().max() < 1e-3
        early = encoder(waveform[:, : 320 * 300])
        assert (whole[:, :200] - early[:, :200]).abs().max() < 1e-3
        # and not because nothing is heard of what lies around
        assert (whole[:, 200:300] - part[:, :100]).abs().max() > 1e-2

    def test_caches_of_sounds_heard_whole_stay(self, folder, tmp_path, monkeypatch):
        """Longer ones were heard otherwise once."""
        encoder = HubertEncoder.from_pretrained(folder)
        names = {}
        for steps in (150, 151):
            for label, versions in (("now", (1, 2)), ("once", (1, 1))):
                monkeypatch.setattr(hubert, "_CACHE_VERSIONS", versions)
                cached_features(np.ones(320 * steps, np.float32), encoder, tmp_path / f"{steps}{label}")
                names[steps, label] = [path.name for path in (tmp_path / f"{steps}{label}").iterdir()]
        assert names[150, "now"] == names[150, "once"]
        assert names[151, "now"] != names[151, "once"]


class TestExpert:
    def test_waveform_and_its_features_are_the_same(self, folder, waveform):
        expert = UniSyncExpert(hubert_config(folder)).eval()
        video, features = torch.rand(1, 75, 3, 32, 32), HubertEncoder.from_pretrained(folder)(waveform)
        with torch.no_grad():
            heard = expert(video, waveform)
            assert heard.shape == (1, 71)
            assert torch.allclose(heard, expert(video, features), atol=1e-5)
            # the step that HuBERT does not give for exactly T frames
            assert torch.equal(expert(video, features), expert(video, features[:, :-1]))
            with pytest.raises(ValueError, match="expected about 150 steps"):
                expert(video, features[:, :-2])

    def test_hubert_is_no_part_of_the_checkpoint(self, folder, waveform):
        expert = UniSyncExpert(hubert_config(folder))
        before = list(expert.state_dict())
        expert.train().encode_audio(waveform, 75)
        assert list(expert.state_dict()) == before
        assert not expert.audio_input.encoder.network.training

    def test_the_encoder_is_loaded_once_and_moves_with_the_loss(self, folder, waveform, monkeypatch):
        loss = UniSyncLoss(UniSyncExpert(hubert_config(folder)))
        with torch.inference_mode():
            loss.expert.encode_audio(waveform, 75)
        encoder = loss.expert.audio_input.encoder
        loss.half()
        assert encoder.dtype == torch.float32
        monkeypatch.setattr(HubertEncoder, "from_pretrained", None)
        loss.expert.encode_audio(waveform, 75)
        loss.to("meta")
        assert {value.device.type for value in encoder.network.parameters()} == {"meta"}

    def test_a_gradient_after_scoring_in_inference_mode(self, folder, waveform):
        expert = UniSyncExpert(hubert_config(folder))
        with torch.inference_mode():
            expert.encode_audio(waveform, 75)
        expert.encode_audio(waveform.requires_grad_(), 75).sum().backward()
        assert waveform.grad.abs().sum() > 0

    def test_the_configs_layer_is_taken(self, folder, waveform):
        last, first = (UniSyncExpert(hubert_config(folder, hubert_layer=layer)) for layer in (-1, 1))
        assert torch.equal(last.audio_input(waveform), HubertEncoder.from_pretrained(folder)(waveform))
        assert torch.equal(first.audio_input(waveform), HubertEncoder.from_pretrained(folder, layer=1)(waveform))

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (torch.randn(1, 10, 768), r"\(B, L, 1024\).*got \(1, 10, 768\).*looks like HuBERT base"),
            (torch.randn(1, 10, 80), "looks like a mel"),
            (torch.randn(1, 10, 77), r"features of width 77$"),
            (torch.randn(1, 1, 10, 1024), r"got \(1, 1, 10, 1024\)"),
            (torch.ones(1, 10, 1024, dtype=torch.int64), "floating point, got"),
        ],
    )
    def test_wrong_features(self, audio, message):
        with pytest.raises(ValueError, match=message):
            UniSyncExpert(UniSyncConfig(audio="hubert", embedding=8)).encode_audio(audio, 5)

    def test_model_of_another_width(self, folder, waveform):
        with pytest.raises(ValueError, match=r"\(B, L, 1024\).*: features of width 32, which looks like CTC"):
            UniSyncExpert(hubert_config(folder, audio_features=1024)).encode_audio(waveform, 75)


class TestCache:
    def test_second_time_is_read(self, folder, waveform, tmp_path, monkeypatch):
        encoder, samples = HubertEncoder.from_pretrained(folder), waveform[0].numpy()
        computed = cached_features(samples, encoder, tmp_path / "cache")
        assert np.array_equal(computed, encoder(waveform)[0].numpy())
        monkeypatch.setattr(HubertEncoder, "forward", None)
        assert np.array_equal(cached_features(samples, encoder, tmp_path / "cache"), computed)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_everything_that_matters_is_in_the_key(self, folder, waveform, tmp_path):
        samples = waveform[0].numpy()
        other = Path(shutil.copytree(folder, tmp_path / "other"))
        weights = (other / "model.safetensors").read_bytes()
        (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        encoders = [
            HubertEncoder.from_pretrained(folder),
            HubertEncoder.from_pretrained(folder, layer=1),
            HubertEncoder.from_pretrained(folder, dtype=torch.bfloat16),
            HubertEncoder.from_pretrained(other),
        ]
        for encoder in encoders:
            cached_features(samples, encoder, tmp_path / "cache")
        cached_features(samples + np.float32(1e-6), encoders[0], tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 5

    def test_interrupted_writing_leaves_nothing(self, folder, waveform, tmp_path, monkeypatch):
        def half(path, array):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "save", half)
        with pytest.raises(KeyboardInterrupt):
            cached_features(waveform[0].numpy(), HubertEncoder.from_pretrained(folder), tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_precomputed_file(self, tmp_path):
        features = np.random.default_rng(0).normal(size=(9, 1024)).astype(np.float16)
        np.save(tmp_path / "clip_hubert.npy", features)
        read = read_features(tmp_path / "clip_hubert.npy", 1024)
        assert read.dtype == np.float32
        assert np.array_equal(read, features)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (np.zeros((9, 768), np.float32), r"\(L, 1024\), got \(9, 768\), which looks like HuBERT base"),
            (np.zeros((9, 2, 1024), np.float32), r"got \(9, 2, 1024\)"),
            (np.zeros((9, 1024), np.int64), "got .*int64"),
            (np.array({"hubert": 1}, object), "expected an .npy file of HuBERT features.*allow_pickle"),
        ],
    )
    def test_wrong_file(self, tmp_path, content, message):
        np.save(tmp_path / "clip.npy", content, allow_pickle=True)
        with pytest.raises(ValueError, match=f"clip.npy: .*{message}"):
            read_features(tmp_path / "clip.npy", 1024)


class TestFiles:
    @pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
    def test_incomplete_folder(self, folder, tmp_path, missing):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / missing).unlink()
        with pytest.raises(ValueError, match=rf"HuBERT .*copy@main: .*missing \['{missing}'\]"):
            HubertEncoder.from_pretrained(copy)

    def test_weights_left_out(self, folder, tmp_path):
        """Transformers fills the gaps with random numbers and a note."""
        from safetensors.torch import load_file, save_file

        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        tensors = load_file(copy / "model.safetensors")
        gone = next(name for name in tensors if "layers.1" in name)
        save_file({name: value for name, value in tensors.items() if name != gone}, copy / "model.safetensors")
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
    def test_broken_file(self, folder, tmp_path, file, content, message):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / file).write_bytes(content)
        with pytest.raises(ValueError, match=f"HuBERT .*{message}"):
            HubertEncoder.from_pretrained(copy)

    def test_no_such_layer(self, folder):
        with pytest.raises(ValueError, match=r"hubert_layer: expected -1 … 3, got 4"):
            HubertEncoder.from_pretrained(folder, layer=4)

    @pytest.mark.parametrize("waveform", [torch.randn(1, 399), torch.randn(16000), torch.ones(1, 400).short()])
    def test_wrong_waveform(self, folder, waveform):
        with pytest.raises(ValueError, match=r"waveform: expected \(B, S\) floating point with S at least 400, got"):
            HubertEncoder.from_pretrained(folder)(waveform)


class TestHub:
    def test_from_the_hub_then_from_the_cache(self, hub, folder, waveform):
        commit = hub.add(REPO, files(folder))
        encoder = HubertEncoder.from_pretrained(REPO)
        assert encoder.identity == commit
        assert torch.equal(encoder(waveform), HubertEncoder.from_pretrained(folder)(waveform))
        hub.requests.clear()
        expert = UniSyncExpert(hubert_config(REPO, commit))
        assert torch.equal(expert.audio_input(waveform), encoder(waveform))
        assert hub.requests == []  # a full commit is for ever

    def test_repository_without_safetensors(self, hub, folder, waveform, tmp_path, monkeypatch):
        """As facebook's; PyTorch's restricted reader."""
        from safetensors.torch import load

        content = files(folder)
        torch.save(load(content.pop("model.safetensors")), tmp_path / "pytorch_model.bin")
        commit = hub.add(REPO, {**content, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
        assert torch.equal(
            HubertEncoder.from_pretrained(REPO, revision=commit)(waveform),
            HubertEncoder.from_pretrained(folder)(waveform),
        )
        use_hub(dead_port(), tmp_path, monkeypatch)
        assert HubertEncoder.from_pretrained(REPO, revision=commit).identity == commit

    def test_repository_without_weights(self, hub, folder):
        content = files(folder)
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
                    "`hf download facebook/hubert-large-ls960-ft --revision ece5",
                ),
            ):
                expert(torch.rand(1, 5, 3, 32, 32), torch.randn(1, 3200))
            assert watch.seconds < SOON

    def test_offline_in_a_fresh_process(self, tmp_path):
        """The client as it comes, cold and offline: no retries, and transformers is not even loaded."""
        program = (
            "import sys, torch\n"
            "from fake_hub import Stopwatch\n"
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
        assert "`hf download facebook/hubert-large-ls960-ft --revision ece5" in message
