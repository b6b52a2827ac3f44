"""Arrays in files without a name: what was added, in order, and nothing left behind."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest

from unisync_loss.training.data.memmap import Table


def fill(table):
    rng = np.random.default_rng(0)
    pieces = [rng.normal(size=(count, 2, 3)).astype(np.float16)[:, :, ::2] for count in (3, 1, 5)]
    for piece in pieces:
        table.add(piece)
    return np.concatenate(pieces)


def test_pieces_lie_one_after_the_other(tmp_path):
    table = Table(tmp_path)
    added = fill(table)
    array = table.array()
    assert array.dtype == np.float16
    assert np.array_equal(array, added)
    assert np.array_equal(array[[7, 0]], added[[7, 0]])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_the_file_has_no_name_and_goes_with_the_array(tmp_path):
    def held():
        return sum("(deleted)" in line and str(tmp_path) in line for line in Path("/proc/self/maps").open())

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here to look at")
    table = Table(tmp_path)
    fill(table)
    array = table.array()
    assert list(tmp_path.iterdir()) == []
    assert held() == 1
    del array
    gc.collect()
    assert held() == 0


@pytest.mark.parametrize("other", [np.zeros((1, 2, 3), np.float16), np.zeros((1, 2, 2))], ids=["shape", "dtype"])
def test_rows_of_another_kind(tmp_path, other):
    table = Table(tmp_path)
    fill(table)
    with pytest.raises(ValueError, match=r"expected rows of \(dtype\('float16'\), \(2, 2\)\), got"):
        table.add(other)


def test_where_there_is_no_room_the_folder_is_named(tmp_path):
    table, limits = Table(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=tmp_path.name):
            [table.add(np.zeros(10)) for _ in range(13)]  # small pieces are not kept back
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_cache_that_may_only_be_read(tmp_path):
    table = Table(tmp_path / "missing")  # nobody can write there, root neither
    assert np.array_equal(fill(table), table.array())
