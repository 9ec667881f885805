"""One rank of a gang, in a process of its own: trains some trials, the second of which fails.

python -m tests.integration.gang_rank FOLDER RANK HOST:PORT,HOST:PORT

The fourth trial is the first one again, with rows that are streamed; then come one of the image
trainer and one of the text trainer, and two that change gradients and rate on their way. Without
an address, one process trains with two replicas.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.integration import trials
from tuner.space import Value

CHANGED: Mapping[str, Value] = {
    "dropout": 0.0,
    "clip_value": 0.05,
    "clip_norm": 0.1,
    "schedule": "cosine",
    "warmup": 0.2,
    "class_weights": "balanced",
    "weight_decay": 0.01,
}


def main(folder: Path, rank: int, workers: list[str]) -> None:
    """Writes what each trial came to, to rank-{rank}.json."""
    if workers:
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    import tensorflow as tf  # only after TF_CONFIG is set

    from tests.integration import pictures
    from tuner_trainers import training

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if not workers:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy() if len(workers) > 1 else None
    tasks = [
        trials.make_task(folder, trial=trial, dropout=dropout, batch_size=50)
        for trial, dropout in ((0, 0.0), (1, 0.0), (2, 0.1), (0, 0.0))
    ]
    tasks.append(pictures.image_task(folder, epochs=2, rotation=0.0))
    tasks.append(pictures.text_task(folder, epochs=2, convolutions=1))
    for parameters in (CHANGED, {**CHANGED, "precision": "mixed_float16"}):
        task = trials.make_task(folder, trial=3, batch_size=50)
        tasks.append(replace(task, parameters={**task.parameters, **parameters}))
    results = []
    for number, task in enumerate(tasks):
        memory_bytes = 1 if number == 3 else 0
        artifact_dir = folder / f"artifacts-{len(workers)}-{rank}-{number}"
        artifact_dir.mkdir()
        context = trials.Context(artifact_dir, rank=rank, workers=len(workers))
        if task.trial == 1:
            context.decide = _lose
        try:
            result = training.train(task, context, strategy, trials.storage(folder, memory_bytes))
            end = "stopped" if result.stopped else "whole"
        except ConnectionError as error:
            end = str(error)
        losses = [metrics["loss"] for metrics in context.reports]
        results.append({"end": end, "losses": losses})
    (folder / f"rank-{len(workers)}-{rank}.json").write_text(json.dumps(results))


def _lose(step: int, metrics: Mapping[str, float]) -> bool:
    raise ConnectionError("lost")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [a for a in sys.argv[3].split(",") if a])
