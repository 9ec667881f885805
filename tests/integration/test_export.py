"""Exported models: what they hold, that they replay what training saw, and how they predict."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tests.integration import trials
from tuner.errors import DataError, ModelRejectedError
from tuner.study import Feature, Goal, Metric
from tuner.trainer_spaces import Task
from tuner_trainers import artifacts, checksums, export, golden, layout, statistics, training
from tuner_trainers.data import Columns
from tuner_trainers.layout import EXTRA, METADATA
from tuner_trainers.predict import Predictor
from tuner_trainers.target import Target

ROW: Columns = {
    "age": np.asarray([40.0]),
    "gain": np.asarray([10.5]),
    "city": np.asarray(["Berlin"], object),
    "rooms": np.asarray([3.0]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and their statistics."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The artifacts of a trial of two classes."""
    return _train(folder, "answer", Metric(name="val_auc"))


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """Its exported model."""
    directory = trained.parent / "exported"
    export.export(trained, directory, "answers")
    return directory


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    """The exported model, loaded."""
    return Predictor(exported)


def _train(folder: Path, label: str, metric: Metric) -> Path:
    directory = folder / f"artifacts-{label}"
    directory.mkdir()
    training.train(trials.make_task(folder, label, metric, test=True), trials.Context(directory))
    return directory


def test_golden_rows_are_replayed(exported: Path) -> None:
    assert export.verify(exported) <= golden.TOLERANCE
    lines = (exported / EXTRA / "golden.jsonl").read_text().splitlines()
    inputs = [json.loads(line)["inputs"] for line in lines]
    assert len(inputs) > golden.DRAWN_ROWS
    assert {"age": None, "gain": None, "city": "", "rooms": None} in inputs
    assert any(row["city"] == golden.UNSEEN for row in inputs)
    assert any(row["city"] == "?" for row in inputs)


def test_predictions_are_those_that_training_recorded(
    folder: Path, trained: Path, predictor: Predictor
) -> None:
    recorded = pq.read_table(trained / artifacts.TEST)
    predicted = predictor.predict(predictor.read(str(folder / "test.csv")))
    assert list(predicted) == ["answer", "probability(no)", "probability(yes)"]
    assert predicted["answer"].tolist() == recorded["answer"].to_pylist()
    np.testing.assert_allclose(
        predicted["probability(yes)"], recorded["probability(yes)"], rtol=0, atol=1e-6
    )


def test_metadata_tells_where_the_model_comes_from(exported: Path) -> None:
    metadata = json.loads((exported / METADATA).read_text())
    assert metadata["model"] == "answers"
    assert (metadata["study"], metadata["trial"]) == ("small", 0)
    assert metadata["target"]["classes"] == ["no", "yes"]
    assert metadata["metric"] == {"name": "val_auc", "goal": "maximize"}
    assert 0.5 < metadata["metrics"]["test_auc"] <= 1
    assert [column["dtype"] for column in metadata["inputs"]] == [
        "DT_DOUBLE",
        "DT_DOUBLE",
        "DT_STRING",
        "DT_DOUBLE",
    ]
    assert metadata["versions"]["trained"]["tensorflow"] == tf.__version__


def test_clients_send_raw_columns_by_name(exported: Path) -> None:
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    outputs = signature(
        age=tf.constant([40.0, math.nan], tf.float64),
        gain=tf.constant([10.5, math.nan], tf.float64),
        city=tf.constant(["Berlin", ""]),
        rooms=tf.constant([3.0, math.nan], tf.float64),
    )
    assert outputs["classes"].numpy().tolist() == [[b"no", b"yes"]] * 2
    scores = outputs["scores"].numpy()
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-6)
    best = [[b"no", b"yes"][place] for place in scores.argmax(axis=1)]
    assert outputs["predicted"].numpy().tolist() == best


def test_columns_that_the_model_does_not_use_are_ignored(predictor: Predictor) -> None:
    more = {**ROW, "note": np.asarray(["hello"], object)}
    assert predictor.predict(more)["answer"] == predictor.predict(ROW)["answer"]


def test_a_missing_column_is_named(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="'city' is missing"):
        predictor.predict({name: ROW[name] for name in ROW if name != "city"})


def test_text_is_no_number(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="'age' takes numbers, but row 1 holds 'old'"):
        predictor.predict(
            {
                "age": np.asarray([1.0, "old"], object),
                "gain": np.asarray([1.0, 1.0]),
                "city": np.asarray(["", ""], object),
                "rooms": np.asarray([1, 1]),
            }
        )


