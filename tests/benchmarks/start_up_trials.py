"""The trials whose start is measured: on gangs of ours, and by Ray Train."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import ray

from tests.benchmarks.report import Report
from tests.integration import trials
from tuner.client.access import Access
from tuner.config import Settings
from tuner.runner.cluster import Cluster
from tuner.runner.gang import Gang
from tuner.runner.shape import Shape
from tuner.runner.spares import Spares
from tuner.runner.worker import Assignment
from tuner.study import Strategy
from tuner_trainers.context import ENVIRONMENT, Result, TrialContext, TrialTask

if TYPE_CHECKING:
    import tensorflow as tf

OURS, FROM_SPARES, COLD = "warm gang", "gang from spares", "cold gang"
THEIRS = "Ray Train"
WORKERS = (1, 2)
#: One step is an epoch.
BATCH_SIZE = 512
#: Nobody listens there: what is measured needs no study server.
_NO_SERVER = "127.0.0.1:1"
_SPARES_SECONDS = 120.0


class Stamped(trials.Context):
    """A context of one trial, which nobody else is told of."""

    def __init__(self, folder: Path, rank: int, workers: int) -> None:
        super().__init__(folder, rank=rank, workers=workers)
        folder.mkdir(parents=True, exist_ok=True)


def train(
    task: TrialTask, folder: Path, rank: int, workers: int, strategy: tf.distribute.Strategy | None
) -> Result:
    """Trains a trial; rank 0 writes the time of the first step's end."""
    from tuner_trainers import loop, training  # imports TensorFlow

    plain = loop.Loop.epoch

    def epoch(*args: Any, **options: Any) -> float:
        loss = plain(*args, **options)
        if rank == 0:
            (folder / "first-step").write_text(repr(time.time()))
        return loss

    loop.Loop.epoch = epoch  # type: ignore[method-assign]
    try:
        return training.train(task, Stamped(folder / str(rank), rank, workers), strategy)
    finally:
        loop.Loop.epoch = plain  # type: ignore[method-assign]


def in_gang(
    task: TrialTask, folder: Path, context: TrialContext, strategy: tf.distribute.Strategy | None
) -> Result:
    """The same in a worker of a gang."""
    return train(task, folder, context.rank, context.workers, strategy)


def in_ray_train(config: Mapping[str, Any]) -> None:
    """The same in a worker of Ray Train."""
    os.environ.update(ENVIRONMENT)
    import tensorflow as tf  # what Ray Train's users import there
    from ray.train import get_context

    context = get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers > 1 else None
    train(config["task"], config["folder"], rank, workers, strategy)


class Bench:
    """A folder for the trials, each of which is another point of the space."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def seconds(self, start: Callable[[TrialTask, Path], object]) -> float:
        """How long the first step of a new trial takes, from the call of `start` on."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        task = trials.make_task(
            self._folder,
            trial=self._count,
            epochs=1,
            batch_size=BATCH_SIZE,
            units=16 + self._count,
        )
        begun = time.time()
        start(task, folder)
        return float((folder / "first-step").read_text()) - begun

    def gang(self, gang: Gang) -> float:
        """On a gang that stands."""
        return self.seconds(partial(_on_gang, gang))

    def new_gang(self, shape: Shape, spares: Spares) -> tuple[float, Gang]:
        """On a gang that is yet to be formed."""
        gangs: list[Gang] = []

        def start(task: TrialTask, folder: Path) -> None:
            gangs.append(Gang(shape, spares))
            _on_gang(gangs[0], task, folder)

        return self.seconds(start), gangs[0]

    def ray_train(self, workers: int) -> float:
        """By Ray Train."""
        return self.seconds(partial(_by_ray_train, workers))


def _on_gang(gang: Gang, task: TrialTask, folder: Path) -> None:
    outcome = gang.train(
        Assignment(
            trial="studies/s/trials/0",
            lease_token="1.0.1",
            artifact_dir=str(folder / "artifacts"),
            train=partial(in_gang, task, folder),
        ),
        lambda: False,
    )
    if outcome is None or outcome.failure is not None:
        raise RuntimeError(f"the trial failed: {outcome}")


def _by_ray_train(workers: int, task: TrialTask, folder: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    TensorflowTrainer(
        in_ray_train,
        train_loop_config={"task": task, "folder": folder},
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(storage_path=str(folder / "ray-train")),
    ).fit()


@contextmanager
def their_ray(cpus: int) -> Iterator[str]:
    """A Ray as Ray Train likes it: with the dashboard, if its packages are here; says which."""
    try:
        import_module("ray.dashboard.optional_deps")
        has_dashboard = True
    except ImportError:
        has_dashboard = False
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=has_dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield (
            f"Ray {ray.__version__}, its dashboard on: Ray Train starts faster with it."
            if has_dashboard
            else f"Ray {ray.__version__}; Ray Train starts faster with `ray[default]` installed."
        )
    finally:
        ray.shutdown()


def measure(folder: Path, quick: bool) -> Report:
    """Measures, with its files in an empty folder."""
    trials.make_task(folder)  # writes the rows and their statistics
    bench, rows = Bench(folder), dict[str, dict[str, float]]()
    with Cluster(Settings(data_dir=folder / "data", cpus=max(WORKERS))):
        for workers in WORKERS:
            shape = Shape(workers=workers, strategy=Strategy.MULTI_WORKER)
            spares = Spares(Access.to(_NO_SERVER), after_seconds=0.0, free_share=0.0)
            with closing(spares):
                found = _ours(bench, shape, spares, rounds=2 if quick else 5)
            for name, seconds in found.items():
                rows.setdefault(name, {})[f"{workers} worker, s"] = median(seconds)
    with their_ray(max(WORKERS)) as note:
        for workers in WORKERS:
            bench.ray_train(workers)  # what can be warm is, then
            theirs = [bench.ray_train(workers) for _ in range(1 if quick else 3)]
            rows.setdefault(THEIRS, {})[f"{workers} worker, s"] = median(theirs)
    ratios = {
        f"ray_train_{workers}": rows[OURS][f"{workers} worker, s"]
        / rows[THEIRS][f"{workers} worker, s"]
        for workers in WORKERS
    }
    return Report(
        title="assignment of a trial to the end of its first step, medians",
        rows=rows,
        ratios={"ray_train": max(ratios.values()), **ratios},
        notes=(note,),
    )


def _ours(bench: Bench, shape: Shape, spares: Spares, rounds: int) -> dict[str, list[float]]:
    cold, gang = bench.new_gang(shape, spares)
    warm = [bench.gang(gang) for _ in range(rounds)]
    deadline = time.monotonic() + _SPARES_SECONDS
    while len(spares._ready) < shape.workers:
        if time.monotonic() > deadline:
            raise RuntimeError("no spares in time.")
        spares.tend()
        time.sleep(0.1)
    gang.close()
    replaced, again = bench.new_gang(shape, spares)
    again.close()
    return {OURS: warm, FROM_SPARES: [replaced], COLD: [cold]}
