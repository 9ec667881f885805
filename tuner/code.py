"""The user's own code on its way to where trials run: an archive named after its content.

Archives, and what is unpacked of them on each machine, are kept while they are used: what nobody
has used for RETENTION is removed, and earlier what was used longest ago, beyond LIMIT_KEPT_BYTES.
When a file was used last is the time that it has.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.study import StudySpec

#: What an archive may hold, and in how many files: code, not data.
LIMIT_BYTES = 10 * 2**20
LIMIT_FILES = 2_000
#: How long code is kept that nobody uses, and how much of it.
RETENTION = timedelta(days=30)
LIMIT_KEPT_BYTES = 2**30
#: Code that was used so recently is kept, however much there is: a trial may still import from it.
_FRESH = timedelta(days=1)
#: What names an archive.
DIGEST = re.compile(r"[0-9a-f]{64}")

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv", "build", "dist"})
_SKIPPED_SUFFIXES = frozenset(
    ".pyc .pyo .so .csv .tsv .parquet .arrow .feather .orc .tfrecord .tfrecords .npy .npz .h5 "
    ".hdf5 .keras .ckpt .pkl .pickle .pt .pth .onnx .db .sqlite .log .gz .bz2 .xz .zst .zip .tar "
    ".whl .png .jpg .jpeg .gif .wav .mp3 .mp4".split()
)
#: The earliest time that a zip knows.
_TIME = (1980, 1, 1, 0, 0, 0)
_SHOWN = 3


def ship(spec: StudySpec, artifacts: Path) -> StudySpec:
    """Packs the code of a study that is submitted, if it has any; the study then names it.

    Args:
        spec: the study; its code is a folder, or was shipped before.
        artifacts: where the runner looks for what trials need.

    Raises:
        InvalidArgumentError: the code cannot be read, or is too much.
    """
    if not spec.own.code or DIGEST.fullmatch(spec.own.code):
        return spec
    archive = pack(Path(spec.own.code))
    digest = hashlib.sha256(archive).hexdigest()
    target = archive_path(artifacts, digest)
    if not _use(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                file.write(archive)
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
        except OSError as error:
            raise UnavailableError(
                f"the code cannot be put where the runner finds it: {error}; TUNER_ARTIFACTS "
                "names the folder that the two share."
            ) from error
    return replace(spec, own=replace(spec.own, code=digest))


def archive_path(artifacts: Path, digest: str) -> Path:
    """Where an archive lies."""
    return artifacts / "code" / f"{digest}.zip"


def copy(digest: str, artifacts: Path, to: Path) -> None:
    """Copies an archive below another folder of artifacts, which then needs nothing else."""
    target = archive_path(to, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(archive_path(artifacts, digest), target)


def remove_unused(artifacts: Path, named: Collection[str]) -> list[str]:
    """Removes archives that nobody has used for long, and the oldest ones of too many.

    Args:
        artifacts: where they lie.
        named: the archives that studies need which have not ended; they stay.

    Returns:
        The names of those that were removed.
    """
    removed = []
    for path in _unused(archive_path(artifacts, "").parent):
        if path.stem not in named and _age(path) > _FRESH:
            path.unlink(missing_ok=True)
            removed.append(path.stem)
    return removed


def pack(source: Path) -> bytes:
    """Packs a folder, a package or a module; the same files give the same bytes everywhere.

    A package and a module keep their name, of a folder the content is packed. Left out are hidden
    files, caches, environments, a folder `data` that is no package, and what looks like data by
    its ending.

    Raises:
        InvalidArgumentError: there is nothing to pack, or too much.
    """
    files = dict(sorted(_files(source)))
    if not files:
        raise InvalidArgumentError(f"there is no code in {source}; name the folder that has it.")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > LIMIT_BYTES or len(files) > LIMIT_FILES:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_SHOWN]
        raise InvalidArgumentError(
            f"the code in {source} is {len(files)} files of {sum(sizes.values()):,} bytes, but "
            f"{LIMIT_FILES} of {LIMIT_BYTES:,} may be shipped; name a folder with the code alone. "
            f"The largest files: {', '.join(largest)}."
        )
    buffer = io.BytesIO()
    # Not compressed: what compression gives depends on the library's version.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            entry = zipfile.ZipInfo(name, date_time=_TIME)
            entry.create_system = 3
            entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    """The files to pack, by their names in the archive."""
    if source.is_file():
        yield source.name, source
        return
    if not source.is_dir():
        raise InvalidArgumentError(f"the code {source} does not exist; name a folder with `code`.")
    root = source.parent if (source / "__init__.py").is_file() else source
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if _is_packed_folder(Path(folder, name))]
        for name in names:
            path = Path(folder, name)
            hidden = name.startswith(".") or path.suffix.lower() in _SKIPPED_SUFFIXES
            if not hidden and path.is_file():
                yield path.relative_to(root).as_posix(), path


def _is_packed_folder(path: Path) -> bool:
    name = path.name
    if name.startswith(".") or name in _SKIPPED_FOLDERS or name.endswith(".egg-info"):
        return False
    return not (path / "pyvenv.cfg").exists() and (
        name != "data" or (path / "__init__.py").exists()
    )


def unpack(artifacts: Path, digest: str) -> Path:
    """The folder with what an archive holds, unpacked once on each machine.

    Raises:
        UnavailableError: the archive is not there, or is not what its name says.
    """
    source = archive_path(artifacts, digest)
    try:
        if not DIGEST.fullmatch(digest):
            raise OSError(f"{digest!r} names no archive")
        content = source.read_bytes()
        _use(source)
    except OSError as error:
        raise UnavailableError(
            f"the trainer's code is not at {source}: submit the study where TUNER_ARTIFACTS is "
            "the folder that the runner and its workers see."
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UnavailableError(f"{source} was changed; remove it, and submit the study again.")
    folder = _home() / digest
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if not _holds(folder, archive):
            _extract(archive, folder)
            _tidy(folder.parent)
    _use(folder)
    return folder


def _tidy(home: Path) -> None:
    """Removes what is unpacked and unused; also what a process left that was killed meanwhile."""
    for path in _unused(home):
        with (
            suppress(OSError),  # another process was faster
            tempfile.TemporaryDirectory(dir=home, prefix=".removing-") as scratch,
        ):
            # Whole or not at all: another process may be about to use it.
            path.rename(Path(scratch, "old"))


def _home() -> Path:
    """This user's folder for unpacked code; in /tmp others could have made it before."""
    home = Path(tempfile.gettempdir(), f"tuner-code-{os.getuid()}")
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise UnavailableError(f"{home} belongs to somebody else; remove it, or set TMPDIR.")
    return home


