"""Reads rows from files as columns of numbers and strings, in whole or in batches."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tuner.errors import DataError
from tuner_trainers import columns as normal
from tuner_trainers import readers, sources
from tuner_trainers.columns import Cleaner, Kind
from tuner_trainers.folders import PATHS
from tuner_trainers.portions import Portion, Tell
from tuner_trainers.readers import RawBatch
from tuner_trainers.sources import Progress, fingerprint

__all__ = ["Columns", "Layout", "batches", "encoded", "fingerprint", "layout", "read", "split"]

#: Columns by name: float64 [rows], NaN for missing, or object [rows] of str or bytes, empty for
#: missing.
Columns = Mapping[str, npt.NDArray[Any]]

#: Columns by name: float64 [rows], or a dictionary array of strings or bytes.
EncodedColumns = Mapping[str, Any]

T = TypeVar("T")

#: How files of images are called, and the texts that are looked at.
_IMAGES, _LOOKED_AT = (".png", ".jpg", ".jpeg"), 256


class TurnedTextError(Exception):
    """A column taken for numbers turned out to hold text further down; its type must be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a data set.

    `kinds` says number, string or bytes where the files themselves say it, which CSV does not, or
    where the user does; `unsupported` maps columns that cannot be used to their Arrow types.
    """

    names: tuple[str, ...]
    kinds: Mapping[str, Kind]
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def require(self, uri: str, names: Iterable[str]) -> None:
        """Raises DataError unless every name is a usable column."""
        for name in names:
            if name in self.unsupported:
                raise DataError(
                    f"{uri}: the column {name!r} holds {self.unsupported[name]}, "
                    "but only numbers, text, bytes, times and truth values are read; leave it out."
                )
            if name not in self.names:
                raise DataError(missing_column(uri, name, self.names))


def missing_column(uri: str, name: str, names: Sequence[str], role: str = "column") -> str:
    """Says that a column is missing and which one may be meant."""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {sources.listed(names, 12)}."
    return f"{uri} has no {role} {name!r}; {hint}"


def layout(uri: str, types: Mapping[str, str] | None = None) -> Layout:
    """Returns the columns of `uri` from headers alone; raises DataError."""
    source = sources.locate(uri)
    arrow = readers.schema(source)
    kinds = {name: normal.kind_of(arrow_type) for name, arrow_type in arrow.items()}
    usable = {name: kind for name, kind in kinds.items() if kind is not None}
    given = _checked(uri, types or {}, usable)
    known = {} if source.format == "csv" else usable
    return Layout(
        names=tuple(usable),
        kinds={**known, **given},
        unsupported={name: str(arrow[name]) for name, kind in kinds.items() if kind is None},
    )


def read(
    uri: str,
    *,
    types: Mapping[str, str] | None = None,
    missing_values: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> Columns:
    """Reads all rows into memory.

    Args:
        uri: a file, a directory or a pattern.
        types: `number`, `string` or `bytes` by column; others are inferred from all rows. Names
            that are no column are ignored, so that a data set's types also fit a part of its
            columns. Texts where there should be bytes are paths of files, which are read.
        missing_values: words that mean missing besides the empty one.
        columns: which columns, in which order; all by default.

    Raises:
        DataError: the data cannot be used as asked.
    """
    return retyped(
        uri, types, missing_values, lambda given: _read(uri, given, missing_values, columns)
    )


def batches(
    uri: str,
    *,
    types: Mapping[str, str] | None = None,
    missing_values: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> Iterator[Columns]:
    """Yields the rows by batches; as `read`, but in bounded memory.

    Columns of a CSV file without a type cost a pass of their own to infer it.
    """
    found = layout(uri, types)
    wanted = found.names if columns is None else columns
    kinds: Mapping[str, str] = found.kinds
    if any(name not in kinds for name in wanted):
        kinds = infer(uri, types, missing_values)
    for batch, _ in encoded(uri, types=kinds, missing_values=missing_values, columns=columns):
        yield normal.decode(batch)


def encoded(
    uri: str,
    *,
    types: Mapping[str, str] | None = None,
    missing_values: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Generator[tuple[EncodedColumns, int], None, None]:
    """Yields batches with strings still dictionary-encoded, each with its number of rows.

    Raises:
        TurnedTextError: a column without a type began with numbers and went on with text.
    """
    found = layout(uri, types)
    wanted = found.names if columns is None else tuple(columns)
    found.require(uri, wanted)
    source = sources.locate(uri)
    told = Told(progress, source.size_bytes)
    rows = 0
    for batch, count in portion(Portion.all(source), found, missing_values, wanted, told):
        rows += count
        yield batch, count
    if not rows:
        raise DataError(f"{uri} has a header but no rows; add rows.")


class Told:
    """Adds up what is told of a pass's progress, and passes it on."""

    def __init__(self, progress: Progress | None, total_bytes: int) -> None:
        self._progress = progress
        self._total = total_bytes
        self.rows = 0
        self._bytes = 0

    def __call__(self, rows: int, size: int) -> None:
        """Is told rows and bytes that were read since the last time."""
        self.rows += rows
        self._bytes += size
        if self._progress is not None:
            self._progress(self.rows, self._bytes, self._total)


def portion(
    of: Portion,
    found: Layout,
    missing_values: Sequence[str],
    columns: Sequence[str],
    tell: Tell = lambda rows, size: None,
) -> Generator[tuple[EncodedColumns, int], None, None]:
    """Yields the batches of a portion, as `encoded`; `tell` is told after each."""
    encoder = _Encoder(of, found.kinds, Cleaner(missing_values))
    done = 0
    for raw in encoder.small(readers.stream(of.source, columns, of.groups)):
        yield encoder.encode(raw), raw.rows
        tell(raw.rows, raw.bytes_done - done)
        done = raw.bytes_done


