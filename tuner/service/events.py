"""What happens to a study, for those who watch it."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from tuner.study import Measurement, Study, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A measurement that a trial reported."""

    trial: str
    measurement: Measurement


@dataclass(slots=True, kw_only=True)
class Event:
    """Something that happened; `token` resumes after it, and is empty where nothing can."""

    token: str
    time: datetime
    what: Study | Trial | Reported
    #: As it goes out, made by the first watcher for all of them.
    message: bytes = field(default=b"", compare=False)


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
        self._logs: dict[int, int] = {}
        #: How many watch at present.
        self.watchers = 0

    def publish(self, what: Iterable[Study | Trial | Reported], time: datetime) -> None:
        """Appends events; called in the order in which things happened."""
        with self._changed:
            for item in what:
                self._position += 1
                event = Event(token=self.token(self._position), time=time, what=item)
                self._events.append(event)
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
        if epoch != self._epoch or not digits.isdecimal() or len(digits) > 18:
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

    # --- the trials' logs ---

    def log_written(self, trial: int) -> None:
        """A trial's log has grown."""
        with self._changed:
            self._logs[trial] = self._logs.get(trial, 0) + 1
            self._changed.notify_all()

    def log_version(self, trial: int) -> int:
        """Changes when a trial's log grows."""
        with self._changed:
            return self._logs.get(trial, 0)

    def await_log(self, trial: int, version: int, timeout_seconds: float) -> None:
        """Waits until a trial's log has grown since a version, at most for the time."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._logs.get(trial, 0) != version, timeout_seconds
            )

    def close(self) -> None:
        """Ends every watcher's wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
