"""What happens to a study, for those who watch it."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from tuner.study import Measurement, Study, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A measurement that a trial reported."""

    trial: str
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `token` resumes after it, and is empty where nothing can."""

    token: str
    time: datetime
    what: Study | Trial | Reported


class EventLog:
    """The last events of a study, one list for all watchers.

    Publishing only appends: a slow watcher never holds anyone up. Each watcher remembers its own
    position; one that fell behind the oldest event kept starts again from the study as it is.
    Thread-safe.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._epoch = secrets.token_hex(4)
        self._position = 0
        self._closed = False
        self._changed = threading.Condition()

    def publish(self, what: Study | Trial | Reported, time: datetime) -> None:
        """Appends an event; called in the order in which things happened."""
        with self._changed:
            self._position += 1
            self._events.append(Event(token=self.token(self._position), time=time, what=what))
            self._changed.notify_all()

    @property
    def position(self) -> int:
        """The position of the last event."""
        return self._position

    def token(self, position: int) -> str:
        """The word that resumes after a position."""
        return f"{self._epoch}.{position}"

    def find(self, token: str) -> int | None:
        """The position of a token; None if what followed it is not known any more."""
        epoch, _, digits = token.partition(".")
        if epoch != self._epoch or not digits.isdecimal():
            return None
        with self._changed:
            position = int(digits)
            oldest = self._position - len(self._events)
            return position if oldest <= position <= self._position else None

    def after(self, position: int, timeout_seconds: float) -> list[Event] | None:
        """What came after a position, waiting for something to come; empty after the time.

        None means that the log was closed or does not reach back so far.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._position > position, timeout_seconds
            )
            missed = self._position - position
            if self._closed or missed > len(self._events):
                return None
            return [self._events[index] for index in range(-missed, 0)]

    def close(self) -> None:
        """Ends every watcher's wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
