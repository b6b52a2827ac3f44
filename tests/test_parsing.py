import pytest
import torch
from torch.nn import functional as F

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.representations import mouth_groups, visual_input
from unisync_loss.representations.parsing import CLASSES

GROUPS = ["other", "skin", "upper_lip", "lower_lip", "mouth"]


@pytest.mark.parametrize(
    ("classes", "label", "group"),
    [
        *[("bisenet", *pair) for pair in [(0, 0), (1, 1), (10, 1), (11, 4), (12, 2), (13, 3), (17, 0), (14, 0)]],
        *[("segformer", *pair) for pair in [(0, 0), (1, 1), (2, 1), (10, 4), (11, 2), (12, 3), (13, 0), (17, 0)]],
        *[(("u_lip", "mouth", "l_lip", "hair"), *pair) for pair in [(0, 2), (1, 4), (2, 3), (3, 0)]],
        *[(GROUPS, label, label) for label in range(5)],
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
        (torch.zeros(1, 5, 16, 16).long(), ["u_lip", "l_lip", "beard"], "classes: expected names among .*got 'beard'"),
        (torch.zeros(1, 5, 16, 16).long(), ["skin", "u_lip"], "expected both lips among them, got skin, u_lip"),
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
        (torch.rand(1, 5, 19, 32, 32), r"expected parsing as \(B, T, 5, H, W\).*mouth_groups"),
        (torch.full((1, 5, 32, 32), 11), r"labels in \[0, 5\), got 11 … 11; mouth_groups"),
        (torch.rand(1, 5, 5, 15, 32), "H and W at least 16, got"),
        (torch.ones(1, 5, 32, 32).bool(), "got .*bool"),
    ],
)
def test_wrong_input(maps, message):
    with pytest.raises(ValueError, match=message):
        visual_input(UniSyncConfig(visual="parsing"))(maps)


def test_logits_are_no_probabilities():
    loss = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual="parsing", embedding=8)))
    with pytest.raises(ValueError, match=r"expected probabilities in \[0, 1\], got values in"):
        loss(3 * torch.randn(1, 5, 5, 32, 32), torch.rand(1, 80, 16))


def test_groups_are_fixed():
    with pytest.raises(ValueError, match="expected 5 groups of a face, got 19"):
        UniSyncConfig(visual="parsing", visual_features=19)
