"""Audio features of files: the arrays that an expert takes in place of waveforms, one per file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE, SIDE_FIELDS, STEP_RATE, UniSyncConfig
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import atomic_path, read_json, to_json, write_atomically
from unisync_loss.utils.process_pool import call_isolated
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import AUDIO_SUFFIXES, SUFFIXES, find_files, read_audio

SETTINGS = "features.json"


class SkippedFile(TypedDict):
    """A file without features, and the reason."""

    file: str
    reason: str


class FeatureReport(TypedDict):
    """Result of :func:`write_features`; ``kept`` counts arrays of earlier runs, ``seconds`` those written now."""

    model: str
    audio: str
    features: int
    steps_per_second: int
    out: str
    files: int
    written: int
    kept: int
    seconds: float
    skipped: list[SkippedFile]


def write_features(
    paths: Sequence[Path],
    expert: UniSyncExpert,
    model: str,
    out: Path,
    *,
    suffix: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> FeatureReport:
    """Write the audio features of files as ``.npy``; files whose array is newer than they are left alone.

    Args:
        paths: audio and video files, and folders of them.
        expert: in eval mode; computes on its device.
        model: its name.
        out: folder, created if missing. ``FILE.wav`` becomes ``OUT/FILE.npy``, ``FOLDER/a/b.wav`` ``OUT/a/b.npy``;
            :data:`SETTINGS` there names what computed them.
        suffix: of the files to take in folders, such as ``.wav``; None takes all audio and video files.
        log: takes lines of progress.

    Returns:
        The report. An array is float32: (L, F) of HuBERT or Whisper, (80, L) of mel.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a folder without such files, two files of one name, or a folder ``out`` of other features.
        OSError: when the disk is full; finished arrays stay, and the next run continues.
        ImportError: without PyAV, or what computes the features.
    """
    targets = place_files(paths, out, suffix)
    _open_folder(out, expert.config)
    todo = {target: file for target, file in targets.items() if not _is_current(target, file)}
    if todo:  # a model that is not available is no fault of the first file
        audio_features(expert, np.zeros(SAMPLE_RATE, np.float32))
    skipped: list[SkippedFile] = []
    sizes = {target: file.stat().st_size for target, file in todo.items()}
    progress, read, samples = Progress(log, sum(sizes.values())), 0, 0
    for done, (target, file) in enumerate(todo.items(), 1):
        try:
            waveform = call_isolated(read_audio, file)
            array = audio_features(expert, waveform)
        except (ValueError, OSError) as error:
            skipped.append({"file": str(file), "reason": str(error).removeprefix(f"{file}: ")})
        else:
            samples += waveform.size
            _save(target, array)
        read += sizes[target]
        progress.update(read, f"{done}/{len(todo)} files")
    return {
        "model": model,
        "audio": expert.config.audio,
        "features": expert.config.audio_features,
        "steps_per_second": STEP_RATE[expert.config.audio],
        "out": str(out),
        "files": len(targets),
        "written": len(todo) - len(skipped),
        "kept": len(targets) - len(todo),
        "seconds": round(samples / SAMPLE_RATE, 2),
        "skipped": skipped,
    }


def place_files(paths: Sequence[Path], out: Path, suffix: str | None = None) -> dict[Path, Path]:
    """Files to encode by the place of their array; see :func:`write_features`.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a folder without such files, or two files of one name.
    """
    suffixes = (*AUDIO_SUFFIXES, *SUFFIXES) if suffix is None else (f".{suffix.lower().removeprefix('.')}",)
    targets: dict[Path, Path] = {}
    for path in paths:
        root = path if path.is_dir() else path.parent
        for file in find_files(path, suffixes, "audio or video"):
            target = out / file.relative_to(root).with_suffix(".npy")
            other = targets.setdefault(target, file)
            if other.resolve() != file.resolve():
                raise ValueError(
                    f"{target}: expected one file of that name, got {other} and {file}: give the folder above them, a "
                    "suffix, or another folder for each"
                )
    return targets


@torch.inference_mode()
def audio_features(expert: UniSyncExpert, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of a whole recording, as the expert takes them with a batch axis in front.

    Args:
        expert: in eval mode.
        waveform: (S,) at 16 kHz.

    Returns:
        float32: (L, F) of HuBERT or Whisper, L = S / 320 rounded; (80, L) of mel, L = 1 + S // 200.

    Raises:
        ValueError: for a waveform that is too short.
    """
    device = next(expert.parameters()).device
    features = expert.prepare_audio(torch.from_numpy(waveform)[None].to(device))[0]
    as_taken = features.T if expert.config.audio == "mel" else features
    array: NDArray[np.float32] = as_taken.float().contiguous().cpu().numpy()
    return array


def _save(target: Path, array: NDArray[np.float32]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        np.save(temporary, array)


def _is_current(target: Path, file: Path) -> bool:
    return target.is_file() and target.stat().st_mtime_ns >= file.stat().st_mtime_ns


def _open_folder(out: Path, config: UniSyncConfig) -> None:
    """Create the folder with its settings, or check that it holds features of the same kind."""
    settings = {name: getattr(config, name) for name in ("audio", *SIDE_FIELDS["audio"])}
    path = out / SETTINGS
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(settings, indent=1))
        return
    found = read_json(path)
    if found != settings:
        raise ValueError(f"{out}: expected an empty folder or one of the same features, {settings}, got {found}")
