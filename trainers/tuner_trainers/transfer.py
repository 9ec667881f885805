"""Copies directories of model versions to stores and back; what arrives is what was sent."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path, PurePosixPath

from tuner.errors import DataError, ModelRejectedError
from tuner_trainers.layout import SAVED_MODEL, SUMS
from tuner_trainers.stores import LocalStore, ObjectStore, locate

_CHUNK_BYTES = 8 << 20


def is_remote(uri: str) -> bool:
    """Whether a place is a store's, and none of this machine's files; raises DataError."""
    return not isinstance(locate(uri)[0], LocalStore)


def local_path(uri: str) -> Path:
    """The path of a place among this machine's files."""
    return Path(locate(uri)[1]).expanduser().absolute()


def upload(directory: Path, uri: str) -> None:
    """Copies a directory to a store and reads it again; `saved_model.pb` appears last.

    Raises:
        DataError: the store cannot be written, or does not hold what was sent.
    """
    store, place = _remote(uri)
    store.remove(place)
    names = [p.relative_to(directory) for p in directory.rglob("*") if p.is_file()]
    # Whoever looks for models takes a folder with this file for one.
    for name in sorted(names, key=lambda name: (name == SAVED_MODEL, name)):
        path = f"{place}/{name.as_posix()}"
        with store.explained(path, "write"), (directory / name).open("rb") as source:
            with store.create(path) as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
    for name in names:
        path = f"{place}/{name.as_posix()}"
        with (
            store.explained(path),
            store.open(path) as sent,
            (directory / name).open("rb") as file,
        ):
            if _digest(sent) != hashlib.file_digest(file, "sha256").hexdigest():
                raise DataError(f"{store.prefix}{path} is not what was written; try again.")


def download(uri: str, directory: Path) -> None:
    """Copies all below a place into a new directory.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    store, place = locate(uri)
    if not isinstance(store, ObjectStore):
        with store.explained(place):
            shutil.copytree(local_path(uri), directory)
        return
    files = store.walk(place)
    if not files:
        raise DataError(f"there is nothing at {uri}; see where the model lies.")
    for file in files:
        name = PurePosixPath(file.path).relative_to(place)
        if ".." in name.parts:
            raise DataError(f"{file} lies outside of {uri}; it is not copied.")
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.explained(file.path), file.open() as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK_BYTES)


def remove(uri: str) -> None:
    """Removes a directory of a store with all that is in it; raises DataError."""
    store, place = _remote(uri)
    store.remove(place)


def folders(uri: str) -> set[str]:
    """The names of the folders in a place of a store, without empty ones; raises DataError."""
    store, place = _remote(uri)
    parts = (PurePosixPath(file.path).relative_to(place).parts for file in store.walk(place))
    return {part[0] for part in parts if len(part) > 1}


def is_empty(uri: str) -> bool:
    """Whether a place of a store has no files; raises DataError."""
    store, place = _remote(uri)
    return not store.walk(place)


def check_sum(directory: Path, sha256: str) -> None:
    """Raises ModelRejectedError unless a directory is the version of this sum."""
    sums = directory / SUMS
    if not sums.is_file() or hashlib.sha256(sums.read_bytes()).hexdigest() != sha256:
        raise ModelRejectedError(
            f"{directory} is not the version that was published: its {SUMS.name} is another."
        )


def _remote(uri: str) -> tuple[ObjectStore, str]:
    store, place = locate(uri)
    if not isinstance(store, ObjectStore):
        raise DataError(f"{uri} is no place in a store.")
    return store, place


def _digest(file: object) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):  # type: ignore[attr-defined]
        digest.update(chunk)
    return digest.hexdigest()
