"""One trial under each strategy, on one worker and on several: its losses and its speed.

In step (`mirrored` in one process, `multi_worker` in several) the losses are those of one process.
Under parameter servers they are close to them, and the same with one worker. How much faster more
workers are depends on how many cores there are for them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.report import Report
from tests.integration import trials
from tuner.runner import environment
from tuner.runner.shape import Shape
from tuner.study import Strategy
from tuner_trainers import statistics
from tuner_trainers.context import Result, TrialContext, TrialTask

if TYPE_CHECKING:
    import tensorflow as tf

ALONE = "one process"
STRATEGIES = (Strategy.MIRRORED, Strategy.MULTI_WORKER, Strategy.PARAMETER_SERVER)
EPOCHS = 4
#: Nobody listens there: what is measured needs no study server.
_NO_SERVER = "127.0.0.1:1"


def train(
    task: TrialTask, folder: Path, context: TrialContext, strategy: tf.distribute.Strategy | None
) -> Result:
    """Trains a trial in a worker of a gang; rank 0 writes losses, and when each epoch ended."""
    from tuner_trainers import training  # imports TensorFlow

    mine = trials.Context(folder / str(context.rank), rank=context.rank, workers=context.workers)
    mine.artifact_dir.mkdir(parents=True)
    ends: list[float] = []

    def decide(step: int, metrics: Mapping[str, float]) -> bool:
        ends.append(time.monotonic())
        return True

    mine.decide = decide
    storage = trials.storage(Path(task.statistics_path).parent)
    result = training.train(task, mine, strategy, storage)
    if context.rank == 0:
        told = {"ends": ends, "losses": [metrics["loss"] for metrics in mine.reports]}
        (folder / "told.json").write_text(json.dumps(told))
    return result


def measure(folder: Path, quick: bool) -> Report:
    """Measures each strategy with 1, 2 and 3 workers, with its files in an empty folder."""
    environment.prepare(os.environ, own_cluster=True)
    # These import Ray, which reads the environment then.
    from tuner.client.access import Access
    from tuner.config import Settings
    from tuner.runner.cluster import Cluster
    from tuner.runner.gang import Gang
    from tuner.runner.spares import Spares

    rows = 30_000 if quick else 200_000
    path = trials.write_rows(folder / "train.csv", rows=rows)
    statistics.scan(str(path), missing_values=("?",)).save(folder / "statistics.json")
    shapes = {ALONE: Shape()} | {
        f"{strategy}, {workers}": Shape(
            workers=workers,
            strategy=strategy,
            parameter_servers=int(strategy is Strategy.PARAMETER_SERVER),
        )
        for strategy in STRATEGIES
        for workers in ((1, 2) if quick else (1, 2, 3))
    }
    told: dict[str, Any] = {}
    with Cluster(Settings(data_dir=folder / "data", cpus=5)):
        spares = Spares(Access.to(_NO_SERVER))
        for number, (name, shape) in enumerate(shapes.items()):
            with closing(Gang(shape, spares)) as gang:
                told[name] = _on(gang, folder, folder / str(number))
    seen = 0.75 * rows * (EPOCHS - 1)  # the others validate, and the first epoch builds the graph
    speeds = {name: seen / (each["ends"][-1] - each["ends"][0]) for name, each in told.items()}
    last = told[ALONE]["losses"][-1]
    return Report(
        title=f"one trial of {rows:,} rows, {EPOCHS} epochs, on {os.cpu_count()} cores",
        rows={
            name: {
                "first loss": each["losses"][0],
                "last loss": each["losses"][-1],
                "examples/s": speeds[name],
            }
            for name, each in told.items()
        },
        ratios={f"{name} speed": speed / speeds[ALONE] for name, speed in speeds.items()}
        | {f"{name} loss": each["losses"][-1] / last for name, each in told.items()},
        notes=("ratios are to one process; evaluation is part of each epoch",),
    )


def _on(gang: Any, data: Path, folder: Path) -> Any:
    """What a trial on a gang came to."""
    from tuner.runner.worker import Assignment  # imports Ray

    folder.mkdir()
    task = trials.make_task(data, epochs=EPOCHS, batch_size=512, dropout=0.0)
    assignment = Assignment(
        trial="studies/s/trials/0",
        lease_token="1.0.1",
        artifact_dir=str(folder / "artifacts"),
        train=partial(train, task, folder),
    )
    outcome = gang.train(assignment, lambda: False)
    if outcome is None or outcome.failure is not None:
        raise RuntimeError(f"the trial failed: {outcome}")
    return json.loads((folder / "told.json").read_text())
