"""What a runner does now and then besides training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Chore:
    """Work that is done again and again, in a thread of its own, never twice at once.

    Args:
        name: The thread's.
        work: Does it; must not raise.
        seconds: From one start to the next.
    """

    def __init__(self, name: str, work: Callable[[], None], seconds: float) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._due_time = 0.0
        self._thread: threading.Thread | None = None

    def tend(self) -> None:
        """Starts the work if it is due and not being done; call it about every second."""
        if time.monotonic() < self._due_time:
            return
        if self._thread is None or not self._thread.is_alive():
            self._due_time = time.monotonic() + self._seconds
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def hurry(self) -> None:
        """Makes the work due: there is something to do."""
        self._due_time = 0.0
