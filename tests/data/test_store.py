"""Reading a store: against the tar reader of the standard library, and with bytes destroyed that must not be read."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from helpers.small_store import write_store
from safetensors.numpy import load, save

from unisync_loss.data.clips import list_clips, list_split, load_clip
from unisync_loss.data.store import (
    is_store,
    list_records,
    read_feature_shapes,
    read_features,
    read_member,
    read_record,
    read_window,
)
from unisync_loss.data.store_writer import ShardWriter, StagedInput, open_store, read_staged
from unisync_loss.video.encoding import encode_frames, encode_wav


def picture_clip(seed, frames=60):
    """Smooth random pictures, so that compression keeps them, and noise."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 255, (frames, 6, 6, 3))
    return np.kron(coarse, np.ones((1, 32, 32, 1))).astype(np.uint8), draw.uniform(-1, 1, frames * 640).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def clips():
    return {f"c/s{number % 2}/clip_{number:03d}": picture_clip(number) for number in range(3)}


@pytest.fixture(scope="module")
def written(tmp_path_factory, clips):
    root = tmp_path_factory.mktemp("written") / "store"
    open_store(root, {})
    (root / "parts").mkdir()
    gatherer = ShardWriter(root, shard_bytes=100_000)
    for number, (key, (frames, sound)) in enumerate(clips.items()):
        part = StagedInput(root / "parts", str(number))
        features = {"mesh": np.full((len(frames), 468, 3), number, np.float16)}
        members = {"mp4": encode_frames(frames), "wav": encode_wav(sound), "safetensors": save(features)}
        part.add({"key": key, "frames": len(frames)}, members)
        part.finish({"source": key, "clips": 1})
        gatherer.append(read_staged(root / "parts", str(number)), root / "parts" / f"{number}.tar")
    gatherer.close()
    return root


@pytest.fixture
def root(tmp_path, written):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "store")


def test_the_index_says_what_the_tar_holds(root, clips):
    members = {}
    for path in (root / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    assert len(list((root / "shards").glob("*.tar"))) > 1
    assert sorted(members) == sorted(f"{key}.{end}" for key in clips for end in ("json", "mp4", "wav", "safetensors"))
    for record in list_records(root):
        for end in record.places:
            assert read_member(record, end) == members[f"{record.key}.{end}"]
        assert json.loads(members[f"{record.key}.json"])["frames"] == 60
        assert read_features(record).keys() == load(members[f"{record.key}.safetensors"]).keys()


def test_clips_come_back(root, clips):
    for record in list_records(root):
        frames, sound = clips[record.key]
        clip = read_record(record)
        assert np.abs(clip.frames.astype(int) - frames).mean() < 8
        assert np.abs(clip.waveform - sound).max() <= 1 / 32768


@pytest.mark.parametrize("start", [0, 7, 12, 23, 55])
def test_windows_are_parts_of_their_clip(root, start):
    record = list_records(root)[1]
    whole, window = read_record(record), read_window(record, start)
    assert np.array_equal(window.frames, whole.frames[start : start + 5])
    assert np.array_equal(window.waveform, whole.waveform[640 * start : 640 * (start + 5)])


def test_a_window_does_not_need_what_was_before(root):
    record = list_records(root)[0]
    before = read_window(record, 40)
    video = read_member(record, "mp4")
    first, size = record.places["mp4"]
    start = video.index(b"mdat") + 4
    # frames 0 … 35 are the first three groups: about half of the data
    data = bytearray(record.shard.read_bytes())
    data[first + start : first + start + (size - start) // 3] = bytes((size - start) // 3)
    record.shard.write_bytes(data)
    assert np.array_equal(read_window(record, 40).frames, before.frames)
    with pytest.raises(ValueError, match=r"clip_000: (damaged|expected 5 frames)"):
        read_window(record, 2)


@pytest.mark.parametrize(("start", "frames"), [(-1, 5), (56, 5), (0, 0)])
def test_windows_outside(root, start, frames):
    with pytest.raises(ValueError, match=r"expected frames within 0\.\.60"):
        read_window(list_records(root)[0], start, frames)


def test_damaged_stores(root):
    index = sorted((root / "shards").glob("*.jsonl"))[0]
    tar = index.with_suffix(".tar")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"000000.tar: expected at least \d+ bytes, got 1000"):
        list_records(root)
    tar.write_bytes(whole)
    index.write_text("{")
    with pytest.raises(ValueError, match=r"000000.jsonl, line 1: expected JSON"):
        list_records(root)
    (root / "store.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="expected a store of format 1, got 99"):
        list_records(root)


def test_damaged_features_are_named(root):
    record = list_records(root)[0]
    data = bytearray(record.shard.read_bytes())
    first, _ = record.places["safetensors"]
    data[first + 8 : first + 16] = bytes(8)  # the header's beginning
    record.shard.write_bytes(data)
    for read in (read_features, read_feature_shapes):
        with pytest.raises(ValueError, match=f"{record.key}: damaged"):
            read(record)


def test_training_reads_a_store_like_a_folder(root):
    (root / "offsets.csv").write_text("clip,offset_frames\nc/s0/clip_000.mp4,2\nc/s1/clip_001.mp4,\n")
    entries = list_clips(root)
    assert is_store(root)
    assert [(entry.name, entry.speaker, entry.offset) for entry in entries] == [
        ("c/s0/clip_000.mp4", "c/s0", 2.0),
        ("c/s0/clip_002.mp4", "c/s0", 0.0),
    ]
    assert len(load_clip(entries[0]).frames) == 58


def test_splits_of_a_store(clips, tmp_path):
    store, splits = tmp_path / "store", ("test", "train", "")
    rows = []
    for (key, (frames, sound)), split in zip(clips.items(), splits, strict=True):
        facts = {"key": key, "frames": len(frames), "split": split}
        rows.append((facts, {"mp4": encode_frames(frames), "wav": encode_wav(sound)}))
    write_store(store, rows, source="x")
    (store / "offsets.csv").write_text("clip,offset_frames\nc/s0/clip_000.mp4,2\n")
    assert [(entry.name, entry.offset) for entry in list_clips(store / "test")] == [("c/s0/clip_000.mp4", 2.0)]
    both = ["c/s0/clip_002.mp4", "c/s1/clip_001.mp4"]  # what has no split of its own is for training
    assert [entry.name for entry in list_split(store / "train")] == both
    assert len(list_clips(store)) == 3
    with pytest.raises(ValueError, match=r"expected clips of one split, got a store with 2: give .*/test or .*/train"):
        list_split(store)
    with pytest.raises(ValueError, match="expected clips of the split val, found none"):
        list_clips(store / "val")
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        list_clips(store / "train", ignore_offsets=True)  # align writes into the store as a whole


def test_a_tar_reader_of_others_finds_samples(root):
    webdataset = pytest.importorskip("webdataset", reason="the webdataset package is not installed")
    urls = [str(path) for path in sorted((root / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {"json", "mp4", "wav", "safetensors"} <= set(samples[0])
    assert read_clip_bytes(samples[0]["mp4"]) == 60


def read_clip_bytes(data):
    import av

    with av.open(io.BytesIO(data)) as container:
        return sum(1 for _ in container.decode(video=0))
