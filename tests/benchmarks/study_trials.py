"""The trials of the benchmark `study`: by `tuner up`, by a loop, and by Ray Tune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

from tests.acceptance.support import descendants
from tests.benchmarks import by_hand
from tests.benchmarks.bench import cpu_seconds, server
from tests.benchmarks.report import Report
from tests.benchmarks.start_up_trials import their_ray
from tuner.client import Client, Study, Trial
from tuner.space import Value
from tuner.study import StudyState

OURS, BY_HAND = "tuner up", "plain Keras loop"
TUNE_AND_TRAIN, TUNE_ALONE = "Ray Tune and Ray Train", "Ray Tune alone, actor reused"
_STUDY_SECONDS, _LOOP_SECONDS = 900.0, 900.0
_POLL_SECONDS = 0.02

STUDY = """
study: {name}
metric: {{name: val_auc, goal: maximize}}
data: {{train: {rows}, validation: {validation}, label: {label}, exclude: ["*"]}}
trainer: tabular
features:
{features}
parameters:
  layers: {{int: [1, 3]}}
  units: {{int: [16, 128], log: true}}
  dropout: 0.0
  learning_rate: {{float: [1.0e-3, 1.0e-2], log: true}}
training: {{epochs: 4, batch_size: {{discrete: [128, 256, 512]}}}}
search: {{algorithm: random, early_stopping: none, seed: 7}}
limits: {{trials: {trials}, parallel: 1}}
resources: {{workers: 1, cpus_per_worker: {threads}}}
"""


def measure(folder: Path, rows: Path, quick: bool) -> Report:
    """Measures, with its files in an empty folder."""
    trials = 4 if quick else 12
    ours, points = _ours(folder, rows, trials)
    loop = _by_hand(rows, points)
    with their_ray(cpus=2) as note:
        theirs = _tune_and_train(folder, rows, points[: 1 if quick else 3])
        alone = _tune_alone(folder, trials)
    each = {OURS: ours, BY_HAND: loop, TUNE_AND_TRAIN: theirs, TUNE_ALONE: alone}
    return Report(
        title=f"{trials} trials over Adult, one at a time",
        rows=each,
        ratios={
            "keras_loop": ours["s/trial"] / loop["s/trial"],
            "ray_tune": ours["s/trial"] / theirs["s/trial"],
        },
        notes=(
            f"{OURS}: from the first lease to the last end; `first` is what comes before it, from "
            "the submission on. Its CPU time is that of all its processes but PostgreSQL.",
            note,
        ),
    )


# --- ours ----------------------------------------------------------------------------------


def _ours(
    folder: Path, rows: Path, trials: int
) -> tuple[dict[str, float], list[Mapping[str, Value]]]:
    """The figures of a study on a warm gang, and its trials' parameters."""
    flags = (
        "--server-port",
        "0",
        "--web-port",
        "0",
        "--rest-port",
        "0",
        "--grpc-port",
        "0",
        "--cpus",
        "2",
        "--data-dir",
    )
    up = ("-m", "tuner.cli", "up", "--json", *flags, str(folder / "data"))
    with server(OURS, folder, *up) as said, Client(said["address"]) as client:
        _run(client, _study_file(folder, rows, "warm-up", 2))
        begun, used = time.time(), _cpu_seconds()
        study = _run(client, _study_file(folder, rows, "study", trials))
        used = _cpu_seconds() - used
        ended = list(study.trials(full=True))
        first = min(start_of(trial) for trial in ended)
        last = max(end_of(trial) for trial in ended)
        figures = {
            "s/trial": (last - first) / trials,
            "median s": median(end_of(trial) - start_of(trial) for trial in ended),
            "CPU s/trial": used / trials,
            "between, s": (last - first - sum(end_of(t) - start_of(t) for t in ended)) / trials,
            "first, s": first - begun,
            "best AUC": max(trial.metrics["val_auc"] for trial in ended),
        }
        settings = study.record.spec.settings
        return figures, [{**settings, **trial.parameters} for trial in ended]


def _study_file(folder: Path, rows: Path, name: str, trials: int) -> Path:
    features = [f"  {by_hand.BUCKETED}: {{kind: numeric, buckets: {{int: [4, 32]}}}}"]
    features += [f"  {name}: {{kind: numeric, scaling: zscore}}" for name in by_hand.NUMBERS]
    features += [f"  {name}: {{kind: numeric, scaling: log}}" for name in by_hand.LOGARITHMS]
    features += [f"  {name}: {{kind: categorical, vocabulary: 32}}" for name in by_hand.WORDS]
    path = folder / f"{name}.yaml"
    path.write_text(
        STUDY.format(
            name=name,
            rows=rows,
            validation=by_hand.VALIDATION,
            label=by_hand.LABEL,
            features="\n".join(features),
            trials=trials,
            threads=by_hand.THREADS,
        )
    )
    return path


