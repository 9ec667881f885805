"""Keras layers that read dates and times in the graph, and turn them into numbers and ids.

A *time* is float64 [batch, 2]: its wall time, and its instant, in seconds since 1970; NaN where
there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner_trainers import times
from tuner_trainers.layers import LIMIT, RawLayer


@keras.saving.register_keras_serializable(package="tuner")
class TextTime(RawLayer):
    """The time that a text tells, as `times.of_texts` reads it.

    Call: string [batch] -> float64 [batch, 2].

    Args:
        day_first: whether 3/4/2013 is the third of April.
    """

    output_dtype = "float64"
    output_width = 2

    def __init__(self, day_first: bool = False, **base: Any) -> None:
        super().__init__(day_first=day_first, **base)
        self.day_first = day_first
        with tf.init_scope():
            self.months = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    list(times.MONTHS), list(times.MONTHS.values()), tf.string, tf.int64
                ),
                default_value=0,
            )

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """string [batch] -> float64 [batch, 2]."""
        rewritten = tf.strings.lower(tf.strings.strip(texts))
        for pattern, replacement in times.rewrites(self.day_first):
            rewritten = tf.strings.regex_replace(rewritten, pattern, replacement)
        found = tf.strings.regex_full_match(rewritten, times.REWRITTEN)
        rewritten = tf.strings.regex_replace(rewritten, ",", ".")
        fields = tf.strings.split(tf.where(found, rewritten, times.NO_TIME), "|").flat_values
        year, month, day, hour, minute, second, half, offset = tf.unstack(
            tf.reshape(fields, (-1, times.FIELDS)), axis=1
        )
        digits = tf.strings.join([tf.strings.regex_replace(offset, "[^0-9]", ""), "00"])
        exists, wall, ahead = times.clock(
            (_whole(year), self.months.lookup(month), _whole(day)),
            _whole(hour),
            _whole(minute),
            tf.cast(half == "a", tf.int64),
            tf.cast(half == "p", tf.int64),
            1 - 2 * tf.cast(tf.strings.substr(offset, 0, 1) == "-", tf.int64),
            _whole(tf.strings.substr(digits, 0, 4)),
        )
        seconds = tf.strings.to_number(tf.strings.join(["0", second]), tf.float64)
        both = tf.cast(tf.stack([wall, wall - ahead], axis=1), tf.float64) + seconds[:, None]
        return _known(exists & (seconds < 60.0), both)


@keras.saving.register_keras_serializable(package="tuner")
class NumberTime(RawLayer):
    """The time of a number, as `times.of_numbers` reads it; it is in UTC.

    Call: float64 [batch] -> float64 [batch, 2].
    """

    output_dtype = "float64"
    output_width = 2

    def __init__(self, unit: str, **base: Any) -> None:
        super().__init__(unit=unit, **base)
        self.unit = unit

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """float64 [batch] -> float64 [batch, 2]."""
        known = tf.math.is_finite(numbers)
        known &= tf.abs(numbers) <= times.largest(self.unit)
        numbers = tf.where(known, numbers, 0.0)
        if self.unit == times.YYYYMMDD:
            date = times.digits_date(tf.cast(tf.floor(numbers), tf.int64))
            known &= times.is_date(*date)
            seconds = tf.cast(times.days_of(*date), tf.float64) * 86400.0
        else:
            seconds = numbers * times.UNITS[self.unit]
            known &= (seconds >= times.EARLIEST) & (seconds <= times.LATEST)
        return _known(known, tf.stack([seconds, seconds], axis=1))


@keras.saving.register_keras_serializable(package="tuner")
class TimeNumbers(RawLayer):
    """Numbers that tell of a time.

    Call: float64 [batch, 2] -> float32 [batch, width], with the columns in this order; all but
    the last are 0 where there is no time.

    Args:
        cyclic: parts that come round, each as the sine and the cosine of its place in the round.
        year: the mean and the deviation by which the year is scaled; None leaves it out.
        weekend: whether a column says 1 on Saturdays and Sundays.
        elapsed: the mean and the deviation by which the instant is scaled; None leaves it out.
        indicator: whether a last column says 1 where there is no time.
    """

    output_dtype = "float32"

    def __init__(
        self,
        cyclic: Sequence[str] = (),
        year: Sequence[float] | None = None,
        weekend: bool = False,
        elapsed: Sequence[float] | None = None,
        indicator: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(
            cyclic=list(cyclic),
            year=None if year is None else list(year),
            weekend=weekend,
            elapsed=None if elapsed is None else list(elapsed),
            indicator=indicator,
            **base,
        )
        self.cyclic, self.year, self.weekend = tuple(cyclic), year, weekend
        self.elapsed, self.indicator = elapsed, indicator
        single = (year is not None, weekend, elapsed is not None, indicator)
        self.output_width = 2 * len(self.cyclic) + sum(single)

    def call(self, time: tf.Tensor) -> tf.Tensor:
        """float64 [batch, 2] -> float32 [batch, width]."""
        known = tf.math.is_finite(time[:, 0])
        time = tf.where(known[:, None], time, tf.zeros((), tf.float64))
        wall = tf.cast(tf.floor(time[:, 0]), tf.int64)
        columns = [column for name in self.cyclic for column in _around(name, wall)]
        if self.year is not None:
            columns.append(_scaled(tf.cast(times.part_of("year", wall), tf.float64), self.year))
        if self.weekend:
            columns.append(tf.cast(times.part_of("weekday", wall) >= 5, tf.float64))
        if self.elapsed is not None:
            columns.append(_scaled(time[:, 1], self.elapsed))
        columns = [tf.where(known, column, 0.0) for column in columns]
        if self.indicator:
            columns.append(tf.cast(~known, tf.float64))
        return tf.cast(tf.stack(columns, axis=1), tf.float32)


@keras.saving.register_keras_serializable(package="tuner")
class TimePart(RawLayer):
    """A part of a time by its place in its round, counted from 1.

    Call: float64 [batch, 2] -> int32 [batch], 0 where there is no time.
    """

    def __init__(self, part: str, **base: Any) -> None:
        super().__init__(part=part, **base)
        self.part = part

    def call(self, time: tf.Tensor) -> tf.Tensor:
        """float64 [batch, 2] -> int32 [batch]."""
        known = tf.math.is_finite(time[:, 0])
        wall = tf.cast(tf.floor(tf.where(known, time[:, 0], 0.0)), tf.int64)
        place = times.part_of(self.part, wall) - times.PARTS[self.part][0] + 1
        return tf.where(known, tf.cast(place, tf.int32), 0)


def _whole(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_number(tf.strings.join(["0", texts]), tf.int64)


def _known(known: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.where(known[:, None], values, tf.constant(np.nan, tf.float64))


def _scaled(numbers: tf.Tensor, by: Sequence[float]) -> tf.Tensor:
    return tf.clip_by_value((numbers - by[0]) / by[1], -LIMIT, LIMIT)


def _around(part: str, wall: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    first, values, _ = times.PARTS[part]
    place = tf.cast(times.part_of(part, wall) - first, tf.float64)
    angle = place * (2.0 * np.pi / values)
    return tf.sin(angle), tf.cos(angle)
