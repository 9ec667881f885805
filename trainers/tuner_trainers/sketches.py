"""Mergeable summaries of many values, exact while these are few: counts, distinct, quantiles.

They are vectorised and deterministic: the same rows in the same order give the same summary, so
that a study prepared twice proposes the same boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

#: Distinct values up to which counts are exact.
EXACT_LIMIT = 100_000
#: Frequent values kept beyond that.
FREQUENT_LIMIT = 25_000
#: Smallest hashes kept to estimate distinct values; the standard error is 1.6 %.
_HASHES = 4096
#: Values kept at the coarsest level of a quantile sketch; ranks are off by less than 0.1 %.
_QUANTILE_VALUES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ValueCounts:
    """How often each value occurs; `values` are sorted numbers, or a string array in any order.

    Cut to a limit it is a Misra-Gries summary: rare values are gone, and each count kept may be
    too low by at most `error`, which is below rows / limit.
    """

    values: Any
    counts: Counts
    error: int = 0

    @staticmethod
    def of_numbers(ordered: Numbers) -> ValueCounts:
        """Counts sorted, finite numbers."""
        starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0.0)
        counts = np.diff(starts, append=len(ordered))
        return ValueCounts(ordered[starts], counts.astype(np.int64))

    @staticmethod
    def of_strings(encoded: Any) -> ValueCounts:
        """Counts a dictionary array without nulls; "" is not counted."""
        counts = np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary))
        kept = (counts > 0) & pc.not_equal(encoded.dictionary, "").to_numpy(zero_copy_only=False)
        values = encoded.dictionary.filter(pa.array(kept))
        return _summed(values, counts[kept].astype(np.int64), 0)

    @property
    def is_exact(self) -> bool:
        """Whether no value was dropped."""
        return self.error == 0

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers."""
        return isinstance(self.values, np.ndarray)

    def merge(self, other: ValueCounts) -> ValueCounts:
        """The counts over the values of both."""
        counts = np.concatenate([self.counts, other.counts])
        error = self.error + other.error
        if not self.is_numeric:
            values = pa.concat_arrays([self.values, other.values])
            return _summed(values, counts, error)
        values = np.concatenate([self.values, other.values])
        order = np.argsort(values, kind="stable")
        values = values[order]
        starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0.0)
        sums = np.add.reduceat(counts[order], starts) if len(starts) else counts
        return ValueCounts(values[starts], sums, error)

    def limited(self, limit: int = FREQUENT_LIMIT) -> ValueCounts:
        """The counts with no more than `limit` values."""
        if len(self.counts) <= limit:
            return self
        place = len(self.counts) - limit - 1
        taken = int(np.partition(self.counts, place)[place])
        kept = self.counts > taken
        values = self.values[kept] if self.is_numeric else self.values.filter(pa.array(kept))
        return ValueCounts(values, self.counts[kept] - taken, self.error + taken)

    def by_frequency(self) -> tuple[Any, Counts]:
        """The values and their counts, the most frequent first, then by value."""
        table = pa.table({"value": self.values, "count": self.counts})
        order = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        values = self.values[order.to_numpy()] if self.is_numeric else self.values.take(order)
        return values, self.counts[order.to_numpy()]

    def hashes(self) -> Hashes:
        """The smallest hashes of the values."""
        hashed = _hash_numbers(self.values) if self.is_numeric else _hash_strings(self.values)
        return _smallest(hashed)


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """Estimates how many distinct values there are from the smallest of their hashes (KMV)."""

    smallest: Hashes

    def merge(self, other: Distinct) -> Distinct:
        """The sketch over the values of both."""
        return Distinct(_smallest(np.concatenate([self.smallest, other.smallest])))

    def estimate(self) -> int:
        """The number of distinct values, exact below the number of hashes kept."""
        if len(self.smallest) < _HASHES:
            return len(self.smallest)
        return round((_HASHES - 1) / (float(self.smallest[-1]) / 2.0**64))


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """A KLL sketch: each number of level h stands for 2**h numbers of the data.

    A level that is full gives every second of its sorted numbers to the next one. Lower levels
    are smaller, as what they lose weighs less.
    """

    levels: tuple[Numbers, ...] = ()

    @staticmethod
    def of_counts(values: Numbers, counts: Counts) -> Quantiles:
        """A sketch of sorted numbers, each so many times: level h has those with bit h set."""
        bits = int(counts.max()).bit_length() if len(counts) else 0
        return _compacted([values[(counts >> bit) & 1 == 1] for bit in range(bits)])

    @property
    def weight(self) -> int:
        """How many numbers it stands for."""
        return sum(len(level) << height for height, level in enumerate(self.levels))

    def add(self, ordered: Numbers) -> Quantiles:
        """The sketch with sorted numbers added."""
        return self.merge(Quantiles((ordered,)))

    def merge(self, other: Quantiles) -> Quantiles:
        """The sketch over the numbers of both."""
        height = max(len(self.levels), len(other.levels))
        nothing = np.empty(0)
        levels = [
            _joined(mine, theirs)
            for mine, theirs in zip(
                (*self.levels, *[nothing] * (height - len(self.levels))),
                (*other.levels, *[nothing] * (height - len(other.levels))),
                strict=True,
            )
        ]
        return _compacted(levels)

    def counts(self) -> ValueCounts:
        """The numbers it kept, sorted, each with what it stands for."""
        parts = (
            ValueCounts(level, np.full(len(level), 1 << height, np.int64))
            for height, level in enumerate(self.levels)
        )
        return reduce(ValueCounts.merge, parts, ValueCounts(np.empty(0), np.empty(0, np.int64)))


