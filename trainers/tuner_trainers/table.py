"""Rows on disk by column, mapped into memory: text is there once, as numbers it is read.

A folder with one file for each column, its values one after the other, little-endian: float64 for
numbers, NaN for missing, and for text the int32 places of the words in an Arrow file beside it.
Of bytes, such as images, the int32 places among all of the column, which lie one after the other
in a third file, with their int64 offsets beside it. Whatever processes map it share its pages.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tuner_trainers.columns import is_bytes

_LAYOUT = "table.json"
_NUMBERS, _CODES = np.dtype("<f8"), np.dtype("<i4")

Indices = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column: float64 [rows], or int32 [rows] places in the `words`, each of which occurs."""

    values: npt.NDArray[Any]
    #: Arrow's large strings, or large binaries, which are mapped; None for numbers.
    words: Any = None

    def take(self, places: Indices) -> npt.NDArray[Any]:
        """Some rows, as float64 or object [places] of str or bytes."""
        values: npt.NDArray[Any] = self.values[places]
        if self.words is None:
            return values
        used, place = np.unique(values, return_inverse=True)
        words: npt.NDArray[Any] = np.empty(len(used), object)
        words[:] = self.words.take(pa.array(used)).to_pylist()
        return words[place]


class Table:
    """A table that is open. Its arrays stay valid for as long as they are used, even if it is
    removed from the disk.

    Attributes:
        rows: how many.
        columns: by name.
    """

    def __init__(self, folder: Path) -> None:
        """Opens what `write` wrote.

        Raises:
            OSError, ValueError or KeyError: it is not whole.
        """
        layout = json.loads((folder / _LAYOUT).read_text(encoding="utf-8"))
        self.rows: int = layout["rows"]
        self._maps: list[mmap.mmap] = []
        self.columns: Mapping[str, Column] = {
            name: self._column(folder, index, kind)
            for index, (name, kind) in enumerate(layout["columns"])
        }

    def release(self) -> None:
        """Takes the pages out of this process's memory; the machine keeps them while it can."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _column(self, folder: Path, index: int, kind: str) -> Column:
        dtype = _NUMBERS if kind == "number" else _CODES
        with (folder / f"{index}.values").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != self.rows * dtype.itemsize:
                raise ValueError(f"{file.name} has {size} bytes.")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        values = np.frombuffer(mapped, dtype)
        if kind == "number":
            return Column(values)
        if kind == "bytes":
            offsets, stored = (_mapped(folder / f"{index}.{name}") for name in ("offsets", "data"))
            count = offsets.size // 8 - 1
            return Column(
                values,
                pa.LargeBinaryArray.from_buffers(
                    pa.large_binary(), count, [None, offsets, stored]
                ),
            )
        words = pa.ipc.open_file(pa.memory_map(str(folder / f"{index}.words"))).read_all()
        return Column(values, words["words"].chunk(0))


def _mapped(path: Path) -> Any:
    """A file as a buffer that is mapped."""
    if not path.stat().st_size:
        return pa.py_buffer(b"")
    return pa.memory_map(str(path)).read_buffer()


def write(folder: Path, batches: Iterable[tuple[Mapping[str, Any], int]]) -> Iterable[int]:
    """Writes a table from batches of numbers and dictionary arrays; one row there must be.

    Yields:
        How many bytes were written since the last time.
    """
    names: list[str] = []
    writers: list[_Writer] = []
    rows = 0
    with ExitStack() as files:
        for batch, count in batches:
            if not writers:
                names = list(batch)
                writers = [_Writer(folder, index, files) for index in range(len(names))]
            rows += count
            yield sum(writer.add(batch[name]) for name, writer in zip(names, writers, strict=True))
        yield sum(writer.finish() for writer in writers)
    kinds = [writer.kind for writer in writers]
    layout = {"rows": rows, "columns": list(zip(names, kinds, strict=True))}
    with (folder / _LAYOUT).open("w", encoding="utf-8") as file:
        json.dump(layout, file)
        file.flush()
        os.fsync(file.fileno())


class _Writer:
    """Writes one column."""

    def __init__(self, folder: Path, index: int, files: ExitStack) -> None:
        self.kind = "number"
        self._words_path = folder / f"{index}.words"
        self._file: BinaryIO = files.enter_context((folder / f"{index}.values").open("wb"))
        self._places: dict[str, int] = {}
        self._stored_path = folder / f"{index}.data"
        self._stored: BinaryIO | None = None
        self._offsets: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._files = files

    def add(self, values: Any) -> int:
        """Appends rows; returns their bytes."""
        if isinstance(values, np.ndarray):
            column: npt.NDArray[Any] = values.astype(_NUMBERS, copy=False)
        elif is_bytes(values.type.value_type):
            self.kind = "bytes"
            column, stored = self._put(values)
            self._file.write(column.data)
            return column.nbytes + stored
        else:
            self.kind = "string"
            column = self._coded(values)
        self._file.write(column.data)
        return column.nbytes

    def finish(self) -> int:
        """Writes the words, and waits for the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.kind == "number":
            return 0
        if self._stored is not None:
            self._stored.flush()
            os.fsync(self._stored.fileno())
            offsets = np.concatenate(self._offsets).astype("<i8")
            with self._stored_path.with_suffix(".offsets").open("wb") as file:
                file.write(offsets.data)
                file.flush()
                os.fsync(file.fileno())
            return offsets.nbytes
        words = pa.table({"words": pa.array(list(self._places), pa.large_string())})
        with self._words_path.open("wb") as file:
            with pa.ipc.new_file(file, words.schema) as writer:
                writer.write_table(words, max_chunksize=max(len(words), 1))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _put(self, values: Any) -> tuple[npt.NDArray[np.int32], int]:
        """Appends a batch's bytes to those before; returns its places, and how many they are."""
        if self._stored is None:
            self._stored = self._files.enter_context(self._stored_path.open("wb"))
        last = self._offsets[-1]
        first, before = sum(map(len, self._offsets)) - 1, last[-1] if len(last) else 0
        stored = values.dictionary.to_pylist()
        self._stored.writelines(stored)
        ends = before + np.cumsum([len(each) for each in stored], dtype=np.int64)
        self._offsets.append(ends)
        codes = values.indices.to_numpy().astype(np.int64) + first
        return codes.astype(_CODES), int(ends[-1] - before)

    def _coded(self, values: Any) -> npt.NDArray[np.int32]:
        """The places of a batch's words among those of all batches."""
        indices = values.indices.to_numpy(zero_copy_only=False)
        # A batch's dictionary may hold words that no row has.
        used = np.flatnonzero(np.bincount(indices, minlength=len(values.dictionary)))
        table = np.zeros(len(values.dictionary), _CODES)
        places = self._places
        words = values.dictionary.take(pa.array(used)).to_pylist()
        table[used] = [places.setdefault(word, len(places)) for word in words]
        codes: npt.NDArray[np.int32] = table[indices]
        return codes
