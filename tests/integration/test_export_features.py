"""Every kind of feature: what training saw, the exported model predicts from raw rows."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.integration import trials
from tuner.space import Space
from tuner.study import DataSource, Feature, Metric
from tuner_trainers import artifacts, derived, export, golden, layout, statistics, training
from tuner_trainers.context import TrialTask
from tuner_trainers.predict import Predictor
from tuner_trainers.storage import Storage

FEATURES = (
    Feature(
        name="paid",
        kind="numeric",
        columns=("paid",),
        settings={"scaling": "log", "clip": 0.02, "buckets": 5},
    ),
    Feature(
        name="late & paid",
        kind="expression",
        columns=("paid", "home"),
        settings={
            "expression": 'where(home == "team 1", 0, log1p(paid) + is_missing(paid))',
            "buckets": 4,
        },
    ),
    Feature(name="late & paid x home", kind="cross", columns=("late & paid", "home")),
    Feature(
        name="sent",
        kind="datetime",
        columns=("sent",),
        settings={"hour": "one_hot", "month": "cyclic", "weekend": True, "year": True},
    ),
    Feature(
        name="home",
        kind="categorical",
        columns=("home",),
        settings={"share": "team", "vocabulary": 6, "embedding": 3},
    ),
    Feature(name="away", kind="categorical", columns=("away",), settings={"share": "team"}),
    Feature(
        name="note", kind="text", columns=("note",), settings={"pooling": "tfidf", "ngrams": 2}
    ),
    Feature(
        name="note/letters",
        kind="text",
        columns=("note",),
        settings={"split": "characters", "hash_buckets": 64, "embedding": 4},
    ),
)


def write(path: Path, rows: int, seed: int) -> None:
    """Writes rows whose label is told by the hour, the teams and a word, some of them missing."""
    rng = np.random.default_rng(seed)
    words = np.asarray(["late", "rain", "Zürich", "goal", "don't", "fans", "東京"])
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["paid", "sent", "home", "away", "note", "won"])
        for row in range(rows):
            hour, home, away = rng.integers(24), rng.integers(8), rng.integers(8)
            note = " ".join(rng.choice(words, rng.integers(1, 9)))
            told = (hour > 12) + 0.4 * (home - away) + ("goal" in note) + rng.normal(0, 0.3)
            day = f"2013-{1 + row % 12:02d}-{1 + row % 28:02d}"
            out.writerow(
                [
                    "?" if row % 11 == 0 else round(rng.lognormal(2, 2), 2),
                    "?" if row % 13 == 0 else f"{day} {hour:02d}:30",
                    f"team {home}",
                    "" if row % 17 == 0 else f"team {away}",
                    "" if row % 19 == 0 else note,
                    "yes" if told > 1 else "no",
                ]
            )


def make_task(folder: Path) -> TrialTask:
    """A task with a feature of every kind."""
    write(folder / "train.csv", 1500, 0)
    write(folder / "test.csv", 300, 1)
    asked = derived.asked_for(FEATURES, Space(()))
    train = str(folder / "train.csv")
    statistics.scan(train, missing_values=("?",), derived=asked).save(folder / "statistics.json")
    return TrialTask(
        study="kinds",
        trial=0,
        trainer="tabular",
        data=DataSource(
            train_uri=train,
            label="won",
            validation_fraction=0.2,
            test_uri=str(folder / "test.csv"),
            missing_values=("?",),
        ),
        features=FEATURES,
        settings={"epochs": 6, "batch_size": 64, "learning_rate": 0.01, "units": 16},
        parameters={},
        metric=Metric(name="val_auc"),
        seed=7,
        statistics_path=str(folder / "statistics.json"),
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_exported_model_predicts_what_training_saw(tmp_path: Path, in_memory: bool) -> None:
    directory = tmp_path / "artifacts"
    directory.mkdir()
    storage: Storage = trials.storage(tmp_path, memory_bytes=0 if in_memory else 1)
    result = training.train(make_task(tmp_path), trials.Context(directory), storage=storage)
    assert result.metrics["test_auc"] > 0.8
    export.export(directory, tmp_path / "exported", "kinds")
    assert export.verify(tmp_path / "exported") <= golden.TOLERANCE
    predictor = Predictor(tmp_path / "exported")
    assert list(predictor.inputs) == ["paid", "home", "sent", "away", "note"]
    recorded = pq.read_table(directory / artifacts.TEST)
    predicted = predictor.predict(predictor.read(str(tmp_path / "test.csv")))
    np.testing.assert_allclose(
        predicted["probability(yes)"], recorded["probability(yes)"], rtol=0, atol=1e-6
    )
    if in_memory:
        # A process that has seen none of it reads the Keras model, too.
        script = (
            "import sys, tuner_trainers.model, keras\n"
            "model = keras.models.load_model(sys.argv[1])\n"
            "print([layer.name for layer in model.inputs])\n"
            "assert 'sklearn' not in sys.modules, 'it takes a second'\n"
            "from keras.wrappers import SKLearnClassifier\n"
            "assert hasattr(SKLearnClassifier, 'get_params'), 'who wants it has it'\n"
        )
        path = tmp_path / "exported" / layout.KERAS
        process = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("'") == 2 * len(predictor.inputs)
