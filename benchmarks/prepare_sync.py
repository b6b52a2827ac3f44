"""Offset between video and audio that preparation introduces, measured with a second decoder.

    unisync prepare FOLDER --out STORE; python benchmarks/prepare_sync.py STORE --json prepare_sync.json

Audio: the packets of the source, each placed at its own time stamp and rate, are cross-correlated with the audio of
the clip. Video: every tenth frame of a clip is compared with the same square of neighbouring source frames; over all
frames, the best match should be the frames of equal time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import av
import numpy as np

from unisync_loss.data.store import Record, list_records, read_features, read_record

RATE = 16000
STEPS = (-2, -1, 0, 1, 2)  # frames of the source
REACH = 320  # samples searched on either side: 20 ms


def main() -> None:
    """Measure a store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(record) for record in list_records(arguments.store)]
    worst = max(abs(row["sound_ms"] + row["picture_ms"]) for row in rows)
    print(f"{len(rows)} clips, offset introduced at most {worst:.2f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps({"clips": rows, "worst_ms": worst}, indent=1) + "\n")


def measure(record: Record) -> dict[str, Any]:
    """Offsets of one clip in milliseconds."""
    clip, source = read_record(record), record.facts["source"]
    with av.open(source) as container:
        times = [frame.time for frame in container.decode(container.streams.best("video"))]
    begin = times[0] + record.facts["start"]
    lag = sound_lag(source, begin, clip.waveform)
    wrong = picture_lag(source, np.array(times), begin, clip.frames, read_features(record)["boxes"])
    row = {"clip": record.key, "sound_ms": round(lag, 3), "picture_ms": round(wrong, 3)}
    print(row, flush=True)
    return row


def sound_lag(source: str, begin: float, waveform: np.ndarray) -> float:
    """Delay of the clip's audio in milliseconds."""
    stamps, values = [], []
    with av.open(source) as container:
        for frame in container.decode(container.streams.best("audio")):
            samples = frame.to_ndarray()
            samples = samples.reshape(frame.samples, -1).T if not frame.format.is_planar else samples
            values.append(samples.astype(np.float64).mean(0))
            stamps.append(frame.time + np.arange(frame.samples) / frame.sample_rate)
    wanted = begin + np.arange(-REACH, waveform.size + REACH) / RATE
    there = np.interp(wanted, np.concatenate(stamps), np.concatenate(values), left=0, right=0)
    size = 2 ** int(np.ceil(np.log2(2 * there.size)))
    here = np.pad(waveform, (REACH, REACH))
    match = np.fft.irfft(np.fft.rfft(here, size) * np.conj(np.fft.rfft(there, size)), size)
    lags = np.arange(-REACH, REACH + 1)
    return float(lags[match[lags].argmax()]) / RATE * 1000


def picture_lag(source: str, times: np.ndarray, begin: float, frames: np.ndarray, boxes: np.ndarray) -> float:
    """Delay of the clip's frames in milliseconds: the shift with the best match."""
    due = {int(np.searchsorted(times, begin + t / 25 + 5e-4, side="right")) - 1: t for t in range(0, len(frames), 10)}
    due = {index: tick for index, tick in due.items() if 2 <= index < len(times) - 2}
    errors = dict.fromkeys(STEPS, 0.0)
    with av.open(source) as container:
        for number, frame in enumerate(container.decode(container.streams.best("video"))):
            wanted = {step: due[number - step] for step in STEPS if number - step in due}
            if wanted:
                picture = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                for step, tick in wanted.items():
                    errors[step] += float(np.abs(cut(picture, boxes[tick]) - reduce(frames[tick])).mean())
    return -min(errors, key=lambda step: errors[step]) * float(np.median(np.diff(times))) * 1000


def cut(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Square of an image, resampled to 192 x 192 and averaged to 48 x 48."""
    places = (np.arange(192) + 0.5) / 192
    columns = np.clip(box[0] + places * (box[2] - box[0]), 0, picture.shape[1] - 1).astype(int)
    rows = np.clip(box[1] + places * (box[3] - box[1]), 0, picture.shape[0] - 1).astype(int)
    return reduce(picture[rows][:, columns])


def reduce(picture: np.ndarray) -> np.ndarray:
    """Average (192, 192, 3) to (48, 48, 3)."""
    return picture.reshape(48, 4, 48, 4, 3).mean((1, 3))


if __name__ == "__main__":
    main()
