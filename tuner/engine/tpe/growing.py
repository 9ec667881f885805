"""A matrix that gains columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Growing:
    """Columns are appended at the end; room for them doubles, so that each is copied seldom."""

    def __init__(self, rows: int, dtype: DTypeLike) -> None:
        self._room: NDArray[Any] = np.empty((rows, 64), dtype=dtype)
        self._columns = 0

    @property
    def view(self) -> NDArray[Any]:
        """The matrix, [rows, columns]; to be written, until the next column comes."""
        return self._room[:, : self._columns]

    def append(self, columns: NDArray[Any]) -> None:
        """Appends columns, [rows, any number]."""
        end = self._columns + columns.shape[1]
        if end > self._room.shape[1]:
            room = np.empty((len(self._room), 2 * end), dtype=self._room.dtype)
            room[:, : self._columns] = self.view
            self._room = room
        self._room[:, self._columns : end] = columns
        self._columns = end
