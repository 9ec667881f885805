"""The key `trainer` of a study file, where the trainer is the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import study_file
from tuner.study import OwnTrainer, StudySpec
from tuner.trainer_spaces import PROGRAM

HEAD = "study: s\nmetric: {name: m}\nparameters: {x: {float: [0, 1]}, y: 3}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "module.py").write_text("")
    return tmp_path


def read(text: str, folder: Path) -> StudySpec:
    file = study_file.parse(HEAD + text, folder=folder)
    assert file.spec is not None, file.problems
    return file.spec


def test_a_program_is_read(folder: Path) -> None:
    text = "trainer: {program: \"python -m t --name 'two words'\", code: src, env: {A: 2, B: x}}"
    spec = read(text, folder)
    assert spec.trainer == PROGRAM and spec.data is None
    assert spec.own == OwnTrainer(
        command=("python", "-m", "t", "--name", "two words"),
        environment={"A": "2", "B": "x"},
        code=str(folder / "src"),
    )
    assert spec.settings == {"y": 3}
    listed = read("trainer: {command: [./run, -v, 3]}", folder)
    assert listed.own == OwnTrainer(command=("./run", "-v", "3"))


def test_a_program_may_have_parameter_servers(folder: Path) -> None:
    spec = read("trainer: {program: ./run}\nresources: {workers: 2, parameter_servers: 1}", folder)
    assert (spec.resources.workers, spec.resources.parameter_servers) == (2, 1)


@pytest.mark.parametrize(
    ("text", "trainer", "code"),
    [
        ("package:Trainer", "package:Trainer", "package"),
        ("package.deep.er:Trainer", "package.deep.er:Trainer", "package"),
        ("module:Trainer", "module:Trainer", "module.py"),
        ("installed:Trainer", "installed:Trainer", ""),
        ("{module: module:Trainer, code: .}", "module:Trainer", "."),
    ],
)
def test_a_module_brings_the_code_that_lies_beside_the_file(
    folder: Path, text: str, trainer: str, code: str
) -> None:
    spec = read(f"trainer: {text}", folder)
    assert spec.trainer == trainer
    assert spec.own.code == (str((folder / code).resolve()) if code else "")


def test_a_module_may_leave_its_space_to_the_trainer(folder: Path) -> None:
    text = "study: s\nmetric: {name: m}\ntrainer: module:Trainer\n"
    assert study_file.check(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "trainer: nonsense",
            "unknown trainer 'nonsense'; allowed: tabular, image, text, package.module:Name",
        ),
        ("trainer: a:b:c", "must be package.module:Name, with a single colon"),
        ("trainer: [a]", "trainer must be tabular, image, text, package.module:Name or"),
        ("trainer: {}", "trainer needs {program:"),
        ("trainer: {program: a, module: 'b:C'}", "trainer has both program and module; keep one"),
        ("trainer: {programme: a}", "unknown key 'programme' in trainer; did you mean 'program'?"),
        ('trainer: {program: "a \'b"}', "cannot be split into words"),
        ("trainer: {command: a b}", "trainer.command must be a list"),
        ("trainer: {command: []}", "trainer.command must be a program and its arguments"),
        ("trainer: {program: a, env: {TF_CONFIG: x}}", "is set for each trial; remove it"),
        ("trainer: {program: a, env: {A-B: x}}", "a variable is named by letters"),
        ("trainer: {program: a, env: {A: [1]}}", "trainer.env.A must be text"),
        ("trainer: {module: 'm:T', env: {A: 1}}", "trainer.env goes with a program"),
        ("trainer: {program: python module.py}", "module.py lies beside this file"),
        ("trainer: {program: python -m package.task}", "package.task lies beside this file"),
        ("trainer: bare:Trainer", "bare/ lies beside this file but has no __init__.py"),
        (
            "trainer: {program: a}\ndata: {train: t.csv, label: y}",
            "a program reads its data by itself",
        ),
        ("trainer: {program: a}\nfeatures: {x: {kind: numeric}}", "features need `data`"),
        ("trainer: {program: a}\nexport: {model: m}", "export knows models of the box"),
        ("trainer: {program: a}\nresources: {strategy: parameter_server}", "needs no strategy"),
        (
            "trainer: module:T\nresources: {parameter_servers: 1}",
            "parameter servers need `strategy: parameter_server`",
        ),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, message: str) -> None:
    file = study_file.parse(HEAD + text, folder=folder)
    assert file.spec is None
    assert any(message in problem.message for problem in file.problems), file.problems
    assert len(file.problems) == 1, file.problems


def test_a_program_needs_something_to_tune(folder: Path) -> None:
    text = "study: s\nmetric: {name: m}\ntrainer: {program: a}\n"
    assert "nothing to search" in study_file.parse(text, folder=folder).problems[0].message
    fixed = study_file.parse(text + "parameters: {x: 1}\n", folder=folder)
    assert "every parameter is fixed" in fixed.problems[0].message
