"""Finds the files behind a path, a URI, a directory or a pattern; tells data sets apart."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from tuner.errors import DataError
from tuner_trainers import stores
from tuner_trainers.stores import File

#: Rows read so far, bytes read so far, bytes in all.
Progress = Callable[[int, int, int], None]

Format = Literal["csv", "parquet", "tfrecord"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_NAMES = {"csv": "CSV", "parquet": "Parquet", "tfrecord": "TFRecord"}
_EXPECTED = (
    "CSV (.csv, .tsv) or TFRecord (.tfrecord, .tfrecords), both also .gz, .bz2 or .zst, "
    "or Parquet (.parquet, .pq)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of one data set, sorted by path, all of one format."""

    uri: str
    format: Format
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size and time of each file: another one if the data was written again."""
        return tuple((str(file), file.size_bytes, file.mtime_ns) for file in self.files)


def locate(uri: str) -> Source:
    """Returns the files that `uri` names: a file, a directory's files, or a pattern's matches.

    A directory's files are those directly in it whose names end like data and start with
    neither `.` nor `_`.

    Raises:
        DataError: nothing there, nothing in it, or not one kind of data.
    """
    if not uri:
        raise DataError("the path of the data is empty; give a file, a directory or a pattern.")
    files = _files(uri)
    formats = dict.fromkeys(_format(file) for file in files)
    if len(formats) > 1:
        kinds = " and ".join(sorted(_NAMES[kind] for kind in formats))
        raise DataError(f"{uri} holds both {kinds} files; name one kind by a pattern.")
    empty = next((file for file in files if not file.size_bytes), None)
    if empty is not None:
        raise DataError(f"{empty} is empty; it needs rows.")
    return Source(uri=uri, format=next(iter(formats)), files=tuple(files))


def fingerprint(uri: str) -> str:
    """Returns a SHA-256 over the bytes of the files of `uri`: equal for equal data anywhere."""
    files = locate(uri).files
    return fingerprint_of(files, map(digest_of, files))


def digest_of(file: File) -> bytes:
    """Returns the SHA-256 of a file's bytes; raises DataError."""
    with file.store.explained(file.path), file.open() as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def fingerprint_of(files: Sequence[File], digests: Iterable[bytes]) -> str:
    """Returns the fingerprint of files, given the digest of each."""
    digest = hashlib.sha256()
    for file, of_file in zip(files, digests, strict=True):
        digest.update(file.size_bytes.to_bytes(8, "big"))
        digest.update(of_file)
    return digest.hexdigest()


def compression(file: File) -> str | None:
    """The compression that the file's name tells, for pyarrow."""
    return _COMPRESSIONS.get(PurePosixPath(file.name).suffix.lower())


def delimiter(file: File) -> str:
    """What stands between the values of a line."""
    return "\t" if ".tsv" in _suffixes(file) else ","


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Names for a message, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _files(uri: str) -> Sequence[File]:
    store, path = stores.locate(uri)
    found, in_directory = store.find(path)
    if in_directory:
        found = [file for file in found if _is_data(file)]
        if not found:
            raise DataError(f"the directory {uri} has no data files; it needs {_EXPECTED}.")
    if found:
        return found
    if glob.has_magic(path):
        raise DataError(f"no file matches {uri}; check the pattern and where the runner runs.")
    raise DataError(f"{uri} does not exist; check the path, which is read where the runner runs.")


def _is_data(file: File) -> bool:
    return not file.name.startswith((".", "_")) and _extension(file) in _FORMATS


def _suffixes(file: File) -> list[str]:
    return [suffix.lower() for suffix in PurePosixPath(file.name).suffixes]


def _extension(file: File) -> str:
    suffixes = _suffixes(file)
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _format(file: File) -> Format:
    found = _FORMATS.get(_extension(file))
    if found is None or (found == "parquet" and compression(file)):
        raise DataError(f"{file} has no known extension; data is {_EXPECTED}.")
    return found
