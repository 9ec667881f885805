"""Trainers of the user's own: what is said of those that cannot be used, and their isolation."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner import code
from tuner.errors import InvalidArgumentError
from tuner.space import Int, Space
from tuner.study import Metric, OwnTrainer, StudySpec
from tuner_trainers.own import examine, found

GOOD = """
class Trainer:
    def space(self, trial):
        trial.int("layers", 1, 4)
    def train(self, context, parameters):
        pass
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """A study whose trainer is `mine:Trainer` of a text, shipped to `tmp_path`."""

    def make(text: str, trainer: str = "mine:Trainer", **spec: object) -> StudySpec:
        path = tmp_path / "code" / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        asked = StudySpec(
            metrics=(Metric(name="m"),),
            trainer=trainer,
            own=OwnTrainer(code=str(path)),
            **spec,  # type: ignore[arg-type]
        )
        return code.ship(asked, tmp_path)

    return make


def test_the_space_is_the_trainers_and_the_study_files(
    spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    assert examine(spec(GOOD), tmp_path) == Space.of({"layers": Int(1, 4)})
    narrowed = spec(GOOD, space=Space.of({"layers": Int(2, 3), "x": Int(0, 1)}))
    assert examine(narrowed, tmp_path) == Space.of({"layers": Int(2, 3), "x": Int(0, 1)})


@pytest.mark.parametrize(
    ("text", "trainer", "message"),
    [
        (GOOD, "yours:Trainer", r"there is no module 'yours' in the code of the study"),
        (GOOD, "mine.deeper:Trainer", "mine"),
        (GOOD, "mine:Trainr", r"the module mine has no 'Trainr'; it has Trainer\."),
        (
            "import os.nothing",
            "mine:Trainer",
            r"mine imports 'os.nothing', which is not installed",
        ),
        ("class Trainer(", "mine:Trainer", r"mine\.py:1: '\(' was never closed\."),
        ("x = 1\n1 / 0", "mine:Trainer", r"mine raised ZeroDivisionError: .* in mine\.py:2\."),
        ("raise SystemExit(3)", "mine:Trainer", r"mine raised SystemExit: 3 in mine\.py:1\."),
        ("Trainer = 3", "mine:Trainer", "it must be a class with `train"),
        ("class Trainer: pass", "mine:Trainer", "it must be a class with `train"),
        (
            "class Trainer:\n def train(self, context): pass",
            "mine:Trainer",
            r"train takes \(self, context, parameters\), but is written with \(self, context\)",
        ),
        (
            GOOD.replace("    def train", "    def __init__(self, x): pass\n    def train"),
            "mine:Trainer",
            r"mine:Trainer\(\) takes nothing",
        ),
        (
            GOOD.replace('trial.int("layers", 1, 4)', "trial.whole(1)"),
            "mine:Trainer",
            r"mine raised AttributeError: .* in mine\.py:4",
        ),
        (GOOD.replace('trial.int("layers", 1, 4)', "pass"), "mine:Trainer", "the space is empty"),
        (GOOD, "nonsense", "there is no trainer 'nonsense'"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    spec: Callable[..., StudySpec], tmp_path: Path, text: str, trainer: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        examine(spec(text, trainer), tmp_path)
    assert "\n" not in caught.value.message and ".." not in caught.value.message


def test_modules_are_forgotten_and_what_they_hid_is_back(
    spec: Callable[..., StudySpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, path = object(), list(sys.path)
    monkeypatch.setitem(sys.modules, "mine", kept)
    for version in (1, 2):
        asked = spec(f"VERSION = {version}\nclass Trainer:\n  version = VERSION")
        with found("mine:Trainer", asked.own.code, tmp_path) as trainer:
            assert trainer.version == version
            assert sys.modules["mine"] is not kept
        assert sys.modules["mine"] is kept and sys.path == path
    with found("json:loads", "", tmp_path) as installed:
        assert installed is json.loads
