"""Staging of inputs and writing of shards."""

import pytest

from unisync_loss.data.store import list_records, read_lines, read_member
from unisync_loss.data.store_writer import (
    ShardWriter,
    StagedInput,
    check_store,
    open_store,
    read_staged,
    write_manifest,
)


def stage(folder, name, content=b"video"):
    staged = StagedInput(folder, name)
    staged.add({"key": f"c/s/{name}", "frames": 1}, {"mp4": content, "wav": b"audio", "safetensors": b"arrays"})
    staged.finish({"source": name, "clips": 1})
    return read_staged(folder, name), folder / f"{name}.tar"


@pytest.fixture
def root(tmp_path):
    open_store(tmp_path / "store", {"provider": None})
    (tmp_path / "staging").mkdir()
    return tmp_path / "store"


def test_an_input_is_staged_completely_or_not_at_all(tmp_path):
    staged = StagedInput(tmp_path, "a")
    assert read_staged(tmp_path, "a") is None
    staged.abandon()
    assert not list(tmp_path.iterdir())
    stage(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.tar"]


def test_positions_follow_the_clips_into_their_shard(root, tmp_path):
    writer = ShardWriter(root)
    for name in ("a", "b"):
        writer.append(*stage(tmp_path / "staging", name, name.encode() * 700))
    writer.close()
    assert [read_member(record, "mp4") for record in list_records(root)] == [b"a" * 700, b"b" * 700]
    assert {tar.name for tar, _ in read_lines(root)} == {"000000.tar"}


def test_shards_close_at_their_size_and_then_remove_what_they_consumed(root, tmp_path):
    staging = tmp_path / "staging"
    writer = ShardWriter(root, shard_bytes=4000)
    line, tar = stage(staging, "a")
    writer.append(line, tar, [tar])
    assert not tar.exists()  # larger than 4000 bytes: closed
    line, tar = stage(staging, "b")
    writer = ShardWriter(root)  # after the last complete shard
    writer.append(line, tar, [tar])
    assert tar.exists()
    writer.abandon()
    assert tar.exists()
    assert sorted(path.name for path in (root / "shards").iterdir()) == ["000000.jsonl", "000000.tar"]


def test_unfinished_shards_of_an_interrupted_run_are_removed(root, tmp_path):
    shards = root / "shards"
    others = ["1-of-2-000000.tar", ".1-of-2-000000.17.jsonl"]  # those of another run
    for name in ("000000.tar", ".000000.17.jsonl", ".000001", *others):
        (shards / name).write_text("{")
    assert not list(read_lines(root))  # an index that is not finished is not read
    ShardWriter(root)
    assert {path.name for path in shards.iterdir()} == set(others)


def test_the_manifest_has_the_latest_line_of_an_input(root, tmp_path):
    writer = ShardWriter(root)
    line, tar = stage(tmp_path / "staging", "a")
    writer.append({**line, "clips": 0, "records": [], "bytes": (0, 0)}, None)
    writer.append(line, tar)
    writer.close()
    assert write_manifest(root) == [{"source": "a", "clips": 1}]


def test_settings_of_a_store(root, tmp_path):
    open_store(root, {"provider": None})
    with pytest.raises(ValueError, match=r"expected a store made with .*'x:y'.*, got one made with .*None"):
        check_store(root, {"provider": "x:y"})
    with pytest.raises(ValueError, match="expected an empty folder or a store, got a folder with other contents"):
        open_store(tmp_path, {})
