import json
from pathlib import Path

import pytest
import torch

from unisync_loss.face_parser import FaceParser
from unisync_loss.representations import mouth_groups
from unisync_loss.representations.parsing import CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random SegFormer with the public one's labels, and its preprocessor's file."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(2)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(CLASSES["segformer"])),
    )
    path = tmp_path_factory.mktemp("segformer")
    model = SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.weight.data.mul_(300)  # else all classes are alike
    model.save_pretrained(path)
    settings = {"size": {"height": 64, "width": 64}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


def test_equals_the_model_by_hand(folder):
    from transformers import SegformerForSemanticSegmentation

    video = torch.rand(2, 5, 3, 64, 64)
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    values = (video.flatten(0, 1) - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        by_hand = model(pixel_values=values).logits.softmax(1).unflatten(0, (2, 5))
        groups = FaceParser(folder)(video)
    assert groups.shape == (2, 5, 6, 16, 16)
    assert torch.allclose(groups, mouth_groups(by_hand, "segformer"), atol=1e-5)


def test_gradient_reaches_the_video(folder):
    video = torch.rand(1, 2, 3, 100, 80, requires_grad=True)
    FaceParser(folder)(video)[:, :, 4].sum().backward()
    assert video.grad.abs().max() > 0


def test_labels_are_read_by_name(folder, tmp_path):
    """The same network under the names of another parser says something else."""
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    names = CLASSES["bisenet"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    (other / "config.json").write_text(json.dumps({**config, **labels}))
    video = torch.rand(1, 1, 3, 64, 64)
    assert not torch.allclose(FaceParser(other)(video), FaceParser(folder)(video), atol=1e-3)


def test_labels_of_something_else(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {str(i): f"LABEL_{i}" for i in range(19)}}))
    with pytest.raises(ValueError, match=r"classes: expected names among .*LABEL_0"):
        FaceParser(tmp_path)


def test_wrong_input(folder):
    with pytest.raises(ValueError, match=r"expected \(B, T, 3, H, W\) floating point.*, got \(5, 3, 64, 64\)"):
        FaceParser(folder)(torch.rand(5, 3, 64, 64))


def test_no_weights_and_no_hub():
    with pytest.raises(ValueError, match=r"SegFormer jonathandinu/face-parsing@main: .*`hf download jonathandinu"):
        FaceParser("jonathandinu/face-parsing")


def test_a_hubert_is_no_parser(tmp_path):
    for name in ("preprocessor_config.json", "model.safetensors"):
        (Path(tmp_path) / name).write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ValueError, match="expected a model of type 'segformer', got 'hubert'"):
        FaceParser(tmp_path)