def infer(
    uri: str, types: Mapping[str, str] | None = None, missing_values: Sequence[str] = ()
) -> Mapping[str, Kind]:
    """Returns the kind of every column, from all rows where nothing says it."""
    whole = Portion.all(sources.locate(uri))
    return infer_portion(whole, layout(uri, types), missing_values)


def infer_portion(of: Portion, found: Layout, missing_values: Sequence[str]) -> Mapping[str, Kind]:
    """As `infer`, from the rows of a portion."""
    cleaner = Cleaner(missing_values)
    open_names = [name for name in found.names if name not in found.kinds]
    text: set[str] = set()
    if open_names:
        for raw in readers.stream(of.source, open_names, of.groups):
            for name, array in raw.arrays.items():
                if name not in text and cleaner.numbers(array) is None:
                    text.add(name)
    inferred: dict[str, Kind] = {
        name: "string" if name in text else "number" for name in open_names
    }
    return {name: found.kinds.get(name) or inferred[name] for name in found.names}


def image_paths(
    uri: str, types: Mapping[str, str] | None = None, missing_values: Sequence[str] = ()
) -> list[str]:
    """The columns of texts that are called as files of images are, in the first rows."""
    with closing(encoded(uri, types=types, missing_values=missing_values)) as batches:
        first, _ = next(batches)
    return [
        name
        for name, column in first.items()
        if not isinstance(column, np.ndarray) and _are_images(column.dictionary[:_LOOKED_AT])
    ]


def _are_images(texts: Any) -> bool:
    if not normal.is_text(texts.type):
        return False
    named = [text.lower() for text in texts.to_pylist() if text]
    return bool(named) and all(text.endswith(_IMAGES) for text in named)


def retyped(
    uri: str,
    types: Mapping[str, str] | None,
    missing_values: Sequence[str],
    consume: Callable[[Mapping[str, str]], T],
) -> T:
    """Calls `consume` with the types, and again with inferred ones if a column turned to text.

    So files that keep what their first rows promise, which most do, are read once.
    """
    try:
        return consume(types or {})
    except TurnedTextError:
        return consume(infer(uri, types, missing_values))


def split(
    rows: int, fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divides the rows 0..rows-1 at random into training and validation, each in order.

    Returns:
        The indices of the training rows, and of the validation rows: `fraction` of all, but at
        least one, and never all.
    """
    count = min(max(round(rows * fraction), 1), rows - 1)
    validates = np.zeros(rows, np.bool_)
    validates[np.random.default_rng(seed).permutation(rows)[:count]] = True
    return np.flatnonzero(~validates), np.flatnonzero(validates)


class _Encoder:
    """Encodes batch after batch, holding each column to the kind it began with."""

    def __init__(self, portion: Portion, given: Mapping[str, Kind], cleaner: Cleaner) -> None:
        self._uri = portion.source.uri
        self._folder = portion.folder
        self._given = given
        self._inferred: dict[str, Kind] = {}
        self._cleaner = cleaner

    def small(self, batches: Iterable[RawBatch]) -> Iterator[RawBatch]:
        """The same rows, few at a time where their values are paths of files."""
        for raw in batches:
            paths = any(
                self._given.get(name) == "bytes" and not normal.is_bytes(array.type)
                for name, array in raw.arrays.items()
            )
            yield from raw.split(PATHS) if paths else (raw,)

    def encode(self, raw: RawBatch) -> EncodedColumns:
        try:
            return {name: self._column(name, array) for name, array in raw.arrays.items()}
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DataError(f"{self._uri} holds text that is not UTF-8; convert it.") from error

    def _bytes(self, name: str, array: Any) -> Any:
        plain = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if normal.is_text(plain):
            texts = self._cleaner.strings(array)
            stored = self._folder.read(name, texts.dictionary.to_pylist())
            return pa.DictionaryArray.from_arrays(
                texts.indices, pa.array(stored, pa.large_binary())
            )
        if not normal.is_bytes(plain):
            raise DataError(
                f"{self._uri}: the column {name!r} holds {plain}, but bytes or paths of files are "
                "needed."
            )
        return self._cleaner.bytes(array)

    def _column(self, name: str, array: Any) -> Any:
        kind = self._given.get(name) or self._inferred.get(name)
        if kind == "string":
            return self._cleaner.strings(array)
        if kind == "bytes":
            return self._bytes(name, array)
        numbers = self._cleaner.numbers(array)
        if numbers is not None:
            self._inferred[name] = "number"
            return numbers
        if name in self._given:
            value = self._cleaner.first_text(array)
            raise DataError(
                f"{self._uri}: the column {name!r} is a number, but holds {value!r}; add that to "
                f"`missing` under `data`, or say `types: {{{name}: string}}` there."
            )
        if kind == "number":
            raise TurnedTextError(name)
        self._inferred[name] = "string"
        return self._cleaner.strings(array)


def _read(
    uri: str,
    types: Mapping[str, str],
    missing_values: Sequence[str],
    columns: Sequence[str] | None,
) -> Columns:
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for batch, _ in encoded(uri, types=types, missing_values=missing_values, columns=columns):
        for name, values in normal.decode(batch).items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _checked(uri: str, types: Mapping[str, str], usable: Mapping[str, Kind]) -> dict[str, Kind]:
    checked: dict[str, Kind] = {}
    for name, kind in types.items():
        if kind not in get_args(Kind):
            raise DataError(
                f"{uri}: a column's type is number, string or bytes, but {name!r} got {kind!r}."
            )
        if name in usable:
            checked[name] = cast(Kind, kind)
    return checked
