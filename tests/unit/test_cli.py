"""The command line without a server: help, errors, exit codes, and `tuner check`."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tuner import errors
from tuner.cli import lazy, main
from tuner.cli.lazy import COMMANDS, missing_extra

GOOD = """\
study: mine
metric: {name: score}
parameters:
  x: {float: [1e-4, 1], log: true}
  optimizer: {categorical: [adam, sgd], when: {sgd: {momentum: {float: [0, 1]}}}}
limits: {trials: 7, parallel: 2}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text("study: mine\nmetrik: {name: score}\nparameters: {x: {int: [3, 1]}}\n")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, the output and the errors of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


def test_check_finds_every_mistake_with_its_line(
    capsys: pytest.CaptureFixture[str], bad: Path
) -> None:
    code, out, err = run(capsys, "check", str(bad))
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"{bad}:1:1: missing key 'metric'")
    assert lines[1].startswith(f"{bad}:2:1: unknown key 'metrik'; did you mean 'metric'?")
    assert lines[2].startswith(f"{bad}:3:23: parameters.x: `low <= high` must hold")
    assert len(lines) == 3


def test_check_keeps_what_libraries_log_off_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os; os.write(2, b'E0000 no GPU\\n')\nclass T: pass\n"
    )
    study = "study: a\nmetric: {name: m}\ntrainer: noisy:T\n"
    (tmp_path / "study.yaml").write_text(study)
    command = [sys.executable, "-m", "tuner.cli", "check", str(tmp_path / "study.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "noisy:T is no trainer" in done.stderr and len(done.stderr.splitlines()) == 1


def test_check_says_what_a_good_file_searches(
    capsys: pytest.CaptureFixture[str], good: Path
) -> None:
    code, out, err = run(capsys, "check", str(good))
    assert (code, err) == (0, "")
    assert "float [0.0001, 1] log" in out
    assert "categorical [adam, sgd]" in out
    assert "optimizer is sgd" in out
    assert out.splitlines()[-1] == "ok: mine: 3 parameters (3 model) · 7 trials, 2 at once"


def test_check_prints_one_json_document(
    capsys: pytest.CaptureFixture[str], good: Path, bad: Path
) -> None:
    code, out, _ = run(capsys, "check", str(good), "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["study"]) == (0, True, "mine")
    assert [parameter["name"] for parameter in document["parameters"]] == [
        "x",
        "optimizer",
        "momentum",
    ]
    code, out, err = run(capsys, "check", "--json", str(bad))
    document = json.loads(out)
    assert (code, err, document["ok"]) == (2, "", False)
    assert document["problems"][1]["line"] == 2


def test_submitting_a_bad_file_prints_the_same_lines(
    capsys: pytest.CaptureFixture[str], bad: Path
) -> None:
    code, out, err = run(capsys, "submit", str(bad))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    assert all(line.startswith(f"{bad}:") for line in err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["trials"], "Missing argument 'STUDY'; see `tuner trials --help`."),
        (["trials", "mine", "--top", "0"], "Invalid value for '--top'"),
        (["check", "/no/such/file"], "cannot read /no/such/file: no such file or directory"),
        (["logs", "mine"], "a trial is STUDY/NUMBER"),
        (["retry", "mine"], "say which: --failed"),
        (["add", "mine"], "say what: NAME=VALUE of each parameter, or --file"),
        (["add", "mine", "x=1", "--file", "x.csv"], "say what: NAME=VALUE"),
        (["studies", "--server", "127.0.0.1:1"], "no study server at 127.0.0.1:1: start one"),
        (["--server", "127.0.0.1:1", "studies"], "no study server at 127.0.0.1:1: start one"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_with_json_the_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "studies", "--json", "--server", "127.0.0.1:1")
    assert code == 2
    assert json.loads(out)["error"]["reason"] == "UNAVAILABLE"
    assert err.startswith("error: no study server")


def test_an_unexpected_error_shows_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, good: Path
) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.delenv("TUNER_LOG_LEVEL", raising=False)
    monkeypatch.setattr("tuner.study_file.read", broken)
    code, _, err = run(capsys, "check", str(good))
    assert code == 2
    assert err == (
        "error: unexpected ZeroDivisionError: division by zero; TUNER_LOG_LEVEL=debug shows "
        "where.\n"
    )


def test_ctrl_c_exits_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, good: Path
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tuner.study_file.read", interrupted)
    assert run(capsys, "check", str(good)) == (130, "", "\n")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for group in COMMANDS.values():
        for name, entry in group.items():
            assert re.search(rf"^  {name} +{re.escape(entry.help)}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "entry"),
    [(n, e) for group in COMMANDS.values() for n, e in group.items()],
)
def test_every_command_exists_and_speaks_json(name: str, entry: lazy.Entry) -> None:
    command = getattr(importlib.import_module(entry.module), entry.attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    for part in [command, *below(command)]:
        assert part.help
        if not isinstance(part, click.Group):
            assert "--json" in {option for item in part.params for option in item.opts}


def below(command: click.Command) -> list[click.Command]:
    return list(command.commands.values()) if isinstance(command, click.Group) else []


def test_a_missing_package_names_the_extra() -> None:
    error = ModuleNotFoundError("No module named 'ray'", name="ray")
    assert missing_extra(error, ["runner", "--json"]) == (
        "`tuner runner` needs the worker extra: pip install 'tuner[all]'."
    )
    assert missing_extra(error, ["--help"]) == (
        "the package 'ray' is not installed: pip install 'tuner[all]'."
    )


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for group in COMMANDS.values():
        for entry in group.values():
            assert not entry.extra or entry.extra in extras


def test_errors_keep_their_reason() -> None:
    assert errors.TunerError.of("STUDY_FILE", "x").__class__ is errors.StudyFileError
