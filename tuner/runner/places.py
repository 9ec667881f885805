"""Where trials leave what they leave."""

from __future__ import annotations

from pathlib import Path


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
