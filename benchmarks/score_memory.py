"""Peak memory of ``unisync score`` on a long video, including the report.

    ffmpeg -stream_loop 359 -i CLIP_OF_20_S -c copy two_hours.mkv
    python benchmarks/score_memory.py two_hours.mkv --out out/two_hours

The command runs in a separate session; every few seconds the peak of each of its processes is read (Linux only).
``memory.log`` has one line per sample: seconds, peak MiB of the largest process, sum over all processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from prepare_memory import peaks_of


def main() -> None:
    """Score one video and record its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--every", type=float, default=5, help="seconds")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and of memory.log")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "unisync_loss.cli", "score", str(options.video), "--model", options.model]
    command += ["--report", str(options.out), "--json", str(options.out / "score.json")]
    started, peaks = time.monotonic(), {}
    process = subprocess.Popen(command, start_new_session=True)
    with (options.out / "memory.log").open("w", encoding="utf-8") as log:
        while process.poll() is None:
            peaks |= peaks_of(process.pid)
            if peaks:
                line = f"{time.monotonic() - started:.0f} {max(peaks.values()) // 1024} {sum(peaks.values()) // 1024}"
                print(line, file=log, flush=True)
            time.sleep(options.every)
    if process.returncode:
        raise SystemExit(f"unisync score ended with status {process.returncode}")
    seconds = json.loads((options.out / "score.json").read_text())["videos"][0]["seconds"]
    print(f"{seconds:.0f} s of video, at most {max(peaks.values()) // 1024} MiB in one process")


if __name__ == "__main__":
    main()
