"""The image and the text trainer: what they learn, and that the exported model predicts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.integration import trials
from tests.integration.pictures import FORMATS, image_task, text_task, write_images
from tuner.errors import DataError, InvalidArgumentError
from tuner.space import Int, Parameter, Space, Value
from tuner.study import DataSource, Feature, Metric, StudySpec
from tuner_trainers import artifacts, export, golden, training
from tuner_trainers.context import Result, TrialTask
from tuner_trainers.predict import Predictor
from tuner_trainers.prepare import Prepared, prepare

ACCURACY, F1 = Metric(name="val_accuracy"), Metric(name="val_f1")


def trained(task: TrialTask, folder: Path, **storage: int) -> Result:
    """What a trial comes to; its artifacts lie in a folder."""
    folder.mkdir()
    at = trials.storage(Path(task.statistics_path).parent, **storage)
    return training.train(task, trials.Context(folder), None, at)


def exported(artifact_dir: Path) -> Predictor:
    """The exported model, verified."""
    to = artifact_dir.with_name(f"{artifact_dir.name}-model")
    export.export(artifact_dir, to, "small")
    assert export.verify(to) <= golden.TOLERANCE
    return Predictor(to)


@pytest.mark.parametrize("format", FORMATS)
def test_images_are_learned_from_every_format(tmp_path: Path, format: str) -> None:
    task = image_task(tmp_path, format, shift=0.05)
    result = trained(task, tmp_path / "trial", memory_bytes=1 if format == "csv" else 0)
    assert result.metrics["test_accuracy"] > 0.85
    predictor = exported(tmp_path / "trial")
    assert predictor.inputs == {"image": "bytes", "noise": "number"}
    assert {c["name"]: c["dtype"] for c in predictor.metadata["inputs"]}["image"] == "DT_STRING"
    recorded = pq.read_table(tmp_path / "trial" / artifacts.TEST)
    predicted = predictor.predict(predictor.read(task.data.test_uri or ""))
    for name in ("probability(ring)", "probability(down)"):
        np.testing.assert_allclose(predicted[name], recorded[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"blocks": 3, "kernel": 5, "stride": 2, "pooling": "mean", "image.scaling": "signed"},
        {"blocks": 5, "pooling": "max", "layers": 0, "flip": "both", "image.colours": True},
    ],
)
def test_every_part_of_the_image_network(tmp_path: Path, parameters: dict[str, Value]) -> None:
    result = trained(image_task(tmp_path, "parquet", epochs=1, **parameters), tmp_path / "trial")
    assert np.isfinite(result.metrics["loss"])
    exported(tmp_path / "trial")


@pytest.mark.parametrize(
    ("parameters", "bound"),
    [
        ({"convolutions": 1, "filters": 8, "kernel": 2, "text.pooling": "max"}, 0.95),
        ({"text.ngrams": 2, "text.pooling": "attention"}, 0.95),
        ({"convolutions": 2, "filters": 4, "layers": 0, "dropout": 0.2, "text.length": 4}, 0.0),
    ],
)
def test_texts_are_learned(tmp_path: Path, parameters: dict[str, Value], bound: float) -> None:
    task = text_task(tmp_path)
    if "text.ngrams" in parameters:  # which the statistics must know beforehand
        task = with_ngrams(tmp_path, task)
    result = trained(replace(task, parameters=parameters), tmp_path / "trial")
    assert result.metrics["val_f1"] >= bound
    predictor = exported(tmp_path / "trial")
    columns = {
        "text": np.array(["it rained beat them", "town them beat all", ""], object),
        "x": np.array([1.0, 2.0, np.nan]),
    }
    if bound > 0.9:
        assert predictor.predict(columns)["won"].tolist()[:2] == ["y", "n"]


def with_ngrams(folder: Path, task: TrialTask) -> TrialTask:
    space = Space((Parameter(name="text.ngrams", domain=Int(1, 2)),))
    spec = StudySpec(
        metrics=(F1,), trainer="text", data=task.data, features=task.features[:1], space=space
    )
    prepare(spec).statistics.save(folder / "ngrams.json")
    return replace(task, statistics_path=str(folder / "ngrams.json"))


def test_images_that_are_not_bytes_are_refused(tmp_path: Path) -> None:
    trained(image_task(tmp_path, epochs=1), tmp_path / "trial")
    predictor = exported(tmp_path / "trial")
    noise = np.zeros(2)
    with pytest.raises(DataError, match=r"'image' takes bytes, but row 1 holds 'a.png'; read the"):
        predictor.predict({"image": np.array([None, "a.png"], object), "noise": noise})
    with pytest.raises(DataError, match="look for an image that is not whole"):
        image = predictor.read(task_test(tmp_path))["image"][0][:50]
        predictor.predict({"image": np.array([image], object), "noise": noise[:1]})


def task_test(folder: Path) -> str:
    return str(folder / "test.parquet")


def prepared(uri: str, trainer: str, *features: Feature, label: str = "shape") -> Prepared:
    source = DataSource(train_uri=uri, label=label, validation_fraction=0.25)
    spec = StudySpec(metrics=(ACCURACY,), trainer=trainer, data=source, features=features)
    return prepare(spec)


class TestPreparation:
    @pytest.mark.parametrize("format", FORMATS)
    def test_images_are_found(self, tmp_path: Path, format: str) -> None:
        found = prepared(write_images(tmp_path, format, "train"), "image")
        features = {feature.name: feature for feature in found.features}
        assert features["image"].kind == "image"
        assert features["image"].reason == "234 images of 12 × 12 pixels, grey; 2.5% missing"
        assert features["noise"].kind == "numeric"
        assert {"blocks", "filters", "kernel", "stride", "flip", "shift", "rotation"} <= {
            parameter.name for parameter in found.space.walk()
        }

    def test_the_space_of_texts_is_conditional(self, tmp_path: Path) -> None:
        task = text_task(tmp_path)
        source = DataSource(train_uri=task.data.train_uri, label="won", validation_fraction=0.25)
        spec = StudySpec(metrics=(F1,), trainer="text", data=source, features=task.features[:1])
        names = [parameter.name for parameter in prepare(spec).space.parameters]
        assert "convolutions" in names and "filters" not in names and "units" not in names
        without = prepare(replace(spec, settings={"convolutions": 0, "layers": 1})).space
        assert {"filters", "kernel", "layers"}.isdisjoint(p.name for p in without.walk())
        assert "units" in [parameter.name for parameter in without.parameters]

    def test_images_are_left_out_by_other_trainers(self, tmp_path: Path) -> None:
        found = prepared(write_images(tmp_path, "parquet", "train"), "tabular")
        assert [feature.name for feature in found.features] == ["noise"]
        assert "trainer: image" in found.skipped["image"]

    @pytest.mark.parametrize("trainer", ["image", "text"])
    def test_a_column_of_the_trainers_kind_is_needed(self, tmp_path: Path, trainer: str) -> None:
        (tmp_path / "train.csv").write_text("x,shape\n" + "1,a\n2,b\n3,a\n4,b\n" * 9)
        with pytest.raises(InvalidArgumentError, match=f"COLUMN: {{kind: {trainer}}}"):
            prepared(str(tmp_path / "train.csv"), trainer)

    @pytest.mark.parametrize(
        ("trainer", "kind", "column", "error", "message"),
        [
            ("tabular", "image", "image", InvalidArgumentError, "need `trainer: image`"),
            ("image", "image", "noise", DataError, "holds double, but bytes or paths"),
            ("image", "categorical", "image", DataError, "holds bytes; say `kind: image`"),
        ],
    )
    def test_features_of_a_wrong_kind_are_refused(
        self,
        tmp_path: Path,
        trainer: str,
        kind: str,
        column: str,
        error: type[Exception],
        message: str,
    ) -> None:
        uri = write_images(tmp_path, "parquet", "train")
        with pytest.raises(error, match=message):
            prepared(uri, trainer, Feature(name="f", kind=kind, columns=(column,)))

    def test_bytes_that_are_no_images_are_refused(self, tmp_path: Path) -> None:
        lines = "".join(f"{i}.png,{i % 2}\n" for i in range(9))
        (tmp_path / "train.csv").write_text("image,shape\n" + lines)
        for row in range(9):
            (tmp_path / f"{row}.png").write_text("GIF89a")
        feature = Feature(name="image", kind="image", columns=("image",))
        with pytest.raises(DataError, match="neither PNG nor JPEG"):
            prepared(str(tmp_path / "train.csv"), "image", feature)

    def test_a_label_is_no_image(self, tmp_path: Path) -> None:
        uri = write_images(tmp_path, "parquet", "train")
        with pytest.raises(DataError, match="the label 'image' holds bytes"):
            prepared(uri, "tabular", label="image")


def one_trial(spec: StudySpec, folder: Path, **settings: Value) -> Result:
    """The trial with the defaults."""
    found = prepare(spec)
    found.statistics.save(folder / "statistics.json")
    assert spec.data is not None
    task = TrialTask(
        study="real",
        trial=0,
        trainer=spec.trainer or "",
        data=spec.data,
        features=found.features,
        settings={**found.settings, **settings},
        parameters={},
        metric=spec.metric,
        seed=7,
        statistics_path=str(folder / "statistics.json"),
    )
    return trained(task, folder / "trial")


def test_digits_are_read(shared_data: Path, tmp_path: Path) -> None:
    few = pq.read_table(shared_data / "mnist" / "train.parquet").slice(0, 5000)
    pq.write_table(few, tmp_path / "train.parquet")
    source = DataSource(
        train_uri=str(tmp_path / "train.parquet"),
        label="label",
        validation_fraction=0.1,
        test_uri=str(shared_data / "mnist" / "test.parquet"),
    )
    spec = StudySpec(metrics=(ACCURACY,), trainer="image", data=source)
    result = one_trial(spec, tmp_path, epochs=3, filters=16)
    assert result.metrics["test_accuracy"] > 0.95
    exported(tmp_path / "trial")


def test_spam_is_told_from_messages(shared_data: Path, tmp_path: Path) -> None:
    source = DataSource(
        train_uri=str(shared_data / "sms" / "sms.csv"), label="label", validation_fraction=0.2
    )
    spec = StudySpec(metrics=(F1,), trainer="text", data=source)
    result = one_trial(spec, tmp_path, epochs=4)
    assert result.metrics["val_f1"] > 0.93
    predictor = exported(tmp_path / "trial")
    texts = ["WINNER!! Claim your free prize now, call 09061701461", "see you at home tonight?"]
    predicted = predictor.predict({"text": np.array(texts, object)})
    assert predicted["label"].tolist() == ["spam", "ham"]
