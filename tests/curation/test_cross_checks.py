"""Copies, and clips, speakers, sources and faces in two splits."""

import numpy as np

from unisync_loss.curation.cross_checks import check_copies, check_faces, check_splits
from unisync_loss.curation.duplicates import Repeat


def test_copies():
    rows = [{"clip": f"{name}.mp4", "split": "train"} for name in "abcdef"]
    sounds = [Repeat(0, 1, 0.0, 2.0, 0.9), Repeat(2, 3, 0.0, 2.0, 0.9)]
    pictures = [Repeat(0, 1, 0.0, 2.0, 0.9), Repeat(0, 2, 0.0, 2.0, 0.9)]
    found = check_copies(rows, ["1", "2", "3", "4", "5", "5"], sounds, pictures)
    assert {(finding.clip[0], finding.verdict, finding.other[0]) for finding in found} == {
        ("b", "duplicate", "a"),
        ("c", "same pictures under another sound", "a"),
        ("d", "same sound under other pictures", "c"),
        ("f", "duplicate", "e"),
    }
    rows[1]["split"] = "val"
    assert check_copies(rows, [""] * 6, sounds[:1], pictures[:1])[0].verdict == "same clip in two splits"
    # two faces of one source have the same audio
    rows[2]["source"] = rows[3]["source"] = "talk.mov"
    assert check_copies(rows, [""] * 6, sounds[1:], []) == []


def test_splits_and_faces():
    portraits = [np.random.default_rng(seed).uniform(0, 255, (24, 24, 3)).astype(np.float32) for seed in range(3)]
    rows = [
        {"clip": "1", "split": "train", "speaker": "a/x", "source": "s"},
        {"clip": "2", "split": "val", "speaker": "a/x", "source": "t"},
        {"clip": "3", "split": "val", "speaker": "a/y", "source": "s"},
        {"clip": "4", "split": "", "speaker": "a/y"},
    ]
    assert [(row.clip, row.verdict) for row in check_splits(rows)] == [
        ("a/x", "speaker in two splits"),
        ("s", "source in two splits"),
    ]
    likeness = 0.8 * portraits[0] + 20
    (finding,) = check_faces(rows, [portraits[0], portraits[1], likeness, portraits[0]])
    assert (finding.clip, finding.other, finding.verdict) == ("3", "1", "same face in two splits")
    assert check_faces(rows, [*portraits, None]) == []
