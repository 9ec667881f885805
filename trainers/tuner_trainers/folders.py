"""Files that rows of data name by their paths, such as images."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tuner.errors import DataError
from tuner_trainers.sources import Source

#: Files that are read at once, and the threads that read them: mostly they wait.
PATHS = 512
_THREADS = 8


class Folder:
    """The folder of a data set's own files. What they name lies in it or below.

    So whoever may use the data may use what it names, and nothing else of the machine.
    """

    def __init__(self, source: Source) -> None:
        self._uri, self._store = source.uri, source.files[0].store
        folders = [posixpath.dirname(file.path) for file in source.files]
        if not self._store.prefix:  # a path of this machine may be relative
            folders = [posixpath.abspath(folder) for folder in folders]
        self._path = posixpath.commonpath(folders)

    def read(self, column: str, paths: Sequence[str]) -> list[bytes]:
        """The content of each file of a column; of an empty path it is empty.

        Raises:
            DataError: one of them cannot be read, or lies elsewhere.
        """
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda path: self._content(column, path), paths))

    def _content(self, column: str, path: str) -> bytes:
        if not path:
            return b""
        place = self._place(column, path)
        try:
            with self._store.open(place) as file:
                content: bytes = file.read()
        except OSError as error:
            raise DataError(
                f"{self._uri}: the column {column!r} names {path!r}, but "
                f"{self._store.prefix}{place} cannot be read: {error.strerror or error}."
            ) from error
        return content

    def _place(self, column: str, path: str) -> str:
        """The path in the store."""
        named = path.removeprefix("file://" if not self._store.prefix else self._store.prefix)
        place = posixpath.normpath(posixpath.join(self._path, named))
        if self._store.prefix and path != named:  # a URI begins with its bucket
            place = posixpath.normpath(named)
        if not place.startswith(f"{self._path.rstrip('/')}/"):
            where = f"{self._store.prefix}{self._path}"
            raise DataError(
                f"{self._uri}: the column {column!r} names {path!r}, which is not below {where}; "
                "put the files that data names into its folder."
            )
        return place
