"""What it takes to load studies: one's turn, and a garbage collector that stands still."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tuner.errors import UnavailableError

#: Longer than a study takes to be loaded; who waits this long for one is told to ask again.
_TURN_SECONDS = 20.0


@dataclass(slots=True)
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: How many have it or wait for it.
    callers: int = 0


class Loading:
    """Studies that are being loaded. Thread-safe.

    Each is loaded by one thread, however many ask for it, and none waits for another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, _Turn] = {}
        self._loads = 0

    @contextmanager
    def turn(self, study_id: str) -> Iterator[None]:
        """The right to load a study; whoever gets it looks first whether another one has.

        Raises:
            UnavailableError: another one takes long.
        """
        with self._lock:
            turn = self._turns.setdefault(study_id, _Turn())
            turn.callers += 1
        try:
            if not turn.lock.acquire(timeout=_TURN_SECONDS):
                raise UnavailableError(f"study {study_id!r} is still being loaded; try again.")
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.callers -= 1
                if not turn.callers:
                    del self._turns[study_id]

    @contextmanager
    def uncollected(self) -> Iterator[None]:
        """No garbage is collected meanwhile, in any thread.

        Loading makes hundreds of thousands of objects that all stay. The collector would look at
        them again and again, to find nothing: that is a third of the time.
        """
        with self._lock:
            self._loads += 1
            gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._loads -= 1
                if not self._loads:
                    gc.enable()
