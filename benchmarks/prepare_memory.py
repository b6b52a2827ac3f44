"""Peak memory of ``unisync prepare`` on a short and a long video of one drawn face, repeated.

    python -m benchmarks.prepare_memory --minutes 10 120 --json prepare_memory.json

Each length is prepared by a separate program; the peak is that of its largest process, the worker (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from tools.synthetic.clip import synthesize_clip
from unisync_loss.data import write_clip

SECONDS = 8  # of the clip that is repeated


def main() -> None:
    """Measure each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 120])
    parser.add_argument(
        "--faces", choices=("detected", "given"), default="detected", help="given: no MediaPipe, faster"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "face.mp4"))
        for minutes in arguments.minutes:
            rows.append(measure(Path(folder), minutes, arguments.faces == "given"))
            print(rows[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def draw(path: Path) -> None:
    """Write a drawn face in frames of 320 x 240."""
    clip = synthesize_clip(1, seconds=SECONDS, size=192)
    wide = np.full((len(clip.frames), 240, 320, 3), 128, np.uint8)
    wide[:, 24:216, 64:256] = clip.frames
    write_clip(path, wide, clip.waveform)


def repeat(source: Path, target: Path, times: int) -> None:
    """Repeat a file without re-encoding it."""
    with av.open(str(target), "w") as out:
        with av.open(str(source)) as container:
            streams = [out.add_stream_from_template(stream) for stream in container.streams]
        for turn in range(times):
            with av.open(str(source)) as container:
                for packet in container.demux():
                    if packet.dts is None or packet.time_base is None:
                        continue
                    shift = round(turn * SECONDS / packet.time_base)
                    packet.pts, packet.dts = (packet.pts or 0) + shift, packet.dts + shift
                    packet.stream = streams[packet.stream_index]
                    out.mux(packet)


def measure(folder: Path, minutes: float, given: bool) -> dict[str, Any]:
    """Prepare a video of the given length."""
    video, store = folder / f"{minutes:g}_minutes.mkv", folder / f"store_{minutes:g}"
    repeat(folder / "face.mp4", video, round(minutes * 60 / SECONDS))
    if given:
        landmarks = np.array([[110, 70], [210, 70], [160, 180]], np.float32)
        np.save(video.with_suffix(".landmarks.npy"), np.broadcast_to(landmarks, (round(1500 * minutes), 3, 2)))
    command = [sys.executable, "-m", "unisync_loss.cli", "prepare", str(video), "--out", str(store), "--workers", "1"]
    process = subprocess.Popen([*command, "--json", str(folder / "report.json")], start_new_session=True)
    peaks: dict[str, int] = {}
    while process.poll() is None:
        peaks |= peaks_of(process.pid)
        time.sleep(1)
    if process.returncode:
        raise SystemExit(f"unisync prepare ended with status {process.returncode}")
    report = json.loads((folder / "report.json").read_text())
    return {
        "minutes": minutes,
        "peak_mib": round(max(peaks.values()) / 1024),
        "clips": report["clips"],
        "seconds_kept": report["seconds"],
    }


def peaks_of(session: int) -> dict[str, int]:
    """Peak resident size in KiB of each process of a session (Linux)."""
    peaks = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == session:
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                peaks[entry.name] = int(status["VmHWM"].split()[0])
        except (OSError, KeyError):  # it has ended
            continue
    return peaks


if __name__ == "__main__":
    main()
