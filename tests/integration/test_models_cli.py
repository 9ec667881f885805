"""`tuner models`, `tuner export` and `tuner import` against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.web_study import prepared, published, work
from tuner.cli import main
from tuner.client import Client
from tuner.config import Settings
from tuner.service import StudyServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(tmp_path: Path, database_url: str) -> Iterator[Client]:
    settings = Settings(data_dir=tmp_path / "data", server_port=0, database_url=database_url)
    with StudyServer(settings) as server, Client(server.address) as client:
        yield client


@pytest.fixture
def run(client: Client, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command's exit code, output and errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--server", client.address])
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return command


def _json(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_registry_from_the_command_line(run: Run, client: Client) -> None:
    assert "no models" in run("models")[1]
    study = prepared(client, "adult")
    work(study, 3)
    published(client, study, "adult", 3)
    assert "adult" in run("models")[1] and "adult" in run("models", "list")[1]
    assert run("models", "alias", "set", "adult@champion", "1")[1] == "adult@champion is 1\n"
    (model,) = _json(run, "models")
    assert model["aliases"] == {"champion": 1} and model["latest_version"] == 3
    shown = run("models", "show", "adult")[1]
    assert "champion" in shown and "studies/adult/trials/2" in shown
    version = _json(run, "models", "show", "adult@champion")
    assert version["version"] == 1 and version["card"].startswith("# adult-income")
    assert "Predicts `income`" in run("models", "show", "adult/3")[1]
    assert "keeps 1 versions" in run("models", "retention", "adult", "--keep", "1")[1]
    states = {v["version"]: v["state"] for v in _json(run, "models", "show", "adult")["versions"]}
    assert states == {3: "READY", 2: "DELETING", 1: "READY"}
    again = _json(run, "models", "publish", "adult", "adult", "--trial", "2")
    assert again["version"] == 3
    code, _, err = run("models", "delete", "adult/1", "--yes")
    assert code == 2 and "the alias champion names it" in err and len(err.splitlines()) == 1
    assert run("models", "alias", "remove", "adult@champion")[0] == 0
    assert _json(run, "models", "delete", "adult/3", "--yes") == {"deleted": "adult/3"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nobody"), "no model is called 'nobody'"),
        (("show", "nobody@x y"), "an alias is"),
        (("alias", "set", "adult", "1"), "write MODEL@ALIAS"),
        (("delete", "adult@champion", "--yes"), "by its number"),
        (("delete", "adult"), "needs --yes"),
        (("publish", "nobody", "adult"), "nobody"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    run: Run, arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = run("models", *arguments)
    assert code == 2 and out == "" and says in err


def test_what_cannot_be_exported_is_told(run: Run, client: Client, tmp_path: Path) -> None:
    code, _, err = run("export", "nobody", "--to", str(tmp_path / "to"))
    assert code == 2 and "nobody" in err
    study = prepared(client, "adult")
    work(study, 1)
    (version,) = published(client, study, "births", 1)
    assert version.uri == "/models/births/1"
    for name in ("births", "births@latest", "births/1"):
        code, _, err = run("export", name, "--to", str(tmp_path / "to"))
        assert code == 2 and "/models/births/1" in err, err
    assert not (tmp_path / "to").exists()
    code, _, err = run("export", "adult", "--to", str(tmp_path / "to"))
    assert code == 2 and "has left no weights" in err


def test_an_empty_folder_is_not_imported(
    run: Run, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path / "models"))
    (tmp_path / "empty").mkdir()
    code, _, err = run("import", str(tmp_path / "empty"), "--model", "m")
    assert code == 2 and "no SavedModel" in err
    (version,) = client.models.versions("m")
    assert version.state.value == "REJECTED" and "no SavedModel" in version.report
