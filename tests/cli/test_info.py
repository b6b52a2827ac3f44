"""What ``info`` prints."""

import json


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
