"""What one pass over a data set learns of it: additive, mergeable, and saved as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import DataError, InvalidArgumentError
from tuner_trainers import data
from tuner_trainers.column_statistics import (
    ColumnStatistics,
    column_from_json,
    column_to_json,
)
from tuner_trainers.columns import Kind, is_bytes
from tuner_trainers.derived import Derived, noticed
from tuner_trainers.sources import Progress

_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What is known of a data set, by column in the order of the file.

    `derived` has what is computed from columns, by its key. `fingerprint` names the data and how
    it was read; `unsupported` maps columns that cannot be used to their types.
    """

    rows: int
    columns: Mapping[str, ColumnStatistics]
    derived: Mapping[str, ColumnStatistics] = field(default_factory=dict)
    fingerprint: str = ""
    unsupported: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> Mapping[str, Kind]:
        """The kind of each column, with which other rows should be read."""
        return {name: column.kind for name, column in self.columns.items()}

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of the rows of both; raises InvalidArgumentError if columns differ."""
        if set(self.columns) != set(other.columns):
            raise InvalidArgumentError("only statistics of the same columns can be merged.")
        both = f"{self.fingerprint} {other.fingerprint}"
        return Statistics(
            rows=self.rows + other.rows,
            columns={name: c.merge(other.columns[name]) for name, c in self.columns.items()},
            derived=_merged(self.derived, self.rows, other.derived, other.rows),
            fingerprint=hashlib.sha256(both.encode()).hexdigest(),
            unsupported=self.unsupported,
        )

    def to_json(self) -> str:
        """Returns the statistics as JSON text."""
        stored = {
            "version": _VERSION,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "unsupported": dict(self.unsupported),
            "columns": [column_to_json(column) for column in self.columns.values()],
            "derived": [column_to_json(column) for column in self.derived.values()],
        }
        return json.dumps(stored, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Statistics:
        """The inverse of `to_json`; raises DataError."""
        try:
            stored = json.loads(text)
            if stored["version"] != _VERSION:
                raise DataError(
                    f"the statistics have version {stored['version']}, but this release reads "
                    f"{_VERSION}; make them again."
                )
            columns = [column_from_json(column) for column in stored["columns"]]
            derived = [column_from_json(column) for column in stored.get("derived", [])]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"these are no statistics ({error!r}); make them again.") from error
        return Statistics(
            rows=stored["rows"],
            columns={column.name: column for column in columns},
            derived={column.name: column for column in derived},
            fingerprint=stored["fingerprint"],
            unsupported=stored["unsupported"],
        )

    def save(self, path: str | Path) -> None:
        """Writes the statistics to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Statistics:
        """Reads what `save` wrote; raises DataError."""
        try:
            return Statistics.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the statistics {path}: {error}.") from error


def scan(
    uri: str,
    *,
    types: Mapping[str, str] | None = None,
    missing_values: Sequence[str] = (),
    derived: Sequence[Derived] = (),
    progress: Progress | None = None,
) -> Statistics:
    """Makes the statistics of all columns in one pass over the data.

    Types that are not given are inferred; the data is read again only where a column that began
    with numbers goes on with text.

    Args:
        uri: where the data lies.
        types: `number` or `string` by column.
        missing_values: words that mean missing besides the empty one.
        derived: what else to learn of; what else is noticed in a batch is learned of as well.
        progress: called now and then with rows read, bytes read and bytes in all.

    Raises:
        DataError: the data cannot be used.
    """

    def scanned(given: Mapping[str, str]) -> Statistics:
        total: Statistics | None = None
        for batch, rows in data.encoded(
            uri, types=given, missing_values=missing_values, progress=progress
        ):
            found = _of(batch, rows, derived)
            total = found if total is None else total.merge(found)
        if total is None or not total.columns:
            raise DataError(f"{uri} has no column of numbers or text; add one.")
        return total

    return replace(
        data.retyped(uri, types, missing_values, scanned),
        fingerprint=_fingerprint(uri, types or {}, missing_values, derived),
        unsupported=data.layout(uri).unsupported,
    )


def _of(batch: data.EncodedColumns, rows: int, derived: Sequence[Derived]) -> Statistics:
    computed = dict.fromkeys([*derived, *noticed(batch)])
    learned = (column for found in computed for column in found.statistics(batch))
    return Statistics(
        rows=rows,
        columns={name: _column(name, values) for name, values in batch.items()},
        derived={column.name: column for column in learned},
    )


def _merged(
    mine: Mapping[str, ColumnStatistics],
    my_rows: int,
    others: Mapping[str, ColumnStatistics],
    other_rows: int,
) -> dict[str, ColumnStatistics]:
    """What is known of derived columns: rows in which none was noticed are rows without one."""
    merged = {}
    for key in dict.fromkeys([*mine, *others]):
        kind = (mine.get(key) or others[key]).kind
        left = mine.get(key) or ColumnStatistics.nothing(key, kind, my_rows)
        right = others.get(key) or ColumnStatistics.nothing(key, kind, other_rows)
        merged[key] = left.merge(right)
    return merged


def _column(name: str, values: Any) -> ColumnStatistics:
    if isinstance(values, np.ndarray):
        return ColumnStatistics.of_numbers(name, values)
    if is_bytes(values.type.value_type):
        return ColumnStatistics.of_bytes(name, values)
    return ColumnStatistics.of_strings(name, values)


def _fingerprint(
    uri: str,
    types: Mapping[str, str],
    missing_values: Sequence[str],
    derived: Sequence[Derived],
) -> str:
    """Names the data, and how it was read where that was said."""
    content = data.fingerprint(uri)
    if not types and not missing_values and not derived:
        return content
    told: list[Any] = [content, sorted(types.items()), sorted(missing_values)]
    if derived:
        told.append(sorted(key for asked in derived for key in asked.keys))
    reading = json.dumps(told)
    return hashlib.sha256(reading.encode()).hexdigest()
