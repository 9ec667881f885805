"""Reads TFRecord files of `tf.train.Example` as Arrow arrays by feature.

The type of a feature is that in the first examples of each file. An example may lack any feature:
its value is missing then. A feature with several values in an example is no column.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from tuner.errors import DataError, first_line
from tuner_trainers import sources
from tuner_trainers.stores import File, LocalStore

#: Examples that are looked at to learn which features there are.
SAMPLE = 1000
_BATCH_ROWS = 16_384
#: Fewer examples make a batch if they take more than this.
_BATCH_BYTES = 64 << 20
_SIZED = 100
_BUFFER_BYTES = 8 << 20
#: Before each record its length and a checksum of that, behind it a checksum of the record.
_HEADER, _FOOTER_BYTES = struct.Struct("<QI"), 4
#: No record of a table is as long: its length was damaged.
_LONGEST_RECORD = 1 << 30


def schema(files: Sequence[File]) -> dict[str, Any]:
    """Returns the Arrow type of each feature in the first examples of the files, by name.

    Bytes that are not UTF-8 are binary; features with several values are lists.

    Raises:
        DataError: a file does not hold examples, or a feature has two types.
    """
    from tensorflow.core.example import example_pb2  # only those who have such files load it

    found: dict[str, Any] = {}
    for file in files:
        for record in islice(_records(file), SAMPLE):
            try:
                features = example_pb2.Example.FromString(record).features.feature
            except DecodeError as error:
                raise DataError(f"{file} does not hold tf.train.Example records.") from error
            for name in features:
                kind = _type(features[name])
                found[name] = _wider(file, name, found.get(name, pa.null()), kind)
    if not found:
        raise DataError(f"{files[0]} has no example with a feature; write it again.")
    return {name: found[name] for name in sorted(found)}


def stream(file: File, columns: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yields some rows as arrays by column, how many they are, and how many bytes they took.

    Args:
        file: what to read.
        columns: the Arrow type of each feature to read.

    Raises:
        DataError: the file is damaged, or a feature is not what the first examples said.
    """
    import tensorflow as tf  # only those who have such files load it

    spec = {name: tf.io.RaggedFeature(_dtype(kind)) for name, kind in columns.items()}
    row = 0
    with _local(file) as (path, codec):
        records = tf.data.TFRecordDataset(path, codec, buffer_size=_BUFFER_BYTES)
        try:
            for batch in records.batch(_rows_at_once(file)):
                parsed = tf.io.parse_example(batch, spec)
                arrays = {
                    name: _array(file, name, kind, parsed[name], row)
                    for name, kind in columns.items()
                }
                rows = int(batch.shape[0])
                row += rows
                yield arrays, rows, int(tf.reduce_sum(tf.strings.length(batch) + 16))
        except tf.errors.DataLossError as error:
            raise DataError(
                f"{file} is damaged after row {row}; write it again ({first_line(error)})."
            ) from error
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"{file}: the examples after row {row} are not like the first ones "
                f"({first_line(error)}); give each feature one type."
            ) from error


def _rows_at_once(file: File) -> int:
    """How many examples make a batch, by the size of the first."""
    sizes = [len(record) for record in islice(_records(file), _SIZED)]
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * len(sizes) // max(sum(sizes), 1)))


def _records(file: File) -> Iterator[bytes]:
    """The records, without a look at their checksums."""
    codec = sources.compression(file)
    with file.store.explained(file.path), file.open() as raw:
        data = pa.CompressedInputStream(raw, codec) if codec else raw
        while header := data.read(_HEADER.size):
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else -1
            record = data.read(length) if 0 <= length <= _LONGEST_RECORD else b""
            if len(record) != length or len(data.read(_FOOTER_BYTES)) != _FOOTER_BYTES:
                raise DataError(f"{file} is no whole TFRecord file; write it again.")
            yield record


def _type(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return pa.null()
    values = getattr(feature, kind).value
    if not values:
        return pa.null()
    if kind == "bytes_list":
        arrow = pa.string() if all(map(_is_text, values)) else pa.binary()
    else:
        arrow = pa.int64() if kind == "int64_list" else pa.float32()
    return pa.list_(arrow) if len(values) > 1 else arrow


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wider(file: File, name: str, a: Any, b: Any) -> Any:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    plain = [kind.value_type if pa.types.is_list(kind) else kind for kind in (a, b)]
    if plain[0] != plain[1] and pa.binary() in plain and pa.string() in plain:
        plain = [pa.binary(), pa.binary()]
    if plain[0] != plain[1]:
        raise DataError(
            f"{file}: the feature {name!r} is {plain[0]} in one example and {plain[1]} in "
            "another; give it one type."
        )
    return pa.list_(plain[0]) if pa.types.is_list(a) or pa.types.is_list(b) else plain[0]


def _dtype(arrow: Any) -> Any:
    import tensorflow as tf  # only those who have such files load it

    if pa.types.is_integer(arrow):
        return tf.int64
    textual = pa.types.is_string(arrow) or pa.types.is_binary(arrow)
    return tf.string if textual else tf.float32


def _array(file: File, name: str, kind: Any, ragged: Any, start: int) -> Any:
    """The only value of each row, null where it has none."""
    lengths = np.diff(ragged.row_splits.numpy())
    several = np.flatnonzero(lengths > 1)
    if len(several):
        raise DataError(
            f"{file}: the feature {name!r} has {lengths[several[0]]} values in row "
            f"{start + several[0]}; a column has one, so exclude it."
        )
    values = ragged.flat_values.numpy()
    try:
        array = pa.array(values.tolist() if values.dtype == object else values)
        if values.dtype == object:
            array = array.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{file}: the feature {name!r} holds bytes that are not UTF-8; exclude it."
        ) from error
    if len(values) == len(lengths):
        return array
    places = np.cumsum(lengths) - 1
    return array.take(pa.array(places, mask=lengths == 0))


@contextmanager
def _local(file: File) -> Iterator[tuple[str, str]]:
    """A file that TensorFlow can read, and its compression for it: the file itself or a copy."""
    codec = sources.compression(file)
    if isinstance(file.store, LocalStore) and codec in (None, "gzip"):
        yield file.path, "GZIP" if codec else ""
        return
    with tempfile.NamedTemporaryFile(prefix="tuner-", suffix=".tfrecord") as copy:
        try:
            with file.store.explained(file.path), file.open() as raw:
                data = pa.CompressedInputStream(raw, codec) if codec else raw
                shutil.copyfileobj(data, copy, _BUFFER_BYTES)
            copy.flush()
        except OSError as error:
            raise DataError(
                f"cannot copy {file} to {os.path.dirname(copy.name)}: {error.strerror}; "
                "free space there, or set TMPDIR."
            ) from error
        yield copy.name, ""
