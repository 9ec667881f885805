"""Spaces that are found by running the code that declares them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Child, Float, Group, Int, Parameter, Space
from tuner_trainers.declared import MOST_RUNS, Declaration, complete, discover


def shape(space: Space) -> dict[str, object]:
    """Each parameter with its parent and under which of its values it exists."""
    found: dict[str, object] = {parameter.name: None for parameter in space.parameters}
    for parent in space.walk():
        for child in parent.children:
            found[child.parameter.name] = (parent.name, child.parent_values)
    return found


def nested(trial: Declaration) -> None:
    for layer in range(trial.int("layers", 1, 3)):
        trial.int(f"units_{layer}", 16, 256, log=True)
    if trial.choice("optimizer", ["adam", "sgd", "rms"]) != "adam":
        trial.float("momentum", 0.0, 0.9)
        if trial.boolean("nesterov"):
            trial.float("ahead", 0.0, 1.0)
    else:
        trial.float("beta", 0.8, 0.99, default=0.9)
    trial.float("rate", 1e-4, 1e-1, log=True, group="training")


def test_every_parameter_is_found_under_what_it_depends_on() -> None:
    assert shape(discover(nested)) == {
        "layers": None,
        "units_0": None,
        "units_1": ("layers", (2, 3)),
        "units_2": ("layers", (3,)),
        "optimizer": None,
        "momentum": ("optimizer", ("sgd", "rms")),
        "nesterov": ("optimizer", ("sgd", "rms")),
        "ahead": ("nesterov", (True,)),
        "beta": ("optimizer", ("adam",)),
        "rate": None,
    }


def test_domains_defaults_and_groups_are_as_asked() -> None:
    found = {parameter.name: parameter for parameter in discover(nested).walk()}
    assert found["units_0"].domain == Int(16, 256, log=True)
    assert found["beta"].domain == Float(0.8, 0.99) and found["beta"].default == 0.9
    assert found["optimizer"].domain == Categorical(("adam", "sgd", "rms"))
    assert found["rate"].group is Group.TRAINING and found["layers"].group is Group.MODEL


def test_a_fixed_value_is_not_tuned_and_decides() -> None:
    space = discover(nested, fixed={"optimizer": "sgd", "layers": 2})
    assert shape(space) == {
        "units_0": None,
        "units_1": None,
        "momentum": None,
        "nesterov": None,
        "ahead": ("nesterov", (True,)),
        "rate": None,
    }


def test_a_study_file_narrows_and_adds() -> None:
    given = Space.of({"layers": Int(1, 2), "patience": Int(1, 9)})
    found = shape(complete(given, {}, nested))
    assert found["units_1"] == ("layers", (2,)) and "units_2" not in found
    assert found["patience"] is None


def test_a_run_is_answered_by_the_trial_and_else_by_defaults() -> None:
    trial = Declaration({"layers": 2, "optimizer": "rms"})
    assert trial.int("layers", 1, 3) == 2
    assert trial.choice("optimizer", ["adam", "rms"]) == "rms"
    assert trial.int("units", 16, 256) == 16
    assert trial.int("size", 16, 256, default=32) == 32
    assert trial.boolean("wide") is False
    assert trial.choice("kind", ["a", "b"], default="b") == "b"


def test_what_needs_two_unrelated_choices_at_once_is_not_found() -> None:
    """As the documentation says."""

    def declare(trial: Declaration) -> None:
        first, second = trial.boolean("first"), trial.boolean("second")
        if first and second:
            trial.int("both", 1, 4)

    assert shape(discover(declare)) == {"first": None, "second": None}


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda t: (t.int("x", 1, 4), t.int("x", 1, 5)), r"asked for as int \[1, 4\] and as"),
        (
            lambda t: t.int("x", 1, 4) if t.boolean("b") else t.float("x", 1, 4),
            "give each its own name",
        ),
        (
            lambda t: [t.choice(f"c{i}", list(range(20))) for i in range(MOST_RUNS // 20)],
            f"in {MOST_RUNS} runs",
        ),
    ],
)
def test_what_is_no_space_is_refused(
    declare: Callable[[Declaration], object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        discover(declare)


def test_a_number_of_many_values_decides_nothing() -> None:
    def declare(trial: Declaration) -> None:
        if trial.int("width", 1, 1000) > 500:
            trial.int("depth", 1, 4)

    assert discover(declare) == Space((Parameter(name="width", domain=Int(1, 1000)),))


def test_true_is_not_one() -> None:
    def declare(trial: Declaration) -> None:
        if trial.choice("kind", ["none", True, 1]) is True:
            trial.int("depth", 1, 4)

    (kind,) = discover(declare).parameters
    assert kind.children == (Child((True,), Parameter(name="depth", domain=Int(1, 4))),)
