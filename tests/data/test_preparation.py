"""Preparation end to end, on files made here; faces are given as boxes and landmarks, so that no finder is needed."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.media import clicks, mux
from helpers.paths import ROOT
from helpers.videos import bring, contents, folder, in_process, rows, video
from typer.testing import CliRunner

from tools.synthetic.clip import synthesize_clip
from unisync_loss.cli.app import app
from unisync_loss.data.clips import decode_clip, list_clips, stored_mesh
from unisync_loss.data.datasets import list_sources
from unisync_loss.data.preparation import Task, prepare, prepare_one, staged_name
from unisync_loss.data.store import list_records, read_features, read_lines, read_record
from unisync_loss.video.face_mesh import face_mesh

#: `whole` is prepared by a process pool, most other stores without: they must be the same
prepare_here = partial(prepare, engine=in_process)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    report = prepare([folder(root / "in")], root / "store", shard_bytes=60_000)
    return root, report


def test_a_store_is_made(whole):
    root, report = whole
    assert {key: report[key] for key in ("inputs", "ok", "skipped", "error", "clips", "speakers")} == {
        "inputs": 4, "ok": 4, "skipped": 0, "error": 0, "clips": 4, "speakers": 2,
    }  # fmt: skip
    records = list_records(root / "store")
    assert [record.key for record in records] == ["in/a/1_000", "in/a/2_000", "in/b/3_000", "in/b/4_000"]
    assert [record.frames for record in records] == [40, 41, 42, 43]
    assert len(list((root / "store" / "shards").glob("*.tar"))) > 1
    assert not [path for path in (root / "store").rglob("*") if "part" in path.name or path.name.endswith(".tmp")]
    features = read_features(records[0])
    assert features.keys() == {"boxes"}  # three landmarks are no mesh
    left, top, right, bottom = features["boxes"][20]
    assert left < 20 < 76 < right
    assert top < 20 < 76 < bottom
    assert [entry.speaker for entry in list_clips(root / "store")] == ["in/a", "in/a", "in/b", "in/b"]


def test_again_changes_nothing(whole, tmp_path):
    root, report = whole
    shutil.copytree(root / "store", tmp_path / "store")
    assert prepare_here([root / "in"], tmp_path / "store")["clips"] == report["clips"]
    names = sorted(path.name for path in (tmp_path / "store" / "shards").iterdir())
    assert names == sorted(path.name for path in (root / "store" / "shards").iterdir())


def test_shares_and_merging_give_the_whole(whole, tmp_path):
    root, _ = whole
    for index in range(2):
        prepare_here([root / "in"], tmp_path / f"apart{index}", shard=(index, 2))
    report = prepare_here([tmp_path / "apart0", tmp_path / "apart1", root / "store"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(root / "store")
    assert report["clips"] == 4
    assert prepare_here([tmp_path / "apart1"], tmp_path / "merged")["clips"] == 4
    assert rows(tmp_path / "merged").keys() == rows(root / "store").keys()


def test_merging_and_preparing_do_an_input_once(whole, tmp_path):
    root, _ = whole
    prepare_here([root / "store", root / "in"], tmp_path / "store")
    assert len([line["source"] for _, line in read_lines(tmp_path / "store")]) == 4
    assert contents(tmp_path / "store") == contents(root / "store")


def test_stores_with_other_features_do_not_merge(whole, tmp_path):
    root, _ = whole
    with pytest.raises(ValueError, match=r"expected a store made with .*json:dumps.*, got one made with .*None"):
        prepare_here([root / "store"], tmp_path / "store", provider="json:dumps")
    assert not (tmp_path / "store").exists()


def test_later_inputs_take_no_clip_from_earlier_ones(tmp_path):
    """The same corpus, speaker and name in another place, and beside it under another suffix."""
    sources = [video(tmp_path / place, 40 + n) for n, place in enumerate(("1/in/s/a.mp4", "2/in/s/a.mp4"))]
    for source in sources:
        prepare_here([source.parents[1]], tmp_path / "store")
    shutil.copy(video(tmp_path / "other.mkv", 38), tmp_path / "1/in/s/a.avi")
    report = prepare_here([tmp_path / "1/in"], tmp_path / "store")
    records = list_records(tmp_path / "store")
    assert report["clips"] == len(records) == 3
    assert sorted(record.frames for record in records) == [38, 40, 41]


def test_a_folder_that_was_moved_is_not_done_again(whole, tmp_path):
    root, report = whole
    shutil.copytree(root / "store", tmp_path / "store")
    shutil.copytree(root / "in", tmp_path / "in")  # keeps the times
    assert prepare_here([tmp_path / "in"], tmp_path / "store")["inputs"] == report["inputs"]


def in_child(source, store, limit=None):
    """Start a process that prepares without further processes; an error is written beside the store."""

    def run():
        torch.set_num_threads(1)  # threads of PyTorch do not survive a fork
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            prepare_here([source], store, shard_bytes=60_000)
        except OSError as error:
            store.with_suffix(".error").write_text(str(error))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child


def test_killed_at_any_moment_it_goes_on(whole, tmp_path):
    root, _ = whole
    draw = random.Random(4)
    store = tmp_path / "store"
    for moment in (3, 6, 9):  # files that appeared before the kill, then a random while
        child = in_child(root / "in", store)
        appeared = set()
        while child.is_alive() and len(appeared) < moment:
            appeared |= set(store.rglob("*"))
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.join()
        assert appeared
    prepare_here([root / "in"], store, shard_bytes=60_000)
    assert contents(store) == contents(root / "store")
    for path in (root / "store" / "shards").glob("*.tar"):
        assert (store / "shards" / path.name).read_bytes() == path.read_bytes()
    assert rows(store) == rows(root / "store")


def test_ray_gives_the_same_store(whole, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed, see examples/prepare_with_ray.py")
    root, _ = whole
    script = ROOT / "examples" / "prepare_with_ray.py"
    subprocess.run([sys.executable, script, root / "in", "--out", tmp_path / "store", "--workers", "2"], check=True)
    assert contents(tmp_path / "store") == contents(root / "store")
    assert rows(tmp_path / "store") == rows(root / "store")


def test_what_cannot_be_used_is_said(tmp_path, monkeypatch):
    root = tmp_path / "in"
    good = video(root / "good 'ü\n\".mkv")
    data = good.read_bytes()
    (root / "zero.mp4").touch()
    (root / "text.mp4").write_text("no video")
    shutil.copy(good, root / "really_mkv.avi")
    bring(root / "really_mkv.avi", 50)
    bring(root / "cut.mkv", 50)
    (root / "cut.mkv").write_bytes(data[: int(len(data) * 0.9)])
    video(root / "silent.mkv", sound=np.zeros(32000, np.float32))
    video(root / "short.mkv", 10)
    video(root / "one_frame.mkv", 1)
    video(root / "faceless.mkv")
    np.save(root / "faceless.landmarks.npy", np.full((50, 3, 2), np.nan, np.float32))
    (root / "wrong_boxes.landmarks.json").write_text('{"a": 1}')
    shutil.copy(good, root / "wrong_boxes.mkv")
    (root / "gone.mp4").symlink_to(root / "nowhere")
    with av.open(str(root / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks(2)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    report = prepare_here([root], tmp_path / "store")
    found = rows(tmp_path / "store")
    assert report["inputs"] == len(found) == 13
    expected = {
        "zero.mp4": ("error", "cannot be decoded"),
        "text.mp4": ("error", "cannot be decoded"),
        "silent.mkv": ("skipped", "silent"),
        "short.mkv": ("skipped", "expected at least 30"),
        "one_frame.mkv": ("skipped", "expected at least 30"),
        "faceless.mkv": ("skipped", "no face found"),
        "wrong_boxes.mkv": ("error", "expected an array of numbers"),
        "gone.mp4": ("error", "no such video file"),
        "mute.mp4": ("error", "no audio stream"),
        "sound.mp4": ("error", "no video stream"),
        good.name: ("ok", ""),
        "really_mkv.avi": ("ok", ""),
        "cut.mkv": ("ok", ""),
    }
    assert {name: row["status"] for name, row in found.items()} == {
        name: status for name, (status, _) in expected.items()
    }
    for name, (_, reason) in expected.items():
        assert reason in found[name]["reason"], name
    assert {staged_name(row["source"]) for row in found.values()} == {staged_name(s.path) for s in list_sources([root])}


def test_cut_anywhere_nothing_breaks(tmp_path):
    data = video(tmp_path / "whole.mkv").read_bytes()
    draw = random.Random(0)
    (tmp_path / "in").mkdir()
    for number in range(10):
        bring(tmp_path / "in" / f"{number}.mkv", 50).write_bytes(data[: draw.randrange(len(data))])
    prepare_here([tmp_path / "in"], tmp_path / "store")
    assert len(rows(tmp_path / "store")) == 10
    records = list_records(tmp_path / "store")
    assert 0 < len(records) < 10
    for record in records:
        assert len(read_record(record).frames) == record.frames >= 30


def test_what_every_input_lacks_is_no_fault_of_an_input(tmp_path, monkeypatch):
    def missing():
        raise ImportError("finding faces needs MediaPipe")

    monkeypatch.setattr("unisync_loss.data.face_clips.shared_finder", missing)
    (source,) = list_sources([video(tmp_path / "a.mkv", boxes=False)])
    (tmp_path / "parts").mkdir()
    with pytest.raises(ImportError, match="needs MediaPipe"):
        prepare_one(Task(source, str(tmp_path / "parts"), None, True))
    assert not list((tmp_path / "parts").iterdir())


def test_one_at_a_time_and_only_into_stores(whole, tmp_path):
    import fcntl

    root, _ = whole
    with pytest.raises(ValueError, match="other contents"):
        prepare_here([root / "in"], root / "in")
    with pytest.raises(ValueError, match="made with"):
        prepare_here([root / "in"], root / "store", provider="json:dumps")
    with (root / "store" / ".lock-0-of-1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run"):
            prepare_here([root / "in"], root / "store")
    with pytest.raises(ValueError, match="expected i/n"):
        prepare_here([root / "in"], root / "store", shard=(2, 2))


def test_a_full_disk_leaves_what_is_whole(whole, tmp_path):
    """A limit on the size of files stands for the disk: writing past it fails in the same way."""
    root, _ = whole
    store = tmp_path / "store"
    in_child(root / "in", store, limit=60_000).join()
    assert f"{store}: no room" in store.with_suffix(".error").read_text()
    assert not [path for path in store.rglob(".*") if not path.name.startswith(".lock")]
    prepare_here([root / "in"], store, shard_bytes=60_000)
    assert contents(store) == contents(root / "store")


def test_a_worker_that_dies_is_reported_and_its_input_tried_again(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        "import os, signal\ndef kill(frames, waveform):\n    if len(frames) == 41 and os.path.exists('{0}'):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if len(frames) == 42 and os.path.exists('{0}'):\n"
        "        raise RuntimeError('no memory')\n    return {{}}\n".format(tmp_path / "crowded")
    )
    (tmp_path / "crowded").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    root = folder(tmp_path / "in", ("a/1.mkv", "a/2.mkv", "b/3.mkv"))
    report = prepare([root], tmp_path / "store", provider="deadly:kill")
    assert (report["ok"], report["error"]) == (1, 2)
    assert "the process that read it died with SIGSEGV" in rows(tmp_path / "store")["2.mkv"]["reason"]
    assert "defect: RuntimeError: no memory" in rows(tmp_path / "store")["3.mkv"]["reason"]
    (tmp_path / "crowded").unlink()
    report = prepare([root], tmp_path / "store", provider="deadly:kill")
    assert (report["ok"], report["error"], report["clips"]) == (3, 0, 3)


def test_a_drawn_face_is_found_by_mediapipe(tmp_path):
    pytest.importorskip("mediapipe")
    clip = synthesize_clip(1, seconds=1.6, size=192)
    wide = np.full((len(clip.frames), 240, 320, 3), 128, np.uint8)
    wide[:, 24:216, 64:256] = clip.frames
    mux(tmp_path / "a.mkv", wide, clip.waveform)
    report = prepare_here([tmp_path / "a.mkv"], tmp_path / "store")
    assert (report["ok"], report["clips"]) == (1, 1), report
    (entry,) = list_clips(tmp_path / "store")
    stored = stored_mesh(entry)
    assert stored.shape == (40, 468, 3)
    measured = face_mesh(decode_clip(entry).frames, depth=True)  # of frames that were compressed since
    assert np.nanmean(np.abs(stored - measured)) < 0.01


def test_lines_of_a_store_name_every_input_once(whole):
    root, _ = whole
    assert len([line["source"] for _, line in read_lines(root / "store")]) == 4


def test_the_program(tmp_path, monkeypatch):
    video(tmp_path / "in" / "a.mkv")
    (tmp_path / "in" / "b\n.mp4").touch()
    os.close(os.open(os.fsencode(tmp_path / "in") + b"/\xff.mp4", os.O_CREAT))  # a name that is no text
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "unisync_loss.cli", "prepare", "in", "--out", "store", "--json", "out.json"]
    command += ["--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=strict, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["clips"], report["ok"], report["error"], report["seconds"]) == (1, 1, 2, 2.0)
    assert "store: 1 clips, 0.0 min, 1 speakers from 1 of 3 inputs" in done.stdout
    assert "b\\n.mp4': " in done.stdout
    assert "\\udcff.mp4': " in done.stdout
    assert {Path(row["source"]).name for row in report["left_out"]} == {"b\n.mp4", "\udcff.mp4"}
    (tmp_path / "in" / "a.mkv").unlink()
    monkeypatch.setattr("unisync_loss.data.preparation.prepare", prepare_here)
    nothing = CliRunner().invoke(app, ["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "empty")])
    assert str(nothing.exception).startswith("no clips: expected inputs with a face and speech")