def _holds(folder: Path, archive: zipfile.ZipFile) -> bool:
    """Whether a folder has every file: what tidies up temporary files may have been there."""
    try:
        return all(
            (folder / entry.filename).stat().st_size == entry.file_size
            for entry in archive.infolist()
        )
    except OSError:
        return False


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpacks beside the folder and renames, so that nobody sees a part of it."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as scratch:
        whole, old = Path(scratch, "whole"), Path(scratch, "old")
        archive.extractall(whole)
        for entry in archive.infolist():
            os.chmod(whole / entry.filename, entry.external_attr >> 16)
        try:
            whole.rename(folder)
        except OSError:  # another process was faster, or files of it are gone
            if _holds(folder, archive):
                return
            folder.rename(old)
            whole.rename(folder)


def _use(path: Path) -> bool:
    """Notes that something is used now; returns whether it is there."""
    try:
        os.utime(path)
    except PermissionError:  # another user's; what studies need is kept all the same
        return True
    except FileNotFoundError:
        return False
    return True


def _age(path: Path) -> timedelta:
    """The time since something was used; nothing if it is gone."""
    try:
        return timedelta(seconds=max(0.0, time.time() - path.lstat().st_mtime))
    except FileNotFoundError:
        return timedelta(0)


def _unused(folder: Path) -> Iterator[Path]:
    """What lies in a folder and need not be kept, as far as its age and its size tell."""
    kept_bytes = 0
    for path in sorted(folder.glob("*"), key=_age):
        age = _age(path)
        kept_bytes += _size(path)
        if age > RETENTION or (kept_bytes > LIMIT_KEPT_BYTES and age > _FRESH):
            yield path


def _size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; what vanishes meanwhile has none."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total
