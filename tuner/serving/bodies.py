"""How many bytes the requests under way hold, of REST and of gRPC together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tuner.errors import ResourceExhaustedError


class Bodies:
    """Counts the bytes of bodies. It belongs to an event loop.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = 512 * 2**20) -> None:
        self._most = most
        self._held = 0

    def take(self, size: int) -> None:
        """Counts bytes that were received; `give` counts them out, also after an error.

        Raises:
            ResourceExhaustedError: there are too many.
        """
        self._held += size
        if self._held > self._most:
            raise ResourceExhaustedError(
                "the bodies of the requests under way are as large as they may be together; try "
                "again."
            )

    def give(self, size: int) -> None:
        """Counts bytes out that are not held any more."""
        self._held -= size

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Counts bytes for as long as they are held; raises ResourceExhaustedError."""
        try:
            self.take(size)
            yield
        finally:
            self.give(size)
