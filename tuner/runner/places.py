"""Where trials leave what they leave."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tuner.errors import InvalidArgumentError

#: What must fit, at the least: a disk that has no room says so before a trial is trained.
_PROBE_BYTES = 2**20


def folder_of(artifacts: Path, study_id: str, trial: int) -> Path:
    """Where the attempts at a trial leave what they leave, each in a folder of its number."""
    return artifacts / "studies" / study_id / "trials" / str(trial)


def inside(folder: Path, uri: str) -> Path | None:
    """The place that a URI names, where it lies in a folder, links followed; else None.

    Whoever may write to a study may name any place as a trial's checkpoint or artifact: nothing
    is read that the runner's own trials cannot have written.
    """
    place = Path(uri.removeprefix("file://"))
    if not place.is_absolute() or "\0" in uri:
        return None
    return place if place.resolve().is_relative_to(folder.resolve()) else None


def check_writable(folder: Path, setting: str = "TUNER_ARTIFACTS") -> None:
    """Makes a folder if it is not there, and sees that something can be written in it.

    Args:
        folder: the folder.
        setting: what names it, or one above it.

    Raises:
        InvalidArgumentError: it cannot; says why, and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise InvalidArgumentError(
            f"nothing can be written to {folder}: {error.strerror}; make it a folder with room "
            f"that this process may write to, or let {setting} name another one."
        ) from error
