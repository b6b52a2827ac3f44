"""Views for cross-fitting."""

import pytest

from unisync_loss.curation.folds import make_folds, read_unseen
from unisync_loss.data.clips import list_clips


@pytest.fixture
def folder(tmp_path, shifts):
    """Listing reads no media, so the files are empty."""
    for name in shifts:
        path = tmp_path / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data/offsets.csv").write_text("clip,offset_frames\na/ann/1.mp4,6.5\na/ann/2.mp4,\n")
    return tmp_path / "data"


def test_each_view_skips_other_speakers(folder, shifts, tmp_path):
    views = make_folds(folder, 2, tmp_path / "folds")
    assert make_folds(folder, 2, tmp_path / "folds") == views  # views are made again
    unseen = [read_unseen(view) for view in views]
    assert unseen[0] | unseen[1] == {f"{name}.mp4" for name in shifts}
    speakers = [{name.split("/")[1] for name in names} for names in unseen]
    assert not speakers[0] & speakers[1]
    listed = [{entry.name: entry.offset for entry in list_clips(view)} for view in views]
    assert [set(part) & names for part, names in zip(listed, unseen, strict=True)] == [set(), set()]
    assert listed[0] | listed[1] == {"a/ann/1.mp4": 6.5, "a/ben/1.mp4": 0.0, "a/ben/2.mp4": 0.0}


def test_a_list_of_clips_is_a_text_file_too(tmp_path):
    (tmp_path / "unseen.txt").write_text("a/ann/1.mp4\na/ann/2.mp4\n")
    assert read_unseen(tmp_path / "unseen.txt") == read_unseen(tmp_path) == {"a/ann/1.mp4", "a/ann/2.mp4"}


def test_what_cannot_be_split(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected 2 to 2 \(speakers\), got 3"):
        make_folds(folder, 3, tmp_path / "folds")
    (tmp_path / "folds/0").mkdir(parents=True)
    (tmp_path / "folds/0/notes.txt").touch()
    with pytest.raises(ValueError, match=r"got one with notes\.txt"):
        make_folds(folder, 2, tmp_path / "folds")
