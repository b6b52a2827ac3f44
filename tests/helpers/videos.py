"""Small videos with faces in known places, and what preparation makes of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
from helpers.media import clicks, mux

from unisync_loss.data.datasets import list_sources
from unisync_loss.data.face_clips import Outcome, clips_of
from unisync_loss.data.store import list_records, read_member


def in_process(tasks, do, died, workers):
    """An engine for `prepare` that starts no process."""
    return map(do, tasks)


def video(path, frames=50, *, fps=25, sound=None, start=0.0, boxes=True, size=96, sample_rate=16000):
    """Pictures that change a little, a click at 0.5 and 1.2 s, and a face in a known place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(frames)[:, None, None, None] / fps
    pictures = np.broadcast_to(90 + 40 * np.sin(3 * time), (frames, size, size, 3)).astype(np.uint8).copy()
    pictures[:, 30:60, 30:60] += 20
    mux(
        path,
        pictures,
        clicks(frames / fps, sample_rate) if sound is None else sound,
        fps=fps,
        audio_start=start,
        sample_rate=sample_rate,
    )
    if boxes:
        bring(path, frames)
    return path


def bring(path, frames):
    landmarks = np.stack([np.array([[20, 20], [76, 76], [48, 60]], np.float32)] * frames)
    np.save(path.with_suffix(".landmarks.npy"), landmarks)
    return path


def folder(root, names=("a/1.mkv", "a/2.mkv", "b/3.mkv", "b/4.mkv")):
    for number, name in enumerate(names):
        video(root / name, 40 + number)
    return root


def contents(store):
    """All of a store but its places: what every file of every clip holds."""
    clips = {}
    for record in list_records(store):
        for member in record.places:
            clips[record.key, member] = hashlib.sha256(read_member(record, member)).hexdigest()
    return clips


def rows(store):
    return {
        Path(row["source"]).name: row for row in map(json.loads, (store / "manifest.jsonl").read_text().splitlines())
    }


def one(source, **options):
    outcome = Outcome()
    return list(clips_of(list_sources([source])[0], outcome, **options)), outcome
