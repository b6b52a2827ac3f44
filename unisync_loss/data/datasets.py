"""Inputs in files and folders: known data sets are recognised by their paths, with speaker and split.

| data set | path ends in | speaker | split |
|---|---|---|---|
| LRS2 | ``main/ID/N.mp4``, ``pretrain/ID/N.mp4`` | ID (a broadcast) | ``train.txt``, ``test.txt``, … above |
| LRS3 | ``trainval/ID/N.mp4``, ``pretrain/…``, ``test/…`` | ID (a talk) | the folder |
| CN-CVS | ``news/S/video/U.mp4``, ``speech/…``; audio in ``audio/U.wav`` | S | |
| GRID | ``s1/bbaf2n.mpg``, ``s1/video/mpg_6000/…`` | s1 | |
| HDTF | ``WDA_Name0_000.mp4``, ``WRA_…``, ``RD_Radio10_000.mp4`` | the name; each ``RD_Radio`` is one | |
| Wav2Lip, preprocessed | ``D/V/0.jpg, 1.jpg, …`` and ``audio.wav`` | D | ``filelists/train.txt``, … above |
| LatentSync, processed | in ``segmented/``, ``affine_transformed/``, … | name without cut numbers | |
| other | ``ROOT/CORPUS/SPEAKER/CLIP`` | SPEAKER | |
| | ``ROOT/SPEAKER/CLIP``, or ``ROOT/CLIP`` | SPEAKER, or the file | |
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from unisync_loss.utils.files import load_hook, read_table

NUMBERED_IMAGE = re.compile(r"(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
#: suffixes of files beside videos that are not videos
_COMPANIONS = set(".txt .csv .tsv .json .jsonl .yaml .yml .md .npy .npz .pt .pkl .safetensors .srt .vtt .align".split())
_COMPANIONS |= set(".wav .jpg .jpeg .png .gif .bmp .log .sh .py .pdf .html .zip .tar .gz .part".split())
_STAGES = r"resampled|shot|segmented|affine_transformed|av_synced_[\d.]+|high_visual_quality"
#: LRS2 numbers its broadcasts, LRS3 has identifiers of YouTube, GRID six letters that encode a sentence
_LAYOUTS = {
    "lrs2": r"/(?P<part>main|pretrain)/(?P<speaker>\d{16,})/[^/]+\.mp4",
    "lrs3": r"/(?P<part>pretrain|trainval|test)/(?P<speaker>[\w-]{11})/\d{5}\.mp4",
    "cncvs": r"/(?P<part>news|speech)/(?P<speaker>[^/]+)/video/[^/]+\.(?:mp4|avi|mkv)",
    "grid": r"/(?P<speaker>s\d{1,2})/(?:video/)?(?:mpg_\w+/)?[bpls][bgrw][abiw][a-z][\dz][anpsg]\.(?:mpg|mp4|avi)",
    "hdtf": r"/(?P<speaker>(?:WDA|WRA)_[^/]+?|RD_Radio\d+)\d*(?:_\d{3})?\.mp4",
    "latentsync": rf"/(?:{_STAGES})/(?:.+/)?(?P<speaker>[^/]+?)(?:_shot)?(?:_\d{{3}})*\.mp4",
}
_LAYOUTS_COMPILED = {name: re.compile(rf".*{pattern}", re.DOTALL) for name, pattern in _LAYOUTS.items()}
_SPLIT_OF_PART = {"pretrain": "train", "trainval": "train", "test": "test"}
_SPLIT_OF_LIST = {"pretrain": "train", "train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        path: absolute path of a video file, or of a folder of numbered images.
        layout: data set that the path was recognised as; ``"pictures"`` for Wav2Lip's folders; else ``""``.
        corpus: name of the data set or of the folder given.
        speaker: name of the folder, or of the file where there is none.
        name: of the file, unique per speaker.
        split: ``train``, ``val``, ``test`` where the data set says so, else ``""``.
        audio: file with the audio, where the video has none; else ``""``.
        problem: why it cannot be read, if that is already known.
    """

    path: str
    layout: str
    corpus: str
    speaker: str
    name: str
    split: str = ""
    audio: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        """``<corpus>/<speaker>/<name>`` in ASCII letters that every file system and tar reader accepts."""
        return "/".join(plain_name(part) for part in (self.corpus, self.speaker, self.name))


def list_sources(roots: Iterable[str | os.PathLike[str]], speakers: str | None = None) -> list[Source]:
    """List the inputs in files and folders, each once, in order of path, with unique keys.

    Args:
        roots: video files and folders.
        speakers: CSV file with columns ``source,speaker``, or ``module:function`` that takes a path and returns a
            speaker, ``corpus/speaker``, or None to keep the detected one.

    Returns:
        The inputs, including folders that cannot be entered, with their problem.

    Raises:
        FileNotFoundError: for a root that does not exist.
        ValueError: for a speaker list or hook that cannot be used, or a list that names other files.
    """
    name_speaker = speaker_hook(speakers) if speakers else None
    found: dict[str, Source] = {}
    for root in roots:
        for source in _walk(Path(os.path.abspath(root))):
            named = name_speaker(source.path) if name_speaker else None
            if named:
                corpus, _, speaker = named.rpartition("/")
                source = replace(source, corpus=corpus or source.corpus, speaker=speaker)
            found.setdefault(os.path.realpath(source.path), source)
    if isinstance(name_speaker, SpeakerList) and name_speaker.unused:  # a speaker could end up in two splits
        raise ValueError(
            f"{speakers}: expected paths of the inputs, ends of them or stems, got {len(name_speaker.unused)} of none, "
            f"such as {min(name_speaker.unused)!r}"
        )
    return keep_apart(sorted(found.values(), key=lambda source: source.path), {})


