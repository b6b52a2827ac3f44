from helpers.scoring import embedded

from unisync_loss.evaluation.report import summarise


def test_report():
    clips = [embedded(noise=2.0, seed=seed, corpus="ab"[seed % 2]) for seed in range(6)]
    report = summarise(clips, "name", 0.6, seed=3)
    assert set(report) >= {"model", "clips", "speakers", "seed", "pairs", "retrieval", "by_corpus"}
    pairs = report["pairs"]
    assert set(pairs) >= {"accuracy_at_0.5", "accuracy", "threshold", "auc", "n", "ci95"}
    assert pairs["threshold"] == 0.6
    assert pairs["n"] == 2 * 6 * 60
    assert pairs["ci95"][0] <= pairs["accuracy"] <= pairs["ci95"][1]
    assert set(report["retrieval"]) == {"5", "7", "9", "11", "13", "15"}
    assert report["cross_speaker"]["n"] == pairs["n"]
    assert report["detection"]["n"] == pairs["n"] // 2
    assert report["by_corpus"]["a"]["n"] + report["by_corpus"]["b"]["n"] == pairs["n"]
