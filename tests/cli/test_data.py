"""Reports of the commands on training data."""

import json

import numpy as np

from unisync_loss.video.encoding import encode_wav


def test_features_names_what_it_skips(unisync, model, tmp_path):
    recordings = tmp_path / "in"
    recordings.mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, 25600).astype(np.float32)
        (recordings / f"{seed}.wav").write_bytes(encode_wav(noise))
    (recordings / "notes.wav").write_text("no audio")
    (recordings / "short.wav").write_bytes(encode_wav(np.zeros(100, np.float32)))
    arguments = ["features", recordings, "--model", model, "--out", tmp_path / "out", "--json", tmp_path / "r.json"]
    code, out, err = unisync(*arguments)
    assert code == 0, err
    assert "3 arrays written, of 0.1 min, 0 kept; mel, 80 features, 80 steps per second" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert {row["file"].rpartition("/")[2] for row in report["skipped"]} == {"notes.wav", "short.wav"}
    assert "0 arrays written, of 0.0 min, 3 kept" in unisync(*arguments)[1]
    code, _, err = unisync("features", recordings / "notes.wav", "--model", model, "--out", tmp_path / "other")
    assert (code, "none of 1 files has features" in err) == (1, True)
    assert "no such audio or video file" in unisync("features", "gone", "--out", tmp_path, "--model", model)[2]
