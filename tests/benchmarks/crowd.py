"""Clients as processes of their own that all do the same for a while, started at one moment."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Protocol, Self

#: Does the work once; returns how many seconds each part of it took.
Turn = Callable[[], tuple[float, ...]]

_READY = "ready"
_READY_SECONDS = 120.0
#: How much later than their time clients may be: their last turn may be a slow one.
_LATE_SECONDS = 60.0
_END_SECONDS = 5.0
#: From the order to start until the start: every client has read the order by then.
_LEAD_SECONDS = 0.2


class Work(Protocol):
    """What every client does. It travels to the client's process, so that it holds only values."""

    def open(self, client: int) -> AbstractContextManager[Turn]:
        """Connects; `client` counts from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """When to start, and how long to go on."""

    start: float
    seconds: float
    turns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one client, or all of them, did."""

    #: Of each turn, the seconds of each part.
    turns: list[tuple[float, ...]]
    #: From the common start to the end of the last turn.
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Turns per second."""
        return len(self.turns) / self.seconds

    def quantile(self, part: int, share: float) -> float:
        """The milliseconds that the `share` of the turns did not exceed in one part."""
        laps = sorted(turn[part] for turn in self.turns)
        return 1000 * laps[min(int(share * len(laps)), len(laps) - 1)]


def at_once(done: Sequence[Done]) -> Done:
    """What several clients did beside each other, as one."""
    return _added(done, max(one.seconds for one in done))


def in_turn(done: Sequence[Done]) -> Done:
    """What was done in several rounds, as one."""
    return _added(done, sum(one.seconds for one in done))


def _added(done: Sequence[Done], seconds: float) -> Done:
    return Done(
        turns=[turn for one in done for turn in one.turns],
        seconds=seconds,
        cpu_seconds=sum(one.cpu_seconds for one in done),
    )


class Crowd:
    """Clients that have imported everything, are connected, and have done one turn unmeasured.

    Raises:
        RuntimeError: a client failed, or is late.
    """

    def __init__(self, work: Work, clients: int) -> None:
        # A forked client would share the threads and the channels of this process.
        context = multiprocessing.get_context("spawn")
        self._lines: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for number in range(clients):
                line, theirs = context.Pipe()
                self._lines.append(line)
                process = context.Process(target=_live, args=(work, number, theirs), daemon=True)
                with _deaf():
                    process.start()
                self._processes.append(process)
                # The other end in one process only: its death then ends the line.
                theirs.close()
            self._receive(_READY_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, seconds: float, turns: int | None = None) -> Done:
        """Lets all work for a time, or for a number of turns each if that takes less."""
        order = Order(start=time.monotonic() + _LEAD_SECONDS, seconds=seconds, turns=turns)
        for line in self._lines:
            line.send(order)
        said = self._receive(_LEAD_SECONDS + seconds + _LATE_SECONDS)
        return at_once([one for one in said if isinstance(one, Done)])

    def _receive(self, seconds: float) -> list[object]:
        deadline = time.monotonic() + seconds
        return [_heard(line, deadline) for line in self._lines]

    def close(self) -> None:
        """Ends the clients."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            # One that waits for orders goes by itself; one in the middle of its work is cut off.
            process.join(_END_SECONDS / 10)
            process.terminate()
        for process in self._processes:
            process.join(_END_SECONDS)
            process.kill()
            process.join(_END_SECONDS)
        self._lines, self._processes = [], []


@contextmanager
def _deaf() -> Iterator[None]:
    """Holds Ctrl-C back; what is started meanwhile never hears it."""
    # It is for the benchmark, which then ends its clients. The tracker, once it is started, lets
    # Ctrl-C through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _heard(line: Connection, deadline: float) -> object:
    try:
        if not line.poll(max(0.0, deadline - time.monotonic())):
            raise RuntimeError("a client did not answer in time.")
        said: object = line.recv()
    except EOFError:
        raise RuntimeError("a client died.") from None
    if isinstance(said, str) and said != _READY:
        raise RuntimeError(f"a client failed with {said}")
    return said


def _live(work: Work, number: int, line: Connection) -> None:
    """A client's life: until the other end of the line is closed."""
    try:
        with work.open(number) as turn:
            turn()
            line.send(_READY)
            while (order := _next(line)) is not None:
                line.send(_obey(turn, order))
    except BrokenPipeError:
        return
    except Exception as error:
        with suppress(BrokenPipeError):
            line.send(f"{type(error).__name__}: {error}")


def _next(line: Connection) -> Order | None:
    try:
        order: Order = line.recv()
    except EOFError:
        return None
    return order


def _obey(turn: Turn, order: Order) -> Done:
    time.sleep(max(0.0, order.start - time.monotonic()))
    end, cpu = order.start + order.seconds, time.process_time()
    turns: list[tuple[float, ...]] = []
    while time.monotonic() < end and (order.turns is None or len(turns) < order.turns):
        turns.append(turn())
    return Done(
        turns=turns,
        seconds=time.monotonic() - order.start,
        cpu_seconds=time.process_time() - cpu,
    )