def test_none_means_missing(predictor: Predictor) -> None:
    nothing = {name: np.asarray([None], object) for name in ROW}
    missing = {name: np.asarray([""] if name == "city" else [np.nan]) for name in ROW}
    np.testing.assert_array_equal(predictor.outputs(nothing), predictor.outputs(missing))


def test_many_rows_are_predicted_in_batches(predictor: Predictor) -> None:
    many = {name: np.repeat(column, 20_000) for name, column in ROW.items()}
    outputs = predictor.outputs(many)
    np.testing.assert_allclose(outputs, np.repeat(predictor.outputs(ROW), 20_000, 0), rtol=1e-5)
    none = {name: column[:0] for name, column in ROW.items()}
    assert predictor.outputs(none).shape == (0, 2)


def test_two_versions_are_loaded_as_tensorflow_serving_does(
    exported: Path, tmp_path: Path
) -> None:
    """Every folder with a number below the model's; the unmodified server reads no more."""
    for number in (1, 2):
        shutil.copytree(exported, tmp_path / "answers" / str(number))
    versions = sorted((tmp_path / "answers").iterdir(), key=lambda path: int(path.name))
    for version in versions:
        model = tf.saved_model.load(str(version), tags=["serve"])
        arguments = {name: tf.constant(column.tolist()) for name, column in ROW.items()}
        arguments = {
            name: tf.cast(value, tf.float64) if value.dtype != tf.string else value
            for name, value in arguments.items()
        }
        answer = model.signatures["serving_default"](**arguments)
        assert set(answer) == {"classes", "scores", "predicted"}


def test_warmup_requests_are_prediction_logs(exported: Path, predictor: Predictor) -> None:
    """Read by TensorFlow Serving's own messages, and answered as the golden rows are."""
    recorded = golden.read(exported / layout.GOLDEN, predictor.inputs)
    call = tf.saved_model.load(str(exported)).signatures["serving_default"]
    start, sizes = 0, []
    for record in tf.data.TFRecordDataset(str(exported / layout.WARMUP)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        spec = request.model_spec
        assert (spec.name, spec.signature_name) == ("answers", "serving_default")
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        assert set(inputs) == set(predictor.inputs)
        scores = call(**inputs)["scores"].numpy()
        expected = recorded.outputs[start : start + len(scores)]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=golden.TOLERANCE)
        sizes.append(len(scores))
        start += len(scores)
    assert sizes == [1, 1, 32]


def test_mlflow_finds_what_it_reads(exported: Path) -> None:
    """The fields by which MLflow's flavors `tensorflow` and `python_function` load a model."""
    document = yaml.safe_load((exported / "MLmodel").read_text(encoding="utf-8"))
    flavor, function = (document["flavors"][name] for name in ("tensorflow", "python_function"))
    assert function["loader_module"] == "mlflow.tensorflow"
    assert flavor["model_type"] == "tf1-estimator"
    loaded = tf.saved_model.load(
        str(exported / flavor["saved_model_dir"]), tags=flavor["meta_graph_tags"]
    )
    call = loaded.signatures[flavor["signature_def_key"]]
    columns = json.loads(document["signature"]["inputs"])
    assert {column["name"] for column in columns} == set(call.structured_input_signature[1])
    assert {c["name"]: c["type"] for c in columns} == {
        "age": "double",
        "gain": "double",
        "city": "string",
        "rooms": "double",
    }
    assert len(document["model_uuid"]) == 32 and document["metadata"] == {
        "study": "small",
        "trial": 0,
    }
    requirements = (exported / "requirements.txt").read_text().splitlines()
    assert f"tensorflow=={tf.__version__}" in requirements


def test_the_card_and_the_schema_say_what_a_caller_needs(exported: Path) -> None:
    card = (exported / layout.CARD).read_text(encoding="utf-8")
    assert card.startswith("# answers\n")
    for words in (
        "Predicts `answer`, one of `no`, `yes`.",
        "Trial 0 of the study `small`, trained by `tabular`",
        "600 rows, fingerprint",
        "| city | DT_STRING [batch] |",
        "| val_auc | ",
        "| learning_rate | 0.01 |",
        "| scores | DT_FLOAT |",
    ):
        assert words in card, words
    body = card.split(" -d '")[1].split("'\n```")[0]
    (instance,) = json.loads(body)["instances"]
    assert set(instance) == {"age", "gain", "city", "rooms"}
    schema = json.loads((exported / layout.SCHEMA).read_text(encoding="utf-8"))
    by_name = {column["name"]: column for column in schema["inputs"]}
    assert by_name["age"]["minimum"] == 18 and by_name["age"]["missing"] == "NaN"
    assert by_name["city"]["dtype"] == "DT_STRING" and by_name["city"]["distinct"] == 3


