"""Append-only arrays of the frame store: content, order, and no files left behind."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest

from unisync_loss.training.data.frame_store import AppendOnlyArray


def fill(rows):
    rng = np.random.default_rng(0)
    chunks = [rng.normal(size=(count, 2, 3)).astype(np.float16)[:, :, ::2] for count in (3, 1, 5)]
    for chunk in chunks:
        rows.add(chunk)
    return np.concatenate(chunks)


def test_chunks_follow_one_another(tmp_path):
    rows = AppendOnlyArray(tmp_path)
    added = fill(rows)
    array = rows.array()
    assert array.dtype == np.float16
    assert np.array_equal(array, added)
    assert np.array_equal(array[[7, 0]], added[[7, 0]])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_the_file_has_no_name_and_goes_with_the_array(tmp_path):
    def held():
        return sum("(deleted)" in line and str(tmp_path) in line for line in Path("/proc/self/maps").open())

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc on this system")
    rows = AppendOnlyArray(tmp_path)
    fill(rows)
    array = rows.array()
    assert list(tmp_path.iterdir()) == []
    assert held() == 1
    del array
    gc.collect()
    assert held() == 0


@pytest.mark.parametrize("other", [np.zeros((1, 2, 3), np.float16), np.zeros((1, 2, 2))], ids=["shape", "dtype"])
def test_rows_of_another_kind(tmp_path, other):
    rows = AppendOnlyArray(tmp_path)
    fill(rows)
    with pytest.raises(ValueError, match=r"expected rows of \(dtype\('float16'\), \(2, 2\)\), got"):
        rows.add(other)


def test_where_there_is_no_room_the_folder_is_named(tmp_path):
    rows, limits = AppendOnlyArray(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=tmp_path.name):
            [rows.add(np.zeros(10)) for _ in range(13)]  # small chunks are not buffered
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_cache_that_may_only_be_read(tmp_path):
    rows = AppendOnlyArray(tmp_path / "missing")  # not even root can write there
    assert np.array_equal(fill(rows), rows.array())
