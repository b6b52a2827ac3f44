"""Files as their projects write them, made here by the same calls."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from unisync_loss.readers import read_coefficients, read_geneface


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def coefficients(frames=7, width=257):
    """Rows in which each number says where it is."""
    return (1000 * np.arange(frames)[:, None] + np.arange(width)).astype(np.float32)


def items(count=3):
    rng = np.random.default_rng(0)
    return [
        {
            "mel": rng.normal(size=(40, 80)),
            "hubert": rng.normal(size=(13, 1024)).astype(np.float32),
            "coeff": coefficients(7) + number,
            "lm68": rng.normal(size=(7, 68, 2)),
            "idexp_lm3d": rng.normal(size=(7, 68, 3)).astype(np.float32),
            "spk_id": f"talk{number}",
            "spk_idx": np.int64(number),
            "item_id": f"talk{number}_0000{number}",
        }
        for number in range(count)
    ]


def write_geneface(stem, contents, *, zipped, limit=10**9, protocol=None):
    """Index of 16 KiB, items behind it, a new file once one has grown beyond the limit."""
    offsets, begins, files, room = [16384], [0], {"": b"\0" * 16384}, ""
    for content in contents:
        if offsets[-1] > begins[-1] + limit:
            begins.append(offsets[-1])
            room = f".{len(begins) - 1}"
            files[room] = b""
        data = pickle.dumps(content, protocol)
        data = gzip.compress(data) if zipped else data
        files[room] += data
        offsets.append(offsets[-1] + len(data))
    index = pickle.dumps({"offsets": offsets, "id2pos": {}, "meta": {"chunk_begin": begins, "gzip": zipped}})
    length = len(index).to_bytes(32, "little")
    files[""] = length + index + files[""][32 + len(index) :]
    for room, data in files.items():
        Path(f"{stem}{room}.data").write_bytes(data)
    return len(files)


class TestGeneFace:
    @pytest.mark.parametrize("zipped", [False, True])
    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_items_come_back(self, tmp_path, zipped, protocol):
        written = items()
        write_geneface(tmp_path / "train", written, zipped=zipped, protocol=protocol)
        read = list(read_geneface(tmp_path / "train"))
        assert [(item.name, item.speaker) for item in read] == [(w["item_id"], w["spk_id"]) for w in written]
        for item, source in zip(read, written, strict=True):
            assert np.array_equal(item.hubert, source["hubert"])
            assert np.array_equal(item.expression, source["coeff"][:, 80:144])
            assert np.array_equal(item.idexp, source["idexp_lm3d"].reshape(7, 204))

    def test_several_files(self, tmp_path):
        written = items(5)
        assert write_geneface(tmp_path / "val", written, zipped=False, limit=120_000) > 1
        assert [item.name for item in read_geneface(tmp_path / "val")] == [w["item_id"] for w in written]

    def test_older_sets_with_an_index_beside(self, tmp_path):
        data = [pickle.dumps(item) for item in items()]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in data])]).tolist()
        (tmp_path / "train.data").write_bytes(b"".join(data))
        with (tmp_path / "train.idx").open("wb") as stream:
            np.save(stream, {"offsets": offsets}, allow_pickle=True)
        assert [item.speaker for item in read_geneface(tmp_path / "train")] == ["talk0", "talk1", "talk2"]

    def test_a_pickle_that_does_something_is_refused(self, tmp_path):
        mark = tmp_path / "mark"
        write_geneface(tmp_path / "train", [{**items(1)[0], "spk_id": Bomb(mark)}], zipped=False)
        with pytest.raises(ValueError, match=r"train.data: item 0: UnpicklingError: .*is no part of an array"):
            list(read_geneface(tmp_path / "train"))
        (tmp_path / "bomb.idx").write_bytes(pickle.dumps(Bomb(mark)))
        (tmp_path / "bomb.data").write_bytes(b"")
        with pytest.raises(ValueError, match=r"bomb.data: expected a data set of GeneFace"):
            list(read_geneface(tmp_path / "bomb"))
        assert not mark.exists()

    @pytest.mark.parametrize("gone", ["hubert", "coeff", "idexp_lm3d", "spk_id"])
    def test_item_that_lacks_a_part(self, tmp_path, gone):
        written = items(2)
        del written[1][gone]
        write_geneface(tmp_path / "train", written, zipped=False)
        with pytest.raises(ValueError, match=f"item 1: KeyError: '{gone}'"):
            list(read_geneface(tmp_path / "train"))

    @pytest.mark.parametrize("content", [b"", b"nonsense" * 20, b"\x05" + b"\0" * 31 + b"12345"])
    def test_something_else(self, tmp_path, content):
        (tmp_path / "train.data").write_bytes(content)
        with pytest.raises(ValueError, match=r"train.data: expected a data set of GeneFace, cannot be read"):
            list(read_geneface(tmp_path / "train"))

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read .*No such file"):
            list(read_geneface(tmp_path / "train"))


class TestCoefficients:
    @pytest.mark.parametrize("width", [257, 73, 64])
    def test_npy_of_rows(self, tmp_path, width):
        np.save(tmp_path / "c.npy", coefficients(7, width))
        first = 80 if width == 257 else 0
        assert np.array_equal(read_coefficients(tmp_path / "c.npy"), coefficients(7, width)[:, first : first + 64])

    def test_npy_of_geneface(self, tmp_path):
        np.save(tmp_path / "c.npy", {"coeff": coefficients(), "lm68": np.zeros((7, 68, 2))}, allow_pickle=True)
        assert np.array_equal(read_coefficients(tmp_path / "c.npy"), coefficients()[:, 80:144])

    @pytest.mark.parametrize(("key", "width", "first"), [("exp", 64, 0), ("coeff", 257, 80), ("coeff_3dmm", 73, 0)])
    def test_mat(self, tmp_path, key, width, first):
        io = pytest.importorskip("scipy.io")
        io.savemat(tmp_path / "c.mat", {"id": np.zeros((1, 80)), key: coefficients(7, width), "lm68": np.zeros(136)})
        assert np.array_equal(read_coefficients(tmp_path / "c.mat"), coefficients(7, width)[:, first : first + 64])

    def test_folder_of_frames(self, tmp_path):
        io = pytest.importorskip("scipy.io")
        for frame in range(11):
            io.savemat(tmp_path / f"{frame:06d}.mat", {"exp": coefficients(11, 64)[frame : frame + 1]})
        assert np.array_equal(read_coefficients(tmp_path), coefficients(11, 64))

    def test_pickle_that_does_something_is_refused(self, tmp_path):
        np.save(tmp_path / "c.npy", np.array(Bomb(tmp_path / "mark"), object), allow_pickle=True)
        with pytest.raises(ValueError, match=r"c.npy: expected coefficients of Deep3DFaceRecon, cannot be read"):
            read_coefficients(tmp_path / "c.npy")
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (coefficients(7, 50), r"expected \(T, 64, 73, 257\) coefficients, got \(7, 50\)"),
            (np.zeros((7, 64), int), "expected .*got .*int64"),
            ({"lm68": np.zeros(3)}, "expected one of exp, coeff, full_3dmm, coeff_3dmm, got lm68"),
        ],
    )
    def test_something_else(self, tmp_path, content, message):
        np.save(tmp_path / "c.npy", content, allow_pickle=True)
        with pytest.raises(ValueError, match=f"c.npy: {message}"):
            read_coefficients(tmp_path / "c.npy")

    @pytest.mark.parametrize("name", ["c.npy", "c.mat"])
    def test_broken_file(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=f"{name}: expected coefficients of Deep3DFaceRecon, cannot be read"):
            read_coefficients(tmp_path / name)

    def test_no_such_kind(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected a .mat or .npy file"):
            read_coefficients(tmp_path / "c.csv")
        with pytest.raises(ValueError, match=r"expected one .mat file a frame, found none"):
            read_coefficients(tmp_path)
