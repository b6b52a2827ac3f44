"""Damaged input, thousands of cases by seed; what ended wrong can be run again alone.

python -m tests.faults --seed 0                                         all kinds, 10,070 cases
python -m tests.faults --kind checkpoints --seed 0 --start 17 --count 1  one case
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.cases import KINDS
from faults.runner import run

#: cases of each kind
COUNTS = {
    "checkpoints": 3000,
    "containers": 2000,
    "tables": 2000,
    "stores": 1500,
    "tensors": 1500,
    "kills": 20,
    "surroundings": 50,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="cases of each kind")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    bad = 0
    for kind in options.kind or COUNTS:
        count = options.count or COUNTS[kind]
        ends, wrong = run(kind, options.seed, count, options.start)
        for number, reason in wrong:
            print(
                f"python -m tests.faults --kind {kind} --seed {options.seed} --start {number} --count 1\n    {reason}"
            )
        print(f"{kind}, seed {options.seed}, {count} cases: {dict(sorted(ends.items()))}", flush=True)
        bad += len(wrong)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
