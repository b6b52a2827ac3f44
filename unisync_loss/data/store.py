"""Reader of clip stores: WebDataset tar shards, each with an index for random access.

``STORE/shards/NAME.tar`` holds four files per clip, ``<corpus>/<speaker>/<clip>`` + ``.json .mp4 .wav .safetensors``;
``STORE/shards/NAME.jsonl`` has one line per input with its clips and the positions of their files. A shard is valid
once its ``.jsonl`` exists. ``STORE/manifest.jsonl`` lists the inputs without positions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.utils.files import read_json
from unisync_loss.video.clip import Clip
from unisync_loss.video.decoding import open_media, stream_frames

FORMAT = 1
MEMBERS = ("json", "mp4", "wav", "safetensors")
WAV_HEADER = 44  # bytes before the samples of a PCM wav as this project writes it


@dataclass(frozen=True)
class Record:
    """One clip of a store.

    Attributes:
        key: ``<corpus>/<speaker>/<clip>``.
        shard: the tar file.
        places: first byte and number of bytes of each of the clip's files.
        facts: content of its ``.json``: corpus, speaker, split, source, start, frames, …
    """

    key: str
    shard: Path
    places: dict[str, tuple[int, int]]
    facts: dict[str, Any]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self.facts["frames"])


def is_store(root: str | os.PathLike[str]) -> bool:
    """Whether a folder is a store made by ``unisync prepare``."""
    return (Path(root) / "store.json").is_file()


def is_store_or_split(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a store, or ``STORE/train``, ``STORE/val`` or ``STORE/test``: a split of one."""
    return is_store(path) or (not Path(path).is_dir() and is_store(Path(path).parent))


