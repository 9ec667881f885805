"""Folders on disk that are made once and used by every process of the machine.

An entry is a folder under the key of what it was made from. It is made under a temporary name by
whoever holds the key's lock, and renamed when it is whole: a process that is killed leaves
nothing but a folder that the next one removes. What was used longest ago makes room for the new.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuner.errors import DataError
from tuner_trainers.storage import Storage

logger = logging.getLogger(__name__)

#: How long a process waits for another that makes the entry it needs. One that dies gives the
#: lock up at once.
WAIT_SECONDS = 4 * 3600.0
_POLL_SECONDS = 0.05
_PARTIAL = ".partial"

T = TypeVar("T")


class NoSpaceError(DataError):
    """An entry has no room in the cache."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The entries below a folder. Processes and threads may use one folder at the same time."""

    storage: Storage

    def get(self, key: str, make: Callable[[Path], Iterable[int]], load: Callable[[Path], T]) -> T:
        """Loads the entry of a key, which is made if it is not there, or not whole.

        What is loaded must outlive the removal of its files, as open and mapped files do.

        Args:
            key: names what the entry is made from; a file name.
            make: fills an empty folder, and yields how many bytes it has written since.
            load: reads the folder; raises OSError, ValueError or KeyError if it is not whole.

        Raises:
            NoSpaceError: no space for it.
            DataError: what `make` raises, or the disk.
        """
        folder = self.storage.folder
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked(key):
                loaded = self._loaded(key, load)
                if loaded is None:
                    self._make(key, make)
                    loaded = load(folder / key)
                os.utime(folder / key)
                return loaded

    def _loaded(self, key: str, load: Callable[[Path], T]) -> T | None:
        entry = self.storage.folder / key
        if not entry.is_dir():
            return None
        try:
            return load(entry)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s is not whole and is made again: %s", entry, error)
            shutil.rmtree(entry, ignore_errors=True)
            return None

    def _make(self, key: str, make: Callable[[Path], Iterable[int]]) -> None:
        partial = self.storage.folder / f"{key}{_PARTIAL}"
        # Left by a process that was killed: whoever makes this entry holds its lock.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            written = room = 0
            for size in make(partial):
                written += size
                if written > room:
                    room = self._make_room(key, written)
            partial.rename(self.storage.folder / key)
            _sync(self.storage.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, key: str, needed: int) -> int:
        """Removes what was used longest ago, until an entry of so many bytes has room.

        Returns:
            For how many bytes there is room.
        """
        entries = sorted(self._entries(key))
        others = sum(size for _, size, _ in entries)
        most = self.storage.most_cache_bytes(others + needed)
        for _, size, name in entries:
            if others + needed <= most:
                break
            if self._remove(name):
                others -= size
        if others + needed > most:
            in_use = f", of which {_mib(others)} are in use" if others else ""
            raise NoSpaceError(
                f"the rows take more than {_mib(needed)} on disk, but the cache in "
                f"{self.storage.folder} may hold {_mib(most)}{in_use}; raise TUNER_CACHE_GIB, or "
                "let TUNER_CACHE_DIR name a larger disk."
            )
        return most - others

    def _entries(self, key: str) -> Iterator[tuple[int, int, str]]:
        """When each other entry was last used, how many bytes it has, and its key."""
        for entry in self.storage.folder.iterdir():
            name = entry.name.removesuffix(_PARTIAL)
            if name == key or not entry.is_dir():
                continue
            try:
                size = sum(file.stat().st_size for file in entry.iterdir())
                # What another process is making counts, and is never removed: its lock is held.
                yield entry.stat().st_mtime_ns, size, name
            except FileNotFoundError:
                continue  # another process has just removed or renamed it

    def _remove(self, key: str) -> bool:
        """Removes an entry, or what a killed process left of one, unless it is in the making."""
        folder = self.storage.folder
        with _lock(folder / f"{key}.lock", 0.0) as is_mine:
            if is_mine:
                shutil.rmtree(folder / f"{key}{_PARTIAL}", ignore_errors=True)
                shutil.rmtree(folder / key, ignore_errors=True)
                (folder / f"{key}.lock").unlink(missing_ok=True)
            return is_mine

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with _lock(self.storage.folder / f"{key}.lock", WAIT_SECONDS) as is_mine:
            if not is_mine:
                raise DataError(
                    f"another process has been reading the data into {self.storage.folder} for "
                    f"{WAIT_SECONDS / 3600:g} hours; stop it if it hangs."
                )
            yield


@contextmanager
def _lock(path: Path, seconds: float) -> Iterator[bool]:
    """Takes the lock of a file; the system gives it back when its holder ends.

    Yields:
        Whether it was to be had in this time.
    """
    deadline = time.monotonic() + seconds
    descriptor = _try_lock(path)
    while descriptor is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        descriptor = _try_lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """The open file whose lock this process now has; None if another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed, with its entry, between its opening and now.
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free space" if full else "check its permissions"
        raise DataError(
            f"the cache of rows in {folder} cannot be used: {error.strerror or error}; {advice}, "
            "or let TUNER_CACHE_DIR name another disk."
        ) from error
