"""Small trials for tests: data whose label follows from its columns, tasks and contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tuner.space import Value
from tuner.study import DataSource, Feature, Metric
from tuner_trainers import statistics
from tuner_trainers.context import TrialTask
from tuner_trainers.storage import Storage

FEATURES = (
    Feature(name="age", kind="numeric", columns=("age",), settings={"buckets": 8}),
    Feature(name="gain", kind="numeric", columns=("gain",), settings={"scaling": "log"}),
    Feature(name="city", kind="categorical", columns=("city",), settings={"embedding": 4}),
    Feature(name="rooms", kind="categorical", columns=("rooms",)),
    Feature(name="age x city", kind="cross", columns=("age", "city"), settings={"buckets": 32}),
)

Report = Callable[[int, Mapping[str, float]], bool]


class Context:
    """A context that remembers what is reported; `decide` may stop the trial, or raise."""

    def __init__(self, artifact_dir: Path, *, rank: int = 0, workers: int = 1) -> None:
        self.artifact_dir = artifact_dir
        self.rank = rank
        self.workers = workers
        self.reports: list[Mapping[str, float]] = []
        self.decide: Report = lambda step, metrics: True
        self.checkpoint: Path | None = None
        self.kept: list[tuple[int, Path]] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Remembers the metrics of a step."""
        assert step == len(self.reports) + 1
        self.reports.append(metrics)
        return self.decide(step, metrics)

    def keep(self, step: int, checkpoint: Path) -> bool:
        """Remembers a checkpoint."""
        self.kept.append((step, checkpoint))
        return True


def write_rows(path: Path, rows: int = 600, seed: int = 0) -> Path:
    """Writes rows with labels of three kinds: `answer`, `grade` and `price`; some are missing."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    gain = np.where(rng.random(rows) < 0.5, 0.0, rng.lognormal(6, 2, rows).round(2))
    city = rng.choice(["Berlin", "Zürich", "New York", "?"], rows, p=[0.5, 0.3, 0.15, 0.05])
    rooms = rng.integers(1, 6, rows)
    score = (age - 50) / 20 + np.where(city == "Berlin", 1.5, -1.0) + 0.3 * rooms
    answer = np.where(score + rng.normal(0, 0.3, rows) > 0.8, "yes", "no")
    grade = np.digitize(score, [-0.5, 1.5])
    price = 50_000 + 10_000 * score
    lines = ["age,gain,city,rooms,answer,grade,price"]
    for row in range(rows):
        shown = "" if row % 17 == 3 else str(age[row])
        lines.append(
            f"{shown},{gain[row]},{city[row]},{rooms[row]},"
            f"{answer[row]},{grade[row]},{price[row]:.3f}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def storage(folder: Path, memory_bytes: int = 0) -> Storage:
    """Where the rows of `folder` are kept; as much as the machine allows is held in memory."""
    return Storage(cache_dir=folder / "cache", cache_bytes=1 << 30, memory_bytes=memory_bytes)


def make_task(
    folder: Path,
    label: str = "answer",
    metric: Metric | None = None,
    *,
    trial: int = 0,
    features: tuple[Feature, ...] = FEATURES,
    test: bool = False,
    **parameters: Value,
) -> TrialTask:
    """A task over rows in `folder`, written with their statistics at first use."""
    train = folder / "train.csv"
    if not train.exists():
        write_rows(train)
        statistics.scan(str(train), missing_values=("?",)).save(folder / "statistics.json")
    if test and not (folder / "test.csv").exists():
        write_rows(folder / "test.csv", rows=200, seed=1)
    data = DataSource(
        train_uri=str(train),
        label=label,
        validation_fraction=0.25,
        test_uri=str(folder / "test.csv") if test else None,
        missing_values=("?",),
    )
    return TrialTask(
        study="small",
        trial=trial,
        trainer="tabular",
        data=data,
        features=features,
        settings={"epochs": 4, "batch_size": 64, "learning_rate": 0.01, "units": 16},
        parameters=parameters,
        metric=metric or Metric(name="val_auc"),
        seed=7,
        statistics_path=str(folder / "statistics.json"),
    )
