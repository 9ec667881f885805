"""Expressions: what may be written, what it means, and what it needs of columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from tuner.errors import InvalidArgumentError
from tuner.expressions import MAX_LENGTH, parse
from tuner_trainers import derived
from tuner_trainers.expression_values import fits, values

NAN = math.nan


def value(text: str, **columns: float | str) -> float:
    """The value of an expression in one row."""
    batch = {
        name: pa.array([of], pa.string()).dictionary_encode()
        if isinstance(of, str)
        else np.asarray([of])
        for name, of in columns.items()
    }
    found: Sequence[float] = values(parse(text), batch, 1).tolist()
    return found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 7.0),
        ("-a + +b * 2 - 1", -3.0),
        ("a / b", 7 / 2.5),
        ("a // b", 2.0),
        ("a % b", 2.0),
        ("(0 - a) // b", -3.0),
        ("(0 - a) % b", 0.5),
        ("a ** 2", 49.0),
        ("min(a, b, 3)", 2.5),
        ("max(a, b, 9)", 9.0),
        ("abs(b - a)", 4.5),
        ("log(exp(a))", 7.0),
        ("log1p(a)", math.log(8)),
        ("sqrt(a + 2)", 3.0),
        ("floor(b)", 2.0),
        ("a > b", 1.0),
        ("a == 7", 1.0),
        ("a != 7", 0.0),
        ("0 < b <= 2.5 < a", 1.0),
        ("0 < b < 2.5", 0.0),
        ("a and b", 1.0),
        ("a and 0", 0.0),
        ("0 * a or 0", 0.0),
        ("not a", 0.0),
        ("where(a > b, a, b)", 7.0),
        ("where(a < b, a, b)", 2.5),
        ("is_missing(a)", 0.0),
        ("is_missing(a / 0)", 1.0),
        ('where(c == "x", a, b)', 7.0),
        ('"y" == c', 0.0),
        ('c != " x "', 0.0),
        ('column("a b") + a', 8.0),
        ("1e308 * a - 1e308 * a + 1", NAN),
    ],
)
def test_meaning(text: str, expected: float) -> None:
    given: dict[str, float | str] = {"a": 7.0, "b": 2.5, "c": "x", "a b": 1.0}
    assert value(text, **given) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + n", NAN),
        ("n > 0", NAN),
        ("n == n", NAN),
        ("min(a, n)", NAN),
        ("n ** 0", NAN),
        ("1 ** n", NAN),
        ("n and 0 * a", NAN),
        ("not n", NAN),
        ("where(n, a, a)", NAN),
        ("where(a, 1, n)", 1.0),
        ("where(a > 9, n, 2)", 2.0),
        ("where(is_missing(n), a, n)", 7.0),
        ("is_missing(n) + is_missing(t)", 2.0),
        ('t == "x"', NAN),
        ('t != "x"', NAN),
        ("a / 0", NAN),
        ("0 / (a - 7)", NAN),
        ("log(0 - a)", NAN),
        ("log(0 * a)", NAN),
        ("exp(a * 1000)", NAN),
        ("i + 1", NAN),
        ("is_missing(i)", 1.0),
    ],
)
def test_what_is_missing(text: str, expected: float) -> None:
    given: dict[str, float | str] = {"a": 7.0, "n": NAN, "i": math.inf, "t": ""}
    assert value(text, **given) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no expression"),
        ("a +", "no expression"),
        ("a; b", "no expression"),
        ("a = 1", "no expression"),
        ("1 + 2", "names no column"),
        ("sin(a)", "no function 'sin'"),
        ("a.b", "not allowed"),
        ("a[0]", "not allowed"),
        ("__import__('os')", "no function '__import__'"),
        ("(lambda: 1)()", "not allowed"),
        ("[a for a in b]", "not allowed"),
        ("a if b else c", "not allowed"),
        ("a & b", "not allowed"),
        ("a in b", "not allowed"),
        ("a is b", "not allowed"),
        ("True + a", "not allowed"),
        ("1j + a", "not allowed"),
        ("f'{a}'", "not allowed"),
        ("(a := 1)", "not allowed"),
        ("min(a)", "takes 2 to 16 values, but got 1"),
        ("is_missing(a, b)", "takes 1 values, but got 2"),
        ("is_missing()", "takes 1 values, but got 0"),
        ("column(a)", "takes a name in quotes"),
        ("where(a, b)", "takes 3 values, but got 2"),
        ("log(a, base=2)", "not allowed"),
        ("min(*a)", "takes 2 to 16"),
        ("max(*a, b)", "not allowed"),
        ("'x' + a", "not allowed"),
        ("a < 'x'", "only compared with a column"),
        ("log(a) == 'x'", "only compared with a column"),
        ("a == ''", r"write is_missing\(a\)"),
        ("a == 'x' + 0 * a", "not allowed"),
        ("where(a == 'x', a, 0)", "as a number and as a text"),
        ("9" * 400 + " + a", "below 1e308"),
        ("a" * (MAX_LENGTH + 1), "at most 1000 characters"),
        ("-" * 900 + "a", "more than|too deep|no expression"),
        ("(" * 400 + "a" + ")" * 400, "more than|too many|no expression"),
        ("a\0", "no expression"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        parse(text)


def test_columns_and_what_they_must_hold() -> None:
    found = parse('where(c == "x", log(a), b) + is_missing(d) + is_missing(a) + column("e f")')
    assert dict(found.columns) == {
        "c": "string",
        "a": "number",
        "b": "number",
        "d": "any",
        "e f": "number",
    }
    kinds = {"c": "string", "a": "number", "b": "number", "d": "string", "e f": "number"}
    assert fits(found, kinds) == ""
    assert "'c' is a number, but the expression takes a string" in fits(
        found, {**kinds, "c": "number"}
    )


def test_statistics_are_those_of_the_values() -> None:
    (found,) = derived.Values("a / b").statistics(
        {"a": np.asarray([1.0, 4.0, NAN, 1.0]), "b": np.asarray([2.0, 2.0, 1.0, 0.0])}
    )
    assert (found.count, found.missing, found.mean, found.minimum) == (4, 2, 1.25, 0.5)
    (none,) = derived.Values("a + 1").statistics({"a": pa.array(["x"]).dictionary_encode()})
    assert none.present == 0
