import pytest
import torch
from torch.nn import functional as F

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.representations import mouth_groups, visual_input
from unisync_loss.representations.parsing import CLASSES, mouth_of_maps

GROUPS = ["other", "skin", "nose", "upper_lip", "lower_lip", "mouth"]


@pytest.mark.parametrize(
    ("classes", "label", "group"),
    [
        *[("bisenet", *pair) for pair in [(0, 0), (1, 1), (10, 2), (11, 5), (12, 3), (13, 4), (17, 0), (14, 0)]],
        *[("segformer", *pair) for pair in [(0, 0), (1, 1), (2, 2), (10, 5), (11, 3), (12, 4), (13, 0), (17, 0)]],
        *[(("u_lip", "mouth", "l_lip", "hair", "nose"), *pair) for pair in [(0, 3), (1, 5), (2, 4), (3, 0), (4, 2)]],
        *[(GROUPS, label, label) for label in range(6)],
    ],
)
def test_labels_by_name(classes, label, group):
    assert (mouth_groups(torch.full((1, 5, 16, 16), label, dtype=torch.uint8), classes) == group).all()


def test_presets_hold_the_same_classes_in_another_order():
    assert sorted(CLASSES["bisenet"]) == sorted(CLASSES["segformer"])
    labels = torch.randint(19, (2, 5, 16, 16))
    to_other = torch.tensor([CLASSES["segformer"].index(name) for name in CLASSES["bisenet"]])
    assert torch.equal(mouth_groups(labels, "bisenet"), mouth_groups(to_other[labels], "segformer"))
    assert not torch.equal(mouth_groups(labels, "bisenet"), mouth_groups(labels, "segformer"))


@pytest.mark.parametrize("classes", ["bisenet", "segformer"])
def test_probabilities_follow_the_labels(classes):
    labels = torch.randint(19, (2, 5, 16, 16))
    one_hot = F.one_hot(labels, 19).movedim(-1, 2).float()
    groups = mouth_groups(one_hot, classes)
    assert torch.equal(groups.argmax(2), mouth_groups(labels, classes))
    soft = mouth_groups(torch.rand(2, 5, 19, 16, 16).softmax(2), classes)
    assert torch.allclose(soft.sum(2), torch.ones(2, 5, 16, 16))


def test_gradient_reaches_the_logits():
    logits = torch.randn(1, 5, 19, 32, 32, requires_grad=True)
    loss = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual="parsing", embedding=8)))
    loss(mouth_groups(logits.softmax(2), "segformer"), torch.rand(1, 80, 16)).backward()
    assert logits.grad[:, :, 10:13, 16:].abs().max() > 0


@pytest.mark.parametrize(
    ("maps", "classes", "message"),
    [
        (torch.zeros(1, 5, 16, 16).long(), "mobilenet", "expected bisenet, segformer, or a list of names, got 'mobile"),
        (
            torch.zeros(1, 5, 16, 16).long(),
            ["u_lip", "l_lip", "nose", "beard"],
            "classes: expected names among .*got 'beard'",
        ),
        (
            torch.zeros(1, 5, 16, 16).long(),
            ["nose", "u_lip"],
            "expected the nose and both lips among them, got nose, u_",
        ),
        (torch.zeros(1, 5, 16, 16).long(), ["u_lip", "l_lip"], "expected the nose and both lips among them, got u_lip"),
        (torch.full((1, 5, 16, 16), 19), "bisenet", r"labels in \[0, 19\), got 19"),
        (torch.full((1, 5, 16, 16), -1), "bisenet", r"labels in \[0, 19\), got -1"),
        (torch.rand(1, 5, 18, 16, 16), "bisenet", r"\(B, T, 19, H, W\) probabilities or .*got \(1, 5, 18, 16, 16\)"),
        (torch.rand(1, 5, 16, 16), "bisenet", r"got \(1, 5, 16, 16\) torch.float32"),
    ],
)
def test_wrong_maps(maps, classes, message):
    with pytest.raises(ValueError, match=message):
        mouth_groups(maps, classes)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.rand(1, 5, 19, 32, 32), r"expected parsing as \(B, T, 6, H, W\).*mouth_groups"),
        (torch.full((1, 5, 32, 32), 11), r"labels in \[0, 6\), got 11 … 11; mouth_groups"),
        (torch.rand(1, 5, 6, 15, 32), "H and W at least 16, got"),
        (torch.ones(1, 5, 32, 32).bool(), "got .*bool"),
    ],
)
def test_wrong_input(maps, message):
    with pytest.raises(ValueError, match=message):
        visual_input(UniSyncConfig(visual="parsing"))(maps)


def test_logits_are_no_probabilities():
    loss = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual="parsing", embedding=8)))
    with pytest.raises(ValueError, match=r"expected parsing in \[0, 1\], got values in"):
        loss(3 * torch.randn(1, 5, 6, 32, 32), torch.rand(1, 80, 16))


