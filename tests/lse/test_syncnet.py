import copy
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unisync_loss.lse.mfcc import compute_mfcc
from unisync_loss.lse.syncnet import SyncNetLayers, load_syncnet


def relative(ours, theirs):
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


def test_video_equals_the_original(golden, golden_syncnet):
    frames = torch.from_numpy(golden["frames_bgr"][:10]).flip(-1).movedim(-1, 1)
    assert relative(golden_syncnet.embed_video(frames).numpy(), golden["lip_embedding"]) < 1e-4


def test_audio_equals_the_original(golden, golden_syncnet):
    coefficients = compute_mfcc(torch.from_numpy(golden["wav"]))
    assert relative(golden_syncnet.embed_audio(coefficients[:40]).numpy(), golden["audio_embedding"]) < 1e-4


@pytest.mark.parametrize("wrong", ["RGB for BGR", "range 0 to 1", "a frame late", "no padding"])
def test_parity_of_video_can_fail(golden, golden_syncnet, wrong):
    frames, net = golden["frames_bgr"], golden_syncnet
    if wrong == "no padding":
        net = copy.deepcopy(net)
        net.network.video[0].padding = (0, 0)  # the size of the embedding stays
    else:
        frames = {"RGB for BGR": frames[..., ::-1].copy(), "range 0 to 1": frames / 255, "a frame late": frames[1:]}[
            wrong
        ]
    with pytest.raises(AssertionError):
        test_video_equals_the_original({**golden, "frames_bgr": frames}, net)


@pytest.mark.parametrize("wrong", ["a step late", "a step early", "range -1 to 1"])
def test_parity_of_audio_can_fail(golden, golden_syncnet, wrong):
    sound = golden["wav"]
    sound = {"a step late": sound[160:], "a step early": np.pad(sound, (160, 0)), "range -1 to 1": sound / 32768}[wrong]
    with pytest.raises(AssertionError):
        test_audio_equals_the_original({**golden, "wav": sound}, golden_syncnet)


def test_size():
    assert sum(parameter.numel() for parameter in SyncNetLayers().parameters()) == 13_631_616  # the original's count


def test_video_equals_window_by_window(syncnet, syncnet_layers):
    """The dense and folded way against the layers as they stand, one window at a time, BGR."""
    frames = torch.randint(0, 256, (10, 3, 224, 224), dtype=torch.uint8)
    windows = torch.stack([frames[start : start + 5].flip(1).movedim(0, 1) for start in range(6)]).float()
    with torch.no_grad():
        expected = syncnet_layers.netfclip(syncnet_layers.netcnnlip(windows).flatten(1))
    assert relative(syncnet.embed_video(frames).numpy(), expected.numpy()) < 1e-5


def test_audio_equals_window_by_window(syncnet, syncnet_layers):
    coefficients = 10 * torch.randn(31, 13, dtype=torch.float64)
    windows = torch.stack([coefficients[start : start + 20].T[None] for start in (0, 4, 8)]).float()
    with torch.no_grad():
        expected = syncnet_layers.netfcaud(syncnet_layers.netcnnaud(windows).flatten(1))
    assert relative(syncnet.embed_audio(coefficients).numpy(), expected.numpy()) < 1e-5


def test_it_stays_frozen(syncnet):
    parent = torch.nn.ModuleList([syncnet]).train().requires_grad_(True)
    assert not any(module.training for module in [*parent[0].modules(), *syncnet.network.modules()])
    assert not any(parameter.requires_grad for parameter in syncnet.network.parameters())


@pytest.mark.parametrize("shape", [(4, 3, 224, 224), (5, 3, 96, 96), (5, 224, 224, 3), (3, 224, 224)])
def test_wrong_frames(syncnet, shape):
    with pytest.raises(ValueError, match=r"frames: expected \(T, 3, 224, 224\) with T >= 5, got"):
        syncnet.embed_video(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(19, 13), (13, 20), (20,)])
def test_wrong_coefficients(syncnet, shape):
    with pytest.raises(ValueError, match=r"coefficients: expected \(L, 13\) with L >= 20, got"):
        syncnet.embed_audio(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["syncnet_v2.model", "before_1.6.model", "without_counters.model", "copy.safetensors"])
def test_weights_load(syncnet, syncnet_layers, tmp_path, kind):
    state = syncnet_layers.state_dict()
    if kind == "copy.safetensors":
        save_file(state, tmp_path / kind)
    else:
        if kind == "without_counters.model":
            state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / kind, _use_new_zipfile_serialization=kind != "before_1.6.model")
    loaded = load_syncnet(tmp_path / kind)
    expected = syncnet.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.network.state_dict().items())


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def spoil(state, how):
    if how == "missing netfclip.3.bias":
        del state["netfclip.3.bias"]
    elif how == "unexpected extra":
        state["extra"] = torch.zeros(1)
    elif how == "netfcaud.0.bias: expected finite values":
        state["netfcaud.0.bias"] = torch.full((512,), torch.nan)
    elif how == "netfcaud.0.weight: expected shape":
        state["netfcaud.0.weight"] = torch.zeros(2, 2)
    return state


@pytest.mark.parametrize(
    "how",
    [
        "missing netfclip.3.bias",
        "unexpected extra",
        "netfcaud.0.bias: expected finite values",
        "netfcaud.0.weight: expected shape",
    ],
)
def test_unfit_weights(syncnet_layers, tmp_path, how):
    torch.save(spoil(dict(syncnet_layers.state_dict()), how), tmp_path / "a.model")
    with pytest.raises(ValueError, match=how):
        load_syncnet(tmp_path / "a.model")


@pytest.mark.parametrize("content", ["trap", "module", "list", "text", "empty", "pointer", "text.safetensors"])
def test_what_is_no_dictionary_of_tensors_is_refused(syncnet, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / (content if "." in content else f"{content}.model")
    if content == "trap":
        path.write_bytes(pickle.dumps(Trap(), protocol=2))
    elif content in ("module", "list"):
        torch.save(syncnet if content == "module" else [1], path)
    else:
        texts = {"empty": "", "pointer": "version https://git-lfs.github.com/spec/v1\n"}
        path.write_text(texts.get(content, "no weights"))
    with pytest.raises(ValueError, match=rf"{path.name}: expected") as caught:
        load_syncnet(path)
    assert "\n" not in str(caught.value)
    found = {"trap": "objects other than tensors", "empty": "an empty file", "pointer": "a Git LFS pointer: run"}
    assert found.get(content, "") in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such weights file: .*gone.model"):
        load_syncnet(tmp_path / "gone.model")
