"""What `create_study` takes, and what it says about what it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tuner
from tuner.client import specification
from tuner.errors import InvalidArgumentError
from tuner.study import Constraint, Goal, Metric, Selection, StudySpec


def test_one_metric_or_several() -> None:
    of = specification.metrics_of
    assert of("auc", None, None) == (Metric(name="auc", goal=Goal.MAXIMIZE),)
    assert of(None, "loss", None) == (Metric(name="loss", goal=Goal.MINIMIZE),)
    assert of(None, None, {"ms": "minimize", "auc": Goal.MAXIMIZE}) == (
        Metric(name="ms", goal=Goal.MINIMIZE),
        Metric(name="auc", goal=Goal.MAXIMIZE),
    )


def test_constraints_by_metric_or_as_they_are() -> None:
    bounds: dict[str, dict[str, float]] = {
        "ms": {"at_most": 50},
        "auc": {"at_least": 0.5, "at_most": 1},
    }
    expected = (
        Constraint(metric="ms", at_most=50.0),
        Constraint(metric="auc", at_most=1.0),
        Constraint(metric="auc", at_least=0.5),
    )
    assert specification.constraints_of(bounds) == expected
    assert specification.constraints_of(list(expected)) == expected
    assert specification.constraints_of(()) == ()
    assert tuner.Constraint is Constraint


def test_measurements_and_earlier_studies() -> None:
    assert specification.selection_of("best") is Selection.BEST
    assert specification.selection_of("last") is Selection.LAST
    assert specification.selection_of(None) is None
    assert specification.warm_start_of(["a", "b-2"]) == ("a", "b-2")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.metrics_of(None, None, None), "in one way: maximize='auc'"),
        (lambda s: s.metrics_of("a", "b", None), "in one way"),
        (lambda s: s.metrics_of("a", None, {"b": "minimize"}), "in one way"),
        (lambda s: s.metrics_of("", None, None), "in one way"),
        (lambda s: s.metrics_of(None, None, {}), "in one way"),
        (lambda s: s.metrics_of(None, None, ["auc"]), "a mapping such as .*, but got \\['auc'\\]"),
        (
            lambda s: s.metrics_of(None, None, {"a": "up"}),
            "'maximize' or 'minimize', but got 'up'",
        ),
        (lambda s: s.constraints_of(["ms"]), "or a list of tuner.Constraint, but got"),
        (lambda s: s.constraints_of({"ms": 50}), "constraint of 'ms' is .*, but got 50"),
        (lambda s: s.constraints_of({"ms": {}}), "but got {}"),
        (lambda s: s.constraints_of({"ms": {"below": 5}}), "but got {'below': 5}"),
        (
            lambda s: s.constraints_of({"ms": {"at_most": "5"}}),
            "`at_most` .* a number, but got '5'",
        ),
        (lambda s: s.constraints_of({"ms": {"at_most": True}}), "must be a number, but got True"),
        (lambda s: s.constraints_of({"ms": {"at_most": float("nan")}}), "one finite bound"),
        (lambda s: s.warm_start_of("older"), "a list of studies; write \\['older'\\]"),
        (lambda s: s.warm_start_of(["Older One"]), "'older-one' would do"),
        (lambda s: s.selection_of("first"), "must be 'best' or 'last', but got 'first'"),
    ],
)
def test_what_cannot_be_is_told(call: Callable[[Any], object], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        call(specification)


UNIT = tuner.Parameter(name="y", domain=tuner.Float(0, 1))


def test_a_space_is_domains_by_name_or_a_list_of_parameters() -> None:
    by_name = specification.space_of({"y": tuner.Float(0, 1)})
    assert by_name == tuner.Space((UNIT,)) == specification.space_of([UNIT])
    assert specification.space_of(by_name) is by_name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: specification.space_of([1]), r"a mapping such as .* but got \[1\]"),  # type: ignore[list-item]
        (lambda: specification.space_of({"x": (0, 1)}), r"'x' takes a domain .* got \(0, 1\)"),  # type: ignore[dict-item]
        (lambda: specification.space_of({"x": UNIT}), "'y' is given as 'x'; use one name"),
        (lambda: tuner.Categorical("abc"), "choices are a list .* but got 'abc'"),
        (lambda: tuner.Int(0, 10**30), "`high` must be within"),
        (lambda: tuner.Int(0, "9"), "`high` must be a whole number, but got '9'"),  # type: ignore[arg-type]
        (lambda: specification.check_count("trials", 0, 1), "`trials` must be at least 1"),
        (lambda: specification.check_count("seed", "7", 0), "`seed` must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_a_space_that_is_none_is_told(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        make()


def test_create_study_asks_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StudySpec] = []
    monkeypatch.setattr(tuner.Client, "create", lambda client, name, spec: asked.append(spec))
    with tuner.Client("127.0.0.1:1") as client:
        client.create_study(
            "mine",
            {"x": tuner.Float(0, 1)},
            metrics={"auc": "maximize", "ms": "minimize"},
            constraints={"bytes": {"at_most": 9}},
            warm_start=["older"],
            measurement="best",
        )
        client.create_study("mine", {"x": tuner.Float(0, 1)}, minimize="loss")
    several, one = asked
    assert [(m.name, m.goal.value) for m in several.metrics] == [
        ("auc", "maximize"),
        ("ms", "minimize"),
    ]
    assert several.constraints == (Constraint(metric="bytes", at_most=9.0),)
    assert several.warm_start == ("older",)
    assert several.selection is Selection.BEST
    assert one == StudySpec(
        metrics=(Metric(name="loss", goal=Goal.MINIMIZE),),
        space=tuner.Space.of({"x": tuner.Float(0, 1)}),
    )
