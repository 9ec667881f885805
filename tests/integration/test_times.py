"""Dates and times: what is read, the same by statistics and graph, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_trainers import times
from tuner_trainers.time_layers import NumberTime, TextTime, TimeNumbers, TimePart

NOON = datetime(2013, 3, 14, 12, 5, 9, tzinfo=UTC).timestamp()
DAY = datetime(2013, 3, 14, tzinfo=UTC).timestamp()

#: How people write times.
FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d",
    "%Y%m%dT%H%M%SZ",
    "%m/%d/%Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y, %I:%M %p",
    "%d.%m.%Y %H:%M",
    "%d %b %Y",
    "%d-%b-%Y",
    "%B %d, %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)


def in_graph(texts: Sequence[str], day_first: bool = False) -> npt.NDArray[np.float64]:
    """Wall times and instants [texts, 2]."""
    found: npt.NDArray[np.float64] = TextTime(day_first)(tf.constant(list(texts))).numpy()
    return found


def instants(texts: Sequence[str], day_first: bool = False) -> list[float]:
    """The instants, once statistics and graph agree on them."""
    learned = times.of_texts(pa.array(texts, pa.string()), day_first)
    np.testing.assert_array_equal(learned, in_graph(texts, day_first)[:, 1])
    found: list[float] = learned.tolist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-03-14T12:05:09Z", NOON),
        ("2013-03-14 12:05:09.25", NOON + 0.25),
        ("2013-03-14 12:05:09,250000000123", NOON + 0.25),
        ("2013-03-14T14:05:09+02:00", NOON),
        ("2013-03-14T07:35:09-0430", NOON),
        ("2013-03-14T14:05:09+02", NOON),
        ("20130314T120509Z", NOON),
        ("  2013-3-14 ", DAY),
        ("2013/03/14", DAY),
        ("20130314", DAY),
        ("2013-03", DAY - 13 * 86400),
        ("3/14/2013", DAY),
        ("3/14/2013 12:05:09 PM", NOON),
        ("3/14/2013 12:00 am", DAY),
        ("14.3.2013", DAY),
        ("14 Mar 2013", DAY),
        ("14-MAR-2013 12:05:09", NOON),
        ("March 14th, 2013", DAY),
        ("Thu, 14 Mar 2013 12:05:09 +0000", NOON),
        ("1969-12-31T23:59:59Z", -1.0),
        ("0001-01-01", times.EARLIEST),
        ("9999-12-31T23:59:59", times.LATEST),
        ("2012-02-29", datetime(2012, 2, 29, tzinfo=UTC).timestamp()),
    ],
)
def test_texts_that_are_times(text: str, expected: float) -> None:
    assert instants([text]) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2013-02-29", "1900-02-29", "2013-13-01", "2013-00-10", "2013-01-00",
        "31/12/2013", "2013-03-14 24:00", "2013-03-14 10:60", "2013-03-14 10:10:60", "10:15",
        "2013", "3/14/13", "13:00 PM 3/14/2013", "3/14/2013 13:00 PM", "3/14/2013 0:30 am",
        "2013-03-14T10:00:00+25:00", "2013-03-14T10:00:00+02:60", "2013-03-14 and more",
        "0000-01-01", "14 Foo 2013", "a|b|c|d|e|f|g|h", "1|2|3", "٢٠١٣-٠٣-١٤", "0|0|0|||||",
    ],
)  # fmt: skip
def test_texts_that_are_none(text: str) -> None:
    assert math.isnan(instants([text])[0])
    assert np.isnan(in_graph([text])).all()


def test_the_day_comes_first_where_that_is_said() -> None:
    assert instants(["4/3/2013", "14-03-2013"], day_first=True) == [DAY - 10 * 86400, DAY]
    assert math.isnan(instants(["3/14/2013"], day_first=True)[0])
    assert instants(["14.03.2013", "2013-03-14"], day_first=True) == [DAY, DAY]


@given(
    moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
        lambda found: found.replace(microsecond=found.microsecond // 1000 * 1000)
    ),
    form=st.sampled_from(FORMATS),
    minutes=st.integers(-14 * 60, 14 * 60),
)
@settings(max_examples=300, deadline=None)
def test_python_reads_what_it_writes_the_same(moment: datetime, form: str, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    year = f"{moment.year:04d}"
    text = aware.strftime(form.replace("%Y", year).replace("%f", f"{moment.microsecond:06d}"))
    expected = datetime.strptime(text, form.replace("%f", "%f"))
    zone = expected.tzinfo or UTC
    wall, instant = in_graph([text])[0].tolist()
    assert instants([text]) == [instant]
    epoch = datetime(1970, 1, 1)
    assert wall == pytest.approx((expected.replace(tzinfo=None) - epoch).total_seconds(), abs=1e-4)
    offset = zone.utcoffset(expected)
    assert offset is not None and wall - instant == pytest.approx(offset.total_seconds(), abs=1e-4)


@given(st.lists(st.text(alphabet="0123456789-/:.,|tzapm+ janfebmr٣é\n", max_size=24), max_size=20))
@settings(max_examples=300, deadline=None)
def test_statistics_and_graph_agree_on_any_text(texts: list[str]) -> None:
    instants([*texts, "2013-03-14"])


@given(st.integers(-719_162, 2_932_896))
def test_the_calendar_is_pythons(days: int) -> None:
    moment = datetime(1970, 1, 1) + timedelta(days=days)
    assert times.date_of(days) == (moment.year, moment.month, moment.day)
    assert times.days_of(moment.year, moment.month, moment.day) == days
    assert times.part_of("weekday", days * 86400) == moment.weekday()


@pytest.mark.parametrize("unit", [*times.UNITS, times.YYYYMMDD])
@given(numbers=st.lists(st.floats(allow_subnormal=False), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_statistics_and_graph_agree_on_any_number(unit: str, numbers: list[float]) -> None:
    values = np.asarray([*numbers, 20130314.0, 1363219200.0, 1363219200000.0])
    found = NumberTime(unit)(tf.constant(values)).numpy()
    # TensorFlow takes numbers below 1e-308 for zero.
    np.testing.assert_allclose(times.of_numbers(values, unit), found[:, 0], rtol=0, atol=1e-307)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_numbers_that_are_times() -> None:
    assert times.of_numbers(np.asarray([20130314.0, 20130229.0]), times.YYYYMMDD)[0] == DAY
    assert math.isnan(times.of_numbers(np.asarray([20130229.0]), times.YYYYMMDD)[0])
    for unit, number in (
        ("seconds", DAY),
        ("milliseconds", DAY * 1e3),
        ("nanoseconds", DAY * 1e9),
    ):
        assert times.unit_of(number) == unit
        assert times.of_numbers(np.asarray([number]), unit)[0] == pytest.approx(DAY)


def test_parts_go_round_and_missing_times_are_told() -> None:
    time = TextTime()(tf.constant(["2013-03-14T18:00:00+05:00", "", "2013-06-15"]))
    layer = TimeNumbers(
        cyclic=["hour", "month"],
        year=[2013, 2],
        weekend=True,
        elapsed=[DAY, 86400],
        indicator=True,
    )
    found = layer(time).numpy()
    angle = 2 * np.pi * 2 / 12
    expected = [-1.0, 0.0, math.sin(angle), math.cos(angle), 0.0, 0.0, 13 / 24, 0.0]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert found[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert found[2, 5] == 1.0  # a Saturday
    assert layer.compute_output_spec(time).shape == found.shape


def test_parts_count_from_one() -> None:
    time = TextTime()(tf.constant(["2013-03-14T18:59:00+05:00", "never", "2013-12-31"]))
    parts = {name: TimePart(name)(time).numpy().tolist() for name in times.PARTS}
    assert parts == {
        "month": [3, 0, 12],
        "day": [14, 0, 31],
        "weekday": [4, 0, 2],
        "hour": [19, 0, 1],
        "minute": [60, 0, 1],
    }
