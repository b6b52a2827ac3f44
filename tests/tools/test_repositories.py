"""Every repository of a release, checked by loading it from a Hub on loopback."""

import sys

import torch
from huggingface_hub import ModelCard

from tools import repositories
from unisync_loss import list_pretrained, load_expert
from unisync_loss.representations import HubertEncoder


def test_a_release_is_prepared_and_uploaded(hub, tmp_path, monkeypatch, capsys):
    names = ["mel-landmarks", "hubert-3dmm"]
    few = {name: list_pretrained()[name] for name in names}
    monkeypatch.setattr(repositories, "list_pretrained", lambda: few)
    monkeypatch.setattr(sys, "argv", ["repositories", "someone", "--out", str(tmp_path / "out"), "--upload"])
    repositories.main()
    pushed = dict(line.split("@") for line in capsys.readouterr().out.splitlines())
    assert pushed.keys() == {f"someone/{name}" for name in [*names, *repositories.ENCODERS]}
    for repo, commit in pushed.items():
        card = hub.files[repo, commit]["README.md"].decode()
        assert ModelCard(card).data.license
        assert "](../" not in card
    for name in names:
        loaded, bundled = load_expert(f"someone/{name}@{pushed[f'someone/{name}']}"), load_expert(name)
        assert loaded.config == bundled.config
        assert all(map(torch.equal, loaded.state_dict().values(), bundled.state_dict().values()))
    encoder = HubertEncoder.from_pretrained("someone/hubert-small", revision=pushed["someone/hubert-small"])
    waveform = torch.randn(1, 6400)
    assert torch.equal(encoder(waveform), HubertEncoder.from_pretrained("hubert-small")(waveform))
