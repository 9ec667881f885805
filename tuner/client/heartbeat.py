"""Keeps the leases of a process's open trials alive from one thread."""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime
from typing import Protocol

from tuner.errors import LeaseLostError, NotFoundError, TunerError

logger = logging.getLogger("tuner")

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.2, 10.0
_CALL_SECONDS = 5.0


class Leased(Protocol):
    """Something with a lease to renew."""

    def beat(self, timeout_seconds: float) -> datetime:
        """Renews the lease; returns when it ends. Raises TunerError."""

    def lose(self) -> None:
        """Takes notice that the lease is lost."""


class Heartbeat:
    """One thread that renews every lease it was given, at a third of the time that is left.

    The thread ends when it finds nothing to renew. After a fork the child starts without leases.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._leases: dict[Leased, datetime] = {}
        self._thread: threading.Thread | None = None

    def add(self, lease: Leased, expire_time: datetime) -> None:
        """Renews the lease from now on."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            self._leases[lease] = expire_time
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="tuner-heartbeat", daemon=True
                )
                self._thread.start()

    def remove(self, lease: Leased) -> None:
        """Renews the lease no more."""
        if self._pid == os.getpid():
            with self._lock:
                self._leases.pop(lease, None)

    def close(self) -> None:
        """Renews nothing more; the thread ends soon."""
        self._closed.set()

    def _run(self) -> None:
        with self._lock:
            interval = self._interval()
        while not self._closed.wait(interval):
            with self._lock:
                leases = list(self._leases)
                if not leases:
                    self._thread = None
                    return
            for lease in leases:
                self._renew(lease)
            with self._lock:
                interval = self._interval()

    def _interval(self) -> float:
        """Clocks of two machines may differ, so that no answer leads far from the usual."""
        now = datetime.now(UTC)
        left = min(((end - now).total_seconds() for end in self._leases.values()), default=0.0)
        return min(max(left / 3, _SHORTEST_SECONDS), _LONGEST_SECONDS)

    def _renew(self, lease: Leased) -> None:
        try:
            end = lease.beat(_CALL_SECONDS)
        except (LeaseLostError, NotFoundError):
            lease.lose()
            self.remove(lease)
            return
        except TunerError as error:
            logger.debug("a heartbeat failed and will be repeated: %s", error)
            return
        with self._lock:
            if lease in self._leases:
                self._leases[lease] = end
