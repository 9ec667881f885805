"""A study of short trials: ours beside a plain Keras loop, and beside Ray Tune with Ray Train.

All train the same trials over Adult, one at a time on one CPU. Ours are those of `tuner up`, on a
gang that is warm, with all that it does beside training: leases, reports, checkpoints, artifacts.
The plain loop has its rows in memory and TensorFlow imported before its first trial, and keeps
nothing. Ray Tune cannot run a trainer of Ray Train's present version itself; as its documentation
says, a function of its own runs one in each trial. Its trials take alike, so a few are enough.

The rows are `adult/train.csv` in the folder that TUNER_BENCHMARK_DATA names, or beside the
repository in `shared/data`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.benchmarks.report import Report
from tuner.runner import environment

_REPOSITORY = Path(__file__).resolve().parents[2]


def measure(folder: Path, quick: bool) -> Report:
    """Measures all of them in turn."""
    rows = adult()
    environment.prepare(os.environ, own_cluster=True)
    from tests.benchmarks import study_trials  # imports Ray, which reads the environment then

    return study_trials.measure(folder, rows, quick)


def adult() -> Path:
    """The training rows of Adult; ends the benchmark where they are not."""
    data = Path(os.environ.get("TUNER_BENCHMARK_DATA") or _REPOSITORY.parent / "shared" / "data")
    rows = data / "adult" / "train.csv"
    if not rows.is_file():
        raise SystemExit(
            f"there is no {rows}: set TUNER_BENCHMARK_DATA to the folder that has it."
        )
    return rows
