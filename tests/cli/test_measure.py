"""Reports of the commands that measure."""

import json


def test_eval_writes_the_report_that_scripts_rely_on(unisync, folder, model, tmp_path):
    code, out, err = unisync("eval", "--model", model, "--data", folder, "--seed", 3, "--json", tmp_path / "out.json")
    assert code == 0, err
    report = json.loads((tmp_path / "out.json").read_text())
    keys = {"model", "audio", "visual", "clips", "speakers", "seed", "pairs", "retrieval", "by_corpus", "by_language"}
    assert keys <= set(report)
    assert {"accuracy_at_0.5", "accuracy", "threshold", "auc", "n", "ci95"} <= set(report["pairs"])
    assert {"accuracy", "ci95", "n"} <= set(report["retrieval"]["5"])
    assert (report["clips"], report["speakers"], report["seed"]) == (3, 3, 3)
    assert set(report["by_corpus"]) == {"a", "b"}
    assert "AUC" in out


def test_eval_is_reproducible_and_limited(unisync, folder, model, tmp_path):
    for name in ("1.json", "2.json"):
        assert unisync("eval", "--model", model, "--data", folder, "--limit", 2, "--json", tmp_path / name)[0] == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    assert json.loads((tmp_path / "1.json").read_text())["clips"] == 2
