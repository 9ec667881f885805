"""The threads that answer calls."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)


class _Answer(Future[Any]):
    """What gRPC knows of a call that is being answered: only that it has ended.

    A tenth of a Future: nobody waits for it, or asks for its result.
    """

    def __init__(self) -> None:  # without the condition, which costs more than all of this
        self._lock = threading.Lock()
        self._has_ended = False
        self._told: Callable[[Any], object] | None = None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Calls `fn` once the call has ended, maybe at once. There can be only one."""
        with self._lock:
            if not self._has_ended:
                self._told = fn
                return
        fn(self)

    def end(self) -> None:
        """The call has ended."""
        with self._lock:
            self._has_ended = True
            told = self._told
        if told is not None:
            told(self)


_Work = tuple[str, _Answer, Callable[..., object], tuple[Any, ...], dict[str, Any]]


class CallThreads(ThreadPoolExecutor):
    """Threads that gRPC answers calls in, started as they are needed.

    The usual executor makes a condition for each result, which gRPC never asks for, and counts
    its idle threads with a semaphore: as much work as many calls are. This one hands a call over
    by one queue that is written in C; the study server answers a sixth more calls with it.

    One caller cannot have all of them: a call holds its thread from the moment its metadata is
    there, and gRPC waits for its message without end.

    Args:
        most: how many threads there may be; further calls wait for one.
        most_each: how many of them one caller may hold; its further calls wait for its own.
    """

    def __init__(self, most: int, most_each: int) -> None:
        super().__init__(most, thread_name_prefix="call")
        self._most = most
        self._most_each = most_each
        #: Whose call comes next. Set by the interceptor: gRPC asks it, and then submits the call,
        #: in its one thread that takes calls.
        self.caller = ""
        self._held = Counter[str]()
        self._postponed: dict[str, deque[_Work]] = {}
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._guard = threading.Lock()
        #: Calls that wait or are being answered.
        self._open = 0
        self._started: list[threading.Thread] = []
        self._ends = False

    def submit(self, fn: Callable[..., object], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Answers a call in a thread.

        Raises:
            RuntimeError: the threads have ended.
        """
        answer, caller = _Answer(), self.caller
        with self._guard:
            if self._ends:
                raise RuntimeError("the threads that answer calls have ended.")
            if self._held[caller] >= self._most_each:
                waiting = self._postponed.setdefault(caller, deque())
                waiting.append((caller, answer, fn, args, kwargs))
                return answer
            if len(self._started) < min(self._open + 1, self._most):
                self._start()
            self._open += 1
            self._held[caller] += 1
        self._work.put((caller, answer, fn, args, kwargs))
        return answer

    def _ended(self, caller: str) -> None:
        """A caller's call has ended; its next one, if one waits, takes the place."""
        with self._guard:
            waiting = self._postponed.get(caller)
            if waiting is not None:
                self._work.put(waiting.popleft())
                if not waiting:
                    del self._postponed[caller]
                return
            self._open -= 1
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]

    def _start(self) -> None:
        name = f"call-{len(self._started)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system allows no more
            if not self._started:
                raise
            logger.warning("no more than %d threads can answer calls", len(self._started))
        else:
            self._started.append(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads once they have answered everything they were given."""
        with self._guard:
            self._ends = True
            for caller, waiting in self._postponed.items():
                self._open += len(waiting)
                self._held[caller] += len(waiting)
                for work in waiting:
                    self._work.put(work)
            self._postponed.clear()
        for _ in self._started:
            self._work.put(None)
        if wait:
            for thread in self._started:
                thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            caller, answer, fn, args, kwargs = work
            try:
                fn(*args, **kwargs)
            except Exception:
                # gRPC answers its caller whatever a method raises: this is a fault of gRPC's own.
                logger.exception("a call was not answered")
            self._ended(caller)
            answer.end()
            # What a call brought along is not kept until the next one comes.
            del work, answer, fn, args, kwargs
