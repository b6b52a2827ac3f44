"""The lines of ``adapters/patches``, executed on tensors of each generator's shapes, dtypes and ranges."""

import textwrap
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange
from unisync_loss.adapters.check import PATCHES, read_patch

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.representations import mel_spectrogram


def added(name, text):
    """Blocks that a patch adds in the places where one of their lines contains ``text``, without indentation."""
    (path,) = PATCHES.glob(f"{name}.*")
    blocks = []
    for hunk in read_patch(path.read_text(encoding="utf-8"))[1]:
        lines = [line for sign, line in hunk.entries if sign == "+"]
        if any(text in line for line in lines):
            blocks.append(textwrap.dedent("\n".join(lines)))
    assert blocks, f"{name} has no line with {text}"
    return blocks


def run(name, text, names):
    """Execute the lines of one place."""
    code, *others = dict.fromkeys(added(name, text))
    assert not others
    exec("from unisync_loss import UniSyncLoss\n" + code, names)


def leaf(*shape, low=-1.2, high=1.2):
    """Frames with gradient; decoded latents overshoot [-1, 1]."""
    return (low + (high - low) * torch.rand(shape)).requires_grad_()


def speech(batch, frames):
    return torch.randn(batch, 640 * frames) / 10


def mel_of(batch, frames, steps):
    """Wav2Lip's mel (B, 1, 80, L) from the first frame on."""
    return mel_spectrogram(speech(batch, frames + 4))[:, None, :, :steps]


