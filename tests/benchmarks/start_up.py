"""From a trial's assignment to its first step: a warm gang beside Ray Train, in one run.

    python tests/benchmarks/start_up.py [--quick] [--json]

Both train the same trial of the tabular trainer on the same Ray, in as many processes. Ray Train
starts its workers anew for every trial; what can be warm for it (files, Ray's own processes) is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.start_up", *sys.argv[1:]])

from tests.benchmarks.report import Report
from tuner.runner import environment


def measure(folder: Path, quick: bool) -> Report:
    """Measures, with its files in an empty folder."""
    environment.prepare(os.environ, own_cluster=True)
    from tests.benchmarks import start_up_trials  # imports Ray, which reads the environment then

    return start_up_trials.measure(folder, quick)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-") as folder:
        report = measure(Path(folder), options.quick)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text())


if __name__ == "__main__":
    main()
