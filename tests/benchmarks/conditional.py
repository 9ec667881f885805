"""How near `auto` comes to the optimum of a tree in 100 trials, over gRPC, four at once.

    python -m tests.benchmarks.conditional [--seeds 5] [--trials 100] [--workers 4] [--json]

Prints the regret of each seed: how much worse the best trial is than the best there is, without
noise. The bar is 0.1, the step from one of the three optimizers to the next.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import grpc

from tests.benchmarks import ours
from tests.benchmarks.bench import Place
from tests.conditional import regret
from tests.integration.service_support import Caller


def main() -> int:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    found = list[float]()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(url="", folder=Path(folder), algorithm="auto", history=0)
        with ours.running(place) as (address, _), grpc.insecure_channel(address) as channel:
            for seed in range(asked.seeds):
                caller = Caller(channel)
                found.append(regret(caller, seed, trials=asked.trials, workers=asked.workers))
                print(f"seed {seed}: {found[-1]:.3f}", file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps({"regret": [round(value, 4) for value in found]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
