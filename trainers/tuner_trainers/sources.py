"""Finds the files behind a path, a directory or a pattern, and tells one data set from another."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.errors import DataError

#: Rows read so far, bytes read so far, bytes in all.
Progress = Callable[[int, int, int], None]

Format = Literal["csv", "parquet"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_EXPECTED = "CSV (.csv, .tsv, also .gz, .bz2 or .zst) or Parquet (.parquet, .pq)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of one data set, sorted by path, all of one format."""

    uri: str
    format: Format
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.stat().st_size for file in self.files)


def locate(uri: str) -> Source:
    """Returns the files that `uri` names: a file, a directory's files, or a pattern's matches.

    A directory's files are those directly in it whose names end like data and start with
    neither `.` nor `_`.

    Raises:
        DataError: nothing there, nothing readable, or not one kind of data.
    """
    files = _files(_local(uri))
    formats = {_format(file) for file in files}
    if len(formats) > 1:
        raise DataError(f"{uri} holds both CSV and Parquet files; name one kind by a pattern.")
    for file in files:
        _check_readable(file)
    return Source(uri=uri, format=formats.pop(), files=tuple(files))


def fingerprint(uri: str) -> str:
    """Returns a SHA-256 over the bytes of the files of `uri`: equal for equal data anywhere."""
    digest = hashlib.sha256()
    for file in locate(uri).files:
        digest.update(file.stat().st_size.to_bytes(8, "big"))
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def compression(file: Path) -> str | None:
    """The compression that the file's name tells, for pyarrow."""
    return _COMPRESSIONS.get(file.suffix.lower())


def delimiter(file: Path) -> str:
    """What stands between the values of a line."""
    return "\t" if ".tsv" in [suffix.lower() for suffix in file.suffixes] else ","


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Names for a message, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _local(uri: str) -> str:
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    if "://" in uri:
        scheme = uri.split("://", 1)[0]
        raise DataError(f"{uri}: {scheme}:// is not read; give a path that the runner can open.")
    if not uri:
        raise DataError("the path of the data is empty; give a file, a directory or a pattern.")
    return uri


def _files(path: str) -> list[Path]:
    try:
        if Path(path).is_dir():
            return _in_directory(Path(path))
        if Path(path).exists():
            return [Path(path)]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check its permissions.") from error
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
    files = [match for match in matches if match.is_file()]
    if files:
        return files
    if glob.has_magic(path):
        raise DataError(f"no file matches {path}; check the pattern and where the runner runs.")
    raise DataError(f"{path} does not exist; check the path, which is read where the runner runs.")


def _in_directory(directory: Path) -> list[Path]:
    files = sorted(
        file
        for file in directory.iterdir()
        if file.is_file() and not file.name.startswith((".", "_")) and _extension(file) in _FORMATS
    )
    if not files:
        raise DataError(f"the directory {directory} has no data files; it needs {_EXPECTED}.")
    return files


def _extension(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _format(file: Path) -> Format:
    found = _FORMATS.get(_extension(file))
    if found is None or (found == "parquet" and compression(file)):
        raise DataError(f"{file} has no known extension; data is {_EXPECTED}.")
    return found


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; check its permissions.") from error
    if empty:
        raise DataError(f"{file} is empty; it needs a header and rows.")
