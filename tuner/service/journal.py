"""What was decided about a study on its way to the disk: many verbs in one commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.errors import TunerError, UnavailableError
from tuner.service.meter import Meter
from tuner_storage import Ownership, StaleError, Store, Write

#: Longer than a commit may take; who waits this long is told to ask again.
_SYNC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Change:
    """What one verb changed: all of it is written, or nothing."""

    writes: Sequence[Write]
    #: Called once it is on disk, in the order of the changes: who watches is told then.
    written: Callable[[], None]


class _Waiter:
    """A caller who waits for its change, with a lock of its own."""

    __slots__ = ("_asleep", "leads", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        #: Whether it is to commit what is pending.
        self.leads = False
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, timeout_seconds: float) -> None:
        """Returns when it is woken, or after the time."""
        self._asleep.acquire(timeout=timeout_seconds)

    def wake(self) -> None:
        """Wakes it; once."""
        self._asleep.release()


class Journal:
    """Commits the changes of one study in their order. Thread-safe.

    Whoever waits for a change commits all that have gathered meanwhile, so while one commit is
    under way the next one fills: the more callers, the fewer commits each of them costs (group
    commit, DeWitt et al., SIGMOD 1984).

    A commit that fails ends the journal, and with it everything not yet written: what was decided
    after it in memory never happened, and its callers are told to ask again.

    Args:
        store: Where to.
        ownership: The right to write to the study.
        meter: Is told of every commit.
    """

    def __init__(self, store: Store, ownership: Ownership, meter: Meter) -> None:
        self._store = store
        self._ownership = ownership
        self._meter = meter
        self._lock = threading.Lock()
        self._pending: list[Change] = []
        self._waiting: deque[_Waiter] = deque()
        self._appended = 0
        self._durable = 0
        self._committing = False
        self._failure: TunerError | None = None

    @property
    def ownership(self) -> Ownership:
        """The right to write to the study."""
        return self._ownership

    @property
    def position(self) -> int:
        """How many changes were appended; `sync` to it, and all of them are on disk."""
        return self._appended

    def append(self, change: Change) -> int:
        """Appends a change; returns the position to sync to. The caller orders the changes."""
        with self._lock:
            self._pending.append(change)
            self._appended += 1
            return self._appended

    def sync(self, position: int) -> None:
        """Returns once everything up to a position is on disk.

        Raises:
            StaleError: it will never be: the study has to be loaded again.
            UnavailableError: PostgreSQL does not answer.
        """
        waiter: _Waiter | None = None
        while True:
            with self._lock:
                if self._durable >= position:
                    return
                if self._failure is not None:
                    raise type(self._failure)(self._failure.message)
                if waiter is not None and not waiter.leads:
                    self._waiting.remove(waiter)
                    raise UnavailableError("the database is slow; try again.")
                leads = waiter is not None or not self._committing
                if leads:
                    self._committing = True
                    batch, self._pending = self._pending, []
                else:
                    waiter = _Waiter(position)
                    self._waiting.append(waiter)
            if leads:
                waiter = None
                self._commit(batch)
            elif waiter is not None:
                waiter.wait(_SYNC_SECONDS)

    def _commit(self, batch: Sequence[Change]) -> None:
        """Writes a batch; the caller made sure that it is the only one who does."""
        start = time.perf_counter()
        failure: TunerError | None = StaleError("the study is being loaded again; try again.")
        try:
            self._store.commit(self._ownership, [w for change in batch for w in change.writes])
            for change in batch:
                change.written()
            failure = None
        except Exception as error:
            if isinstance(error, UnavailableError):
                failure = error
            elif len(batch) == 1:
                # It speaks for the one change that was written, not for those who wait.
                raise
            # Of several changes one is at fault; asked for again, each speaks for itself.
        finally:
            self._wake(len(batch), failure)
        self._meter.committed(len(batch), time.perf_counter() - start)

    def _wake(self, written: int, failure: TunerError | None) -> None:
        """Wakes those whose changes were written, and one of the others, who commits next.

        After a failure it wakes all. Nobody is woken in vain: that is what waking costs.
        """
        with self._lock:
            self._failure = self._failure or failure
            if failure is None:
                self._durable += written
            woken, left = list[_Waiter](), deque[_Waiter]()
            for waiter in self._waiting:
                done = self._failure is not None or waiter.position <= self._durable
                (woken if done else left).append(waiter)
            self._committing = bool(left)
            if left:
                left[0].leads = True
                woken.append(left.popleft())
            self._waiting = left
        for waiter in woken:
            waiter.wake()

    @property
    def failed(self) -> bool:
        """Whether a commit failed: nothing can be written any more."""
        return self._failure is not None
