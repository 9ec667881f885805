"""What one pass over a data set learns of it: additive, mergeable, and saved as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from tuner.errors import DataError, InvalidArgumentError
from tuner_trainers import data, sources
from tuner_trainers.column_statistics import (
    ColumnStatistics,
    column_from_json,
    column_to_json,
)
from tuner_trainers.columns import Kind
from tuner_trainers.data import EncodedColumns, Layout, Told
from tuner_trainers.derived import Derived, noticed
from tuner_trainers.portions import Here, Portion, Tell, Workers, portions, together
from tuner_trainers.sources import Progress, Source
from tuner_trainers.stores import File

_VERSION = 1
#: Portions of which the first batch is looked at, to see what the columns hold.
_SAMPLES = 4


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """How a data set is read: the files, cut into portions, and what their columns are."""

    source: Source
    layout: Layout
    #: The types that were given, by column.
    types: Mapping[str, str]
    missing_values: tuple[str, ...]
    portions: tuple[Portion, ...]

    @staticmethod
    def of(
        uri: str, types: Mapping[str, str] | None = None, missing_values: Sequence[str] = ()
    ) -> Survey:
        """Looks at the headers of all files; raises DataError."""
        source = sources.locate(uri)
        return Survey(
            source=source,
            layout=data.layout(uri, types),
            types=types or {},
            missing_values=tuple(missing_values),
            portions=portions(source),
        )

    @property
    def version(self) -> str:
        """Names the files and when they were written; changes when one is written again."""
        return _hashed([self.source.version, *self._reading()])

    def is_current(self) -> bool:
        """Whether the files are still those that were found; raises DataError if they are gone."""
        return sources.locate(self.source.uri).version == self.source.version

    def fingerprint(self, workers: Workers) -> str:
        """Names the bytes of the files, wherever they lie, and how they are read."""
        found = workers.map(_digests, together(self.source), _silent)
        digests = (digest for of_files in found for digest in of_files)
        content = sources.fingerprint_of(self.source.files, digests)
        return _hashed([content, *self._reading()]) if self._is_told else content

    @property
    def _is_told(self) -> bool:
        return bool(self.types or self.missing_values)

    def _reading(self) -> tuple[object, ...]:
        return sorted(self.types.items()), sorted(self.missing_values)

    def of_kinds(self, kinds: Mapping[str, Kind]) -> Survey:
        """The same, with what the columns have been found to be."""
        return replace(self, layout=replace(self.layout, kinds=kinds))

    def noticed(self) -> tuple[Derived, ...]:
        """What the texts hold without having been asked for, as their first rows tell."""
        step = -(-len(self.portions) // _SAMPLES)
        names = [n for n in self.layout.names if self.layout.kinds.get(n) != "number"]
        found: dict[Derived, None] = {}
        for portion in self.portions[::step] if names else ():
            batches = data.portion(portion, self.layout, self.missing_values, names)
            with closing(batches):
                for batch, _ in batches:
                    found |= dict.fromkeys(noticed(batch))
                    break
        return tuple(found)

    def learn(
        self,
        derived: Sequence[Derived],
        workers: Workers,
        progress: Progress | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> Statistics:
        """Makes the statistics of columns and of what is derived from them; raises DataError.

        The data is read again only where a column that began with numbers goes on with text.

        Args:
            derived: what to learn of besides columns.
            workers: where portions are read.
            progress: called now and then with rows read, bytes read and bytes in all.
            columns: which columns to learn of; all by default.
        """
        uri = self.source.uri
        names = self.layout.names if columns is None else tuple(columns)
        asked = _Pass(
            layout=self.layout,
            missing_values=self.missing_values,
            columns=names,
            derived=tuple(derived),
        )
        found = self._merged(asked, workers, progress)
        if not isinstance(found, Statistics):
            layout = self.of_kinds({**self.layout.kinds, **found}).layout
            found = self._merged(replace(asked, layout=layout), workers, progress)
        if not isinstance(found, Statistics):
            raise DataError(f"{uri} changed while it was read; try again.")
        if columns is None and not found.columns:
            raise DataError(f"{uri} has no column of numbers or text; add one.")
        return replace(found, unsupported=self.layout.unsupported)

    def _merged(
        self, asked: _Pass, workers: Workers, progress: Progress | None
    ) -> Statistics | Mapping[str, Kind]:
        """What portions make together; or the columns that are text in some and not in others."""
        told = Told(progress, self.source.size_bytes)
        total: Statistics | None = None
        kinds: dict[str, Kind] = {}
        turned: dict[str, Kind] = {}
        for found in workers.map(asked, self.portions, told):
            if found is None:  # files with nothing but a header
                continue
            for name, kind in found.types.items():
                if kinds.setdefault(name, kind) != kind:
                    turned[name] = "string"
            if not turned:
                total = found if total is None else total.merge(found)
        if total is None and not turned:
            raise DataError(f"{self.source.uri} has a header but no rows; add rows.")
        return turned or total or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What is learned of each portion."""

    layout: Layout
    missing_values: tuple[str, ...]
    columns: tuple[str, ...]
    derived: tuple[Derived, ...]

    def __call__(self, portion: Portion, tell: Tell) -> Statistics | None:
        try:
            return self._learn(portion, self.layout, tell)
        except data.TurnedTextError:
            kinds = data.infer_portion(portion, self.layout, self.missing_values)
            return self._learn(portion, replace(self.layout, kinds=kinds), _silent)

    def _learn(self, portion: Portion, layout: Layout, tell: Tell) -> Statistics | None:
        needed = [name for of in self.derived for name in of.columns if name in layout.names]
        names = tuple(dict.fromkeys([*self.columns, *needed]))
        batches = data.portion(portion, layout, self.missing_values, names, tell)
        parts = (self._of(batch, rows) for batch, rows in batches)
        first = next(parts, None)
        return None if first is None else reduce(Statistics.merge, parts, first)

    def _of(self, batch: EncodedColumns, rows: int) -> Statistics:
        learned = (column for of in self.derived for column in of.statistics(batch))
        return Statistics(
            rows=rows,
            columns={name: ColumnStatistics.of(name, batch[name]) for name in self.columns},
            derived={column.name: column for column in learned},
        )


def scan(
    uri: str,
    *,
    types: Mapping[str, str] | None = None,
    missing_values: Sequence[str] = (),
    derived: Sequence[Derived] = (),
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Statistics:
    """Makes the statistics of all columns in one pass over the data.

    Args:
        uri: where the data lies.
        types: `number` or `string` by column; those that are not given are inferred.
        missing_values: words that mean missing besides the empty one.
        derived: what else to learn of, besides what is noticed in the data.
        progress: called now and then with rows read, bytes read and bytes in all.
        workers: where portions are read; one after the other in this process by default.

    Raises:
        DataError: the data cannot be used.
    """
    workers = workers or Here()
    survey = Survey.of(uri, types, missing_values)
    everything = tuple(dict.fromkeys([*survey.noticed(), *derived]))
    found = survey.learn(everything, workers, progress)
    return replace(found, fingerprint=with_derived(survey.fingerprint(workers), derived))


def with_derived(fingerprint: str, derived: Sequence[Derived]) -> str:
    """Names data of which something was learned besides columns, because it was asked for."""
    if not derived:
        return fingerprint
    return _hashed([fingerprint, sorted(key for asked in derived for key in asked.keys)])


def _digests(files: Sequence[File], tell: Tell) -> list[bytes]:
    return [sources.digest_of(file) for file in files]


def _silent(rows: int, size: int) -> None:
    """Tells nobody."""


def _hashed(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


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
