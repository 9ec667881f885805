"""The values of one column in little space: exact counts while they are few, sketches beyond."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tuner_trainers import sketches
from tuner_trainers.sketches import Counts, Distinct, Numbers, Quantiles, ValueCounts

#: No array of a summary is longer: what is read may come from anybody.
_MOST_BYTES = 16 * sketches.EXACT_LIMIT


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The values, and how often each occurs.

    Up to EXACT_LIMIT different values `counts` has them all. Beyond, it has the frequent ones, and
    sketches know how many there are and, of numbers, how they are spread.
    """

    counts: ValueCounts
    distinct_sketch: Distinct | None = None
    quantile_sketch: Quantiles | None = None

    @staticmethod
    def of(counts: ValueCounts) -> Summary:
        """The summary of all values, each with its count."""
        if len(counts.counts) <= sketches.EXACT_LIMIT:
            return Summary(counts)
        whole = Summary(counts)
        return Summary(counts.limited(), whole._distinct(), whole._quantiles())

    @property
    def is_exact(self) -> bool:
        """Whether nothing was dropped."""
        return self.distinct_sketch is None

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        if self.distinct_sketch is None:
            return len(self.counts.counts)
        return self.distinct_sketch.estimate()

    def spread(self) -> tuple[Numbers, Counts]:
        """Sorted numbers, each with how many numbers of the column it stands for."""
        counted = self.counts
        if self.quantile_sketch is not None:
            counted = self.quantile_sketch.counts()
        return counted.values, counted.counts

    def merge(self, other: Summary) -> Summary:
        """The summary of the values of both."""
        counts = self.counts.merge(other.counts)
        if self.is_exact and other.is_exact:
            return Summary.of(counts)
        quantiles = self._quantiles().merge(other._quantiles()) if counts.is_numeric else None
        return Summary(counts.limited(), self._distinct().merge(other._distinct()), quantiles)

    def _distinct(self) -> Distinct:
        return self.distinct_sketch or Distinct(self.counts.hashes())

    def _quantiles(self) -> Quantiles:
        if self.quantile_sketch is not None or not self.counts.is_numeric:
            return self.quantile_sketch or Quantiles()
        return Quantiles.of_counts(self.counts.values, self.counts.counts)


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """Returns a summary as values that JSON has; arrays are compressed and in base64."""
    counts = summary.counts
    result: dict[str, Any] = {
        "values": _packed(counts.values) if counts.is_numeric else counts.values.to_pylist(),
        "counts": _packed(counts.counts),
        "error": counts.error,
    }
    if summary.distinct_sketch is not None:
        result["smallest_hashes"] = _packed(summary.distinct_sketch.smallest)
    if summary.quantile_sketch is not None:
        result["quantile_levels"] = [_packed(level) for level in summary.quantile_sketch.levels]
    return result


def summary_from_json(text: Mapping[str, Any]) -> Summary:
    """The inverse of `summary_to_json`; raises KeyError, TypeError or ValueError."""
    stored = text["values"]
    values: Any = (
        _unpacked(stored, np.float64) if isinstance(stored, str) else pa.array(stored, pa.string())
    )
    hashes, levels = text.get("smallest_hashes"), text.get("quantile_levels")
    return Summary(
        ValueCounts(values, _unpacked(text["counts"], np.int64), text["error"]),
        None if hashes is None else Distinct(_unpacked(hashes, np.uint64)),
        None if levels is None else Quantiles(tuple(_unpacked(x, np.float64) for x in levels)),
    )


def _packed(array: npt.NDArray[Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii")


def _unpacked(text: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    unfolding = zlib.decompressobj()
    raw = unfolding.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    if not unfolding.eof:
        raise ValueError("an array is cut off, or longer than any that a summary has.")
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype)
