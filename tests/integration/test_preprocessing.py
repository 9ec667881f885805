"""Preprocessing: how features of each kind encode values, missing ones and unseen ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import DataError
from tuner.space import Categorical, Space, Value
from tuner.study import Feature
from tuner_trainers import derived, rows, statistics, tabular
from tuner_trainers.preprocessing import Encoder, IdFeature, build_encoder
from tuner_trainers.statistics import Statistics
from tuner_trainers.tabular import Lookup

NAN = math.nan


def _encoder(
    folder: Path,
    columns: Mapping[str, Iterable[object]],
    *features: Feature,
    missing: tuple[str, ...] = (),
    parameters: Mapping[str, Value] | None = None,
) -> Encoder:
    """The encoder for training data that holds `columns`."""
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    space = Space.of({name: Categorical((value,)) for name, value in (parameters or {}).items()})
    learned = statistics.scan(
        str(path), missing_values=missing, derived=derived.asked_for(features, space)
    )
    learned = Statistics.from_json(learned.to_json())
    return build_encoder(features, parameters or {}, learned, missing)


def _numbers(encoder: Encoder, **columns: Sequence[Any]) -> list[list[float]]:
    found: list[list[float]] = _encoded(encoder, columns)["numbers"].numpy().tolist()
    return found


def _ids(encoder: Encoder, **columns: Sequence[Any]) -> list[list[int]]:
    """The ids, a list for each feature."""
    found: list[list[int]] = _encoded(encoder, columns)["ids"].numpy().T.tolist()
    return found


def _encoded(encoder: Encoder, columns: Mapping[str, Sequence[Any]]) -> Mapping[str, tf.Tensor]:
    raw = {}
    for name, values in columns.items():
        text = any(isinstance(value, str) for value in values)
        raw[name] = rows.as_tensor(np.asarray(values, object if text else np.float64))
    return encoder.encode(raw)


def _feature(kind: str, *columns: str, **settings: Value) -> Feature:
    return Feature(name=" x ".join(columns), kind=kind, columns=columns, settings=settings)


def test_zscore_is_computed_in_double_precision(tmp_path: Path) -> None:
    values = [1e9, 1e9 + 1, 1e9 + 2]
    encoder = _encoder(tmp_path, {"a": values}, _feature("numeric", "a"))
    deviation = float(np.std([0, 1, 2]))
    assert _numbers(encoder, a=[1e9 + 1, 1e9 + 2]) == [[0.0], [np.float32(1 / deviation)]]


def test_missing_numbers_take_the_mean_and_are_told(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path, {"a": [1, 3, ""], "b": [0, 0, 0]}, _feature("numeric", "a"))
    assert _numbers(encoder, a=[NAN, 2.0, math.inf]) == [[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_without_missing_numbers_in_training_there_is_no_indicator(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path, {"a": [1, 3]}, _feature("numeric", "a"))
    assert _numbers(encoder, a=[NAN]) == [[0.0]]


def test_numbers_that_mean_missing_are_missing(tmp_path: Path) -> None:
    feature = _feature("numeric", "a")
    encoder = _encoder(tmp_path, {"a": [1, 3, -999], "b": [0, 0, 0]}, feature, missing=("-999",))
    assert _numbers(encoder, a=[-999.0, 2.0]) == [[0.0, 1.0], [0.0, 0.0]]


def test_log_scaling_has_mean_0_and_deviation_1(tmp_path: Path) -> None:
    values = [-math.expm1(3), 0.0, math.expm1(3), math.expm1(6)]
    encoder = _encoder(tmp_path, {"a": values}, _feature("numeric", "a", scaling="log"))
    found = np.ravel(_numbers(encoder, a=values))
    logs = np.asarray([-3.0, 0.0, 3.0, 6.0])
    np.testing.assert_allclose(found, (logs - logs.mean()) / logs.std(), rtol=1e-6)


def test_quantile_scaling_gives_ranks(tmp_path: Path) -> None:
    values = [0.0] * 50 + list(range(1, 51))
    encoder = _encoder(tmp_path, {"a": values}, _feature("numeric", "a", scaling="quantile"))
    found = np.ravel(_numbers(encoder, a=[-5.0, 0.0, 25.5, 50.0, 1e6, NAN]))
    np.testing.assert_allclose(found, [0.25, 0.25, 0.75, 0.995, 0.995, 0.5], atol=0.006)
    assert (np.diff(np.ravel(_numbers(encoder, a=sorted(values)))) >= 0).all()


@pytest.mark.parametrize("scaling", ["zscore", "log", "quantile", "none"])
def test_a_constant_column_gives_finite_numbers(tmp_path: Path, scaling: str) -> None:
    encoder = _encoder(tmp_path, {"a": [5, 5]}, _feature("numeric", "a", scaling=scaling))
    assert np.isfinite(_numbers(encoder, a=[5.0, 6.0, NAN, -1e308])).all()


@given(
    values=st.lists(st.integers(-(10**6), 10**6).map(lambda n: n / 8), min_size=3, max_size=40),
    clip=st.sampled_from([0.05, 0.2, 0.4]),
    scaling=st.sampled_from(["zscore", "log", "none"]),
)
@settings(max_examples=30, deadline=None)
def test_clipped_numbers_are_scaled_as_the_numbers_at_the_quantiles(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], clip: float, scaling: str
) -> None:
    feature = _feature("numeric", "a", scaling=scaling, clip=clip)
    encoder = _encoder(tmp_path_factory.mktemp("clip"), {"a": values}, feature)
    cut = Fraction(str(clip)) * len(values)
    low, high = (sorted(values)[math.ceil(rank) - 1] for rank in (cut, len(values) - cut))
    clipped = np.clip(values, low, high)
    if scaling == "log":
        clipped = np.sign(clipped) * np.log1p(np.abs(clipped))
    if scaling != "none":
        spread = clipped.std() if np.ptp(clipped) else 1.0
        clipped = (clipped - clipped.mean()) / spread
    found = np.ravel(_numbers(encoder, a=values))
    np.testing.assert_allclose(found, clipped, rtol=1e-5, atol=1e-6)
    extremes = _numbers(encoder, a=[-1e300, 1e300, NAN])
    assert extremes[0] == pytest.approx([found.min()], rel=1e-6, abs=1e-9)
    assert extremes[1] == pytest.approx([found.max()], rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(
        extremes[2], clipped.mean() if scaling == "none" else 0.0, 1e-5, 1e-6
    )


def test_clipping_leaves_ranks_between_the_quantiles(tmp_path: Path) -> None:
    feature = _feature("numeric", "a", scaling="quantile", clip=0.25)
    encoder = _encoder(tmp_path, {"a": range(100)}, feature)
    found = np.ravel(_numbers(encoder, a=[0.0, 10.0, 50.0, 90.0, 99.0]))
    assert found[0] == found[1] and found[3] == found[4]
    np.testing.assert_allclose(found, [0.125, 0.125, 0.5, 0.875, 0.875], atol=0.02)


def test_parts_of_a_time_and_the_time_itself(tmp_path: Path) -> None:
    texts = [f"2013-{month:02d}-0{day} 06:00" for month in (1, 4, 12) for day in (1, 2)]
    feature = _feature("datetime", "a", weekday="one_hot", month="cyclic", day="none", hour="none")
    encoder = _encoder(tmp_path, {"a": texts, "b": [1] * 6}, feature)
    assert encoder.ids == (IdFeature(name="a.weekday", size=8, reserved=1, embedding=0),)
    assert _ids(encoder, a=["2013-04-01", "", "7.4.2013 23:59"]) == [[1, 0, 7]]
    found = np.asarray(_numbers(encoder, a=[*texts, "2013-04-01T06:00+02:00"]))
    np.testing.assert_allclose(found[2, :2], [1, 0], atol=1e-6)
    np.testing.assert_allclose([found[:-1, 2].mean(), found[:-1, 2].std()], [0, 1], atol=1e-6)
    assert found[-1, 2] < found[2, 2]  # two hours earlier, at the same hour


def test_times_that_are_missing_in_training_are_told(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "a": ["2013-01-01", "?", "2014-01-01"],
        "b": [1, 1, 1],
    }
    feature = _feature("datetime", "a", year=True, weekend=True)
    encoder = _encoder(tmp_path, columns, feature, missing=("?",))
    found = _numbers(encoder, a=["2013-01-05", "?", "", "later"])
    assert len(found[0]) == 2 + 4  # the weekday, the year, weekend, time elapsed, missing
    assert found[0][-3] == 1.0 and found[0][-1] == 0.0
    assert found[1] == found[2] == found[3] == [0.0] * 5 + [1.0]


def test_numbers_that_are_times(tmp_path: Path) -> None:
    feature = _feature("datetime", "a", hour="one_hot", weekday="none", month="none", day="none")
    encoder = _encoder(tmp_path, {"a": [1.3e12, 1.4e12]}, feature)
    assert _ids(encoder, a=[1363262709000.0, NAN]) == [[13, 0]]
    assert _numbers(encoder, a=[1.35e12, NAN, 1e300]) == [[0.0]] * 3
    dates = _encoder(
        tmp_path, {"a": [20130314, 20130316]}, _feature("datetime", "a", unit="yyyymmdd")
    )
    assert _numbers(dates, a=[20130315.0]) == [[0.0]]


def test_a_trial_that_draws_no_part_sees_whether_there_is_a_time(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("month", "day", "weekday", "hour"), "none")
    feature = _feature("datetime", "a", elapsed=False, **nothing)
    encoder = _encoder(tmp_path, {"a": ["2013-01-01", "2013-01-02"]}, feature)
    assert _numbers(encoder, a=["2013-01-05", ""]) == [[0.0], [1.0]]


def test_a_column_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no date or time"):
        _encoder(tmp_path, {"a": ["x", "y"]}, _feature("datetime", "a"))


def test_unscaled_numbers_stay_and_missing_ones_take_the_mean(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path, {"a": [2010, 2014]}, _feature("numeric", "a", scaling="none"))
    assert _numbers(encoder, a=[2011.0, NAN]) == [[2011.0], [2012.0]]


def test_buckets_start_at_their_boundary_and_missing_has_its_own(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path, {"a": range(100)}, _feature("numeric", "a", buckets=4))
    learned = statistics.scan(str(tmp_path / "train.csv")).columns["a"]
    values = [-1e9, 0.0, 24.0, 25.0, 49.5, 50.0, 74.0, 75.0, 99.0, 1e9]
    expected = 1 + np.searchsorted(learned.quantiles(4), values, side="right")
    assert _ids(encoder, a=[*values, NAN, math.inf]) == [[*expected.tolist(), 0, 0]]
    assert encoder.ids == (IdFeature(name="a", size=5, reserved=1, embedding=0),)


def test_a_parameter_tunes_a_feature(tmp_path: Path) -> None:
    encoder = _encoder(
        tmp_path, {"a": range(100)}, _feature("numeric", "a"), parameters={"a.buckets": 10}
    )
    assert encoder.ids[0].size == 11


def test_vocabulary_keeps_the_most_frequent_values(tmp_path: Path) -> None:
    values = ["x"] * 3 + ["y"] * 2 + ["z", "?"]
    feature = _feature("categorical", "a", vocabulary=2)
    encoder = _encoder(tmp_path, {"a": values}, feature, missing=("?",))
    assert _ids(encoder, a=["x", "y", "z", "new", "", "?", " x ", "X"]) == [
        [2, 3, 1, 1, 0, 0, 2, 1]
    ]
    assert encoder.ids == (IdFeature(name="a", size=4, reserved=2, embedding=0),)


def test_unseen_values_share_the_buckets_outside_the_vocabulary(tmp_path: Path) -> None:
    feature = _feature("categorical", "a", vocabulary=1, oov_buckets=5)
    encoder = _encoder(tmp_path, {"a": ["x", "x", "y"]}, feature)
    (found,) = _ids(encoder, a=[*(f"new {number}" for number in range(100)), "x"])
    assert set(found[:-1]) == {1, 2, 3, 4, 5}
    assert found[-1] == 6


def test_vocabulary_of_numbers(tmp_path: Path) -> None:
    values: list[object] = [0.1, 0.1, 0.1, 7, 7, -0.0, ""]
    columns: dict[str, list[object]] = {"a": values, "b": [1] * 7}
    encoder = _encoder(tmp_path, columns, _feature("categorical", "a"))
    assert _ids(encoder, a=[0.1, 7.0, 0.0, -0.0, 0.1 + 1e-16, 8.0, NAN]) == [[2, 3, 4, 4, 1, 1, 0]]


def test_words_beyond_ascii_are_words(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path, {"a": ["Zürich", "東京"]}, _feature("categorical", "a"))
    (found,) = _ids(encoder, a=["東京", "Zürich", "Zurich"])
    assert sorted(found[:2]) == [2, 3]
    assert found[2] == 1


def test_hashes_never_change(tmp_path: Path) -> None:
    """An exported model must hash as the process that trained it, whatever its version."""
    columns: dict[str, list[object]] = {"a": ["x", "y"], "b": [1.5, 2], "c": ["u", "v"]}
    features = [
        _feature("categorical", "a", hash_buckets=1000),
        _feature("categorical", "b", hash_buckets=1000),
        _feature("cross", "a", "c", buckets=1000),
    ]
    encoder = _encoder(tmp_path, columns, *features)
    found = _ids(encoder, a=["x", "New York", ""], b=[1.5, -2.0, NAN], c=["u", "", ""])
    assert found == [[971, 199, 0], [993, 493, 0], [670, 877, 0]]


def test_crosses_depend_on_every_column_and_its_place(tmp_path: Path) -> None:
    columns = {"a": ["x", "y"], "b": ["x", "y"]}
    encoder = _encoder(tmp_path, columns, _feature("cross", "a", "b", buckets=100_000))
    (found,) = _ids(encoder, a=["x", "y", "x", "y", "", "x"], b=["x", "x", "y", "y", "x", ""])
    assert len(set(found)) == 6
    assert 0 not in found


def test_numbers_of_many_values_enter_crosses_by_buckets(tmp_path: Path) -> None:
    columns = {"a": range(160), "b": ["x", "y"] * 80}
    encoder = _encoder(tmp_path, columns, _feature("cross", "a", "b", buckets=100_000))
    (found,) = _ids(encoder, a=[1.0, 2.0, 150.0], b=["x", "x", "x"])
    assert found[0] == found[1] != found[2]
    (found,) = _ids(encoder, a=[float(number) for number in range(160)], b=["x"] * 160)
    assert len(set(found)) == 16


def test_embeddings_default_to_one_hot_while_values_are_few(tmp_path: Path) -> None:
    columns = {
        "a": [f"few {row % 5}" for row in range(200)],
        "b": [f"v{row}" for row in range(200)],
    }
    features = (_feature("categorical", "a"), _feature("categorical", "b"))
    encoder = _encoder(tmp_path, columns, *features)
    assert encoder.ids[0].embedding == 0
    assert encoder.ids[1].embedding > 0


def test_shared_tables_have_one_vocabulary_of_all_columns(tmp_path: Path) -> None:
    columns = {"a": ["x", "x", "y", "y"], "b": ["y", "z", "z", ""], "c": ["x"] * 4}
    features = (
        _feature("categorical", "a", share="t", vocabulary=2, embedding=3),
        _feature("categorical", "b", share="t"),
        _feature("categorical", "c"),
    )
    encoder = _encoder(tmp_path, columns, *features)
    assert _ids(encoder, a=["x", "y", "z", ""], b=["x", "y", "z", ""], c=["x"] * 4)[:2] == [
        [3, 2, 1, 0],  # y is the most frequent of all; of x and z, both twice, x comes first
        [3, 2, 1, 0],
    ]
    assert [(f.size, f.embedding, f.table) for f in encoder.ids] == [
        (4, 3, "t"),
        (4, 3, "t"),
        (3, 0, ""),
    ]


def test_shared_tables_are_not_one_hot(tmp_path: Path) -> None:
    features = (
        _feature("categorical", "a", share="t"),
        _feature("categorical", "b", share="t", hash_buckets=10),
    )
    encoder = _encoder(tmp_path, {"a": ["x", "y"], "b": ["y", "x"]}, *features)
    assert [(f.size, f.embedding > 0) for f in encoder.ids] == [(11, True)] * 2
    found = _ids(encoder, a=["x", "new"], b=["x", "new"])
    assert found[0] == found[1]


def test_columns_that_share_learn_the_same_vectors_but_their_own_sums() -> None:
    features = [
        IdFeature(name="a", size=4, reserved=1, embedding=3, table="t"),
        IdFeature(name="b", size=3, reserved=1, embedding=3),
        IdFeature(name="c", size=4, reserved=1, embedding=3, table="t"),
    ]
    ids = tf.constant([[2, 1, 2], [0, 0, 3]])
    vectors = Lookup.over(features, features, 3, "concatenate")
    found = vectors(ids).numpy().reshape(2, 3, 3)
    assert vectors.table.shape == (7, 3)
    np.testing.assert_array_equal(found[0, 0], found[0, 2])
    assert not found[1, :2].any() and found[1, 2].any()
    again = Lookup.from_config(vectors.get_config())
    again(ids)
    again.set_weights(vectors.get_weights())
    np.testing.assert_array_equal(again(ids), vectors(ids))
    sums = Lookup.over(features, features, 2, "sum")
    sums(ids)
    assert sums.table.shape == (11, 2)


def test_rows_encode_the_same_alone_and_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.lognormal(3, 2, 1000)
    columns = {"a": numbers, "b": rng.choice(["x", "y", "z"], 1000)}
    features = (
        _feature("numeric", "a", scaling="log", buckets=7),
        _feature("categorical", "b"),
        _feature("cross", "a", "b"),
    )
    encoder = _encoder(tmp_path, columns, *features)
    raw = {"a": rows.as_tensor(numbers), "b": rows.as_tensor(columns["b"].astype(object))}
    together = encoder.encode(raw)
    for row in (0, 1, 500, 999):
        alone = encoder.encode({name: tensor[row : row + 1] for name, tensor in raw.items()})
        np.testing.assert_array_equal(alone["ids"][0], together["ids"][row])
        np.testing.assert_array_equal(alone["numbers"][0], together["numbers"][row])


def test_names_of_columns_are_free(tmp_path: Path) -> None:
    names = ("a/b", "class", "über all", "self")
    columns = {name: [1, 2] for name in names}
    encoder = _encoder(tmp_path, columns, *(_feature("numeric", name) for name in names))
    found = _encoded(encoder, {name: [1.5] for name in names})
    assert found["numbers"].numpy().tolist() == [[0.0] * 4]


def test_strings_are_no_numeric_feature(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="categorical"):
        _encoder(tmp_path, {"a": ["x"]}, _feature("numeric", "a"))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'b'"):
        _encoder(tmp_path, {"a": ["x"]}, _feature("categorical", "b"))


def test_lookups_add_rows_as_a_product_with_the_one_hot_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = [
        IdFeature(name="a", size=4, reserved=1, embedding=0),
        IdFeature(name="b", size=3, reserved=2, embedding=0),
        IdFeature(name="c", size=5, reserved=1, embedding=0),
    ]
    layer = Lookup.over([features[2], features[0]], features, 6, "sum", bias=True)
    ids = tf.constant([[0, 2, 4], [3, 0, 0], [2, 1, 1]])
    layer(ids)
    layer.set_weights([np.random.default_rng(0).normal(size=(9, 6)), np.arange(6.0)])
    table = layer.table.numpy()
    expected = table[[4, 0, 1]] + table[[5, 8, 7]] + np.arange(6.0)
    np.testing.assert_allclose(layer(ids), expected, rtol=1e-5)
    monkeypatch.setattr(tabular, "MATMUL_LIMIT", 0)
    np.testing.assert_allclose(layer(ids), expected, rtol=1e-5)


def test_values_never_seen_start_without_an_opinion() -> None:
    features = [
        IdFeature(name="a", size=4, reserved=2, embedding=3),
        IdFeature(name="b", size=3, reserved=1, embedding=3),
    ]
    layer = Lookup.over(features, features, 3, "concatenate")
    found = layer(tf.constant([[0, 0], [1, 2], [2, 1]])).numpy()
    assert found.shape == (3, 6)
    assert not found[0].any() and not found[1, :3].any()
    assert found[1, 3:].all() and found[2].all()
