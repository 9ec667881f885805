"""How good the winners of whole studies are, on test rows of real data that no choice saw.

    python tests/benchmarks/accuracy.py adult|mnist|sms [--trials N] [--data DIR] [--json]

Each study is submitted to a `tuner up` of its own, as a user would. With --json, standard output
is one JSON object with every figure, instead of a table. A ratio is what was reached over what is
asked for.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.accuracy", *sys.argv[1:]])

from tests.acceptance.support import Up
from tests.benchmarks.report import Report

#: Where the data lies unless it is said otherwise: beside the repository, as for the tests.
_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
#: Of the rows of one file, each so-many-th is a test row.
_TEST_EVERY = 5
_HOURS = 3

_ADULT = """
study: NAME
metric: {name: val_auc}
data: {train: TRAIN, validation: 0.2, test: TEST, label: income}
trainer: tabular
features: FEATURES
parameters:
  layers: {int: [1, 3]}
  units: {int: [16, 256], log: true}
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [3.0e-4, 1.0e-2], log: true}
search: {early_stopping: asha, seed: 7}
limits: {trials: TRIALS, parallel: 2}
training: {epochs: 12, batch_size: {discrete: [128, 256, 512]}}
"""

_TUNED = """
  age: {kind: numeric, buckets: {int: [0, 64]}}
  education_num: {kind: numeric, buckets: {int: [0, 16]}}
  capital_gain:
    kind: numeric
    scaling: {categorical: [zscore, log, quantile]}
    buckets: {int: [0, 64]}
  capital_loss:
    kind: numeric
    scaling: {categorical: [zscore, log, quantile]}
    buckets: {int: [0, 64]}
  hours_per_week: {kind: numeric, buckets: {int: [0, 32]}}
  native_country: {kind: categorical, vocabulary: {int: [4, 42]}, embedding: {int: [0, 8]}}
  age x hours_per_week: {kind: cross, buckets: {int: [64, 1024], log: true}}
  education x occupation: {kind: cross, buckets: {int: [64, 512], log: true}}
"""

#: The same features, each as it is where nothing is said of it.
_DEFAULTS = """
  age: {kind: numeric}
  education_num: {kind: numeric}
  capital_gain: {kind: numeric}
  capital_loss: {kind: numeric}
  hours_per_week: {kind: numeric}
  native_country: {kind: categorical}
  age x hours_per_week: {kind: cross}
  education x occupation: {kind: cross}
"""

_MNIST = """
study: NAME
metric: {name: val_accuracy}
data: {train: TRAIN, validation: 0.1, test: TEST, label: label}
trainer: image
parameters:
  blocks: {int: [2, 3]}
  filters: {int: [8, 32], log: true}
  kernel: {discrete: [3, 5]}
  stride: {discrete: [1, 2]}
  units: {int: [32, 128], log: true}
  dropout: {float: [0.0, 0.5]}
  shift: {float: [0.0, 0.15]}
  rotation: {float: [0.0, 15.0]}
  learning_rate: {float: [5.0e-4, 5.0e-3], log: true}
search: {early_stopping: asha, seed: 7}
limits: {trials: TRIALS, parallel: 1}
training: {epochs: 9, batch_size: 64}
"""

_SMS = """
study: NAME
metric: {name: val_f1}
data: {train: TRAIN, validation: 0.2, test: TEST, label: label}
trainer: text
search: {early_stopping: asha, seed: 7}
limits: {trials: TRIALS, parallel: 1}
training: {epochs: 6}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Studies of one data set.

    Attributes:
        studies: study files by name; the first is held to the target.
        trials: of each study.
        metric: what is measured of the test rows.
        target: what the winner is to reach.
    """

    studies: Mapping[str, str]
    trials: int
    metric: str
    target: float


JOBS: Mapping[str, Job] = {
    "adult": Job(
        studies={
            "tuned": _ADULT.replace("FEATURES", _TUNED),
            "defaults": _ADULT.replace("FEATURES", _DEFAULTS),
        },
        trials=40,
        metric="test_auc",
        target=0.914,
    ),
    "mnist": Job(studies={"image": _MNIST}, trials=12, metric="test_accuracy", target=0.985),
    "sms": Job(studies={"text": _SMS}, trials=12, metric="test_f1", target=0.93),
}


def measure(name: str, data: Path, folder: Path, trials: int | None = None) -> Report:
    """Runs the studies of a job one after the other, with files in an empty folder."""
    job = JOBS[name]
    count = trials or job.trials
    train, test = _parts(name, data, folder)
    rows: dict[str, Mapping[str, float]] = {}
    notes = []
    for study, text in job.studies.items():
        file = folder / f"{study}.yaml"
        for word, value in (("NAME", study), ("TRAIN", train), ("TEST", test), ("TRIALS", count)):
            text = text.replace(word, str(value))
        file.write_text(text, encoding="utf-8")
        print(f"{name}: {study}, {count} trials", file=sys.stderr, flush=True)
        start = time.monotonic()
        outcome = _run(file, folder / study)
        best = outcome["best_trials"][0]
        rows[study] = {
            job.metric: best["metrics"][job.metric],
            **{metric["name"]: best["value"] for metric in outcome["metrics"]},
            "trials": sum(outcome["trials"].values()),
            "stopped early": outcome["trials"]["pruned"],
            "seconds": time.monotonic() - start,
        }
        notes.append(f"{study}: trial {best['trial']}, {_parameters(best['parameters'])}")
    first = next(iter(rows.values()))
    return Report(
        title=f"{name}: the best trial's {job.metric}, where {job.target} is asked for",
        rows=rows,
        ratios={"target": first[job.metric] / job.target},
        notes=notes,
    )


def _parts(name: str, data: Path, folder: Path) -> tuple[Path, Path]:
    """The files with the training rows and the test rows."""
    source = data / name
    if not source.is_dir():
        sys.exit(f"there is no {source}; say where the data is by --data.")
    if name != "sms":
        kind = "csv" if name == "adult" else "parquet"
        return source / f"train.{kind}", source / f"test.{kind}"
    with (source / "sms.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    train, test = folder / "train.csv", folder / "test.csv"
    _write(train, head, [row for place, row in enumerate(rows) if place % _TEST_EVERY])
    _write(test, head, rows[::_TEST_EVERY])
    return train, test


def _write(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def _run(file: Path, home: Path) -> Mapping[str, Any]:
    """Submits a study file and waits; returns what `tuner submit` says of it."""
    up = Up(home)
    try:
        address = up.ready()["address"]
        command = [sys.executable, "-m", "tuner.cli", "--server", address, "submit", str(file)]
        done = subprocess.run(
            [*command, "--wait", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            timeout=_HOURS * 3600,
            check=True,
        )
    finally:
        up.stop()
    outcome: Mapping[str, Any] = json.loads(done.stdout)
    return outcome


def _parameters(values: Mapping[str, object]) -> str:
    shown = (
        f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items()
    )
    return ", ".join(shown)


def main() -> None:
    """Runs the studies of one data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data_set", choices=JOBS)
    parser.add_argument("--trials", type=int, help="of each study; those of the target by default")
    parser.add_argument("--data", type=Path, default=_DATA, help="the folder of the data sets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-") as folder:
        report = measure(options.data_set, options.data.resolve(), Path(folder), options.trials)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text())


if __name__ == "__main__":
    main()
