"""``unisync prepare`` with Ray Data, on one machine or a cluster, with the same stages and the same store.

    pip install "ray[data]" "pandas<3" "pyarrow<22"  # newer releases need NumPy 2, MediaPipe needs 1
    python examples/prepare_with_ray.py VIDEOS --out STORE --workers 2

With RAY_ADDRESS set, the machines of that cluster do the work; VIDEOS and STORE must then be on a file system that
all of them mount under the same path. An interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from unisync_loss.data import Task, prepare, run_tasks

BATCH = 16  # inputs per process, which loads its models once


def on_ray(
    tasks: Iterable[Task], do: Callable[[Task], str], died: Callable[[Task, str], str], workers: int
) -> Iterator[str]:
    """Run tasks as a Ray data set, ``workers`` batches at a time; an input that crashes its process is reported."""
    rows = [{"task": task} for task in tasks]
    if not rows:  # an interrupted run had finished them all
        return

    def batch(items: dict[str, Any]) -> dict[str, Any]:
        names = run_tasks(items["task"], do, died, 1)
        return {"name": np.array([name for name in names if name])}

    inputs = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / BATCH))
    parts = inputs.map_batches(batch, batch_size=BATCH, compute=ray.data.TaskPoolStrategy(size=workers))
    for row in parts.iter_rows():
        yield str(row["name"])


def main() -> None:
    """Prepare inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", help="video files, folders and stores")
    parser.add_argument("--out", type=Path, required=True, help="the store")
    parser.add_argument("--workers", type=int, default=2, help="batches at a time, one core each")
    parser.add_argument("--speakers", help="as for unisync prepare")
    parser.add_argument("--features", help="as for unisync prepare")
    arguments = parser.parse_args()
    report = prepare(
        [path.absolute() for path in arguments.sources],
        arguments.out.absolute(),
        speakers=arguments.speakers,
        provider=arguments.features,
        workers=arguments.workers,
        engine=on_ray,
        log=print,
    )
    print(f"{report['clips']} clips from {report['ok']} of {report['inputs']} inputs")


if __name__ == "__main__":
    main()
