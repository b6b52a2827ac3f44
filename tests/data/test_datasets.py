import os
import re

import pytest

from unisync_loss.data.datasets import list_sources, plain_name


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(*roots, **options):
    return [(s.layout, s.corpus, s.speaker, s.name, s.split) for s in list_sources(roots, **options)]


ID = "5535415699068794046"


@pytest.mark.parametrize("start", ["", "mvlrs_v1", "mvlrs_v1/main"])
def test_lrs2_from_any_level(tmp_path, start):
    touch(tmp_path, f"mvlrs_v1/main/{ID}/00001.mp4", f"mvlrs_v1/main/{ID}/00002.mp4", f"mvlrs_v1/main/{ID}/00001.txt")
    (tmp_path / "mvlrs_v1" / "train.txt").write_text(f"{ID}/00001\n")
    (tmp_path / "mvlrs_v1" / "test.txt").write_text(f"{ID}/00002 MV-0\n")
    assert found(tmp_path / start) == [
        ("lrs2", "lrs2", ID, "main-00001", "train"),
        ("lrs2", "lrs2", ID, "main-00002", "test"),
    ]


def test_data_sets_as_they_lie(tmp_path):
    touch(tmp_path, "lrs3/trainval/00j9bKdiOjk/50001.mp4", "lrs3/test/0Fi83BHQsMA/00002.mp4")
    touch(tmp_path, "cn/news/n001/video/n001_1.mp4", "cn/news/n001/audio/n001_1.wav")
    touch(tmp_path, "g/s1/bbaf2n.mpg", "g/s12/video/mpg_6000/lwbs3a.mpg")
    touch(tmp_path, "h/WDA_NancyPelosi1_000.mp4", "h/RD_Radio10_000.mp4", "h/RD_Radio11_000.mp4")
    touch(tmp_path, "ls/high_visual_quality/a/talk_shot_001_002.mp4")
    assert found(tmp_path) == [
        ("cncvs", "cncvs", "n001", "news-n001_1", ""),
        ("grid", "grid", "s1", "bbaf2n", ""),
        ("grid", "grid", "s12", "lwbs3a", ""),
        ("hdtf", "hdtf", "RD_Radio10", "RD_Radio10_000", ""),
        ("hdtf", "hdtf", "RD_Radio11", "RD_Radio11_000", ""),
        ("hdtf", "hdtf", "WDA_NancyPelosi", "WDA_NancyPelosi1_000", ""),
        ("lrs3", "lrs3", "0Fi83BHQsMA", "test-00002", "test"),
        ("lrs3", "lrs3", "00j9bKdiOjk", "trainval-50001", "train"),
        ("latentsync", "latentsync", "talk", "talk_shot_001_002", ""),
    ]
    sounds = {source.layout: source.audio for source in list_sources([tmp_path])}
    assert sounds["cncvs"].endswith("news/n001/audio/n001_1.wav")
    assert sounds["grid"] == ""


def test_wav2lip_folders(tmp_path):
    root = tmp_path / "pre"
    touch(root, *(f"d1/v1/{n}.jpg" for n in (0, 1, 5)), "d1/v1/audio.wav", "d1/v2/0.jpg", "d1/v2/1.jpg")
    (tmp_path / "filelists").mkdir()
    (tmp_path / "filelists" / "val.txt").write_text("d1/v1\n")
    assert found(root) == [("pictures", "pre", "d1", "v1", "val"), ("pictures", "pre", "d1", "v2", "")]
    assert [bool(source.problem) for source in list_sources([root])] == [False, True]


def test_plain_folders(tmp_path):
    root = tmp_path / "mine"
    touch(root, "a.mp4", "ann/b.mov", "news/ben/c.mkv", "news/ben/x/d.webm", ".hidden.mp4", "notes.txt", "no_suffix")
    assert found(root) == [
        ("", "mine", "a", "a", ""),
        ("", "mine", "ann", "b", ""),
        ("", "news", "ben", "c", ""),
        ("", "news", "ben-x", "d", ""),
        ("", "mine", "no_suffix", "no_suffix", ""),
    ]


def test_keys_differ_and_stay(tmp_path):
    names = ["a.mp4", "a.avi", "ä ö.mp4", "ä-ö.mp4", 'it\'s "q".mp4', "two\nlines.mp4", "b.c.mp4"]
    touch(tmp_path, *(f"s/{name}" for name in names))
    keys = [source.key for source in list_sources([tmp_path])]
    assert len(set(keys)) == len(names)
    assert all(key.isascii() and "." not in key and key.count("/") == 2 for key in keys)
    assert keys == [source.key for source in list_sources([tmp_path, tmp_path / "s" / "a.mp4"])]
    assert plain_name("ann_1-b") == "ann_1-b"


def test_names_that_are_not_unicode(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.mp4", os.O_CREAT))
    assert list_sources([tmp_path])[0].key.isascii()


def test_links_that_loop(tmp_path):
    touch(tmp_path, "s/a.mp4")
    (tmp_path / "s" / "up").symlink_to(tmp_path)
    assert len(list_sources([tmp_path])) == 1


def test_speakers_by_file_and_hook(tmp_path, monkeypatch):
    touch(tmp_path, "r/s/a.mp4", "r/s/b.mp4")
    (tmp_path / "speakers.csv").write_text("source,speaker\ns/a.mp4,ann\n")
    (tmp_path / "hooked.py").write_text("def who(path):\n    return 'news/' + path[-5]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [row[1:3] for row in found(tmp_path / "r", speakers=str(tmp_path / "speakers.csv"))] == [
        ("r", "ann"),
        ("r", "s"),
    ]
    assert [row[1:3] for row in found(tmp_path / "r", speakers="hooked:who")] == [("news", "a"), ("news", "b")]


@pytest.mark.parametrize("name", ["s/c.mp4", "s\\a.mp4", "./s/a.mp4"])
def test_a_speaker_of_no_input_is_refused(tmp_path, name):
    touch(tmp_path, "r/s/a.mp4", "r/s/b.mp4")
    (tmp_path / "speakers.csv").write_text(f"source,speaker\nb,ann\n{name},bob\n")
    with pytest.raises(ValueError, match=f"got 1 of none, such as {re.escape(repr(name))}"):
        list_sources([tmp_path / "r"], str(tmp_path / "speakers.csv"))


@pytest.mark.parametrize("hook", ["gone.csv", "os:nothing", "os:sep"])
def test_wrong_speakers(tmp_path, hook):
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match="expected"):
        list_sources([tmp_path], hook)


def test_no_such_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_sources([tmp_path / "gone"])
