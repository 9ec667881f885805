"""The registry: versions appear whole and verified, or not at all."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from tests.integration import trials
from tuner import registry
from tuner.errors import FailedPreconditionError, InvalidArgumentError, ModelRejectedError
from tuner.registry import publishing
from tuner_trainers import artifacts, training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a trial."""
    folder = tmp_path_factory.mktemp("data")
    directory = folder / "artifacts"
    directory.mkdir()
    training.train(trials.make_task(folder, epochs=1), trials.Context(directory))
    return directory


def test_a_model_gets_the_next_version(trained: Path, tmp_path: Path) -> None:
    for taken in ("2", "7", ".export-old", "latest"):
        (tmp_path / "small" / taken).mkdir(parents=True)
    version = registry.publish(trained, tmp_path, "small")
    assert version == tmp_path / "small" / "8"
    assert (version / "saved_model.pb").exists()
    metadata = json.loads((version / "assets.extra" / "tuner" / "metadata.json").read_text())
    assert metadata["model"] == "small"
    found = {path.name for path in (tmp_path / "small").iterdir()}
    assert found == {"2", "7", "8", ".export-old", "latest"}


def test_a_model_that_predicts_otherwise_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(trained, wrong)
    lines = [json.loads(line) for line in (wrong / artifacts.GOLDEN).read_text().splitlines()]
    lines[3]["outputs"].reverse()
    (wrong / artifacts.GOLDEN).write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(ModelRejectedError, match="golden rows") as caught:
        registry.export_to(wrong, tmp_path / "out" / "model")
    assert len(caught.value.message.splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_artifacts_that_are_not_whole_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(ModelRejectedError, match=r"trial\.json"):
        registry.publish(tmp_path / "artifacts", tmp_path / "models", "small")
    assert list((tmp_path / "models" / "small").iterdir()) == []


def test_an_export_that_hangs_is_ended(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(ModelRejectedError, match=r"more than 0\.1 s"):
        registry.export_to(trained, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_taken_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(FailedPreconditionError, match="not empty"):
        registry.export_to(trained, tmp_path)
    with pytest.raises(FailedPreconditionError, match="not empty"):
        registry.export_to(trained, tmp_path / "file.txt")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 129])
def test_names_that_are_no_models_are_refused(trained: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="model's name"):
        registry.publish(trained, tmp_path, name)


def test_publishers_that_race_take_different_versions(tmp_path: Path) -> None:
    sources = [tmp_path / f"source-{number}" for number in range(8)]
    versions = tmp_path / "versions"
    versions.mkdir()
    taken: list[Path] = []

    def claim(source: Path) -> None:
        source.mkdir()
        (source / "file").write_text(source.name)
        taken.append(publishing._claim(source, versions))

    threads = [threading.Thread(target=claim, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(int(path.name) for path in taken) == list(range(1, 9))
    assert {(path / "file").read_text() for path in taken} == {path.name for path in sources}