def assert_teaches(value, frames, loss):
    assert value.ndim == 0
    assert 0 < value.item() <= 5
    value.backward()
    assert frames.grad.isfinite().all()
    assert frames.grad.abs().sum() > 0
    assert not loss.expert.training
    assert all(weight.grad is None and not weight.requires_grad for weight in loss.expert.parameters())
    assert list(loss.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latentsync(dtype):
    """Decoded frames ((b 16), 3, 256, 256) in [-1, 1], not clamped; mel (b, 1, 80, 52) in float16."""
    frames = leaf(16, 3, 256, 256)
    config = SimpleNamespace(data=SimpleNamespace(num_frames=16))
    names = {"device": "cpu", "config": config, "mel": mel_of(1, 16, 52).half(), "pred_pixel_values": frames.to(dtype)}
    run("latentsync", "syncnet = ", names)
    run("latentsync", "sync_loss = ", names)
    assert_teaches(names["sync_loss"], frames, names["syncnet"])


@pytest.mark.parametrize(("left", "right"), [(0, 16), (5, 13)])
def test_musetalk(left, right):
    """Decoded frames ((b 16), 3, 256, 256), or fewer among real ones; mel (b, 1, 80, 52)."""
    frames = leaf(2 * (right - left), 3, 256, 256)
    names = {"accelerator": SimpleNamespace(device="cpu"), "batch": {"mel": mel_of(2, 16, 52)}, "bsz": 2}
    names |= {"image_pred": frames, "pixel_values": leaf(2, 16, 3, 256, 256, low=-1, high=1).detach()}
    names |= {"frames_left_index": left, "frames_right_index": right, "rearrange": rearrange}
    for text in ("syncnet = ", "mels = ", "sync_loss = "):
        run("musetalk", text, names)
    assert_teaches(names["sync_loss"], frames, names["syncnet"])


class TestEDTalk:
    def test_lines(self):
        """Faces (B, 3, 5, 96, 96) in [-1, 1]; one mel window per frame, (B T, 1, 80, 16)."""
        frames = leaf(2, 3, 5, 96, 96)
        mel = rearrange(self.windows(mel_of(2, 5, 32)[:, 0], 0), "b t m s -> (b t) 1 m s")
        trainer = SimpleNamespace()
        names = {"self": trainer, "device": "cpu", "audio_features": mel, "batch_size": 2, "T": 5, "pre_bbox": frames}
        run("edtalk", "self.syncnet = ", names)
        (body,) = added("edtalk", "return self.syncnet")
        exec(f"def get_sync_loss(self, mel, g, device):\n    {body}", names)
        trainer.get_sync_loss = names["get_sync_loss"].__get__(trainer)
        run("edtalk", "value = ", names)
        assert_teaches(names["value"], frames, trainer.syncnet)

    def test_the_third_window_begins_with_the_first_frame(self):
        mel = torch.arange(100.0).expand(1, 80, 100)
        assert self.windows(mel, 4)[0, 2, 0, 0] == int(3.2 * 4)

    def windows(self, mel, first):
        """Windows of frames ``first`` to ``first + 4`` as EDTalk's get_mel cuts them: each two frames early."""
        starts = [max(0, int(80 * (frame - 2) / 25)) for frame in range(first, first + 5)]
        return torch.stack([mel[..., start : start + 16] for start in starts], 1)


def test_omniavatar():
    """Decoded frames (1, 3, 4 k + 1, 512, 512), clamped to [-1, 1], bfloat16; waveform as an array, too short."""
    frames = leaf(1, 3, 17, 512, 512)

    def fix_length(data, *, size):
        return np.pad(data, (0, max(0, size - len(data))))[:size]

    names = {"self": SimpleNamespace(), "pred_rgb": frames.bfloat16().clamp(-1, 1), "device": "cpu", "torch": torch}
    names |= {"raw_audio": speech(1, 17)[0, :-900].numpy()}
    names |= {"librosa": SimpleNamespace(util=SimpleNamespace(fix_length=fix_length))}
    run("omniavatar", "self.syncnet = ", names)
    run("omniavatar", "sync_loss = ", names)
    assert_teaches(names["sync_loss"], frames, names["self"].syncnet)


class HParams(SimpleNamespace):
    def set_hparam(self, key, value):
        setattr(self, key, value)


@pytest.fixture(scope="module", params=[0, 1], ids=["hq", "plain"])
def script(request):
    names = {"device": "cpu", "hparams": HParams(syncnet_wt=0.0)}
    exec(added("wav2lip", "get_sync_loss = ")[request.param], names)
    return names


class TestWav2Lip:
    @pytest.mark.parametrize("side", [96, 288, 384])
    def test_lines(self, script, side):
        """Sigmoid output (B, 3, 5, H, W), BGR; mel (B, 1, 80, 16). Forks have larger pictures."""
        frames, mel = leaf(2, 3, 5, side, side, low=0, high=1), mel_of(2, 5, 16)
        run("wav2lip", "schedule.step", script)
        assert 0 < script["hparams"].syncnet_wt <= script["schedule"].final
        assert_teaches(script["get_sync_loss"](mel, frames), frames, script["get_sync_loss"].loss)

    def test_weights(self):
        hq, plain = added("wav2lip", "schedule = ")
        assert "SyncWeightSchedule(0.03)" in hq
        assert "SyncWeightSchedule(0.01)" in plain

    def test_checkpoints(self, script):
        """Saved with the schedule, and resumed from those without it, too."""
        saved = eval(f"{{{added('wav2lip', '.state_dict()')[0]}}}", script)
        script["schedule"].step()
        for checkpoint, steps in ((saved, saved["schedule"]["steps"]), ({"global_step": 7}, 0)):
            run("wav2lip", "load_state_dict", script | {"checkpoint": checkpoint})
            assert script["schedule"].steps == steps

    def test_288_x_288(self):
        frames, names = leaf(1, 3, 5, 288, 288, low=0, high=1), {"device": "cpu"}
        run("wav2lip_288x288", "syncnet = ", names)
        (body,) = added("wav2lip_288x288", "return syncnet")
        exec(f"def get_sync_loss(mel, g, syncnet):\n    {body}", names)
        value = names["get_sync_loss"](mel_of(1, 5, 16), frames, names["syncnet"])
        assert_teaches(value, frames, names["syncnet"].loss)
        assert names["syncnet"].loss in set(names["syncnet"].modules())  # all of which nn.DataParallel replicates
        with pytest.raises(ValueError, match=r"no nn\.DataParallel.*call it outside, on the gathered output"):
            names["syncnet"].loss._replicate_for_data_parallel()


@pytest.fixture(scope="module")
def landmark_expert(tmp_path_factory):
    """An expert on GeneFace's audio features and 68 points, as `unisync train` writes it."""
    config = UniSyncConfig(
        audio="hubert", visual="landmarks", audio_features=1024, visual_features=204, embedding=16, architecture="small"
    )
    folder = tmp_path_factory.mktemp("expert")
    torch.manual_seed(0)
    save_pretrained(UniSyncExpert(config), folder)
    return str(folder)


@pytest.fixture
def sample():
    """A batch of two clips, the second padded by 8 frames; two steps of HuBERT large per frame."""
    mask = (torch.arange(24) < torch.tensor([24, 16])[:, None]).float()
    return {"hubert": torch.randn(2, 48, 1024) * mask.repeat_interleave(2, 1)[..., None], "y_mask": mask}


class TestGeneFace:
    def test_audio2motion(self, landmark_expert, sample):
        """Both variants have the same lines."""
        points, task = leaf(2, 24, 204), SimpleNamespace()
        hparams = {"syncnet_work_dir": landmark_expert, "lambda_sync": 0.01}
        names = {"self": task, "hparams": hparams, "sample": sample, "losses_out": {}}
        names |= {"model_out": {"pred": points, "mask": sample["y_mask"]}, "outputs": {"losses": {"sync": 0.7}}}
        exec(added("geneface", "import GeneFaceSync, SyncSwitch")[0], names)
        exec(added("geneface", "self.sync = ")[0], names)
        for text in ("self.sync_switch = ", "self.sync(model_out['pred']"):
            run("geneface", text, names)
        (weight,) = set(added("geneface", "self.sync_switch.weight"))
        assert eval(f"{{{weight}}}", names)["sync"] == 0
        run("geneface", "self.sync_switch.update", names)
        assert eval(f"{{{weight}}}", names)["sync"].item() == pytest.approx(0.01)
        assert_teaches(names["losses_out"]["sync"], points, task.sync.loss)

    def test_postnet(self, landmark_expert, sample):
        points, task = leaf(2, 24, 204), SimpleNamespace()
        names = {"self": task, "hparams": {"syncnet_work_dir": landmark_expert, "postnet_lambda_sync": 0.1}}
        names |= {"sample": sample, "losses_out": {}, "refine_pred_lm3d": points}
        exec(added("geneface", "import GeneFaceSync")[-1], names)
        exec(added("geneface", "self.sync = ")[-1], names)
        run("geneface", "self.sync(refine_pred_lm3d", names)
        (weight,) = set(added("geneface", "postnet_lambda_sync"))
        assert eval(f"{{{weight}}}", names) == {"sync": 0.1}
        assert_teaches(names["losses_out"]["sync"], points, task.sync.loss)

    def test_each_variant_is_patched(self):
        (path,) = PATCHES.glob("geneface.*")
        hunks = read_patch(path.read_text(encoding="utf-8"))[1]
        count = Counter(hunk.file.rpartition("/")[2] for hunk in hunks)
        assert count["lm3d_vae_sync.py"] == count["lm3d_vae_sync_pitch.py"] > 0
        assert count["lm3d_postnet_adv_sync.py"] == count["lm3d_postnet_adv_sync_pitch.py"] > 0
        (inference,) = [hunk for hunk in hunks if hunk.file.startswith("inference/")]
        assert [sign for sign, _ in inference.entries] == [" ", "-", " "]


def test_mimictalk(landmark_expert, sample):
    """Points (B, T, 468 * 3), also those of Real3DPortrait."""
    points, task = leaf(2, 24, 1404), SimpleNamespace()
    names = {"self": task, "hparams": {"syncnet_ckpt_dir": landmark_expert}, "sample": sample, "losses_out": {}}
    names |= {"pred_idexp_lm3d": points, "x_mask": sample["y_mask"]}
    for text in ("import GeneFaceSync", "self.sync = ", "self.sync("):
        for code in added("mimictalk", text):
            exec(code, names)
    assert_teaches(names["losses_out"]["sync_lip_lm3d"], points, task.sync.loss)