def keep_apart(sources: Iterable[Source], owner: Mapping[str, str]) -> list[Source]:
    """Rename inputs whose key is taken by another input, such as ``a.mp4`` beside ``a.avi``.

    Args:
        sources: the inputs.
        owner: paths of earlier inputs by their keys.

    Returns:
        The inputs, in order.
    """
    taken = dict(owner)
    result = []
    for source in sources:
        if taken.get(source.key, source.path) != source.path:
            source = replace(source, name=f"{source.name}-{_digest(source.path, 8)}")
        taken[source.key] = source.path
        result.append(source)
    return result


def _walk(root: Path) -> Iterator[Source]:
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}")
    if not root.is_dir():
        yield _describe(root, root.parent)
        return
    visited = set()
    problems: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=problems.append, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in visited:  # a link to a parent folder
            folders.clear()
            continue
        visited.add(real)
        if sum(NUMBERED_IMAGE.fullmatch(name) is not None for name in files) >= 2:
            yield _describe_images(Path(folder), root)
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() not in _COMPANIONS:
                yield _describe(Path(folder, name), root)
    for error in problems:
        yield replace(_describe(Path(str(error.filename)), root), problem=f"cannot be entered ({error.strerror})")


def _describe(path: Path, root: Path) -> Source:
    for layout, pattern in _LAYOUTS_COMPILED.items():
        match = pattern.fullmatch(path.as_posix())
        if match:
            part = match.groupdict().get("part") or ""
            name = f"{part}-{path.stem}" if part else path.stem
            split = _listed_split(path, 2) or _SPLIT_OF_PART.get(part, "")
            audio = path.parents[1] / "audio" / f"{path.stem}.wav"
            has_audio = layout == "cncvs" and audio.is_file()
            return Source(
                str(path), layout, layout, match["speaker"], name, split, audio=str(audio) if has_audio else ""
            )
    folders = path.relative_to(root).parts[:-1]
    corpus = folders[0] if len(folders) > 1 else root.name or "files"
    speaker = "-".join(folders[1:] if len(folders) > 1 else folders) or path.stem
    return Source(str(path), "", corpus, speaker, path.stem)


def _describe_images(folder: Path, root: Path) -> Source:
    corpus = root.name if root not in (folder, folder.parent) else root.parent.name
    audio = folder / "audio.wav"
    problem = "" if audio.is_file() else "expected audio.wav beside the numbered images, found none"
    split = _listed_split(folder, 1)
    return Source(str(folder), "pictures", corpus, folder.parent.name, folder.name, split, str(audio), problem)


def _listed_split(path: Path, above: int) -> str:
    """Split of a clip by the lists of its data set: lines ``folder/clip`` in files above the folders of clips."""
    name = f"{path.parent.name}/{path.stem}"
    for folder in path.parents[above : above + 2]:
        for stem, split in _SPLIT_OF_LIST.items():
            if name in _clip_list(folder / f"{stem}.txt") or name in _clip_list(folder / "filelists" / f"{stem}.txt"):
                return split
    return ""


@lru_cache(maxsize=256)
def _clip_list(path: Path) -> frozenset[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return frozenset(line.split()[0] for line in file if line.strip())
    except OSError:
        return frozenset()


class SpeakerList:
    """Speakers by path, by the end of a path from a ``/`` on, or by stem.

    Args:
        named: the speakers.

    Attributes:
        unused: names that no path asked for so far.
    """

    def __init__(self, named: Mapping[str, str]) -> None:
        self.named, self.unused = named, set(named)

    def __call__(self, path: str) -> str | None:
        """Speaker of a path; None where it is not listed."""
        for end in _endings(path):
            if end in self.named:
                self.unused.discard(end)
                return self.named[end]
        return None


def speaker_hook(text: str) -> Callable[[str], str | None]:
    """Function that names the speaker of a path, from a CSV file or ``module:function``.

    Raises:
        ValueError: for anything else.
    """
    if Path(text).is_file():
        rows = read_table(text, ("source", "speaker"))
        return SpeakerList({row["source"]: row["speaker"] for row in rows})
    return load_hook(text, "a CSV file")


def _endings(path: str) -> Iterator[str]:
    """The path, then shorter and shorter ends of it, then its stem."""
    parts = Path(path).parts
    yield path
    for first in range(1, len(parts)):
        yield "/".join(parts[first:])
    yield Path(path).stem


def plain_name(name: str) -> str:
    """Name reduced to ASCII letters, digits, ``-`` and ``_``; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return plain if plain == name else f"{plain}-{_digest(name, 6)}".lstrip("-")


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:length]
