"""Streams CSV, Parquet and TFRecord files as Arrow arrays by column, in bounded memory."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tuner.errors import DataError, first_line
from tuner_trainers import columns, sources, tfrecords
from tuner_trainers.sources import Source
from tuner_trainers.stores import File

#: Large enough that the fixed cost of a batch does not matter, small enough for any memory.
_BATCH_ROWS = 131_072
#: Fewer rows make a batch if their values take more than this.
_BATCH_BYTES = 64 << 20
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """Some rows as they lie in the file; a column's array may have any Arrow type."""

    arrays: Mapping[str, Any]
    rows: int
    #: Bytes of the whole source read so far, for progress.
    bytes_done: int

    def split(self, rows: int) -> Iterator[RawBatch]:
        """The same in batches of so many rows."""
        for start in range(0, self.rows, rows):
            arrays = {name: array.slice(start, rows) for name, array in self.arrays.items()}
            yield replace(self, arrays=arrays, rows=min(rows, self.rows - start))


def schema(source: Source) -> Mapping[str, Any]:
    """Returns the Arrow type of each column, in the order of the first file.

    CSV columns are all text. Columns without a name, as pandas writes its index, are left out.

    Raises:
        DataError: a name twice, files whose columns differ, or a file that is not what it says.
    """
    if source.format == "tfrecord":
        return tfrecords.schema(source.files)
    first: dict[str, Any] = {}
    for file in source.files:
        types = _csv_types(file) if source.format == "csv" else _parquet_types(file)
        first = first or types
        _check_same(source.files[0], first, file, types)
        for name, arrow_type in types.items():
            wider = _wider(first[name], arrow_type)
            if wider is None:
                raise DataError(
                    f"the column {name!r} holds {first[name]} in {source.files[0]} and "
                    f"{arrow_type} in {file}; write all files with one type."
                )
            first[name] = wider
    if not first:
        raise DataError(f"{source.files[0]} names no column; its first line must be a header.")
    return first


def stream(
    source: Source, columns: Sequence[str], groups: range | None = None
) -> Iterator[RawBatch]:
    """Yields the rows of every file, with `columns` only; raises DataError.

    Args:
        source: the files.
        columns: which columns, in which order.
        groups: which row groups of the only file, which is Parquet; all of all files by default.
    """
    done = 0
    read = _reader(source, columns, groups)
    for file in source.files:
        with file.store.explained(file.path):
            for batch in read(file):
                yield replace(batch, bytes_done=done + batch.bytes_done)
        done += file.size_bytes


def row_groups(file: File) -> list[int]:
    """Returns the size of each row group of a Parquet file, in bytes of the file."""
    with _open_parquet(file) as parquet:
        metadata = parquet.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        return [
            sum(group.column(i).total_compressed_size for i in range(group.num_columns))
            for group in groups
        ]


def _reader(
    source: Source, columns: Sequence[str], groups: range | None
) -> Callable[[File], Iterator[RawBatch]]:
    if source.format == "csv":
        return lambda file: _csv(file, columns)
    if source.format == "parquet":
        return lambda file: _parquet(file, columns, groups)
    types = schema(source)
    wanted = {column: types[column] for column in columns}
    return lambda file: _tfrecord(file, wanted)


def _check_same(
    first_file: File, first: Mapping[str, Any], file: File, types: Mapping[str, Any]
) -> None:
    missing = [name for name in first if name not in types]
    added = [name for name in types if name not in first]
    if missing:
        raise DataError(
            f"{file} lacks the column {missing[0]!r} of {first_file}; give all files one header."
        )
    if added:
        raise DataError(
            f"{file} has the column {added[0]!r} that {first_file} lacks; "
            "give all files one header."
        )


def _wider(a: Any, b: Any) -> Any:
    """The type that tells more: text over numbers, anything over nothing. None: neither does."""
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    kinds, texts = [columns.kind_of(kind) for kind in (a, b)], [_is_text(kind) for kind in (a, b)]
    if kinds[0] != kinds[1]:
        is_text_over_numbers = any(texts) and "number" in kinds
        return (a if texts[0] else b) if is_text_over_numbers else None
    return b if texts[1] else a


def _is_text(arrow_type: Any) -> bool:
    plain = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return columns.is_text(plain)


