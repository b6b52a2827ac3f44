"""Speech data: audio files, clips and stores, decoded once into one array."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from unisync_loss.config import SAMPLE_RATE, SAMPLES_PER_FRAME
from unisync_loss.data.store import WAV_HEADER, Record, is_store, list_records, read_member
from unisync_loss.lse import to_int16
from unisync_loss.utils.files import atomic_path, fingerprint, read_table
from unisync_loss.utils.progress import Progress
from unisync_loss.video.audio_decoding import stream_audio
from unisync_loss.video.clip import SUFFIXES
from unisync_loss.video.decoding import open_media
from unisync_loss.video.voicing import SILENCE

SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a")
MIN_SECONDS = 1.0  # shortest recording
_VERSION = 1  # version of the decoded samples; old caches are ignored after a change


class Recording(NamedTuple):
    """A file, or a clip of a store (then ``record`` is its place), with its speaker."""

    path: Path
    name: str
    speaker: str
    record: Record | None = None


class Speech(NamedTuple):
    """Recordings in one array; a recording ends with its last whole frame of 640 samples.

    Attributes:
        samples: (S,) int16 at 16 kHz.
        first: (N,) first sample of each recording.
        frames: (N,) frames of each.
        speaker: (N,) index of the speaker, into ``speakers``.
        speakers: names.
        skipped: reasons for skipped recordings, by name.
    """

    samples: Tensor
    first: NDArray[np.int64]
    frames: NDArray[np.int64]
    speaker: NDArray[np.int64]
    speakers: list[str]
    skipped: dict[str, str]

    def waveform(self, index: int) -> Tensor:
        """One whole recording, (640 T,) float32 in [-1, 1]."""
        first = int(self.first[index])
        return self.samples[first : first + SAMPLES_PER_FRAME * int(self.frames[index])].float() / 32768


def list_speech(root: str | os.PathLike[str]) -> list[Recording]:
    """List the recordings of a folder in order of name.

    Args:
        root: a store of ``unisync prepare``; a folder with ``manifest.csv`` (``path,speaker,…``); or a folder
            ``<corpus>/<speaker>/<file>`` of audio or video files. ``offsets.csv`` is not used: only audio is read.

    Returns:
        The recordings.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: if it contains none.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such data folder: {root}")
    if is_store(root):
        found = [Recording(r.shard, r.key, r.key.rpartition("/")[0], r) for r in list_records(root)]
    elif (root / "manifest.csv").is_file():
        found = _of_manifest(root)
    else:
        files = [path for path in sorted(root.glob("*/*/*")) if path.suffix.lower() in (*SOUNDS, *SUFFIXES)]
        names = [path.relative_to(root).as_posix() for path in files]
        found = [Recording(path, n, n.rpartition("/")[0]) for path, n in zip(files, names, strict=True)]
    if not found:
        raise ValueError(f"expected {root}/<corpus>/<speaker>/<file> of audio or video, or manifest.csv, found none")
    return found


def _of_manifest(root: Path) -> list[Recording]:
    rows = read_table(root / "manifest.csv", ("path", "speaker"))
    return [Recording(root / row["path"], row["path"], row["speaker"]) for row in rows]


def load_speech(recordings: Sequence[Recording], cache: Path, log: Callable[[str], None]) -> Speech:
    """Decode recordings, or read the samples decoded earlier from the same files.

    Args:
        recordings: of :func:`list_speech`.
        cache: folder for the samples, 115 MB per hour; created if missing.
        log: called with lines of progress.

    Returns:
        The recordings that can be decoded, have at least one second and are not silent.

    Raises:
        ValueError: if none is left.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"speech-{_key(recordings)}.safetensors"
    if not path.is_file():
        _decode_all(recordings, path, log)
    with safe_open(path, framework="pt") as file:
        samples, lengths = file.get_tensor("samples"), file.get_tensor("lengths").numpy()
        skipped: dict[str, str] = json.loads(file.metadata()["skipped"])
    kept = lengths > 0
    if not kept.any():
        raise ValueError(f"expected recordings of speech, none of {len(recordings)} can be used: {skipped}"[:500])
    names = [recording.speaker for recording, keep in zip(recordings, kept, strict=True) if keep]
    speakers, speaker = np.unique(names, return_inverse=True)
    first = np.cumsum([0, *lengths[kept][:-1]])
    return Speech(samples, first, lengths[kept] // SAMPLES_PER_FRAME, speaker, speakers.tolist(), skipped)


def _key(recordings: Sequence[Recording]) -> str:
    digest = hashlib.sha256(str(_VERSION).encode())
    for recording in recordings:
        digest.update(f"{fingerprint(recording.path)} {recording.name}\n".encode())
    return digest.hexdigest()[:24]


def _decode_all(recordings: Sequence[Recording], path: Path, log: Callable[[str], None]) -> None:
    parts: list[NDArray[np.int16]] = []
    skipped: dict[str, str] = {}
    progress = Progress(log, len(recordings), "recordings decoded")
    for done, recording in enumerate(recordings, 1):
        try:
            parts.append(_decode(recording))
        except ValueError as error:
            skipped[recording.name] = str(error)
            parts.append(np.zeros(0, np.int16))
        progress.update(done)
    arrays = {"samples": np.concatenate(parts), "lengths": np.array([part.size for part in parts])}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, {"skipped": json.dumps(skipped)})


def _decode(recording: Recording) -> NDArray[np.int16]:
    """(S,) samples of a recording.

    Raises:
        ValueError: when it cannot be decoded, is too short or silent.
    """
    if recording.record is not None:
        samples = np.frombuffer(read_member(recording.record, "wav")[WAV_HEADER:], "<i2").astype(np.int16)
    else:
        with open_media(recording.path) as container:
            blocks = list(stream_audio(container, (container.start_time or 0) / 1e6))
        sound = np.concatenate([np.zeros(0, np.float32), *blocks])
        samples = to_int16(sound)
    if samples.size < MIN_SECONDS * SAMPLE_RATE:
        raise ValueError(f"expected at least {MIN_SECONDS} s, got {samples.size / SAMPLE_RATE:.2f} s")
    level = float(np.sqrt(np.mean((samples / 32768) ** 2)))
    if level < SILENCE:  # normalising would amplify noise
        raise ValueError(f"expected speech, got silence (RMS {level:.5f})")
    return samples
