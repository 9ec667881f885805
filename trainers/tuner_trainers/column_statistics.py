"""What is known of one column of a data set: additive, mergeable, and saved as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuner.errors import InvalidArgumentError
from tuner_trainers import sketches
from tuner_trainers.columns import Kind, is_bytes, number_text
from tuner_trainers.sketches import Numbers, ValueCounts
from tuner_trainers.summary import Summary, summary_from_json, summary_to_json

#: Below it, a float64 holds every whole number.
_EXACT = 2.0**53
#: What to say of a column that is blurred.
BLURRED = "it holds whole numbers beyond 2^53, of which 64-bit floats make neighbours one number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Number, mean and sum of squared deviations; two of them add up (Chan, Golub, LeVeque)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @staticmethod
    def of(values: Numbers) -> Moments:
        """The moments of finite numbers."""
        if not len(values):
            return Moments()
        # Of numbers near the largest there is, sums are infinite; so is the variance then.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean())
            squares = float(np.square(values - mean).sum())
        return Moments(count=len(values), mean=mean, squares=squares)

    def merge(self, other: Moments) -> Moments:
        """The moments of the numbers of both."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        between = apart * apart * (self.count / count) * other.count
        mean = self.mean + apart * (other.count / count)
        return Moments(count=count, mean=mean, squares=self.squares + other.squares + between)


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnStatistics:
    """What is known of one column. Of bytes, that is how many rows have some.

    Infinite numbers are counted in `nonfinite` and nowhere else, missing values in `missing`.
    """

    name: str
    kind: Kind
    #: Rows seen.
    count: int
    missing: int
    nonfinite: int = 0
    #: The smallest and largest finite number; None where there is none, as of strings.
    minimum: float | None = None
    maximum: float | None = None
    #: Whether there are finite numbers and all are whole.
    is_integer: bool = False
    moments: Moments = Moments()
    summary: Summary = field(repr=False)

    @staticmethod
    def of(name: str, column: Any) -> ColumnStatistics:
        """The statistics of an encoded column."""
        if isinstance(column, np.ndarray):
            return ColumnStatistics.of_numbers(name, column)
        if is_bytes(column.type.value_type):
            return ColumnStatistics.of_bytes(name, column)
        return ColumnStatistics.of_strings(name, column)

    @staticmethod
    def of_numbers(name: str, column: Numbers) -> ColumnStatistics:
        """The statistics of numbers, NaN for missing."""
        missing = int(np.isnan(column).sum())
        # Adding zero makes -0.0 the same as 0.0.
        ordered = np.sort(column)[: len(column) - missing] + 0.0
        start = int(np.searchsorted(ordered, -np.inf, side="right"))
        stop = int(np.searchsorted(ordered, np.inf, side="left"))
        finite = ordered[start:stop]
        counts = ValueCounts.of_numbers(finite)
        return ColumnStatistics(
            name=name,
            kind="number",
            count=len(column),
            missing=missing,
            nonfinite=len(ordered) - len(finite),
            minimum=float(finite[0]) if len(finite) else None,
            maximum=float(finite[-1]) if len(finite) else None,
            is_integer=len(finite) > 0 and bool((counts.values == np.rint(counts.values)).all()),
            moments=Moments.of(finite),
            summary=Summary.of(counts),
        )

    @staticmethod
    def of_strings(name: str, column: Any) -> ColumnStatistics:
        """The statistics of a dictionary array of strings, "" for missing."""
        counts = ValueCounts.of_strings(column)
        return ColumnStatistics(
            name=name,
            kind="string",
            count=len(column),
            missing=len(column) - int(counts.counts.sum()),
            summary=Summary.of(counts),
        )

    @staticmethod
    def of_bytes(name: str, column: Any) -> ColumnStatistics:
        """The statistics of a dictionary array of bytes, b"" for missing: values do not recur."""
        present = pc.greater(pc.binary_length(column.dictionary), 0).to_numpy(zero_copy_only=False)
        missing = int((~present[column.indices.to_numpy()]).sum())
        none = ValueCounts(pa.array([], pa.string()), np.empty(0, np.int64))
        return ColumnStatistics(
            name=name, kind="bytes", count=len(column), missing=missing, summary=Summary(none)
        )

    @staticmethod
    def nothing(name: str, kind: Kind, rows: int) -> ColumnStatistics:
        """The statistics of rows that lack a value."""
        if kind == "number":
            return ColumnStatistics.of_numbers(name, np.full(rows, np.nan))
        missing = pa.array([""] * min(rows, 1), pa.string()).dictionary_encode()
        found = ColumnStatistics.of_strings(name, missing)
        return replace(found, count=rows, missing=rows)

    @property
    def present(self) -> int:
        """Rows with a value that is neither missing nor infinite."""
        return self.count - self.missing - self.nonfinite

    @property
    def is_blurred(self) -> bool:
        """Whether all numbers are whole, and some so large that their neighbours are the same."""
        largest = max(-(self.minimum or 0.0), self.maximum or 0.0)
        return self.is_integer and largest >= _EXACT

    @property
    def mean(self) -> float | None:
        """The mean of the finite numbers; None if there is none."""
        return self.moments.mean if self.moments.count else None

    @property
    def variance(self) -> float | None:
        """The population variance of the finite numbers; None if there is none."""
        return self.moments.squares / self.moments.count if self.moments.count else None

    @property
    def is_exact(self) -> bool:
        """Whether `distinct`, `top` and `quantiles` are exact."""
        return self.summary.is_exact

    @property
    def distinct(self) -> int:
        """How many different values there are; missing and infinite ones are not counted."""
        return self.summary.distinct

    @cached_property
    def top(self) -> tuple[tuple[str, int], ...]:
        """Values as text with their counts, the most frequent first, then by value.

        All values while `is_exact`; else those frequent enough to stand out, and their counts may
        be too low by up to `summary.counts.error`.
        """
        values, counts = self.summary.counts.by_frequency()
        numeric = self.kind == "number"
        texts = map(number_text, values.tolist()) if numeric else values.to_pylist()
        return tuple(zip(texts, counts.tolist(), strict=True))

    def quantiles(self, buckets: int) -> Numbers:
        """Boundaries that cut the finite numbers into buckets of about equal weight.

        A value more frequent than a bucket should be gets one of its own, and the others share
        the rest; of few different values, each gets its own.

        Returns:
            At most `buckets` - 1 numbers, strictly increasing; none for strings. A number belongs
            to the bucket after the last boundary that is not above it.
        """
        if self.kind != "number":
            return np.empty(0)
        return sketches.boundaries(*self.summary.spread(), buckets)

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """The statistics of the rows of both; raises InvalidArgumentError unless of one kind."""
        if self.kind != other.kind:
            raise InvalidArgumentError(
                f"the column {self.name!r} is a {self.kind} in one part of the data and a "
                f"{other.kind} in another; declare its type."
            )
        known = [part for part in (self, other) if part.minimum is not None]
        return ColumnStatistics(
            name=self.name,
            kind=self.kind,
            count=self.count + other.count,
            missing=self.missing + other.missing,
            nonfinite=self.nonfinite + other.nonfinite,
            minimum=min(
                (part.minimum for part in known if part.minimum is not None), default=None
            ),
            maximum=max(
                (part.maximum for part in known if part.maximum is not None), default=None
            ),
            is_integer=bool(known) and all(part.is_integer for part in known),
            moments=self.moments.merge(other.moments),
            summary=self.summary.merge(other.summary),
        )


def column_to_json(column: ColumnStatistics) -> dict[str, Any]:
    """Returns statistics as values that JSON has."""
    moments = column.moments
    return {
        "name": column.name,
        "kind": column.kind,
        "count": column.count,
        "missing": column.missing,
        "nonfinite": column.nonfinite,
        "minimum": column.minimum,
        "maximum": column.maximum,
        "is_integer": column.is_integer,
        "moments": [moments.count, moments.mean, moments.squares],
        "summary": summary_to_json(column.summary),
    }


def column_from_json(stored: Mapping[str, Any]) -> ColumnStatistics:
    """The inverse of `column_to_json`; raises KeyError, TypeError or ValueError."""
    count, mean, squares = stored["moments"]
    plain = {name: value for name, value in stored.items() if name not in ("moments", "summary")}
    return ColumnStatistics(
        **plain,
        moments=Moments(count=count, mean=mean, squares=squares),
        summary=summary_from_json(stored["summary"]),
    )