def _run(client: Client, path: Path) -> Study:
    study = client.submit(path)
    deadline = time.monotonic() + _STUDY_SECONDS
    while not study.state.is_finished:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{study.study_id} did not end in {_STUDY_SECONDS:g} s.")
        time.sleep(_POLL_SECONDS)
    counts = study.record.trial_counts
    if study.record.state is not StudyState.COMPLETED or counts.succeeded != counts.total:
        raise RuntimeError(f"{study.study_id} failed: {study.record}")
    return study


def _cpu_seconds() -> float:
    """The CPU time of this process and of all that it started, `tuner up` with it."""
    return sum(map(cpu_seconds, [os.getpid(), *descendants(os.getpid())]))


def start_of(trial: Trial) -> float:
    """When a trial was leased, in seconds."""
    return trial.record.start_time.timestamp() if trial.record.start_time else 0.0


def end_of(trial: Trial) -> float:
    """When a trial ended, in seconds."""
    return trial.record.end_time.timestamp() if trial.record.end_time else 0.0


# --- theirs --------------------------------------------------------------------------------


def _by_hand(rows: Path, points: Sequence[Mapping[str, Value]]) -> dict[str, float]:
    command = [sys.executable, "-m", by_hand.__name__, str(rows), json.dumps(points)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=_LOOP_SECONDS
    )
    found = json.loads(done.stdout.splitlines()[-1])
    seconds = [trial["seconds"] for trial in found]
    return {
        "s/trial": mean(seconds),
        "median s": median(seconds),
        "CPU s/trial": mean(trial["cpu_seconds"] for trial in found),
        "best AUC": max(trial["auc"] for trial in found),
    }


def _tune_and_train(
    folder: Path, rows: Path, points: Sequence[Mapping[str, Value]]
) -> dict[str, float]:
    driver = tune.with_resources(
        partial(_drive, rows=str(rows), folder=str(folder / "train")), {"cpu": 0.1}
    )
    # What can be warm is, then.
    _tuned(driver, points[:1], folder / "warm")
    begun = time.perf_counter()
    _tuned(driver, points, folder / "tune")
    return {"s/trial": (time.perf_counter() - begun) / len(points)}


def _tune_alone(folder: Path, trials: int) -> dict[str, float]:
    points: list[Mapping[str, Value]] = [{"number": number} for number in range(trials)]
    begun = time.time()
    found = _tuned(Idle, points, folder / "idle", reuse_actors=True)
    times = sorted((found[n].metrics or {})["time"] for n in range(len(found)))
    # The first trial waits for the actor, which ends with the run.
    return {"s/trial": (times[-1] - times[0]) / (trials - 1), "first, s": times[0] - begun}


def _tuned(
    trainable: Any, points: Sequence[Mapping[str, Value]], folder: Path, **config: Any
) -> tune.ResultGrid:
    """What Ray Tune finds at these points, one at a time."""
    with redirect_stdout(sys.stderr):  # it is never silent
        results = tune.Tuner(
            trainable,
            param_space=tune.grid_search(list(points)),
            tune_config=tune.TuneConfig(max_concurrent_trials=1, **config),
            run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
        ).fit()
    if results.num_errors:
        raise RuntimeError(f"Ray Tune failed: {results.errors[0]}")
    return results


class Idle(tune.Trainable):
    """Does nothing: what is left is Ray Tune's own."""

    def step(self) -> dict[str, Any]:
        """Ends at once."""
        return {"time": time.time(), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial."""
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Has nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Has nothing to load."""


def _drive(point: Mapping[str, Value], *, rows: str, folder: str) -> None:
    """A trial of Ray Tune: runs Ray Train, which has the CPU."""
    TensorflowTrainer(
        _train,
        train_loop_config={"point": dict(point), "rows": rows},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=folder),
    ).fit()


def _train(config: Mapping[str, Any]) -> None:
    """A worker of Ray Train."""
    # Ray Train turns Keras 2 on, whose package is not the one that is tuned here.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    by_hand.prepare()
    by_hand.train(by_hand.Rows.read(Path(config["rows"])), config["point"])