def boundaries(values: Numbers, counts: Counts, buckets: int) -> Numbers:
    """Cuts sorted, weighted numbers into buckets of about equal weight.

    A value that outweighs a bucket gets one of its own, and the others share the remaining ones;
    so a column that is 90 % zeros still has fine buckets for the rest.

    Returns:
        At most `buckets` - 1 numbers, strictly increasing; a number x falls into the bucket of
        the boundaries that are <= x.
    """
    if buckets < 2 or len(values) < 2:
        return np.empty(0)
    last = len(values) - 1
    if len(values) <= buckets:
        cuts = np.arange(last)
    else:
        cumulated = np.cumsum(_clipped(counts.astype(np.float64), buckets))
        targets = cumulated[-1] * np.arange(1, buckets) / buckets
        above = np.minimum(np.searchsorted(cumulated, targets), last - 1)
        below = np.maximum(above - 1, 0)
        nearer = targets - cumulated[below] < cumulated[above] - targets
        cuts = np.unique(np.where(nearer, below, above))
    low, high = values[cuts], values[cuts + 1]
    middle = low / 2.0 + high / 2.0
    return np.where((middle > low) & (middle <= high), middle, high)


def _clipped(weights: Numbers, buckets: int) -> Numbers:
    """Weights cut at the largest size that `buckets` equal ones of what remains would have."""
    clipped = weights
    for _ in range(64):
        size = clipped.sum() / buckets
        if clipped.max() <= size * (1.0 + 1e-9):
            break
        clipped = np.minimum(weights, size)
    return clipped


def _summed(values: Any, counts: Counts, error: int) -> ValueCounts:
    table = pa.table({"value": values, "count": counts})
    sums = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
    totals = sums.column("count_sum").combine_chunks().to_numpy()
    return ValueCounts(sums.column("value").combine_chunks(), totals, error)


def _compacted(levels: Sequence[Numbers]) -> Quantiles:
    kept = list(levels)
    weight = sum(len(level) << height for height, level in enumerate(kept))
    height = 0
    while height < len(kept):
        level = kept[height]
        if len(level) > _capacity(len(kept) - 1 - height):
            even = len(level) & ~1
            # Which of each pair goes on must not follow the data; any fixed scramble will do.
            offset = ((weight + height) * 0x9E3779B97F4A7C15 >> 41) & 1
            kept[height] = level[even:]
            if height + 1 == len(kept):
                kept.append(np.empty(0))
            kept[height + 1] = _joined(kept[height + 1], level[offset:even:2])
        height += 1
    return Quantiles(tuple(kept))


def _joined(a: Numbers, b: Numbers) -> Numbers:
    """Two sorted runs as one; a stable sort finds that they are sorted, and merges them."""
    return np.sort(np.concatenate([a, b]), kind="stable")


def _capacity(depth: int) -> int:
    return max(8, int(_QUANTILE_VALUES * (2.0 / 3.0) ** depth))


def _smallest(hashes: Hashes) -> Hashes:
    # No value is here more than twice, so twice as many hold enough different ones.
    if len(hashes) > 2 * _HASHES:
        hashes = np.partition(hashes, 2 * _HASHES)[: 2 * _HASHES]
    ordered = np.sort(hashes)
    first: Hashes = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return first[:_HASHES]


def _hash_numbers(values: Numbers) -> Hashes:
    return _mixed((values + 0.0).view(np.uint64))


def _hash_strings(values: Any) -> Hashes:
    """A multilinear hash of the bytes of each string, then mixed."""
    array = values.cast(pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset :][: len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    terms = (data.astype(np.uint64) + np.uint64(1)) * (_mixed(place.astype(np.uint64)) | 1)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return _mixed(sums[starts + lengths] - sums[starts])


def _mixed(bits: Hashes) -> Hashes:
    """SplitMix64: every bit of the input moves every bit of the output."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
