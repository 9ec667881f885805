"""SHA256SUMS: what every file of a directory must hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tuner.errors import ModelRejectedError


def write(directory: Path, sums: Path) -> None:
    """Writes the sums of every file below `directory`, but of the file `sums` itself."""
    lines = [f"{_digest(directory / name)}  {name}" for name in _names(directory, sums)]
    sums.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check(directory: Path, sums: Path) -> None:
    """Raises ModelRejectedError unless the files are those that `write` saw."""
    try:
        text = sums.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelRejectedError(f"{sums} cannot be read: {error.strerror}.") from error
    expected = {
        name: digest
        for digest, _, name in (line.partition("  ") for line in text.split("\n"))
        if name
    }
    names = _names(directory, sums)
    for name in expected:
        if name not in names:
            raise ModelRejectedError(f"{directory} lacks the file {name}; export it again.")
    for name in names:
        if _digest(directory / name) != expected.get(name):
            raise ModelRejectedError(
                f"the file {name} in {directory} is not the one that was exported."
            )


def _names(directory: Path, sums: Path) -> list[str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != sums)
    return [path.relative_to(directory).as_posix() for path in files]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
