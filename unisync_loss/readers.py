"""Files that other projects leave: Deep3DFaceRecon's coefficients, GeneFace's binaries. Nothing in them is ever run.

GeneFace keeps pickles. They are read by an unpickler that knows numbers, text, lists, dicts and NumPy arrays, and
refuses every other name.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXPRESSION = {64: slice(0, 64), 73: slice(0, 64), 257: slice(80, 144)}  # of the rows of 64, 73 and 257 coefficients
_KEYS = ("exp", "coeff", "full_3dmm", "coeff_3dmm")  # Deep3DFaceRecon in PyTorch, in TensorFlow, SadTalker
_ARRAY = np.empty(1)
#: how NumPy rebuilds arrays and numbers, whatever its version calls the module
_REBUILDERS: dict[str, Any] = {
    "_reconstruct": _ARRAY.__reduce__()[0],
    "_frombuffer": _ARRAY.__reduce_ex__(5)[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_NUMPY_ROOMS = {f"numpy.{core}.{room}" for core in ("core", "_core") for room in ("multiarray", "numeric")}


class GeneFaceItem(NamedTuple):
    """One clip of GeneFace's LRS3 data.

    Attributes:
        name: its ``item_id``.
        speaker: its ``spk_id``, a TED talk.
        hubert: (L, 1024) of facebook/hubert-large-ls960-ft, two steps a video frame.
        expression: (T, 64) of Deep3DFaceRecon.
        idexp: (T, 204) landmarks, see :func:`unisync_loss.representations.points_of_idexp`.
    """

    name: str
    speaker: str
    hubert: NDArray[np.float32]
    expression: NDArray[np.float32]
    idexp: NDArray[np.float32]


def read_coefficients(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Expression coefficients of the Basel face model, as Deep3DFaceRecon, SadTalker or GeneFace write them.

    Args:
        path: a ``.mat`` file; a folder of one ``.mat`` a frame, in order of name; or an ``.npy`` file of rows of 257,
            73 or 64 coefficients, or of GeneFace's dict with ``coeff``.

    Returns:
        (T, 64) float32.

    Raises:
        ValueError: for a file of something else.
        ImportError: for a ``.mat`` file without SciPy.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.mat"))
        if not files:
            raise ValueError(f"{path}: expected one .mat file a frame, found none")
        return np.concatenate([read_coefficients(file) for file in files])
    if path.suffix not in (".mat", ".npy"):
        raise ValueError(f"{path}: expected a .mat or .npy file of coefficients, or a folder of .mat files")
    try:
        content = _read_mat(path) if path.suffix == ".mat" else _read_npy(path)
    except ImportError:
        raise
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise ValueError(f"{path}: expected coefficients of Deep3DFaceRecon, cannot be read ({error})") from error
    return _expression(content, str(path))


def read_geneface(path: str | os.PathLike[str]) -> Iterator[GeneFaceItem]:
    """Read a data set that GeneFace's binarizer wrote, clip by clip.

    Args:
        path: without suffix, such as ``data/binary/lrs3/train``; ``train.data`` and, for older sets, ``train.idx`` lie
            there.

    Yields:
        The clips in the order of the file.

    Raises:
        ValueError: for files of something else, or an item that lacks a part.
    """
    stem = os.fspath(path)
    try:
        offsets, begins, zipped = _index(stem)
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise ValueError(f"{stem}.data: expected a data set of GeneFace, cannot be read ({error})") from error
    for number, (start, end) in enumerate(pairwise(offsets)):
        chunk = bisect_right(begins[1:], start)
        where = f"{stem}.{chunk}.data" if chunk else f"{stem}.data"
        try:
            with open(where, "rb") as stream:
                stream.seek(start - begins[chunk])
                content = stream.read(end - start)
            item = _item(_dict(_unpickle(gzip.decompress(content) if zipped else content)))
        except Exception as error:
            raise ValueError(f"{where}: item {number}: {type(error).__name__}: {error}") from error
        yield item


def _index(stem: str) -> tuple[list[int], list[int], bool]:
    """Where items begin and the last one ends, where each further file takes over, and whether items are zipped."""
    if os.path.isfile(f"{stem}.idx"):  # older sets
        index = _dict(_read_npy(Path(f"{stem}.idx")))
    else:
        with open(f"{stem}.data", "rb") as stream:
            size = int.from_bytes(stream.read(32), "little")
            if size > os.path.getsize(f"{stem}.data"):
                raise ValueError("its index would be larger than the file")
            index = _dict(_unpickle(stream.read(size)))
    meta = _dict(index.get("meta", {}))
    return [int(offset) for offset in index["offsets"]], meta.get("chunk_begin", [0]), bool(meta.get("gzip"))


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a dict was expected, got {type(value).__name__}")
    return value


def _item(values: dict[str, Any]) -> GeneFaceItem:
    idexp = np.asarray(values["idexp_lm3d"], np.float32)
    return GeneFaceItem(
        str(values["item_id"]),
        str(values["spk_id"]),
        np.asarray(values["hubert"], np.float32),
        _expression({"coeff": values["coeff"]}, str(values["item_id"])),
        idexp.reshape(len(idexp), 204),
    )


def _expression(content: object, source: str) -> NDArray[np.float32]:
    """The expression part of rows of coefficients, whatever else is in them."""
    if isinstance(content, dict):
        key = next((key for key in _KEYS if key in content), None)
        if key is None:
            raise ValueError(f"{source}: expected one of {', '.join(_KEYS)}, got {', '.join(map(str, content))}")
        content = content[key]
    rows = np.asarray(content)
    if rows.ndim != 2 or rows.shape[1] not in _EXPRESSION or not np.issubdtype(rows.dtype, np.floating):
        widths = ", ".join(map(str, _EXPRESSION))
        raise ValueError(f"{source}: expected (T, {widths}) coefficients, got {rows.shape} {rows.dtype}")
    return rows[:, _EXPRESSION[rows.shape[1]]].astype(np.float32)


def _read_mat(path: Path) -> dict[str, object]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("Deep3DFaceRecon's .mat files need SciPy: pip install scipy") from error
    return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}


def _read_npy(path: Path) -> object:
    """An array, or the one object that ``np.save`` pickled."""
    try:
        rows: object = np.load(path, allow_pickle=False)
    except ValueError:  # objects
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
            np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
            return np.asarray(_unpickle(stream.read())).item()
    return rows


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's arrays; whatever else a pickle names is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> object:
        if module in _NUMPY_ROOMS and name in _REBUILDERS:
            return _REBUILDERS[name]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")


def _latin(text: str, encoding: str) -> bytes:
    """How the second protocol writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


def _unpickle(content: bytes) -> object:
    return _Unpickler(io.BytesIO(content)).load()