def _check_unique(file: File, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            raise DataError(f"{file} has two columns {name!r}; rename one.")


def _csv_types(file: File) -> dict[str, Any]:
    names = [name.strip() for name in _header(file)]
    _check_unique(file, names)
    return {name: pa.string() for name in names if name}


def _header(file: File) -> list[str]:
    try:
        with _decompressed(file) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            return next(csv.reader(text, delimiter=sources.delimiter(file)), [])
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except (csv.Error, pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot read the header of {file}: {first_line(error)}.") from error


def _decompressed(file: File) -> Any:
    codec = sources.compression(file)
    return pa.CompressedInputStream(file.open(), codec) if codec else file.open()


def _csv(file: File, columns: Sequence[str]) -> Iterator[RawBatch]:
    header = _header(file)
    names = {name.strip(): name for name in header}
    wanted = [names[column] for column in columns]
    codec = sources.compression(file)
    try:
        with file.open() as raw:
            data = pa.CompressedInputStream(raw, codec) if codec else raw
            reader = pacsv.open_csv(data, **_csv_options(file, wanted, threads=True))
            for batch in reader:
                arrays = {column: batch.column(i) for i, column in enumerate(columns)}
                yield RawBatch(arrays=arrays, rows=batch.num_rows, bytes_done=raw.tell())
    except pa.ArrowInvalid as error:
        raise _csv_error(file, error) from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {first_line(error)}.") from error


def _csv_options(file: File, wanted: Sequence[str], *, threads: bool) -> dict[str, Any]:
    return {
        "read_options": pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=threads),
        "parse_options": pacsv.ParseOptions(
            delimiter=sources.delimiter(file), newlines_in_values=True
        ),
        "convert_options": pacsv.ConvertOptions(
            column_types={name: pa.string() for name in wanted},
            include_columns=list(wanted),
            strings_can_be_null=True,
            null_values=[""],
        ),
    }


def _csv_error(file: File, error: Exception) -> DataError:
    message = str(error)
    if "invalid UTF8" in message:
        return _not_utf8(file)
    if "Expected" in message and "columns, got" in message:
        return _ragged(file, message)
    if "straddling" in message:
        return DataError(
            f"{file} has a row of more than {_BLOCK_BYTES >> 20} MiB; "
            "a quote may be open, so look for an odd one."
        )
    if "cannot infer number of columns" in message:
        return DataError(f"{file} has a header but no rows; add rows.")
    return DataError(f"{file} is not CSV that can be read: {first_line(error)}.")


def _ragged(file: File, message: str) -> DataError:
    """Reads again in one thread, as only then rows are counted."""
    seen: list[Any] = []

    def note(row: Any) -> str:
        seen.append(row)
        return "error"

    options = _csv_options(file, [], threads=False)
    options["parse_options"].invalid_row_handler = note
    options["convert_options"].include_columns = []
    try:
        with _decompressed(file) as data:
            for _ in pacsv.open_csv(data, **options):
                pass
    except pa.ArrowInvalid:
        pass
    if not seen:
        return DataError(f"{file} is not CSV that can be read: {message}.")
    row = seen[0]
    where = "a row" if row.number is None else f"row {row.number}"
    return DataError(
        f"{file}: {where} has {row.actual_columns} values where the header has "
        f"{row.expected_columns}; complete it, or quote values that hold the delimiter."
    )


def _not_utf8(file: File) -> DataError:
    with _decompressed(file) as data:
        coding = (
            "UTF-16" if data.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
        )
    return DataError(f"{file} is not UTF-8; convert it, as `iconv -f {coding} -t UTF-8` does.")


def _parquet_types(file: File) -> dict[str, Any]:
    with _open_parquet(file) as parquet:
        arrow_schema = parquet.schema_arrow
    _check_unique(file, arrow_schema.names)
    return {field.name: field.type for field in arrow_schema if field.name}


@contextmanager
def _open_parquet(file: File, columns: Sequence[str] = ()) -> Iterator[Any]:
    with file.open() as raw:
        try:
            # What is a dictionary in the file need not be made one again; numbers are not touched.
            parquet = pq.ParquetFile(raw, read_dictionary=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _corrupted(file, error) from error
        yield parquet


def _parquet(
    file: File, columns: Sequence[str], groups: range | None = None
) -> Iterator[RawBatch]:
    size = file.size_bytes
    rows = 0
    with _open_parquet(file, columns) as parquet:
        total = max(parquet.metadata.num_rows, 1)
        chosen = list(range(parquet.metadata.num_row_groups) if groups is None else groups)
        at_once = _rows_at_once(parquet.metadata, columns)
        batches = parquet.iter_batches(at_once, columns=list(columns), row_groups=chosen)
        try:
            for batch in batches:
                rows += batch.num_rows
                arrays = {column: batch.column(column) for column in columns}
                yield RawBatch(arrays=arrays, rows=batch.num_rows, bytes_done=size * rows // total)
        except (pa.ArrowException, OSError) as error:
            raise _corrupted(file, error) from error


def _rows_at_once(metadata: Any, columns: Sequence[str]) -> int:
    """How many rows make a batch."""
    chunks = (
        group.column(place)
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for place in range(group.num_columns)
    )
    size = sum(int(c.total_uncompressed_size) for c in chunks if c.path_in_schema in columns)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * int(metadata.num_rows) // max(size, 1)))


def _tfrecord(file: File, columns: Mapping[str, Any]) -> Iterator[RawBatch]:
    done = 0
    for arrays, rows, size in tfrecords.stream(file, columns):
        done = min(done + size, file.size_bytes)  # of a compressed file, its size is more
        yield RawBatch(arrays=arrays, rows=rows, bytes_done=done)


def _corrupted(file: File, error: Exception) -> DataError:
    return DataError(f"{file} is not a whole Parquet file: {first_line(error)}; write it again.")
