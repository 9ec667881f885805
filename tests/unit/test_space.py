"""The tree of parameters: what is allowed, what is active, what is refused."""

from __future__ import annotations

import pytest

from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Child, Discrete, Domain, Float, Int, Parameter, Space


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(1, 0), "low <= high"),
        (lambda: Float(0, 1, log=True), "low > 0"),
        (lambda: Float(0, float("inf")), "finite"),
        (lambda: Float(0, 1, step=-1), "above 0"),
        (lambda: Int(1, 8, log=True, step=2), "not be combined with log"),
        (lambda: Int(1, 2.5), "whole number"),  # type: ignore[arg-type]
        (lambda: Discrete(()), "at least one"),
        (lambda: Discrete((2, 1)), "must increase"),
        (lambda: Categorical(()), "at least one"),
        (lambda: Categorical(("a", "a")), "must differ"),
        (lambda: Parameter(name="", domain=Int(1, 2)), "1 to 128"),
        (lambda: Parameter(name="a\nb", domain=Int(1, 2)), "printable"),
        (lambda: Parameter(name="x", domain=Int(1, 2), default=3), "default"),
        (lambda: Child((), Parameter(name="x", domain=Int(1, 2))), "never exists"),
    ],
)
def test_impossible_domains_are_refused_with_their_values(make: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(0, 1), [0, 0.5, 1.0], [-0.1, 1.1, "0.5", True]),
        (Int(1, 9, step=2), [1, 3, 9, 5.0], [2, 0, 11, "3", True]),
        (Discrete((1, 2.5)), [1, 2.5], [2, "1"]),
        (Categorical(("a", 1, True)), ["a", 1, True], ["b", 1.0, False]),
    ],
)
def test_contains(domain: Domain, inside: list[object], outside: list[object]) -> None:
    assert all(domain.contains(value) for value in inside)  # type: ignore[arg-type]
    assert not any(domain.contains(value) for value in outside)  # type: ignore[arg-type]


def conditional() -> Space:
    momentum = Parameter(name="momentum", domain=Float(0, 0.99))
    optimizer = Parameter(
        name="optimizer",
        domain=Categorical(("adam", "sgd")),
        children=(Child(("sgd",), momentum),),
    )
    return Space((optimizer, Parameter(name="layers", domain=Int(1, 4))))


def test_children_are_active_only_under_their_parents_values() -> None:
    space = conditional()
    assert [p.name for p in space.walk()] == ["optimizer", "momentum", "layers"]
    space.check({"optimizer": "adam", "layers": 2})
    space.check({"optimizer": "sgd", "momentum": 0.9, "layers": 2})
    with pytest.raises(InvalidArgumentError, match="'momentum' is not an active"):
        space.check({"optimizer": "adam", "momentum": 0.9, "layers": 2})
    with pytest.raises(InvalidArgumentError, match="'momentum' is active but has no value"):
        space.check({"optimizer": "sgd", "layers": 2})
    with pytest.raises(InvalidArgumentError, match="not in int"):
        space.check({"optimizer": "adam", "layers": 5})
    assert space.is_conditional


def test_true_and_one_are_two_choices() -> None:
    child = Parameter(name="k", domain=Int(1, 2))
    parent = Parameter(name="p", domain=Categorical((1, True)), children=(Child((True,), child),))
    assert list(parent.active_children(True)) == [child]
    assert list(parent.active_children(1)) == []


def test_a_name_appears_once_in_the_whole_tree() -> None:
    with pytest.raises(InvalidArgumentError, match="appears twice"):
        Space((*conditional().parameters, Parameter(name="momentum", domain=Int(1, 2))))
