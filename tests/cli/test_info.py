"""What ``info`` prints, and what ``download`` fetches."""

import json

from unisync_loss import load_expert, save_pretrained


def test_a_checkpoint_shows_its_configuration(unisync, model):
    code, out, _ = unisync("info", model)
    report = json.loads(out)
    assert (code, report["audio"]) == (0, "mel")
    assert report["parameters"] > 4e6


def test_without_a_name_the_bundled_checkpoints_are_listed(unisync):
    report = json.loads(unisync("info")[1])
    assert report["version"]
    assert "mel-rgb" in report["pretrained"]
    for row in report["pretrained"].values():
        towers = [report["towers"][row[f"{side}_tower"]] for side in ("audio", "visual")]
        for figure in ("parameters", "bytes"):
            assert row[figure] == sum(tower[figure] for tower in towers) > 0


def test_what_was_downloaded_loads_without_the_hub(unisync, hub, tmp_path, monkeypatch):
    save_pretrained(load_expert("mel-landmarks"), tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    revision = hub.add("someone/expert", files)
    assert unisync("download", "mel-rgb", f"someone/expert@{revision}")[:2] == (
        0,
        f"mel-rgb: on this disk\nsomeone/expert@{revision}: on this disk\n",
    )
    hub.status = 503
    asked = len(hub.requests)
    assert load_expert(f"someone/expert@{revision}").config.name == "mel-landmarks"
    assert len(hub.requests) == asked


def test_a_download_names_the_audio_model(unisync, hub):
    code, out, _ = unisync("download", "hubert-landmarks")
    assert code == 0
    assert out.startswith("hubert-landmarks with hubert-small at ")
    code, _, err = unisync("download", "someone/missing")
    assert code == 1
    assert "someone/missing@main" in err


def test_push_lists_before_it_uploads(unisync, hub, tmp_path):
    code, out, _ = unisync("push", "mel-landmarks", "someone/expert")
    assert code == 0
    assert "model.safetensors  " in out
    assert "dry run: nothing was uploaded to someone/expert" in out
    assert hub.requests == []
    assert hub.files == {}
    code, out, _ = unisync("push", "mel-landmarks", "someone/expert", "--upload", "--private")
    assert code == 0
    name = out.splitlines()[-1]
    assert hub.uploads.private == {"someone/expert": True}
    assert load_expert(name).config == load_expert("mel-landmarks").config


def test_push_needs_a_card(unisync, model):
    code, _, err = unisync("push", model, "someone/expert")
    assert code == 1
    assert "expected license in the front matter" in err
