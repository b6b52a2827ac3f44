import numpy as np
import pytest
from helpers.scoring import track

from unisync_loss.evaluation.compare import NamedVideo, compare, comparison_table, pair_videos
from unisync_loss.evaluation.video_scores import VideoScores
from unisync_loss.evaluation.video_summary import summarise_video


def videos(folder, values):
    return [
        summarise_video(f"{folder}/{name}.mp4", VideoScores([track(np.full(50, value))], [], 2.0, []), 0.5)
        | {"group": folder}
        for name, value in values.items()
    ]


def test_pairs_by_name():
    real = videos("real", {"a": 0.9, "b": 0.7, "c": 0.8})
    made = videos("made", {"b": 0.5, "a": 0.7, "d": 0.1})
    (row,) = compare(real, {"made": made})
    assert (row["group"], row["pairs"], row["unpaired"]) == ("made", 2, 1)
    assert row["measures"]["probability_mean"]["difference"] == pytest.approx(-0.2)
    # pairs that differ alike have no spread, however much the videos differ
    assert row["measures"]["probability_mean"]["ci95"] == pytest.approx([-0.2, -0.2])


def test_single_files_pair_whatever_their_names():
    (row,) = compare(videos("x", {"a": 0.9}), {"y": videos("y", {"b": 0.5})})
    assert row["pairs"] == 1
    assert row["measures"]["probability_mean"]["ci95"] is None


def test_names_that_come_twice_pair_by_their_paths():
    """As in LRS3, where every speaker has an 00001.mp4: by name alone strangers would be compared."""
    real = videos("real", {"one/0001": 0.9, "two/0001": 0.5})
    made = videos("made", {"two/0001": 0.4, "one/0001": 0.8})
    (row,) = compare(real, {"made": made})
    assert row["pairs"] == 2
    assert row["measures"]["probability_mean"]["ci95"] == pytest.approx([-0.1, -0.1])
    twice = [NamedVideo(f"made/a{suffix}", "made") for suffix in (".mp4", ".avi")]
    with pytest.raises(ValueError, match="differ by more than the suffix, got a more than once"):
        pair_videos([NamedVideo("x/a.mp4", "x"), NamedVideo("x/b.mp4", "x")], twice)
    single = [NamedVideo("a.mp4", "a.mp4")]
    with pytest.raises(ValueError, match=r"made: expected videos named as the real ones \(a\), got m/a, n/a"):
        pair_videos(single, [NamedVideo(f"made/{speaker}/a.mp4", "made") for speaker in "mn"])


def test_nothing_to_pair():
    with pytest.raises(ValueError, match=r"y: expected videos named as the real ones \(a, b\), got c"):
        compare(videos("x", {"a": 0.9, "b": 0.9}), {"made": videos("y", {"c": 0.5})})


def test_what_has_no_score_is_no_zero():
    """Neither a video that was not scored nor one whose sound ends before its face begins."""
    deaf = track(np.full(50, np.nan))
    real = videos("real", {"a": 0.9, "b": 0.7, "c": 0.8})
    made = [
        *videos("made", {"a": 0.8}),
        {"video": "made/b.mp4", "group": "made", "error": "no face"},
        summarise_video("made/c.mp4", VideoScores([deaf], [], 2.0, []), 0.5) | {"group": "made"},
    ]
    (row,) = compare(real, {"made": made})
    assert (row["pairs"], row["unpaired"]) == (1, 2)
    assert row["measures"]["probability_mean"]["difference"] == pytest.approx(-0.1)
    (row,) = compare(real, {"made": made[1:]})
    assert (row["pairs"], row["measures"]) == (0, {})
    assert comparison_table([row]) == "made against real: 0 pairs, 2 unpaired"
