"""Expressions in the graph: as numpy computes them for the statistics, and as features."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_prepare import prepared
from tuner.errors import DataError
from tuner.expressions import parse
from tuner.study import Feature, Metric
from tuner_trainers import rows
from tuner_trainers.derived import Values
from tuner_trainers.expression_layers import ExpressionValue
from tuner_trainers.expression_values import values
from tuner_trainers.preprocessing import build_encoder, input_kinds

numbers = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e300]),
    st.integers(-1000, 1000).map(lambda whole: whole / 8),
)
leaves = st.one_of(
    st.sampled_from(["a", "b", 'column("a b")', "is_missing(a)", "is_missing(t)"]),
    st.sampled_from(['t == "x"', 't != "y"', '"x" == t']).map(lambda test: f"({test})"),
    st.integers(-20, 20).map(lambda whole: f"({whole / 4})"),
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Operations whose results IEEE 754 fixes to the last bit."""
    operators = ["+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
    functions = ["abs", "sqrt", "floor", "is_missing", "-", "not "]
    two = st.tuples(inner, inner)
    return st.one_of(
        st.builds("({0[0]} {1} {0[1]})".format, two, st.sampled_from(operators)),
        st.builds("({1}({0}))".format, inner, st.sampled_from(functions)),
        st.builds("{1}({0[0]}, {0[1]})".format, two, st.sampled_from(["min", "max"])),
        st.builds("where({0[0]}, {0[1]}, {1})".format, two, inner),
    )


written = st.recursive(leaves, _grown, max_leaves=6).map(lambda text: f"{text} + 0 * a + 0 * b")


@given(
    written,
    st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from(["", "x", "y"])), min_size=1),
)
@settings(max_examples=300, deadline=None)
def test_statistics_and_graph_agree(
    text: str, given_rows: list[tuple[float, float, float, str]]
) -> None:
    expression = parse(text)
    a, b, c, t = zip(*given_rows, strict=True)
    batch = {
        "a": np.asarray(a),
        "b": np.asarray(b),
        "a b": np.asarray(c),
        "t": pa.array(t, pa.string()).dictionary_encode(),
    }
    raw = {"a": a, "b": b, "a b": c, "t": t}
    tensors = [
        tf.constant(raw[name], tf.string if name == "t" else tf.float64)
        for name in expression.columns
    ]
    learned = values(expression, batch, len(a))
    found = ExpressionValue(text)(tensors).numpy()
    np.testing.assert_array_equal(learned, found)


@pytest.mark.parametrize(
    "text",
    ["log(a)", "log1p(a)", "exp(a)", "exp(-a)", "a ** 2", "a ** 1.5", "a ** -0.5", "2 ** a"],
)
def test_functions_agree_but_for_the_last_bits(text: str) -> None:
    usual = np.random.default_rng(0).lognormal(0, 5, 1000)
    a = np.concatenate([usual, -usual, [1e-300, 1e300, 0.0, -0.0, math.nan, math.inf]])
    learned = values(parse(text), {"a": a}, len(a))
    found = ExpressionValue(text)([tf.constant(a)]).numpy()
    np.testing.assert_allclose(found, learned, rtol=1e-13, atol=1e-305)


def expression(name: str, text: str, **given: object) -> Feature:
    return Feature(
        name=name,
        kind="expression",
        columns=tuple(parse(text).columns),
        settings={"expression": text, **given},  # type: ignore[dict-item]
    )


@pytest.fixture
def uri(tmp_path: Path) -> str:
    lines = ["price,area,kind,y"]
    for row in range(60):
        area = "" if row % 10 == 3 else str(10 + row)
        lines.append(f"{100 + 7 * row},{area},{'ab'[row % 2]},{row % 2}")
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_expressions_are_scaled_bucketed_and_crossed(uri: str) -> None:
    features = (
        expression("by area", "price / area", buckets=4),
        Feature(
            name="by area x kind",
            kind="cross",
            columns=("by area", "kind"),
            settings={"buckets": 1_000_000},
        ),
        Feature(name="kind", kind="categorical", columns=("kind",)),
    )
    metric = Metric(name="val_accuracy")
    found = prepared(uri, metric, features=features)
    # The columns of an expression are still seen by themselves.
    assert [f.name for f in found.features] == [*(f.name for f in features), "price", "area"]
    assert list(input_kinds(features, found.statistics)) == ["price", "area", "kind"]
    encoder = build_encoder(features, {}, found.statistics)
    assert encoder.id_columns == (("price", "area"), ("price", "area", "kind"), ("kind",))
    assert encoder.number_columns == ("price", "area")
    price, area = np.arange(60) * 7.0 + 100, np.arange(60) + 10.0
    area[3::10] = math.nan
    raw = {
        "price": rows.as_tensor(price),
        "area": rows.as_tensor(area),
        "kind": rows.as_tensor(np.asarray(["a", "b"] * 30, object)),
    }
    encoded = encoder.encode(raw)
    ratio = price / area
    known = np.isfinite(ratio)
    expected = (ratio - ratio[known].mean()) / ratio[known].std()
    numbers = encoded["numbers"].numpy()
    np.testing.assert_allclose(numbers[:, 0], np.where(known, expected, 0.0), atol=1e-5)
    np.testing.assert_array_equal(numbers[:, 1], ~known)
    ids = encoded["ids"].numpy()
    assert (ids[~known, 0] == 0).all()
    assert [int((ids[:, 0] == bucket).sum()) for bucket in (1, 2, 3, 4)] == [14, 13, 14, 13]
    (key,) = Values("price / area").keys
    coarse = np.searchsorted(found.statistics.derived[key].quantiles(16), ratio[known], "right")
    combinations = set(zip(coarse, np.asarray(["a", "b"] * 30)[known], strict=True))
    assert len(set(ids[known, 1])) == len(combinations) > 20


def test_what_the_data_does_not_fit_is_refused(uri: str) -> None:
    metric = Metric(name="val_accuracy")
    for text, words in (
        ("kind + 1", "'kind' is a string, but the expression takes a number"),
        ("price / (area - area)", "missing in every row"),
        ('price == "x"', "'price' is a number, but the expression takes a string"),
        ("rooms + 1", "no column 'rooms'"),
    ):
        with pytest.raises(DataError, match=words):
            prepared(uri, metric, features=(expression("new", text),))
    with pytest.raises(DataError, match="a column is called so"):
        prepared(uri, metric, features=(expression("price", "area + 1"),))
