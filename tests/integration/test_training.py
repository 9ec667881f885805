"""Training: what a trial learns, leaves behind, and how it ends, alone and in a gang."""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorflow.python.framework.func_graph import FuncGraph

from tests.integration import pictures, trials
from tuner.errors import DataError, InfeasibleError, InvalidArgumentError
from tuner.study import DataSource, Feature, Goal, Metric, Selection, StudySpec
from tuner_trainers import (
    artifacts,
    data,
    golden,
    model,
    prepare,
    rows,
    statistics,
    training,
)
from tuner_trainers.class_weights import class_weights
from tuner_trainers.context import ENVIRONMENT, Result, TrialTask
from tuner_trainers.schedules import Schedule
from tuner_trainers.storage import Storage
from tuner_trainers.target import target_of

RMSE = Metric(name="val_rmse", goal=Goal.MINIMIZE)
ACCURACY = Metric(name="val_accuracy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and their statistics."""
    return tmp_path_factory.mktemp("data")


def _train(task: TrialTask, to: Path) -> tuple[Result, trials.Context]:
    context = trials.Context(to)
    to.mkdir(exist_ok=True)
    return training.train(task, context, None, _storage(task)), context


def _storage(task: TrialTask) -> Storage:
    return trials.storage(Path(task.statistics_path).parent)


def test_a_trial_learns_and_reports_every_epoch(folder: Path, tmp_path: Path) -> None:
    result, context = _train(trials.make_task(folder, epochs=6), tmp_path)
    assert len(context.reports) == 6
    assert result.metrics["val_auc"] > 0.9
    assert not result.stopped
    losses = [metrics["loss"] for metrics in context.reports]
    assert losses[-1] < losses[0]


def test_the_best_epoch_counts_and_not_the_last(folder: Path, tmp_path: Path) -> None:
    # The training loss falls to the end, but the validation loss of so large a network does not.
    metric = Metric(name="val_loss", goal=Goal.MINIMIZE)
    task = trials.make_task(folder, metric=metric, epochs=15, units=256, dropout=0.0)
    result, context = _train(task, tmp_path)
    values = [metrics["val_loss"] for metrics in context.reports]
    assert values[-1] > min(values)
    assert result.step == 1 + int(np.argmin(values))
    assert result.metrics["val_loss"] == min(values)
    recorded = pq.read_table(tmp_path / artifacts.VALIDATION)
    right = np.where(
        np.asarray(recorded["_actual"]) == "yes",
        recorded["probability(yes)"],
        recorded["probability(no)"],
    )
    assert -np.log(right.astype(float)).mean() == pytest.approx(min(values), abs=1e-5)
    # Unless the study asks for the last: then its weights are kept, too.
    last, context = _train(replace(task, selection=Selection.LAST), tmp_path / "last")
    assert (last.step, last.metrics) == (15, context.reports[-1])
    record = artifacts.read_record(tmp_path / "last")
    assert record.task.selection is Selection.LAST and record.result == last


def test_the_same_trial_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    first, _ = _train(trials.make_task(folder, trial=3), tmp_path / "a")
    again, _ = _train(trials.make_task(folder, trial=3), tmp_path / "b")
    other, _ = _train(trials.make_task(folder, trial=4), tmp_path / "c")
    assert again.metrics == first.metrics
    assert other.metrics["loss"] != first.metrics["loss"]


@pytest.mark.parametrize(
    ("label", "metric", "bound"), [("grade", ACCURACY, 0.75), ("price", RMSE, 9000.0)]
)
def test_several_classes_and_numbers_are_learned(
    folder: Path, tmp_path: Path, label: str, metric: Metric, bound: float
) -> None:
    task = trials.make_task(folder, label, metric, epochs=10)
    result, _ = _train(task, tmp_path)
    assert metric.goal.better(result.metrics[metric.name], bound)
    if label == "price":
        assert result.metrics["val_r2"] > 0.5
        actual = pq.read_table(tmp_path / artifacts.VALIDATION)["price"].to_numpy()
        assert 20_000 < actual.mean() < 80_000  # in the label's own units


def test_a_process_keeps_nothing_of_a_trial(folder: Path, tmp_path: Path) -> None:
    kept = []
    for trial in range(3):
        _train(trials.make_task(folder, trial=trial, epochs=1), tmp_path / str(trial))
        gc.collect()
        kept.append(sum(isinstance(thing, FuncGraph) for thing in gc.get_objects()))
    assert kept[2] == kept[1] == kept[0]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad"])
def test_every_optimizer_lowers_the_loss(folder: Path, tmp_path: Path, optimizer: str) -> None:
    task = trials.make_task(folder, optimizer=optimizer, weight_decay=0.001)
    _, context = _train(task, tmp_path)
    assert context.reports[-1]["loss"] < context.reports[0]["loss"]


@pytest.mark.parametrize("bound", ["clip_norm", "clip_value"])
def test_clipped_gradients_move_little(folder: Path, tmp_path: Path, bound: str) -> None:
    task = replace(
        trials.make_task(folder), parameters={"optimizer": "sgd", "dropout": 0.0, bound: 1e-6}
    )
    _, context = _train(task, tmp_path)
    assert context.reports[-1]["loss"] == pytest.approx(context.reports[0]["loss"], abs=1e-4)


# float16 skips steps whose scaled gradients overflow, how many depends on the processor.
@pytest.mark.parametrize(("precision", "near"), [("mixed_bfloat16", 0.02), ("mixed_float16", 0.5)])
def test_mixed_precision_is_for_training_only(
    folder: Path, tmp_path: Path, precision: str, near: float
) -> None:
    task = trials.make_task(folder, precision=precision, epochs=3, dropout=0.0)
    result, _ = _train(task, tmp_path)
    assert result.metrics["val_auc"] > 0.9
    plain = trials.make_task(folder, epochs=3, dropout=0.0)
    exact, _ = _train(plain, tmp_path / "plain")
    assert exact.metrics["loss"] != result.metrics["loss"]
    assert exact.metrics["loss"] == pytest.approx(result.metrics["loss"], rel=near)
    # What is exported computes in float32, whatever the trial's precision.
    record, weights = artifacts.read_record(tmp_path), artifacts.read_weights(tmp_path)
    assert {weight.dtype for weight in weights} == {np.dtype(np.float32)}
    learned = statistics.Statistics.load(tmp_path / artifacts.STATISTICS)
    again = model.build_model(plain, learned, record.target)
    again.network.set_weights(weights)
    recorded = golden.read(tmp_path / artifacts.GOLDEN, record.inputs)
    outputs = again.forward()(again.encoder.encode(golden.tensors(recorded.inputs)))
    assert recorded.difference(outputs) <= golden.TOLERANCE


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_images_and_texts_are_learned_in_mixed_precision(tmp_path: Path, precision: str) -> None:
    for make in (pictures.image_task, pictures.text_task):
        task = make(tmp_path, precision=precision, epochs=2)
        _, context = _train(task, tmp_path / make.__name__)
        assert context.reports[1]["loss"] < context.reports[0]["loss"]


def test_a_class_that_weighs_nothing_is_not_learned(folder: Path, tmp_path: Path) -> None:
    task = replace(trials.make_task(folder), parameters={"class_weights.yes": 0.0, "layers": 1})
    _, context = _train(task, tmp_path)
    recorded = pq.read_table(tmp_path / artifacts.VALIDATION)
    assert set(recorded["answer"].to_pylist()) == {"no"}
    # The loss that is reported is that of all rows: trials of other weights can be compared.
    assert context.reports[-1]["loss"] > 0.5


def test_balanced_classes_count_the_same(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, "grade", ACCURACY, class_weights="balanced")
    found = statistics.Statistics.load(Path(task.statistics_path))
    target = target_of(task.data, found)
    built = model.build_model(task, found, target)
    raw = rows.load(
        str(folder / "train.csv"),
        {"age": "number", "gain": "number", "city": "string", "rooms": "number"},
        ("grade", "number"),
        ("?",),
        trials.storage(folder),
    )
    encoded = rows.encode(raw, built.encoder, target).labelled()
    weights = class_weights(built.parameters, target, encoded)
    counts = np.bincount(encoded.labels().astype(int))
    np.testing.assert_allclose(np.multiply(weights, counts), encoded.count / 3)
    given = {**built.parameters, "class_weights": "none", "class_weights.2": 3.0}
    assert class_weights(given, target, encoded) == [1.0, 1.0, 3.0]
    assert class_weights({**given, "class_weights.2": 1.0}, target, encoded) == []


def test_the_learning_rate_rises_and_falls() -> None:
    def rates(kind: str, warmup: float) -> list[float]:
        schedule = Schedule(0.5, kind, 11, warmup, 0.01)
        return [float(schedule(step)) for step in (0, 1, 5, 10, 99)]

    assert rates("constant", 0.0) == [0.5] * 5
    assert rates("cosine", 0.0) == pytest.approx([0.5, 0.48789, 0.2525, 0.005, 0.005], abs=1e-5)
    assert rates("exponential", 0.0) == pytest.approx([0.5, 0.31548, 0.05, 0.005, 0.005], abs=1e-5)
    assert rates("constant", 0.2) == pytest.approx([0.125, 0.25, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(("layers", "wide"), [(0, True), (1, False), (3, True)])
def test_networks_of_any_depth_learn(
    folder: Path, tmp_path: Path, layers: int, wide: bool
) -> None:
    result, _ = _train(trials.make_task(folder, layers=layers, wide=wide), tmp_path)
    assert result.metrics["val_auc"] > 0.85


def test_one_feature_of_any_kind_is_enough(folder: Path, tmp_path: Path) -> None:
    for feature in trials.FEATURES:
        task = trials.make_task(folder, features=(feature,), epochs=1)
        result, _ = _train(task, tmp_path / feature.kind)
        assert math.isfinite(result.metrics["loss"])


def test_artifacts_build_the_model_again(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, test=True)
    result, _ = _train(task, tmp_path)
    record = artifacts.read_record(tmp_path)
    assert record.task == task
    assert record.result == result
    assert record.inputs == {
        "age": "number",
        "gain": "number",
        "city": "string",
        "rooms": "number",
    }
    learned = statistics.Statistics.load(tmp_path / artifacts.STATISTICS)
    again = model.build_model(record.task, learned, record.target)
    again.network.set_weights(artifacts.read_weights(tmp_path))
    label, storage = ("answer", "string"), trials.storage(folder)
    raw = rows.load(str(folder / "test.csv"), record.inputs, label, ("?",), storage)
    outputs = again.forward()(rows.encode(raw, again.encoder, again.target).encoded(slice(None)))
    recorded = pq.read_table(tmp_path / artifacts.TEST)
    np.testing.assert_allclose(recorded["probability(yes)"], outputs[:, 1], atol=1e-6)
    assert recorded["_row"].to_pylist() == list(range(200))
    assert recorded["answer"].to_pylist() == again.target.predicted(outputs)["answer"].tolist()
    accuracy = np.mean(
        [a == b for a, b in zip(recorded["answer"], recorded["_actual"], strict=True)]
    )
    assert result.metrics["test_accuracy"] == accuracy


def test_validation_rows_are_recorded_and_drawn_from_the_studys_seed(
    folder: Path, tmp_path: Path
) -> None:
    for trial in (0, 1):
        _train(trials.make_task(folder, trial=trial, epochs=1), tmp_path / str(trial))
    first, second = (
        pq.read_table(tmp_path / str(trial) / artifacts.VALIDATION) for trial in (0, 1)
    )
    assert first["_row"].to_pylist() == second["_row"].to_pylist()
    assert len(first) == 150
    history = json.loads((tmp_path / "0" / artifacts.HISTORY).read_text())
    assert [epoch["step"] for epoch in history] == [1]
    assert not list((tmp_path / "0").glob(".*"))


def test_a_trial_stops_when_told_to(folder: Path, tmp_path: Path) -> None:
    context = trials.Context(tmp_path)
    context.decide = lambda step, metrics: step < 2
    result = training.train(trials.make_task(folder), context, None, trials.storage(folder))
    assert result.stopped
    assert len(context.reports) == 2
    assert artifacts.read_record(tmp_path).result == result


def test_an_error_of_reporting_ends_the_trial(folder: Path, tmp_path: Path) -> None:
    def lose(step: int, metrics: object) -> bool:
        raise ConnectionError("lost")

    context = trials.Context(tmp_path)
    context.decide = lose
    with pytest.raises(ConnectionError, match="lost"):
        training.train(trials.make_task(folder), context, None, trials.storage(folder))
    assert not (tmp_path / artifacts.TRIAL).exists()


def test_a_loss_that_is_no_number_is_infeasible(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, "price", RMSE, optimizer="sgd", learning_rate=10.0, layers=3)
    with pytest.raises(InfeasibleError, match="learning_rate"):
        _train(task, tmp_path)


def test_a_metric_that_is_never_reported_is_refused(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, metric=Metric(name="val_rmse", goal=Goal.MINIMIZE))
    with pytest.raises(InvalidArgumentError, match="val_auc"):
        _train(task, tmp_path)


def test_validation_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    training_rows, _ = data.split(40, 0.25, 7)
    lines = [f"{row},{'yes' if row in training_rows[:9] else 'no'}" for row in range(40)]
    (tmp_path / "train.csv").write_text("age,answer\n" + "\n".join(lines) + "\n")
    statistics.scan(str(tmp_path / "train.csv")).save(tmp_path / "statistics.json")
    task = trials.make_task(
        tmp_path, features=(Feature(name="age", kind="numeric", columns=("age",)),)
    )
    with pytest.raises(DataError, match="one class"):
        _train(task, tmp_path)


def test_rows_are_read_again_only_when_the_file_changed(tmp_path: Path) -> None:
    path = trials.write_rows(tmp_path / "rows.csv", rows=50)

    def load() -> rows.RawRows:
        kinds, storage = {"age": "number", "city": "string"}, trials.storage(tmp_path)
        return rows.load(str(path), kinds, ("answer", "string"), (), storage)

    first = load()
    assert load() is first
    trials.write_rows(path, rows=60)
    assert load().count == 60


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    _write_tasks(tmp_path)
    with _ranks(tmp_path, 1) as alone, _ranks(tmp_path, 2) as gang:
        for process in (*alone, *gang):
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output[-3000:]
    one, leader, follower = (
        json.loads((tmp_path / f"rank-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    ends = ["whole", "lost", *["whole"] * 6]
    assert [trial["end"] for trial in one] == [trial["end"] for trial in leader] == ends
    # The follower is told of the leader's end, and both are fit for the next trial.
    assert [trial["end"] for trial in follower] == ["whole", "stopped", *ends[2:]]
    assert len(one[0]["losses"]) == 4
    np.testing.assert_allclose(leader[0]["losses"], one[0]["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(leader[2]["losses"], one[2]["losses"], rtol=0.2)
    for of_images_and_texts in (4, 5):
        together, single = (ranks[of_images_and_texts]["losses"] for ranks in (leader, one))
        np.testing.assert_allclose(together, single, rtol=0, atol=1e-4)
    # Streamed rows come in the same order, and so do those of a gang.
    np.testing.assert_allclose(one[3]["losses"], one[0]["losses"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(leader[3]["losses"], leader[0]["losses"], rtol=0, atol=1e-6)
    # Gradients are clipped after they were summed.
    np.testing.assert_allclose(leader[6]["losses"], one[6]["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(leader[7]["losses"], one[7]["losses"], rtol=0, atol=2e-3)
    assert one[7]["losses"] != one[6]["losses"]


def test_two_replicas_of_a_process_have_the_losses_of_one(tmp_path: Path) -> None:
    _write_tasks(tmp_path)
    with _ranks(tmp_path, 1) as alone, _ranks(tmp_path, 0) as mirrored:
        for process in (*alone, *mirrored):
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output[-3000:]
    one, both = (
        json.loads((tmp_path / f"rank-{name}.json").read_text()) for name in ("1-0", "0-0")
    )
    for trial, distance in {0: 1e-5, 3: 1e-5, 4: 1e-5, 5: 1e-5, 6: 1e-5, 7: 2e-3}.items():
        mine, its = both[trial]["losses"], one[trial]["losses"]
        np.testing.assert_allclose(mine, its, rtol=0, atol=distance)


def test_streamed_rows_train_the_same_model(folder: Path, tmp_path: Path) -> None:
    task, contexts = trials.make_task(folder, test=True, dropout=0.1), []
    for name, memory_bytes in (("held", 1 << 30), ("streamed", 1)):
        (tmp_path / name).mkdir()
        contexts.append(trials.Context(tmp_path / name))
        storage = trials.storage(folder, memory_bytes)
        training.train(task, contexts[-1], None, storage)
    held, streamed = (context.reports for context in contexts)
    for one, other in zip(held, streamed, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-6)
    for name in (artifacts.VALIDATION, artifacts.TEST):
        one, other = (pq.read_table(tmp_path / part / name) for part in ("held", "streamed"))
        assert one["_row"] == other["_row"] and one["_actual"] == other["_actual"]
        np.testing.assert_allclose(one["probability(yes)"], other["probability(yes)"], atol=1e-6)
    lines = [(tmp_path / part / artifacts.GOLDEN).read_text() for part in ("held", "streamed")]
    assert lines[0] == lines[1]


def _write_tasks(folder: Path) -> None:
    """Writes what the ranks read."""
    trials.make_task(folder)
    pictures.image_task(folder)
    pictures.text_task(folder)


@contextmanager
def _ranks(folder: Path, workers: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts the ranks of a gang; none outlives the test."""
    addresses = ",".join(f"127.0.0.1:{_free_port()}" for _ in range(workers))
    ranks = range(max(workers, 1))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.gang_rank", folder, str(rank), addresses],
            env={**os.environ, **ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ranks
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_adult_reaches_a_good_area_under_the_curve(shared_data: Path, tmp_path: Path) -> None:
    source = DataSource(
        train_uri=str(shared_data / "adult" / "train.csv"),
        label="income",
        test_uri=str(shared_data / "adult" / "test.csv"),
    )
    spec = StudySpec(metrics=(Metric(name="val_auc"),), trainer="tabular", data=source)
    prepared = prepare.prepare(spec)
    prepared.statistics.save(tmp_path / "statistics.json")
    tuned = [parameter.name for parameter in prepared.space.walk()]
    task = TrialTask(
        study="adult",
        trial=0,
        trainer="tabular",
        data=source,
        features=prepared.features,
        settings={**prepared.settings, "epochs": 6},
        parameters={name: 16 for name in tuned if name.endswith(".buckets")},
        metric=spec.metric,
        seed=7,
        statistics_path=str(tmp_path / "statistics.json"),
    )
    result, _ = _train(task, tmp_path)
    assert result.metrics["val_auc"] > 0.912
    assert result.metrics["test_auc"] > 0.915