def test_groups_are_fixed():
    with pytest.raises(ValueError, match="expected 6 groups of a face, got 19"):
        UniSyncConfig(visual="parsing", visual_features=19)


def drawn_face(size=96, top=20, left=22):
    """A face of 40 x 40 with a mouth of 16 x 8, as probabilities."""
    labels = torch.zeros(size, size, dtype=torch.long)
    labels[top : top + 40, left : left + 40] = 1
    labels[top + 14 : top + 24, left + 17 : left + 23] = 2
    labels[top + 26 : top + 34, left + 12 : left + 28] = 3
    labels[top + 29 : top + 34, left + 12 : left + 28] = 4
    labels[top + 29 : top + 31, left + 14 : left + 26] = 5
    return F.one_hot(labels, 6).movedim(-1, 0)[None].double()


class TestMouth:
    def test_the_middle_of_the_cut_is_the_middle_of_the_lips(self):
        cut = mouth_of_maps(drawn_face(), 32)
        assert cut.shape == (1, 6, 32, 32)
        lips = cut[0, 3:].sum(0)
        places = torch.arange(32.0).double() - 15.5
        assert (lips.sum(0) * places).sum() / lips.sum() == pytest.approx(0, abs=0.1)
        assert (lips.sum(1) * places).sum() / lips.sum() == pytest.approx(0, abs=0.1)
        # a face of 40 pixels, 0.8 of it on 32: a mouth of 16 is 16 wide
        assert (lips.sum(1) / lips.max(1).values.clamp(min=1)).max() == pytest.approx(16, abs=1.5)

    def test_nose_and_chin_are_in_it(self):
        cut = mouth_of_maps(drawn_face(), 32)[0]
        assert cut[2].sum() > 40
        assert cut[0, -1].min() > 0.99

    def test_free_of_place_and_size(self):
        cut = mouth_of_maps(drawn_face(), 32)
        assert torch.allclose(mouth_of_maps(drawn_face(top=13, left=30), 32), cut, atol=1e-3)
        larger = F.interpolate(drawn_face(), scale_factor=3, mode="nearest")
        assert (mouth_of_maps(larger, 32) - cut).abs().mean() < 0.03
        loose = F.pad(drawn_face(), (20, 20, 20, 20))
        loose[:, 0, :20] = loose[:, 0, -20:] = loose[:, 0, :, :20] = loose[:, 0, :, -20:] = 1
        assert (mouth_of_maps(loose, 32) - cut).abs().mean() < 0.03

    def test_beyond_the_map_is_other(self):
        """A crop that ends below the lips, and the same face with background there."""
        face = drawn_face()
        face[:, :, 58:] = torch.eye(6).double()[0][:, None, None]
        # as many pixels as before: the size of a face is its share of the map
        cropped = F.pad(face[:, :, :58], (0, 0, 38, 0))
        cropped[:, 0, :38] = 1
        assert (mouth_of_maps(cropped, 32) - mouth_of_maps(face, 32)).abs().max() < 0.02

    @pytest.mark.parametrize(("size", "place", "scale"), [(96, 20, 6), (56, 8, 4)], ids=["576", "224"])
    def test_every_pixel_of_a_large_map_counts(self, size, place, scale):
        """Three lines of a pixel below the lips weigh what they measure: none falls between two samples."""
        face = F.interpolate(drawn_face(size, place, place), scale_factor=scale, mode="nearest")
        columns = slice((place + 10) * scale, (place + 30) * scale)
        for first in range(scale):
            rows = [(place + 35) * scale + first + line * (scale + 1) for line in range(3)]
            lined = face.clone()
            lined[0, :, rows, columns] = torch.eye(6).double()[2][:, None, None]
            added = (mouth_of_maps(lined, 48) - mouth_of_maps(face, 48))[0, 2].sum()
            # 32 of the face's 40 pixels are 48 of the cut: 1.5 a pixel, along both axes
            assert added == pytest.approx(3 / scale * 20 * 1.5**2, rel=0.05)

    def test_an_open_mouth_differs(self):
        face = drawn_face()
        open_wide = face.clone()
        open_wide[0, 4:, 49:56, 34:50] = torch.tensor([0.0, 1.0])[:, None, None].double()
        assert (mouth_of_maps(open_wide, 32) - mouth_of_maps(face, 32)).abs().mean() > 0.02

    @pytest.mark.parametrize("group", [0, 1, 3])
    def test_maps_of_one_group_give_numbers_and_gradients(self, group):
        maps = torch.zeros(2, 6, 32, 24)
        maps[:, group] = 1
        maps.requires_grad_()
        cut = mouth_of_maps(maps, 32)
        cut[:, :, 5].square().sum().backward()
        assert torch.isfinite(cut).all()
        assert torch.isfinite(maps.grad).all()
