"""The rows of a data set in memory: loaded once per process, encoded once per trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner_trainers import data, sources
from tuner_trainers.preprocessing import Encoder
from tuner_trainers.target import Target

#: Rows that are encoded at once.
CHUNK_ROWS = 65_536
#: Data sets that a process keeps: a study has up to three, and another may take turns with it.
KEPT = 4

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Raw columns as tensors [rows], float64 or string, and raw labels."""

    columns: Mapping[str, tf.Tensor]
    labels: npt.NDArray[Any]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Encoded rows of a trial: `places` says which of the raw ones they are.

    `inputs` are tensors [rows, ...] by the encoder's output; `labels` are those of the target,
    NaN where there is none.
    """

    raw: RawRows
    places: Indices
    inputs: Mapping[str, tf.Tensor]
    labels: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.places)

    def take(self, index: Indices) -> Rows:
        """Some of the rows."""
        return Rows(
            raw=self.raw,
            places=self.places[index],
            inputs={name: tf.gather(tensor, index) for name, tensor in self.inputs.items()},
            labels=self.labels[index],
        )

    def labelled(self) -> Rows:
        """The rows that have a label."""
        known = np.flatnonzero(np.isfinite(self.labels))
        return self if len(known) == self.count else self.take(known)


def load(
    uri: str,
    kinds: Mapping[str, str],
    label: tuple[str, str],
    missing_values: tuple[str, ...],
) -> RawRows:
    """Reads rows, or returns those that the process has read before if the files are unchanged.

    Args:
        uri: where the data lies.
        kinds: the columns to read, each "number" or "string".
        label: the label and its kind.
        missing_values: the words that mean missing, besides the empty one.
    """
    stamps = [(str(file), file.stat()) for file in sources.locate(uri).files]
    version = tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stamps)
    return _load(uri, version, tuple(kinds.items()), label, missing_values)


def encode(raw: RawRows, encoder: Encoder, target: Target) -> Rows:
    """Encodes all rows."""
    parts = [
        encoder.encode(
            {name: raw.columns[name][start : start + CHUNK_ROWS] for name in encoder.columns}
        )
        for start in range(0, max(raw.count, 1), CHUNK_ROWS)
    ]
    return Rows(
        raw=raw,
        places=np.arange(raw.count),
        inputs={name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]},
        labels=target.encode(raw.labels),
    )


def as_tensor(column: npt.NDArray[Any]) -> tf.Tensor:
    """A raw column as float64 or string [rows]."""
    if column.dtype == object:
        return tf.constant(column.tolist(), tf.string, shape=column.shape)
    return tf.constant(column, tf.float64)


@lru_cache(maxsize=KEPT)
def _load(
    uri: str,
    _version: tuple[tuple[str, int, int], ...],
    kinds: tuple[tuple[str, str], ...],
    label: tuple[str, str],
    missing_values: tuple[str, ...],
) -> RawRows:
    wanted = dict([*kinds, label])
    raw = data.read(uri, types=wanted, missing_values=missing_values, columns=tuple(wanted))
    return RawRows(
        columns={name: as_tensor(raw[name]) for name, _ in kinds},
        labels=raw[label[0]],
        count=len(next(iter(raw.values()))),
    )