def test_the_keras_model_predicts_the_same(exported: Path, predictor: Predictor) -> None:
    model = keras.models.load_model(exported / layout.KERAS)
    recorded = golden.read(exported / layout.GOLDEN, predictor.inputs)
    tensors = golden.tensors(recorded.inputs)
    inputs = [tensors[name] for name in predictor.inputs]
    scores = model(inputs, training=False).numpy()
    np.testing.assert_allclose(scores, recorded.outputs, rtol=0, atol=golden.TOLERANCE)


def test_columns_of_different_length_are_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="length"):
        predictor.predict({**ROW, "age": np.asarray([1.0, 2.0])})


def test_a_directory_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no exported model"):
        Predictor(tmp_path)


def test_a_trial_without_artifacts_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trial\.json"):
        export.export(tmp_path, tmp_path / "to")


def _edit_golden(directory: Path) -> None:
    path = directory / EXTRA / "golden.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[50]["outputs"][0] += 1e-4
    path.write_text("\n".join(json.dumps(line) for line in lines))
    checksums.write(directory, directory / layout.SUMS)


def _edit_weights(directory: Path) -> None:
    (path,) = (directory / "variables").glob("*.data*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _remove_statistics(directory: Path) -> None:
    (directory / EXTRA / "statistics.json").unlink()


def _add_file(directory: Path) -> None:
    (directory / "assets.extra" / "note.txt").write_text("hello")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (_edit_golden, "difference of 0.0001"),
        (_edit_weights, "variables"),
        (_remove_statistics, "lacks the file"),
        (_add_file, "note.txt"),
    ],
)
def test_damaged_models_are_rejected(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], cause: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    damage(copy)
    with pytest.raises(ModelRejectedError, match=cause):
        export.verify(copy)


def test_the_command_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--verify", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("label", "metric"),
    [
        ("grade", Metric(name="val_accuracy")),
        ("price", Metric(name="val_rmse", goal=Goal.MINIMIZE)),
    ],
)
def test_several_classes_and_numbers_are_exported(
    folder: Path, tmp_path: Path, label: str, metric: Metric
) -> None:
    directory = _train(folder, label, metric)
    export.export(directory, tmp_path / "model")
    assert export.verify(tmp_path / "model") <= golden.TOLERANCE
    predictor = Predictor(tmp_path / "model")
    predicted = predictor.predict(predictor.read(str(folder / "test.csv")))
    recorded = pq.read_table(directory / artifacts.TEST)
    if label == "grade":
        assert list(predicted) == ["grade", *(f"probability({name})" for name in "012")]
        assert predicted["grade"].tolist() == recorded["grade"].to_pylist()
    else:
        np.testing.assert_allclose(predicted["price"], recorded["price"], rtol=1e-6)


def test_large_numbers_are_compared_in_their_own_units() -> None:
    """A sum of 200,000 and nearly -200,000 is rounded as these are."""
    recorded = golden.Golden({}, np.asarray([217.031, 300_000.0], np.float32))
    target = Target(label="price", task=Task.REGRESSION, mean=1e5, deviation=2e5)
    replayed = np.asarray([217.023, 300_000.06], np.float32)
    assert recorded.difference(replayed, target.unit) <= golden.TOLERANCE
    assert recorded.difference(replayed + 1, target.unit) > golden.TOLERANCE
    # Small ones, too: all of them would be near 1.
    small = dataclasses.replace(target, mean=1e-6, deviation=2e-6)
    few = golden.Golden({}, np.asarray([3e-6]))
    assert few.difference(np.asarray([3.1e-6]), small.unit) > golden.TOLERANCE


def test_columns_keep_names_that_python_forbids(tmp_path: Path) -> None:
    names = ("class", "a b", "a_b", "self", "über/all")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, len(names)))
    lines = [",".join([*names, "answer"])]
    lines += [
        ",".join([*map(str, row), "yes" if row.sum() > 0 else "no"]) for row in values.round(3)
    ]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    statistics.scan(str(tmp_path / "train.csv")).save(tmp_path / "statistics.json")
    features = tuple(Feature(name=name, kind="numeric", columns=(name,)) for name in names)
    task = trials.make_task(tmp_path, features=features, epochs=1)
    (tmp_path / "artifacts").mkdir()
    training.train(task, trials.Context(tmp_path / "artifacts"))
    export.export(tmp_path / "artifacts", tmp_path / "model")
    assert export.verify(tmp_path / "model") <= golden.TOLERANCE
    saved = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "model" / "saved_model.pb").read_bytes()
    )
    inputs = saved.meta_graphs[0].signature_def["serving_default"].inputs
    assert set(inputs) == set(names)
