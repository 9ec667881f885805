"""The data directory: who wrote it, who uses it, and whether there is room."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tuner.errors import DataDirectoryError

#: Counts the changes of what lies where in a data directory.
FORMAT = 1

#: Less free space than this, and the database could stop half way through its work.
MINIMUM_FREE_BYTES = 200 * 2**20

#: What a directory may hold before it is first used: what tuner's own processes and file systems
#: put there.
_HARMLESS = frozenset(
    {
        "artifacts",
        "gateway",
        "lock",
        "logs",
        "lost+found",
        "models",
        "ray",
        "server.json",
        "up.lock",
    }
)


class DataDirectory:
    """A data directory that this process alone uses until it is closed.

    Everything is checked before anything is written. Owned by one thread.

    Args:
        path: The directory; made if there is none.
        postgres: The major version of the embedded PostgreSQL; None if there is none.
        minimum_free_bytes: What must be free on its disk.

    Raises:
        DataDirectoryError: it is another version's, another process's, somebody else's, not
            writable, or full.
    """

    def __init__(
        self,
        path: Path,
        *,
        postgres: int | None = None,
        minimum_free_bytes: int = MINIMUM_FREE_BYTES,
    ) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        check_ours(path)
        written = _read(path, postgres)
        _check_room(path, minimum_free_bytes)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path / "lock")
            document = {**written, "format": FORMAT, "tuner": metadata.version("tuner")}
            if postgres is not None:
                document["postgres"] = postgres
            if document != written:
                replace_file(path / "tuner.json", json.dumps(document, indent=2) + "\n")
        except OSError as error:
            self.close()
            raise DataDirectoryError(
                f"{path} cannot be written ({error.strerror}); make it writable, or name another "
                "directory by TUNER_DATA_DIR."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes use the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def replace_file(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a file so that a reader sees all of it or what was there before.

    Args:
        path: The file.
        text: What it is to hold.
        private: Whether nobody else may read it, at any time.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    mode = 0o600 if private else 0o666
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def check_ours(path: Path) -> None:
    """Raises DataDirectoryError if a directory holds what somebody else put there."""
    try:
        if path.exists() and not path.is_dir():
            raise DataDirectoryError(f"{path} is a file; name a directory by TUNER_DATA_DIR.")
        if not path.exists() or (path / "tuner.json").exists():
            return
        foreign = sorted(
            entry.name
            for entry in path.iterdir()
            if entry.name not in _HARMLESS and not entry.name.startswith(".")
        )
    except OSError as error:
        raise DataDirectoryError(
            f"{path} cannot be read ({error.strerror}); make it readable, or name another "
            "directory by TUNER_DATA_DIR."
        ) from error
    if foreign:
        raise DataDirectoryError(
            f"{path} is not a data directory of tuner, but holds {foreign[0]!r}; name an empty or "
            "a new one by TUNER_DATA_DIR. Nothing was changed."
        )


def _read(path: Path, postgres: int | None) -> Mapping[str, object]:
    file = path / "tuner.json"
    if not file.exists():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        written, found = int(document["format"]), document.get("postgres")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataDirectoryError(
            f"{file} cannot be read ({type(error).__name__}); restore it from a backup. Nothing "
            "was changed."
        ) from error
    if written > FORMAT:
        raise DataDirectoryError(
            f"{path} was written by tuner {document.get('tuner', '?')} in format {written}; this "
            f"is tuner {metadata.version('tuner')}, which knows {FORMAT}. Upgrade tuner, or name "
            "another directory by TUNER_DATA_DIR. Nothing was changed."
        )
    if postgres is not None and found not in (None, postgres):
        raise DataDirectoryError(
            f"{path} holds a database of PostgreSQL {found}, and this tuner runs {postgres}; use "
            f"the tuner that wrote it ({document.get('tuner', '?')}). Nothing was changed."
        )
    return dict(document)


def _check_room(path: Path, minimum_free_bytes: int) -> None:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < minimum_free_bytes:
        raise DataDirectoryError(
            f"the disk of {path} has {free // 2**20} MiB free, and at least "
            f"{minimum_free_bytes // 2**20} MiB are needed; make room, or name another directory "
            "by TUNER_DATA_DIR. Nothing was changed."
        )


def _locked(path: Path) -> IO[str]:
    """Opens and locks a file; the kernel unlocks it when this process ends, however it ends."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise DataDirectoryError(
            f"{path.parent} is used by another study server (process {holder}); stop it, or name "
            "another directory by TUNER_DATA_DIR."
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
