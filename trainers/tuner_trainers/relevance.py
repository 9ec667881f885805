"""How much each column by itself tells of the label, from a sample, to know what to tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner_trainers import data
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.statistics import Statistics

#: Rows looked at: enough to rank columns, read in a moment.
_ROWS = 50_000
_BUCKETS = 32
_LABEL_BUCKETS = 8

Codes = npt.NDArray[np.int64]


def measure(
    uri: str, statistics: Statistics, label: str, missing_values: Sequence[str] = ()
) -> Mapping[str, float]:
    """Returns, by column, the part of the label's entropy that the column removes: 0 to 1.

    Columns of bytes are left out.

    It is the mutual information of the column and the label, both in buckets, less what chance
    alone would give, over the first rows. Raises DataError.
    """
    codes = _coded(uri, statistics, label, missing_values)
    known = codes[label] > 0
    target = codes[label][known]
    entropy = _entropy(target)
    if entropy <= 0.0:
        return {}
    return {
        name: min(max(_information(column[known], target) / entropy, 0.0), 1.0)
        for name, column in codes.items()
        if name != label
    }


def _coded(
    uri: str, statistics: Statistics, label: str, missing_values: Sequence[str]
) -> Mapping[str, Codes]:
    parts: dict[str, list[Codes]] = {
        name: [] for name, column in statistics.columns.items() if column.kind != "bytes"
    }
    batches = data.encoded(
        uri, types=statistics.types, missing_values=missing_values, columns=tuple(parts)
    )
    seen = 0

    def more(batch: tuple[data.EncodedColumns, int]) -> bool:
        return seen < _ROWS

    for batch, rows in takewhile(more, batches):
        seen += rows
        for name, values in batch.items():
            column = statistics.columns[name]
            coarse = name == label and column.distinct > _BUCKETS
            parts[name].append(_codes(column, values, _LABEL_BUCKETS if coarse else _BUCKETS))
    return {name: np.concatenate(codes)[:_ROWS] for name, codes in parts.items()}


def _codes(column: ColumnStatistics, values: Any, buckets: int) -> Codes:
    """The bucket or frequent value of each row from 1; 0 where it is missing."""
    if isinstance(values, np.ndarray):
        places = np.searchsorted(column.quantiles(buckets), values, side="right") + 1
        return np.where(np.isnan(values), 0, places).astype(np.int64)
    known = {text: place for place, (text, _) in enumerate(column.top[: 2 * buckets], start=1)}
    other = len(known) + 1
    words = values.dictionary.to_pylist()
    table = np.array([known.get(word, other) if word else 0 for word in words], np.int64)
    codes: Codes = table[values.indices.to_numpy()]
    return codes


def _entropy(codes: Codes) -> float:
    shares = np.bincount(codes) / max(len(codes), 1)
    shares = shares[shares > 0.0]
    return float(-(shares * np.log(shares)).sum())


def _information(a: Codes, b: Codes) -> float:
    """Mutual information, less its expectation for independent columns (Miller, Madow)."""
    width = int(b.max()) + 1
    together = a * width + b
    surplus = (len(np.unique(a)) - 1) * (len(np.unique(b)) - 1) / (2.0 * len(a))
    return _entropy(a) + _entropy(b) - _entropy(together) - surplus
