"""How much each column by itself tells of the label, to know what to tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tuner_trainers import data
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.data import EncodedColumns, Told
from tuner_trainers.portions import Here, Portion, Tell, Workers
from tuner_trainers.sources import Progress
from tuner_trainers.statistics import Statistics, Survey

_BUCKETS = 32
_LABEL_BUCKETS = 8

Codes = npt.NDArray[np.int64]
#: By column, how many rows have each code of it (rows of the table) and of the label (columns).
Tables = Mapping[str, Codes]


def measure(
    survey: Survey,
    statistics: Statistics,
    label: str,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Mapping[str, float]:
    """Returns, by column, the part of the label's entropy that the column removes: 0 to 1.

    Columns of bytes are left out.

    It is the mutual information of the column and the label, both in buckets, less what chance
    alone would give (Miller, Madow), over all rows that have a label.

    Args:
        survey: how the data is read.
        statistics: what is known of it; the buckets come from there.
        label: the column to predict.
        workers: where the rows are counted; in this process by default.
        progress: called now and then with rows read, bytes read and bytes in all.

    Raises:
        DataError: the data cannot be read.
    """
    coders = {
        name: _Coder.of(column, _LABEL_BUCKETS if _is_fine(name, label, column) else _BUCKETS)
        for name, column in statistics.columns.items()
        if column.kind != "bytes"
    }
    if label not in coders:
        return {}
    count = _Count(survey=survey.of_kinds(statistics.types), coders=coders, label=label)
    told = Told(progress, survey.source.size_bytes)
    counted = (workers or Here()).map(count, survey.portions, told)
    tables = reduce(_added, counted)
    return {name: _share(table) for name, table in tables.items() if _varies(table)}


def _is_fine(name: str, label: str, column: ColumnStatistics) -> bool:
    return name == label and column.distinct > _BUCKETS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Coder:
    """Makes a column's values codes from 1: buckets, or frequent values; 0 where one is missing.

    Exactly one of both is set.
    """

    boundaries: npt.NDArray[np.float64] | None = None
    words: Any = None

    @staticmethod
    def of(column: ColumnStatistics, buckets: int) -> _Coder:
        """The coder of a column."""
        if column.kind == "number":
            return _Coder(boundaries=column.quantiles(buckets))
        words = [text for text, _ in column.top[: 2 * buckets]]
        return _Coder(words=pa.array(words, pa.string()))

    @property
    def size(self) -> int:
        """How many codes there are."""
        if self.boundaries is not None:
            return len(self.boundaries) + 2
        return len(self.words) + 2

    def codes(self, values: Any) -> Codes:
        """The code of each row of an encoded column."""
        if self.boundaries is not None:
            places = np.searchsorted(self.boundaries, values, side="right") + 1
            return np.where(np.isnan(values), 0, places).astype(np.int64)
        found = pc.fill_null(pc.index_in(values.dictionary, self.words), len(self.words))
        table = found.to_numpy().astype(np.int64) + 1
        table[pc.equal(values.dictionary, "").to_numpy(zero_copy_only=False)] = 0
        codes: Codes = table[values.indices.to_numpy()]
        return codes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Count:
    """What is counted of each portion."""

    survey: Survey
    coders: Mapping[str, _Coder]
    label: str

    def __call__(self, portion: Portion, tell: Tell) -> Tables:
        layout, missing = self.survey.layout, self.survey.missing_values
        batches = data.portion(portion, layout, missing, tuple(self.coders), tell)
        nothing = {
            name: np.zeros((coder.size, self.coders[self.label].size), np.int64)
            for name, coder in self.coders.items()
            if name != self.label
        }
        return reduce(_added, (self._of(batch) for batch, _ in batches), nothing)

    def _of(self, batch: EncodedColumns) -> Tables:
        of_label = self.coders[self.label]
        labels = of_label.codes(batch[self.label])
        return {
            name: np.bincount(
                coder.codes(batch[name]) * of_label.size + labels,
                minlength=coder.size * of_label.size,
            ).reshape(coder.size, of_label.size)
            for name, coder in self.coders.items()
            if name != self.label
        }


def _added(a: Tables, b: Tables) -> Tables:
    return {name: table + b[name] for name, table in a.items()}


def _varies(table: Codes) -> bool:
    """Whether the rows that have a label have more than one."""
    return int((table[:, 1:].sum(axis=0) > 0).sum()) > 1


def _share(table: Codes) -> float:
    known = table[:, 1:]
    of_column, of_label = known.sum(axis=1), known.sum(axis=0)
    surplus = ((of_column > 0).sum() - 1) * ((of_label > 0).sum() - 1) / (2.0 * known.sum())
    entropy = _entropy(of_label)
    information = _entropy(of_column) + entropy - _entropy(known.ravel()) - surplus
    return min(max(float(information / entropy), 0.0), 1.0)


def _entropy(counts: Codes) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
