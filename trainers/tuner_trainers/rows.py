"""The rows of a data set: read once per machine, encoded by each trial as it needs them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from tuner.errors import DataError
from tuner_trainers import data, sources, table
from tuner_trainers.cache import Cache
from tuner_trainers.images import Decoded, ImageFeature
from tuner_trainers.preprocessing import Encoder, image_name
from tuner_trainers.storage import Storage
from tuner_trainers.table import Column, Indices, Table
from tuner_trainers.target import Target

#: Rows that are encoded at once, and what they may take.
CHUNK_ROWS, CHUNK_BYTES = 65_536, 128 << 20
#: From here on a graph saves more time than it takes to make: 0.1 s, and 0.2 us for each row.
GRAPH_ROWS = 1 << 19
#: Data sets that a process keeps open: a study has up to three, and another may take turns.
KEPT = 4
_INT32 = np.iinfo(np.int32).max
#: Of what the cache holds: a change makes all of it anew.
_CACHE_VERSION = 1

Tensors = Mapping[str, tf.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawRows:
    """Raw rows, mapped from the disk.

    Attributes:
        table: the `columns` and the `label`.
        columns: which of them a model may see.
        label: the one that it predicts.
        key: names the table in the cache.
        storage: where the cache is.
    """

    table: Table
    columns: tuple[str, ...]
    label: str
    key: str
    storage: Storage
    #: Decoded images, by column and shape.
    _images: dict[tuple[str, tuple[int, int, int]], Decoded] = field(default_factory=dict)
    #: The words of text columns whose tensors were asked for.
    _words: dict[str, tf.Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows."""
        return self.table.rows

    def tensors(self, places: Indices, names: Iterable[str]) -> dict[str, tf.Tensor]:
        """Some rows of some columns as the model takes them, float64 or string [places]."""
        columns = {}
        for name in names:
            column = self.table.columns[name]
            columns[name] = tf.constant(column.values[places])
            if column.words is not None:
                if name not in self._words:
                    self._words[name] = _text(column.words)
                columns[name] = tf.gather(self._words[name], columns[name])
        return columns

    def take(self, places: Indices, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
        """Some rows of some columns as float64 or object [places] of str or bytes."""
        return {name: self.table.columns[name].take(places) for name in names}

    def release(self) -> None:
        """Takes what is mapped out of this process's memory, as Table does."""
        self.table.release()
        for images in self._images.values():
            images.release()

    def images(self, feature: ImageFeature) -> Decoded:
        """The images of a feature; raises DataError."""
        key = (feature.column, feature.shape)
        if key not in self._images:
            column = self.table.columns[feature.column]
            self._images[key] = Decoded(feature, column, self.key, self.storage)
        return self._images[key]


class TableEncoder:
    """Encodes the rows of one table, just as the encoder that it is made from does.

    Images are decoded once for all trials. What words alone decide is worked out once for each
    word, or for each combination of words if there are fewer than rows. What is left takes the
    encoder's own layers, row by row.
    """

    def __init__(self, encoder: Encoder, raw: RawRows) -> None:
        bags = sum(bag.length for bag in encoder.bags)
        self.row_bytes = 4 * (encoder.numbers + len(encoder.ids) + bags)
        self.row_bytes += sum(image.row_bytes for image in encoder.images)
        self._images = {
            image_name(index): raw.images(image) for index, image in enumerate(encoder.images)
        }
        self._raw = raw
        self._by_word: dict[int, _IdsOfWords] = {}
        self._by_row: list[int] = []
        for place, names in enumerate(encoder.id_columns):
            columns = {name: raw.table.columns[name] for name in names}
            if _combinations(columns) <= raw.count:
                self._by_word[place] = _IdsOfWords(encoder.part([place]), columns)
            else:
                self._by_row.append(place)
        left: Encoder | None = encoder
        if self._by_word or self._images:
            has_more = self._by_row or encoder.numbers or encoder.bags
            left = encoder.part(self._by_row, others=True) if has_more else None
        self._columns = () if left is None else left.columns
        self._left = None if left is None else left.model
        if left is not None and raw.count >= GRAPH_ROWS:
            self._left = _graph(left.model)

    def encode(self, places: Indices) -> Tensors:
        """Encodes some rows, tensors [places, ...] by the encoder's output."""
        encoded = {name: images.take(places) for name, images in self._images.items()}
        if self._left is not None:
            columns = self._raw.tensors(places, self._columns)
            encoded |= self._left([columns[name] for name in self._columns])
        if self._by_word:
            ids = np.empty((len(places), len(self._by_word) + len(self._by_row)), np.int32)
            if self._by_row:
                ids[:, self._by_row] = encoded["ids"].numpy()
            for place, of_words in self._by_word.items():
                ids[:, place] = of_words.take(places)
            encoded["ids"] = tf.constant(ids)
        return encoded


class _IdsOfWords:
    """The id of each combination of the words of some text columns, of mostly one."""

    def __init__(self, encoder: Encoder, columns: Mapping[str, Column]) -> None:
        """Takes an encoder of one id, and its columns."""
        self._columns = tuple(columns.values())
        words = [column.words for column in self._columns]
        sizes = tuple(map(len, words))
        parts = []
        for part in _parts(math.prod(sizes)):
            index = np.arange(math.prod(sizes))[part]
            texts = [
                _text(of_column.take(pa.array(codes)))
                for of_column, codes in zip(words, np.unravel_index(index, sizes), strict=True)
            ]
            parts.append(encoder.encode(dict(zip(columns, texts, strict=True)))["ids"].numpy())
        self._ids: npt.NDArray[np.int32] = np.concatenate(parts)[:, 0]

    def take(self, places: Indices) -> npt.NDArray[np.int32]:
        """The ids of some rows."""
        codes = self._columns[0].values[places]
        for column in self._columns[1:]:
            codes = codes.astype(np.int64) * len(column.words) + column.values[places]
        ids: npt.NDArray[np.int32] = self._ids[codes]
        return ids


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Encoded rows, tensors [rows, ...] by the encoder's output, and encoded labels [rows]."""

    inputs: Tensors
    labels: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows that a trial uses, encoded each time they are asked for unless they are `held`.

    Attributes:
        raw: the whole data set.
        places: which of its rows these are.
        encoder: what encodes them.
        target: what encodes their labels.
        held: all of them encoded, if they are kept in memory.
    """

    raw: RawRows
    places: Indices
    encoder: TableEncoder
    target: Target
    held: Held | None = None

    @property
    def count(self) -> int:
        """How many."""
        return len(self.places)

    @property
    def encoded_bytes(self) -> int:
        """What all of them take when they are encoded, with their labels."""
        return self.count * (self.encoder.row_bytes + 4)

    def take(self, index: Indices) -> Rows:
        """Some of the rows."""
        return replace(self, places=self.places[index], held=None)

    def hold(self) -> Rows:
        """The same rows, encoded and kept in memory."""
        parts = list(self.chunks())
        inputs = {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
        return replace(self, held=Held(inputs, self.labels()))

    def encoded(self, index: Indices | slice) -> Tensors:
        """Some of the rows, tensors [index, ...] by the encoder's output."""
        if self.held is None:
            return self.encoder.encode(self.places[index])
        return {name: _taken(tensor, index) for name, tensor in self.held.inputs.items()}

    def chunks(self) -> Iterator[Tensors]:
        """All rows in order, some at a time, tensors by the encoder's output."""
        for part in _parts(self.count, rows_at_once(self.encoder.row_bytes)):
            yield self.encoded(part)
            self.raw.release()

    def labels(self, index: Indices | slice = slice(None)) -> npt.NDArray[np.float64]:
        """The labels of some rows as the target encodes them, NaN where there is none."""
        if self.held is not None:
            return self.held.labels[index]
        column = self.raw.table.columns[self.raw.label]
        values = column.values[self.places[index]]
        if column.words is None:
            return self.target.encode(values)
        known = self.target.encode(np.asarray(column.words.to_pylist(), object))
        labels: npt.NDArray[np.float64] = known[values]
        return labels

    def labelled(self) -> Rows:
        """The rows that have a label."""
        known = [np.isfinite(self.labels(part)) for part in _parts(self.count)]
        return self.take(np.flatnonzero(np.concatenate(known)))


def load(
    uri: str,
    kinds: Mapping[str, str],
    label: tuple[str, str],
    missing_values: tuple[str, ...],
    storage: Storage,
) -> RawRows:
    """Maps the rows of a data set, which are read first if this machine has not done so before.

    Args:
        uri: where the data lies.
        kinds: the columns to read, each "number", "string" or "bytes".
        label: the label and its kind.
        missing_values: the words that mean missing, besides the empty one.
        storage: where they are kept.

    Raises:
        DataError: the data cannot be used, or there is no space to keep it.
    """
    version = sources.locate(uri).version
    return _load(uri, version, tuple(kinds.items()), label, missing_values, storage)


def encode(raw: RawRows, encoder: Encoder, target: Target) -> Rows:
    """All rows, for a trial."""
    places: Indices = np.arange(raw.count)
    if raw.count <= _INT32:
        places = places.astype(np.int32)
    return Rows(raw=raw, places=places, encoder=TableEncoder(encoder, raw), target=target)


def as_tensor(column: npt.NDArray[Any]) -> tf.Tensor:
    """A raw column as float64 or string [rows]."""
    if column.dtype == object:
        return tf.constant(column.tolist(), tf.string, shape=column.shape)
    return tf.constant(column, tf.float64)


@lru_cache(maxsize=KEPT)
def _load(
    uri: str,
    version: tuple[tuple[str, int, int], ...],
    kinds: tuple[tuple[str, str], ...],
    label: tuple[str, str],
    missing_values: tuple[str, ...],
    storage: Storage,
) -> RawRows:
    wanted = dict([*kinds, label])

    def make(folder: Path) -> Iterator[int]:
        batches = data.encoded(
            uri, types=wanted, missing_values=missing_values, columns=tuple(wanted)
        )
        yield from table.write(folder, batches)
        if sources.locate(uri).version != version:
            raise DataError(f"{uri} changed while it was read; try again when it is complete.")

    read_from = [_CACHE_VERSION, version, sorted(wanted.items()), sorted(missing_values)]
    key = hashlib.sha256(json.dumps(read_from).encode()).hexdigest()
    return RawRows(
        table=Cache(storage).get(key, make, Table),
        columns=tuple(name for name, _ in kinds),
        label=label[0],
        key=key,
        storage=storage,
    )


def _text(words: Any) -> tf.Tensor:
    return tf.constant(words.to_pylist(), tf.string)


def _combinations(columns: Mapping[str, Column]) -> float:
    """How many combinations of words there may be; infinitely many with numbers."""
    return math.prod(
        math.inf if column.words is None else len(column.words) for column in columns.values()
    )


def _graph(layers: keras.Model) -> Callable[[Sequence[tf.Tensor]], Tensors]:
    """The model as one graph, for any number of rows."""
    specs = [tf.TensorSpec((None,), tensor.dtype) for tensor in layers.inputs]
    graph: Callable[[Sequence[tf.Tensor]], Tensors]
    graph = tf.function(lambda raw: layers(raw), input_signature=[specs], autograph=False)
    return graph


def _taken(tensor: tf.Tensor, index: Indices | slice) -> tf.Tensor:
    return tensor[index] if isinstance(index, slice) else tf.gather(tensor, index)


def rows_at_once(row_bytes: int) -> int:
    """How many rows of so many bytes are encoded at once."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(row_bytes, 1)))


def _parts(rows: int, size: int = CHUNK_ROWS) -> list[slice]:
    """Slices of `size` that make up all rows; one at least."""
    return [slice(start, start + size) for start in range(0, max(rows, 1), size)]
