"""What a study tells about its work, for the metrics."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Is told what happens to studies. Thread-safe, and quick."""

    def committed(self, changes: int, seconds: float) -> None:
        """So many changes were written by one commit."""

    def suggested(self, count: int = 1) -> None:
        """So many trials were given to a worker."""

    def expired(self, count: int = 1) -> None:
        """So many leases were taken from silent workers."""


class Unmetered:
    """Nobody wants to know."""

    def committed(self, changes: int, seconds: float) -> None:
        """Takes no notice."""

    def suggested(self, count: int = 1) -> None:
        """Takes no notice."""

    def expired(self, count: int = 1) -> None:
        """Takes no notice."""
