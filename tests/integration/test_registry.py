"""The registry: versions appear whole and verified, or not at all, whoever dies on the way."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tensorflow as tf

from tests.integration import object_store, trials
from tests.integration.gateways import gateway
from tests.integration.service_support import Caller, until
from tests.integration.web_study import prepared
from tuner.cli import main
from tuner.client import Client, Models, RunningTrial
from tuner.client.channel import Connection
from tuner.config import Settings
from tuner.errors import DataError, FailedPreconditionError, ModelRejectedError
from tuner.model import Lineage, ModelVersion, VersionState
from tuner.registry import ModelRoot, Registry, Source, copy_to, export_to, gate
from tuner.runner.publisher import Publisher
from tuner.service import StudyServer
from tuner.v1 import study_service_pb2 as pb
from tuner_trainers import artifacts, checksums, foreign, layout, training

TRIAL = Lineage(trial="studies/small/trials/0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a trial."""
    folder = tmp_path_factory.mktemp("data")
    directory = folder / "artifacts"
    directory.mkdir()
    training.train(trials.make_task(folder, epochs=1), trials.Context(directory))
    return directory


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that no trainer of ours made: twice a number, and a word said back."""
    directory = tmp_path_factory.mktemp("elsewhere") / "doubling"
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    def call(x: tf.Tensor, word: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"twice": module.factor * x, "said": tf.strings.upper(word)}

    specs = [
        tf.TensorSpec([None, 2], tf.float32, "x"),
        tf.TensorSpec([None], tf.string, "word"),
    ]
    signatures = {"serving_default": tf.function(call, input_signature=specs)}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    return directory


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[StudyServer]:
    """A study server with a study `small` and its trial 0."""
    settings = Settings(data_dir=tmp_path / "data", server_port=0, database_url=database_url)
    with StudyServer(settings) as server:
        yield server


@pytest.fixture
def models(server: StudyServer) -> Iterator[Models]:
    """The registry of the server."""
    with grpc.insecure_channel(server.address) as channel:
        Caller(channel).create("small")
        Caller(channel).suggest(study_id="small", count=2)
    with Client(server.address) as client:
        yield client.models


def test_a_trial_becomes_the_next_version(trained: Path, models: Models, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for taken in ("2", "7", ".export-old", "latest"):
        (root / "small" / taken).mkdir(parents=True)
    publishing = Registry(models, ModelRoot(str(root)))
    version = publishing.publish("small", TRIAL, Source(directory=trained))
    assert version.state is VersionState.READY, version.report
    assert version.uri == str(root / "small" / "8") and version.version == 8
    assert "with a difference of " in version.report
    sums = Path(version.uri) / layout.SUMS
    assert version.sha256 == hashlib.sha256(sums.read_bytes()).hexdigest()
    assert version.size_bytes > sums.stat().st_size
    record = artifacts.read_record(trained)
    assert version.lineage.trial == TRIAL.trial and version.lineage.trainer == "tabular"
    assert version.lineage.data_fingerprint == record.data_fingerprint
    assert version.lineage.packages == record.versions
    assert version.metrics == record.result.metrics
    assert models.version("small").card.startswith("# small\n")
    metadata = json.loads((Path(version.uri) / layout.METADATA).read_text())
    assert metadata["model"] == "small"
    found = {path.name for path in (root / "small").iterdir()}
    assert found == {"2", "7", "8", ".export-old", "latest"}
    assert publishing.publish("small", TRIAL, Source(directory=trained)).name == version.name
    # What is exported is what was published, and nothing else.
    copied = copy_to(version, str(tmp_path / "copy"))
    checksums.check(Path(copied), Path(copied) / layout.SUMS)
    (Path(version.uri) / layout.MLMODEL).write_text("other")
    with pytest.raises(ModelRejectedError, match="MLmodel"):
        copy_to(version, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    models.delete_version(version)
    (gone,) = models.versions(states=[VersionState.DELETING])
    assert not Registry(models, ModelRoot(str(tmp_path))).remove(gone), "it lies elsewhere"
    assert publishing.remove(gone) and not Path(version.uri).exists()
    assert list(models.versions("small")) == []
    found = {path.name for path in (root / "small").iterdir()}
    assert found == {"2", "7", ".export-old", "latest"}


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_an_endpoint_predicts_as_the_folder_does_from_a_store(
    server: StudyServer,
    trained: Path,
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def predicted(model: str, *flags: str) -> str:
        rows = trials.write_rows(tmp_path / "rows.csv", rows=1200)
        with pytest.raises(SystemExit) as ended:
            main(["predict", model, "--input", str(rows), *flags])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return out

    (tmp_path / "store" / "bucket").mkdir(parents=True)
    with object_store.running(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        publishing = Registry(models, ModelRoot("s3://bucket/models"))
        version = publishing.publish("small", TRIAL, Source(directory=trained))
        folder = copy_to(version, str(tmp_path / "folder"))
        environment = {"TUNER_SERVER": server.address, "TUNER_DATA_DIR": str(tmp_path / "cache")}
        with Client(server.address) as client, gateway(environment=environment) as running:
            client.endpoint("live").deploy(version)
            until(lambda: running.http.get("/v1/models/live").is_success)
            remote = predicted("live", "--server", server.address)
            assert remote == predicted("live", "--gateway", running.url) != ""
            (kept,) = (tmp_path / "cache" / "gateway" / "versions").iterdir()
            checksums.check(kept, kept / layout.SUMS)
    for row, local in zip(csv_rows(remote), csv_rows(predicted(folder)), strict=True):
        assert row.pop("answer") == local.pop("answer")
        assert [*map(float, row.values())] == pytest.approx(
            [*map(float, local.values())], abs=1e-6
        )


def test_a_model_that_predicts_otherwise_is_rejected_with_a_report(
    trained: Path, models: Models, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(trained, wrong)
    lines = [json.loads(line) for line in (wrong / artifacts.GOLDEN).read_text().splitlines()]
    lines[3]["outputs"].reverse()
    (wrong / artifacts.GOLDEN).write_text("\n".join(json.dumps(line) for line in lines))
    publishing = Registry(models, ModelRoot(str(tmp_path / "models")))
    version = publishing.publish("small", TRIAL, Source(directory=wrong))
    assert version.state is VersionState.REJECTED
    assert "golden rows with a difference of" in version.report
    assert len(version.report.splitlines()) == 1
    assert list((tmp_path / "models" / "small").iterdir()) == []
    # It is not tried again by itself, and a runner's word is not asked for twice.
    again = publishing.publish("small", TRIAL, Source(directory=trained))
    assert again.name == version.name and again.state is VersionState.REJECTED
    with pytest.raises(ModelRejectedError, match="was rejected: the model was not published"):
        models.wait(again)


def test_artifacts_that_are_not_whole_are_rejected(models: Models, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    publishing = Registry(models, ModelRoot(str(tmp_path / "models")))
    version = publishing.publish("small", TRIAL, Source(directory=tmp_path / "artifacts"))
    assert version.state is VersionState.REJECTED and "trial.json" in version.report
    assert list((tmp_path / "models" / "small").iterdir()) == []


def test_an_export_that_hangs_is_ended(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(ModelRejectedError, match=r"more than 0\.1 s"):
        export_to(Source(directory=trained), str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_taken_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "file.txt"):
        with pytest.raises(FailedPreconditionError, match="not empty"):
            export_to(Source(directory=trained), str(taken))


def test_a_publisher_that_is_killed_before_its_last_word_is_followed(
    saved_model: Path, server: StudyServer, models: Models, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    command = [sys.executable, "-m", "tests.integration.dying_publisher"]
    process = subprocess.Popen(
        [*command, server.address, str(saved_model), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "renamed\n"
    finally:
        process.kill()
        process.communicate(timeout=30)
    (left,) = models.versions("small")
    assert left.state is VersionState.PUBLISHING and not left.uri
    inode = (root / "small" / "1" / "saved_model.pb").stat().st_ino
    publishing = Registry(models, ModelRoot(str(root)))
    taken: list[ModelVersion] = []

    def take_up() -> bool:
        lineage = Lineage(source=str(saved_model))
        source = Source.of_saved_model(saved_model)
        taken.append(publishing.publish("small", lineage, source))
        return taken[-1].state is VersionState.READY

    until(take_up, 100)
    assert taken[-1].version == 1 and taken[-1].publisher != left.publisher
    assert (root / "small" / "1" / "saved_model.pb").stat().st_ino == inode, "it was not redone"
    assert [path.name for path in (root / "small").iterdir()] == ["1"]


def test_a_model_from_elsewhere_goes_to_a_store_and_comes_back(
    saved_model: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"x": [1.5, -2], "word": "yes"}\n{"x": [0, 1e9], "word": "über"}\n')
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    with object_store.running(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        publishing = Registry(models, ModelRoot("s3://bucket/models"))
        source = Source.of_saved_model(saved_model, rows)
        version = publishing.publish("doubling", Lineage(source=str(saved_model)), source)
        assert version.state is VersionState.READY, version.report
        assert version.uri == "s3://bucket/models/doubling/1"
        back = Path(copy_to(version, str(tmp_path / "back")))
        lines = [json.loads(line) for line in (back / layout.GOLDEN).read_text().splitlines()]
        assert lines[0] == {
            "inputs": {"x": [[1.5, -2]], "word": ["yes"]},
            "outputs": {"twice": [[3.0, -4.0]], "said": ["YES"]},
        }
        schema = {i["name"]: i for i in json.loads((back / layout.METADATA).read_text())["inputs"]}
        assert schema["x"]["dtype"] == "DT_FLOAT" and schema["x"]["shape"] == [None, 2]
        assert (back / layout.WARMUP).stat().st_size
        assert '"word": "yes"' in version.card
        # Another export to a store; a place that holds something is left alone.
        uri = "s3://bucket/mine"
        assert copy_to(version, uri) == uri
        with pytest.raises(FailedPreconditionError, match="not empty"):
            copy_to(version, uri)
        with pytest.raises(DataError, match=r"s3:DeleteObject|s3:PutObject|s3:GetObject"):
            copy_to(version, "s3://secret/mine")
        assert ModelRoot("s3://bucket/models").highest("doubling") == 1
        models.delete_version(version)
        assert publishing.remove(next(models.versions(states=[VersionState.DELETING])))
        assert ModelRoot("s3://bucket/models").highest("doubling") == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('{"x": [1, 2]}', "the model takes"),
        ('{"x": "a", "word": "b"}', "row 1 cannot be predicted"),
        ("[1]", "holds no rows"),
    ],
)
def test_rows_that_are_none_of_the_model_are_refused(
    saved_model: Path, tmp_path: Path, rows: str, says: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(DataError, match=says):
        foreign.take(
            saved_model,
            tmp_path / "to",
            model="m",
            origin="here",
            rows=tmp_path / "rows.jsonl",
        )


def test_what_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no SavedModel: it has no saved_model\.pb"):
        (tmp_path / "empty").mkdir()
        foreign.take(tmp_path / "empty", tmp_path / "to", model="m", origin="here")
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "unsigned"))
    with pytest.raises(DataError, match="no signature 'serving_default'"):
        foreign.take(tmp_path / "unsigned", tmp_path / "to2", model="m", origin="here")


def test_a_runner_publishes_winners_and_what_is_asked_for_and_removes_what_is_deleted(
    server: StudyServer, trained: Path, tmp_path: Path
) -> None:
    artifacts_dir, root = tmp_path / "artifacts", tmp_path / "models"
    with Client(server.address) as client:
        study = prepared(client, "winners", export_model="winners", trials=2)
        for trial in study:
            left = artifacts_dir / "studies" / "winners" / "trials" / str(trial.number) / "1"
            shutil.copytree(trained, left)
            _complete(client, trial, str(left) if trial.number else "", trial.number / 2)
        connection = Connection(server.address)
        publisher = Publisher(connection, artifacts_dir, str(root))
        # The loser, which has left nothing, is asked for; nobody waits.
        asked = study.trial(0).publish("losers", wait=False)
        assert asked.state is VersionState.PUBLISHING and not asked.publisher
        publisher.work()
        winner = client.models.version("winners")
        assert winner.version == 1 and winner.lineage.trial == f"{study.name}/trials/1"
        assert study.refresh().exported_model_uri == winner.uri == str(root / "winners" / "1")
        with pytest.raises(ModelRejectedError, match="has left no weights"):
            client.models.wait(asked)
        assert study.best().publish("winners").name == winner.name
        client.models.delete_version(winner)
        publisher.work()
        assert list(client.models.versions("winners")) == []
        assert [path.name for path in (root / "winners").iterdir()] == []
        connection.close()


def _complete(client: Client, trial: RunningTrial, artifact_uri: str, value: float) -> None:
    """Ends a trial as a runner does."""
    connection = Connection(client.address)
    held = connection.call(lambda stub: stub.GetTrial, pb.GetTrialRequest(name=trial.name))
    request = pb.CompleteTrialRequest(
        name=trial.name, lease_token=held.lease.token, artifact_uri=artifact_uri
    )
    request.final_measurement.metrics["val_auc"] = value
    connection.call(lambda stub: stub.CompleteTrial, request)
    connection.close()
