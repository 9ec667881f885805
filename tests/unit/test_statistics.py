"""Statistics: what one pass learns is right, adds up over parts, and survives being stored."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import DataError, InvalidArgumentError
from tuner_trainers import data, derived, statistics
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.sketches import EXACT_LIMIT
from tuner_trainers.statistics import Statistics

Numbers = npt.NDArray[np.float64]

numbers = st.lists(
    st.one_of(
        st.integers(-5, 5).map(float),
        st.floats(-1e6, 1e6),
        st.sampled_from([math.nan, math.inf, -math.inf, -0.0]),
    ),
    max_size=60,
)
texts = st.lists(st.sampled_from(["", "a", "b", "c", "ö", "a b"]), max_size=40)


def of(values: Sequence[float] | Numbers) -> ColumnStatistics:
    return ColumnStatistics.of_numbers("x", np.asarray(values, np.float64))


def of_texts(values: Sequence[str]) -> ColumnStatistics:
    return ColumnStatistics.of_strings("x", pa.array(values, pa.string()).dictionary_encode())


def assert_same(a: ColumnStatistics, b: ColumnStatistics) -> None:
    for name in ("name", "kind", "count", "missing", "nonfinite", "is_integer", "distinct", "top"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("minimum", "maximum"):
        assert getattr(a, name) == getattr(b, name)
    assert (a.mean is None) == (b.mean is None)
    if a.mean is not None and b.mean is not None:
        assert a.mean == pytest.approx(b.mean, rel=1e-9, abs=1e-6)
        assert a.variance == pytest.approx(b.variance, rel=1e-6, abs=1e-6)
    assert a.quantiles(7).tolist() == b.quantiles(7).tolist()


def ranks(values: Numbers, boundaries: Numbers) -> Numbers:
    return np.searchsorted(np.sort(values), boundaries) / len(values)


class TestNumbers:
    def test_known_values(self) -> None:
        column = of([3.0, math.nan, 1.0, 1.0, math.inf, -0.0])
        assert (column.count, column.missing, column.nonfinite, column.present) == (6, 1, 1, 4)
        assert (column.minimum, column.maximum, column.mean) == (0.0, 3.0, 1.25)
        assert column.variance == pytest.approx(np.var([3.0, 1.0, 1.0, 0.0]))
        assert column.is_integer and column.distinct == 3
        assert column.top == (("1", 2), ("0", 1), ("3", 1))

    def test_without_values(self) -> None:
        column = of([math.nan, math.inf])
        assert (column.minimum, column.maximum, column.mean, column.variance) == (None,) * 4
        assert not column.is_integer and column.top == () and len(column.quantiles(4)) == 0

    def test_numbers_as_text(self) -> None:
        assert [text for text, _ in of([1e15, 0.1, -2.0]).top] == ["-2", "0.1", "1000000000000000"]

    def test_variance_of_large_numbers_close_together(self) -> None:
        values = 1e9 + np.random.default_rng(0).normal(size=10_000)
        merged = of(values[:3000]).merge(of(values[3000:]))
        assert merged.variance == pytest.approx(np.var(values), rel=1e-6)

    def test_huge_numbers_do_no_harm(self) -> None:
        column = of([1e308, -1e308, 1e308, 1.0]).merge(of([1e308]))
        assert column.maximum == 1e308 and column.distinct == 3
        assert (np.diff(column.quantiles(3)) > 0).all()

    @given(numbers, numbers)
    def test_parts_add_up(self, a: list[float], b: list[float]) -> None:
        assert_same(of(a).merge(of(b)), of([*a, *b]))

    @given(numbers, st.integers(2, 70))
    def test_quantiles_increase_within_the_values(self, values: list[float], buckets: int) -> None:
        column = of(values)
        found = column.quantiles(buckets)
        assert len(found) < buckets and (np.diff(found) > 0).all()
        if len(found) and column.minimum is not None and column.maximum is not None:
            assert column.minimum < found[0] and found[-1] <= column.maximum
        if 0 < column.distinct <= buckets:
            assert len(found) == column.distinct - 1


class TestStrings:
    def test_known_values(self) -> None:
        column = of_texts(["b", "", "a", "b", "c"])
        assert (column.count, column.missing, column.distinct) == (5, 1, 3)
        assert column.top == (("b", 2), ("a", 1), ("c", 1))
        assert column.mean is None and len(column.quantiles(4)) == 0

    @given(texts, texts)
    def test_parts_add_up(self, a: list[str], b: list[str]) -> None:
        merged = of_texts(a).merge(of_texts(b))
        assert_same(merged, of_texts([*a, *b]))
        counted = Counter(value for value in [*a, *b] if value)
        assert dict(merged.top) == counted

    def test_a_number_and_a_string_do_not_add_up(self) -> None:
        with pytest.raises(InvalidArgumentError, match="declare its type"):
            of([1.0]).merge(of_texts(["a"]))


@pytest.fixture(scope="module")
def values() -> Numbers:
    """Numbers of which three in ten are zero and the others all differ."""
    rng = np.random.default_rng(1)
    found = rng.lognormal(size=600_000)
    found[rng.random(len(found)) < 0.3] = 0.0
    return found


@pytest.fixture(scope="module")
def column(values: Numbers) -> ColumnStatistics:
    """The statistics of `values`, merged from parts."""
    return reduce(ColumnStatistics.merge, [of(part) for part in np.array_split(values, 9)])


class TestManyValues:
    """Beyond EXACT_LIMIT different values."""

    def test_what_is_exact_stays_exact(self, values: Numbers, column: ColumnStatistics) -> None:
        assert not column.is_exact and column.count == len(values)
        assert column.mean == pytest.approx(values.mean())
        assert column.variance == pytest.approx(values.var())
        assert (column.minimum, column.maximum) == (values.min(), values.max())

    def test_distinct_is_near(self, values: Numbers, column: ColumnStatistics) -> None:
        true = len(np.unique(values))
        assert true > EXACT_LIMIT
        assert column.distinct == pytest.approx(true, rel=0.06)

    def test_frequent_values_are_kept(self, values: Numbers, column: ColumnStatistics) -> None:
        true = int((values == 0.0).sum())
        text, count = column.top[0]
        assert text == "0"
        assert true - column.summary.counts.error <= count <= true
        assert column.summary.counts.error < len(values) / 25_000

    def test_quantiles_are_near(self, values: Numbers, column: ColumnStatistics) -> None:
        rest = values[values != 0.0]
        found = column.quantiles(200)
        assert len(found) == 199 and (np.diff(found) > 0).all()
        # The zeros fill one bucket; the others share what is left.
        assert found[0] > 0.0
        expected = np.arange(0, 199) / 199
        assert np.abs(ranks(rest, found) - expected).max() < 0.01

    def test_the_order_of_merging_hardly_matters(self, values: Numbers) -> None:
        a, b, c = (of(part) for part in np.array_split(values, 3))
        left, right = a.merge(b).merge(c), a.merge(b.merge(c))
        assert left.distinct == right.distinct
        difference = ranks(values, left.quantiles(50)) - ranks(values, right.quantiles(50))
        assert np.abs(difference).max() < 0.01

    def test_it_is_deterministic(self, values: Numbers) -> None:
        halves = [of(part) for part in np.array_split(values, 2)]
        first, second = (halves[0].merge(halves[1]) for _ in range(2))
        assert first.quantiles(64).tolist() == second.quantiles(64).tolist()

    def test_strings(self) -> None:
        words = [f"id-{i}" for i in range(150_000)] + ["common"] * 20_000
        column = of_texts(words[:90_000]).merge(of_texts(words[90_000:]))
        assert not column.is_exact
        assert column.distinct == pytest.approx(150_001, rel=0.06)
        assert column.top[0][0] == "common" and column.top[0][1] == pytest.approx(20_000, abs=7)
        assert column.count == 170_000 and column.missing == 0

    def test_sketches_survive_json(self, column: ColumnStatistics) -> None:
        stored = Statistics(rows=column.count, columns={"x": column}, fingerprint="f")
        again = Statistics.from_json(stored.to_json())
        assert_same(again.columns["x"], column)
        assert again.to_json() == stored.to_json()


@pytest.mark.parametrize("count", [1000, 100_000])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_quantiles_of_numbers_that_all_differ_are_even(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count)
    found = of(values).quantiles(100)
    assert ranks(values, found) == pytest.approx(np.arange(1, 100) / 100, abs=1.5 / count)


def test_a_spike_in_the_middle_leaves_fine_buckets_beside_it() -> None:
    values = np.concatenate([np.full(9000, 40.0), np.arange(1000.0) / 13.0])
    found = of(values).quantiles(11)
    assert len(found) == 10
    counts = np.histogram(values, [-np.inf, *found, np.inf])[0]
    assert np.sort(counts)[-1] >= 9000 and (np.sort(counts)[:-1] <= 150).all()


class TestScan:
    def test_a_pass_equals_the_sum_of_its_parts(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        table = pa.table(
            {
                "whole": rng.integers(0, 50, 20_000),
                "real": pa.array(rng.normal(size=20_000), mask=rng.random(20_000) < 0.1),
                "text": pa.array([f"t{i}" for i in rng.integers(0, 300, 20_000)]),
            }
        )
        for name, part in (("all", table), ("a", table[:7000]), ("b", table[7000:])):
            pq.write_table(part, tmp_path / f"{name}.parquet")
        whole = statistics.scan(str(tmp_path / "all.parquet"))
        parts = [statistics.scan(str(tmp_path / f"{name}.parquet")) for name in ("a", "b")]
        merged = parts[0].merge(parts[1])
        assert merged.rows == whole.rows == 20_000
        assert list(merged.columns) == ["whole", "real", "text"]
        for name, column in whole.columns.items():
            assert_same(merged.columns[name], column)
        assert merged.fingerprint not in (whole.fingerprint, parts[0].fingerprint)

    def test_file_and_back(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("a,b\n1,x\n,ö\n2.5,x\ninf,\n")
        found = statistics.scan(str(tmp_path / "rows.csv"))
        found.save(tmp_path / "statistics.json")
        again = Statistics.load(tmp_path / "statistics.json")
        assert again.fingerprint == data.fingerprint(str(tmp_path / "rows.csv"))
        assert again.rows == 4 and again.types == {"a": "number", "b": "string"}
        for name, column in found.columns.items():
            assert_same(again.columns[name], column)

    def test_the_fingerprint_tells_how_the_data_was_read(self, tmp_path: Path) -> None:
        uri = str(tmp_path / "rows.csv")
        Path(uri).write_text("a\n1\n?\n")
        plain, asked = statistics.scan(uri), statistics.scan(uri, missing_values=["?"])
        assert plain.columns["a"].kind == "string" and asked.columns["a"].missing == 1
        assert plain.fingerprint != asked.fingerprint

    def test_progress(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": np.arange(300_000)}), tmp_path / "rows.parquet")
        seen: list[tuple[int, int, int]] = []
        uri = str(tmp_path / "rows.parquet")
        statistics.scan(uri, progress=lambda rows, done, total: seen.append((rows, done, total)))
        size = (tmp_path / "rows.parquet").stat().st_size
        assert seen[-1] == (300_000, size, size)
        assert len(seen) > 1 and seen == sorted(seen)

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 99}'])
    def test_what_is_not_statistics_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(DataError, match="make them again"):
            Statistics.load(tmp_path / "s.json")

    def test_arrays_that_unfold_without_end_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("a\n1\n")
        stored = json.loads(statistics.scan(str(tmp_path / "rows.csv")).to_json())
        bomb = base64.b64encode(zlib.compress(bytes(1 << 24))).decode()
        stored["columns"][0]["summary"]["values"] = bomb
        with pytest.raises(DataError, match="longer than any"):
            Statistics.from_json(json.dumps(stored))

    def test_real_data(self, shared_data: Path) -> None:
        found = statistics.scan(str(shared_data / "adult" / "train.csv"))
        assert found.rows == 32_561 and len(found.columns) == 15
        assert dict(found.columns["income"].top) == {"<=50K": 24_720, ">50K": 7_841}
        assert found.columns["workclass"].missing == 1836
        assert found.columns["age"].mean == pytest.approx(38.5816, abs=1e-4)


class TestDerived:
    @given(
        st.lists(
            st.sampled_from(["", "a", "2013-01-02", "3.4.2013 10:00", "2013-01-02T00:00+01:00"]),
            min_size=1,
            max_size=40,
        ),
        st.integers(0, 40),
    )
    @settings(max_examples=50, deadline=None)
    def test_instants_add_up_over_parts(self, words: list[str], cut: int) -> None:
        asked = derived.Times("x")

        def learned(part: list[str]) -> list[ColumnStatistics]:
            column = pa.array(part, pa.string()).dictionary_encode()
            return list(asked.statistics({"x": column}))

        cut = min(cut, len(words))
        (whole,) = learned(words)
        if 0 < cut < len(words):
            merged = learned(words[:cut])[0].merge(learned(words[cut:])[0])
            assert_same(whole, merged)
        assert whole.present == sum("2013" in word for word in words)

    def test_rows_in_which_none_was_noticed_have_none(self, tmp_path: Path) -> None:
        for name, words in (("a", ["x", "y"]), ("b", ["2013-01-02", "2013-01-03", "z"])):
            pq.write_table(pa.table({"t": words}), tmp_path / f"{name}.parquet")
        key = derived.Times("t").keys[0]
        a, b = (statistics.scan(str(tmp_path / f"{name}.parquet")) for name in ("a", "b"))
        assert key not in a.derived and b.derived[key].missing == 1
        for merged in (a.merge(b), b.merge(a)):
            again = Statistics.from_json(merged.to_json()).derived[key]
            assert (again.count, again.missing, again.distinct) == (5, 3, 2)

    def test_what_was_asked_for_is_part_of_the_fingerprint(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"t": ["x", "y"]}), tmp_path / "a.parquet")
        uri = str(tmp_path / "a.parquet")
        plain, asked = statistics.scan(uri), statistics.scan(uri, derived=[derived.Times("t")])
        assert plain.fingerprint != asked.fingerprint
        assert asked.derived[derived.Times("t").keys[0]].missing == 2

    def test_times_of_parquet(self, tmp_path: Path) -> None:
        moments = [datetime(2013, 3, 14, 12, 5, 9, 250_000), None, datetime(2013, 1, 1)]
        table = pa.table(
            {
                "plain": pa.array(moments, pa.timestamp("us")),
                "utc": pa.array(moments, pa.timestamp("ms", tz="UTC")),
                "date": pa.array([m and m.date() for m in moments], pa.date32()),
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        found = statistics.scan(str(tmp_path / "a.parquet"))
        noon = datetime(2013, 3, 14, 12, 5, 9, 250_000, tzinfo=UTC).timestamp()
        for name, latest in (("plain", noon), ("utc", noon), ("date", noon // 86400 * 86400)):
            column = found.derived[derived.Times(name).keys[0]]
            assert (column.missing, column.maximum) == (1, latest)
