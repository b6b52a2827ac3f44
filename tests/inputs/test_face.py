import pytest
import torch
from torch.nn import functional as F

from tools.synthetic.clip import synthesize_clip
from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, load_expert
from unisync_loss.inputs import face
from unisync_loss.inputs.face import check_face, measure_pose, no_face
from unisync_loss.inputs.frames import GeneratorFrames
from unisync_loss.utils.files import BUNDLED
from unisync_loss.video.clip import read_clip

PLAIN = GeneratorFrames("rgb", None, "rgb")


@pytest.fixture(scope="module")
def expert():
    return load_expert("mel-rgb")


@pytest.fixture(scope="module")
def faces():
    """Frames of four drawn people, (4, 5, 3, 96, 96)."""
    clips = [synthesize_clip(seed, seconds=0.2, size=96).frames for seed in (3, 5, 7, 9)]
    return torch.stack([torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255 for clip in clips])


def found(expert, video, boxes=None, mask=None, frames=PLAIN):
    return check_face(expert, frames, video, boxes, mask)


RIGHT = {
    "whole": lambda x: x,
    "tight": lambda x: x[..., 18:-18, 24:-24],
    "mirrored": lambda x: x.flip(-1),
    "grey": lambda x: x.mean(2, keepdim=True).expand_as(x),
    "half precision": lambda x: x.half(),
    "wide": lambda x: F.interpolate(x.flatten(0, 1), (96, 192)).unflatten(0, x.shape[:2]),
}
WRONG = {
    "lower half, square": lambda x: F.interpolate(x[..., 48:, :].flatten(0, 1), (96, 96)).unflatten(0, x.shape[:2]),
    "mouth": lambda x: x[..., 50:84, 31:65],
    "face too small": lambda x: F.pad(x.flatten(0, 1), (96,) * 4, "replicate").unflatten(0, x.shape[:2]),
    "on its side": lambda x: x.rot90(1, (-2, -1)),
    "noise": torch.rand_like,
    "blank": lambda x: torch.full_like(x, 0.5),
}


@pytest.mark.parametrize("kind", list(RIGHT))
def test_whole_faces(expert, faces, kind):
    assert found(expert, RIGHT[kind](faces)) == []


@pytest.mark.parametrize("kind", list(WRONG))
def test_no_whole_face(expert, faces, kind):
    (finding,) = found(expert, WRONG[kind](faces))
    assert finding.kind == "face"
    assert "no whole face was found" in finding.text
    assert "the lower half or the mouth only, a face too small in the picture (pass boxes=)" in finding.text


@pytest.mark.parametrize("cut", [slice(None), slice(18, -18)])
def test_lower_halves_are_refused(expert, faces, cut):
    crop = faces[..., cut, :]
    half = crop[..., crop.shape[-2] // 2 :, :]
    with pytest.raises(ValueError, match=r"one whole face.*got frames of \d+ x 96 pixels .*lower half"):
        found(expert, half)


def test_the_demo_clip(expert):
    pytest.importorskip("av")
    frames = read_clip(BUNDLED.parent / "assets" / "demo.mp4", max_frames=25).frames
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()[None] / 255
    assert found(expert, video) == []
    with pytest.raises(ValueError, match="lower half"):
        found(expert, video[..., 96:, :])


def test_boxes_and_ranges(expert, faces):
    picture = F.pad(faces.flatten(0, 1), (96, 96, 40, 96), "replicate").unflatten(0, (4, 5))
    box = torch.tensor([[96.0, 40, 192, 136]]).expand(4, 4)
    assert found(expert, picture) != []
    assert found(expert, picture, box) == []
    assert found(expert, picture, box[:, None].expand(4, 5, 4)) == []
    assert found(expert, 2 * faces - 1, frames=GeneratorFrames("rgb", (-1, 1), "rgb")) == []


def test_the_median_of_the_frames_that_are_no_padding(expert, faces):
    video, mask = faces.clone(), torch.ones(4, 5, dtype=torch.bool)
    video[0] = torch.rand_like(video[0])
    assert found(expert, video) == []
    video[:3] = torch.rand_like(video[:3])
    assert found(expert, video) != []
    mask[:3] = False
    assert found(expert, video, mask=mask) == []
    assert found(expert, video, mask=torch.zeros_like(mask)) == []


@pytest.mark.parametrize("config", [UniSyncConfig(architecture="paper"), UniSyncConfig(visual="landmarks")])
def test_only_experts_that_locate_the_mouth(config):
    assert found(UniSyncExpert(config), torch.rand(1, 5, 3, 24, 96)) == []


def test_odds_depend_on_one_frame_only(expert, faces):
    aligner = expert.visual_tower.aligner
    frames = faces[:, 0]
    measured = measure_pose(aligner, frames)
    assert measured.shape == (4, 13)
    assert torch.allclose(measured[2:3], measure_pose(aligner, frames[2:3]), atol=1e-3)
    assert (no_face(aligner, frames) < -1).all()
    assert (no_face(aligner, torch.rand_like(frames)) > 1).all()


class TestLoss:
    def test_logged_once(self, expert, faces, caplog):
        loss, audio = UniSyncLoss(expert), torch.randn(4, 3200) / 10
        for _ in range(2):
            loss(faces.rot90(1, (-2, -1)), audio)
        assert caplog.text.count("no whole face was found") == 1

    def test_refused_again(self, expert, faces):
        loss, audio = UniSyncLoss(expert), torch.randn(4, 3200) / 10
        for _ in range(4):
            with pytest.raises(ValueError, match="lower half"):
                loss(faces[..., 48:, :], audio)
        loss(faces, audio)

    def test_costs_nothing_at_most_calls(self, expert, faces, monkeypatch):
        calls = []
        monkeypatch.setattr(face, "no_face", lambda _, frames: calls.append(len(frames)) or torch.zeros(1))
        loss, audio = UniSyncLoss(expert), torch.randn(4, 3200) / 10
        for _ in range(5):
            loss(faces, audio)
        assert calls == [12, 12, 12]
