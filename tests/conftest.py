"""Shared fixtures: everything offline, one thread, one seed."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "disabled"  # the tests reach nobody's account

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import FakeHub, fake_hub, use_hub
from helpers.paths import SHARED

from unisync_loss import UniSyncConfig, UniSyncExpert

torch.set_num_threads(1)  # here, so that fixtures of any scope compute alike


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def expert():
    return UniSyncExpert(UniSyncConfig(embedding=16)).eval()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Clips of three drawn people, two of each."""
    pytest.importorskip("av", reason="video files need the extra `video`")
    from tools.synthetic.clip import synthesize_clip
    from unisync_loss.video.encoding import write_clip

    root = tmp_path_factory.mktemp("clips")
    for speaker in range(3):
        for number in range(2):
            path = root / "drawn" / f"s{speaker}" / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            clip = synthesize_clip(10 * speaker + number, seconds=1.2, speaker_seed=speaker)
            write_clip(path, clip.frames, clip.waveform)
    return root


@pytest.fixture(scope="session")
def cache(folder, tmp_path_factory):
    """Both parts of the trainer's cache of these clips."""
    from unisync_loss.data.clips import list_clips
    from unisync_loss.training.data.cache import build_cache

    path = tmp_path_factory.mktemp("cache")
    *_, (done, total, skipped) = build_cache(list_clips(folder), path, 1)
    assert (done, total, skipped) == (6, 6, {})
    return path


@pytest.fixture(scope="session")
def tiny_hubert(tmp_path_factory):
    """Folder of a random HuBERT of width 32."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    path = tmp_path_factory.mktemp("hubert")
    config = HubertConfig(**sizes, conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    HubertModel(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory):
    """Folder of a random Whisper of width 32, with its decoder."""
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(1)
    encoder = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "vocab_size": 9}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
    path = tmp_path_factory.mktemp("whisper")
    model = WhisperModel(WhisperConfig(**encoder, **decoder, **tokens))
    for parameter in model.encoder.parameters():  # as it comes, every layer nearly copies its input
        if parameter.requires_grad:
            parameter.data += 0.15 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def audio_models(tiny_hubert, tiny_whisper):
    """Fields of a config that name a small model, by audio representation."""
    folders = {"hubert": tiny_hubert, "whisper": tiny_whisper}
    named = {audio: {"audio_features": 32, "audio_model": str(path)} for audio, path in folders.items()}
    return {"mel": {}, **named}


@pytest.fixture(scope="session")
def golden():
    """Numbers made with the original Wav2Lip and SyncNet code; not part of the repository."""
    import numpy as np

    path = SHARED / "golden" / "syncnet_golden.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers are not here ({path})")
    return np.load(path)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fresh = FakeHub(url=server.url)
    server.__dict__.update(fresh.__dict__)
    use_hub(server.url, tmp_path, monkeypatch)
    return server


def _seeded(state):
    """Fill a state dict as the golden numbers' networks were filled."""
    spec = importlib.util.spec_from_file_location("seeded_weights", SHARED / "golden" / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill(state)


@pytest.fixture(scope="session")
def golden_syncnet_layers(golden):
    """Layers of SyncNet with the weights of the golden numbers."""
    from unisync_loss.lse.syncnet import SyncNetLayers

    layers = SyncNetLayers().eval()
    layers.load_state_dict(_seeded(layers.state_dict()))
    return layers


@pytest.fixture(scope="session")
def golden_syncnet(golden_syncnet_layers):
    from unisync_loss.lse.syncnet import SyncNet

    return SyncNet(golden_syncnet_layers)


@pytest.fixture(scope="session")
def syncnet_layers():
    """Layers of SyncNet with random weights, norms included, so that a forgotten norm shows."""
    from unisync_loss.lse.syncnet import SyncNetLayers

    draw = torch.Generator().manual_seed(1)
    layers = SyncNetLayers().eval().requires_grad_(False)
    for module in layers.modules():
        if hasattr(module, "running_var"):
            for value in (module.weight, module.running_var):
                value.uniform_(0.5, 1.5, generator=draw)
            for value in (module.bias, module.running_mean):
                value.normal_(0, 0.1, generator=draw)
        elif hasattr(module, "weight"):
            module.weight.normal_(0, module.weight[0].numel() ** -0.5, generator=draw)
            module.bias.normal_(0, 0.1, generator=draw)
    return layers


@pytest.fixture(scope="session")
def syncnet(syncnet_layers):
    from unisync_loss.lse.syncnet import SyncNet

    return SyncNet(syncnet_layers)


@pytest.fixture(scope="session")
def quick():
    """SyncNet whose embeddings differ between any two images or sounds and cost nothing."""
    from torch.nn import functional as F

    from unisync_loss.lse.syncnet import SyncNet, SyncNetLayers

    class QuickNet(SyncNet):
        def embed_video(self, frames):
            windows = F.avg_pool2d(frames.float(), 32).flatten(1).unfold(0, 5, 1).flatten(1) / 30
            return F.pad(windows, (0, 1024 - windows.shape[1]))

        def embed_audio(self, coefficients):
            windows = coefficients.unfold(0, 20, 4).flatten(1).float()
            return F.pad(windows, (0, 1024 - windows.shape[1]))

    return QuickNet(SyncNetLayers())