def read_lines(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Lines of all inputs of a store in the order written, each with its shard.

    Raises:
        ValueError: for an index that cannot be read, or a store of another format.
    """
    settings = read_json(root / "store.json")
    if settings.get("format") != FORMAT:
        raise ValueError(f"{root}: expected a store of format {FORMAT}, got {settings.get('format')}")
    # names with a dot are unfinished files, of a killed run or of one that is writing now
    for index in sorted((root / "shards").glob("[!.]*.jsonl")):
        with index.open("rb") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{index}, line {number}: expected JSON ({error})") from error
                if (missing := _missing(line)) is not None:
                    raise ValueError(f"{index}, line {number}: expected an input and its clips, got no {missing}")
                yield index.with_suffix(".tar"), line


def _missing(line: object) -> str | None:
    """What a line of an index lacks, as a file that is damaged, or written by another program, may."""
    if not isinstance(line, dict) or not isinstance(line.get("source"), str):
        return "source"
    if type(line.get("clips")) is not int or not isinstance(line.get("records"), list):
        return "clips"
    for record in line["records"]:
        key = record.get("key") if isinstance(record, dict) else None
        if not isinstance(key, str) or len(key.split("/")) != 3:
            return "key <corpus>/<speaker>/<clip>"
        if type(record.get("frames")) is not int or record["frames"] < 1:
            return f"frames of {key}"
        places = record.get("places")
        if (
            not isinstance(places, dict)
            or not set(MEMBERS) <= places.keys()
            or not all(map(_is_place, places.values()))
        ):
            return f"places of {key}"
    return None


def _is_place(place: object) -> bool:
    return isinstance(place, list) and len(place) == 2 and all(type(number) is int and number >= 0 for number in place)


def list_records(root: str | os.PathLike[str]) -> list[Record]:
    """List the clips of a store, in order of key.

    Args:
        root: the store.

    Returns:
        The clips.

    Raises:
        ValueError: for an index that cannot be read, or a shard that is missing or shorter than its index says.
    """
    records: dict[str, Record] = {}
    ends: dict[Path, int] = {}
    for shard, line in read_lines(Path(root)):
        for facts in line["records"]:
            places = {member: (place[0], place[1]) for member, place in facts["places"].items()}
            known = {name: value for name, value in facts.items() if name != "places"}
            records[facts["key"]] = Record(facts["key"], shard, places, known)
            ends[shard] = max(ends.get(shard, 0), *(first + size for first, size in places.values()))
    for shard, end in ends.items():
        size = shard.stat().st_size if shard.is_file() else 0
        if size < end:
            raise ValueError(f"{shard}: expected at least {end} bytes, got {size}")
    return [records[key] for key in sorted(records)]


def read_member(record: Record, member: str) -> bytes:
    """Read one of a clip's files (``json``, ``mp4``, ``wav`` or ``safetensors``) as bytes."""
    first, size = record.places[member]
    return _read_bytes(record.shard, first, size)


def read_record(record: Record) -> Clip:
    """Decode a clip.

    Returns:
        Frames (T, 192, 192, 3) uint8 and waveform (640 T,) float32.

    Raises:
        ValueError: when the shard is damaged there.
    """
    return read_window(record, 0, record.frames)


def read_window(record: Record, start: int, frames: int = WINDOW_FRAMES) -> Clip:
    """Decode a segment of a clip, starting at the key frame before it, which is at most 11 frames away.

    Args:
        record: the clip.
        start: first frame.
        frames: number of frames.

    Returns:
        Frames (frames, 192, 192, 3) uint8 and waveform (640 frames,) float32.

    Raises:
        ValueError: for a segment outside the clip, or when the shard is damaged there.
    """
    waveform = read_waveform(record, start, frames)
    try:
        with BytesIO(read_member(record, "mp4")) as file, open_media(file) as container:
            timed = stream_frames(container, start, zero=0.0, threads=False)
            decoded = [each.frame for each in islice(timed, frames)]
    except ValueError as error:
        raise ValueError(f"{record.key}: damaged ({error})") from error
    if len(decoded) < frames:
        raise ValueError(f"{record.key}: expected {frames} frames from {start} on, got {len(decoded)}")
    return Clip(np.stack(decoded), waveform)


def read_waveform(record: Record, start: int, frames: int) -> NDArray[np.float32]:
    """Read the audio of a segment of a clip, without its frames.

    Args:
        record: the clip.
        start: first frame.
        frames: number of frames.

    Returns:
        (640 frames,) float32 in [-1, 1].

    Raises:
        ValueError: for a segment outside the clip, or when the shard is damaged there.
    """
    if not 0 <= start < start + frames <= record.frames:
        raise ValueError(f"{record.key}: expected frames within 0..{record.frames}, got {start}..{start + frames}")
    first, size = record.places["wav"]
    begin, length = WAV_HEADER + 2 * SAMPLES_PER_FRAME * start, 2 * SAMPLES_PER_FRAME * frames
    if begin + length > size:
        raise ValueError(f"{record.key}: expected {begin + length} bytes of audio, got {size}")
    samples = np.frombuffer(_read_bytes(record.shard, first + begin, length), "<i2")
    return samples.astype(np.float32) / 32768


def read_features(record: Record) -> dict[str, NDArray[Any]]:
    """Read the arrays stored with a clip.

    Returns:
        ``mesh`` (T, 468, 3) float16 of :func:`unisync_loss.video.face_mesh.face_mesh` where it was measured or given,
        ``boxes`` (T, 4) float32 crops in pixels of the source (left, top, right, bottom), and what a provider added.

    Raises:
        ValueError: when the shard is damaged there.
    """
    try:
        return load(read_member(record, "safetensors"))
    except SafetensorError as error:
        raise ValueError(f"{record.key}: damaged ({error})") from error


def read_feature_shapes(record: Record) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of :func:`read_features` by name, read from the file's header alone.

    Raises:
        ValueError: when the shard is damaged there.
    """
    first, size = record.places["safetensors"]
    # a safetensors file begins with the length of its JSON header
    length = int.from_bytes(_read_bytes(record.shard, first, 8), "little")
    if length > size:
        raise ValueError(f"{record.key}: expected a safetensors header of at most {size} bytes, got {length}")
    try:
        header = json.loads(_read_bytes(record.shard, first + 8, length))
    except ValueError as error:
        raise ValueError(f"{record.key}: damaged ({error})") from error
    return {name: tuple(facts["shape"]) for name, facts in header.items() if name != "__metadata__"}


def _read_bytes(path: Path, first: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(first)
        data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{path}: expected {first + size} bytes, got {first + len(data)}")
    return data
