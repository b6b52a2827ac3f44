import csv
import json
import re

import numpy as np
import pytest
from helpers.scoring import track

from unisync_loss.evaluation.video_scores import TrackScores, VideoScores
from unisync_loss.evaluation.video_summary import score_csv, score_table, summarise_video, who_speaks


def test_the_face_that_fits_speaks():
    first = np.r_[np.full(100, 0.9), np.full(100, 0.3)]
    windows, voiced = who_speaks([track(first), track(1.2 - first), track(np.full(50, 0.4))], 0, 0.5)
    assert voiced == [200, 200, 50]
    assert windows[0] == pytest.approx(100, abs=2)
    assert windows[1] == pytest.approx(100, abs=2)
    assert windows[2] == 0


def test_judge():
    level = np.r_[np.full(60, 0.3), np.zeros(40)].astype(np.float32)
    scores = track(np.r_[np.full(60, 0.8), np.full(40, 0.4)], start=50, level=level)
    result = summarise_video("a.mp4", VideoScores([scores], ["why"], 9.0, []), 0.5)
    (numbers,) = result["tracks"]
    assert result["speaker_track"] == 0
    assert numbers["start"] == 2.0
    assert numbers["share_in_sync"] == 0.6
    assert numbers["voiced"] == {"probability_mean": 0.8, "share_in_sync": 1.0}
    assert numbers["unvoiced"] == {"probability_mean": 0.4, "share_in_sync": 0.0}
    assert numbers["speaking_share"] == 1
    assert len(numbers["probability"]) == 100
    json.dumps(result, allow_nan=False)
    text = score_table([result, {"video": "b.mp4", "error": "no face"}])
    _, head, line, skipped, error = text.splitlines()
    ends = [[cell.end() for cell in re.finditer(r"\S+( \S+)*", row)] for row in (head, line)]
    assert ends[0] == ends[1][:10]  # every figure stands below its name
    assert line.split()[:9] == ["+0", "+0", "+0…+0", "0.44", "0.64", "0.60", "1.00", "0.00", "1.00"]
    assert line.endswith("a.mp4, face 0, 2.0 to 6.2 s")
    assert (skipped, error) == ("a.mp4: skipped: why", "b.mp4: not scored: no face")
    rows = list(csv.DictReader(score_csv([result, {"video": "b,\n.mp4", "error": "no face"}]).splitlines(True)))
    assert [row["error"] for row in rows] == ["", "no face"]
    assert rows[0]["share_in_sync"] == "0.6"
    assert [rows[0][f"{part}_share_in_sync"] for part in ("voiced", "unvoiced")] == ["1.0", "0.0"]
    assert [rows[0][f"{part}_probability_mean"] for part in ("voiced", "unvoiced")] == ["0.8", "0.4"]
    assert (rows[0]["probability_mean_at_offset"], rows[0]["speaker_track"], rows[0]["drift_low"]) == (
        "0.64",
        "0",
        "",
    )


def test_the_table_names_who_speaks():
    first = track(np.r_[np.full(600, 0.9)], level=np.full(600, 0.2, np.float32))
    text = score_table(
        [summarise_video("a.mp4", VideoScores([track(np.full(600, 0.3)), first], [], 24.0, ["cut"]), 0.5)]
    )
    _, _, zero, one, note = text.splitlines()
    assert "speaker" not in zero
    assert one.endswith("a.mp4, face 1, 0.0 to 24.2 s (speaker)")
    assert one.split()[9] == "+0"  # drift
    assert note == "a.mp4: cut"


def test_no_sound_beside_the_face():
    silent = TrackScores(0, np.full((40, 31), np.nan, np.float32), np.zeros(40, np.float32), [])
    with pytest.raises(ValueError, match=r"a.mp4: expected audio while a face is visible, got none"):
        summarise_video("a.mp4", VideoScores([silent], [], 2.0, []), 0.5)
