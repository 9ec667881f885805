"""Shares the machine between the slots of all studies, and keeps gangs warm between trials."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tuner.errors import InvalidArgumentError, TunerError
from tuner.runner.shape import Seat, Shape

logger = logging.getLogger(__name__)

#: How long a slot waits for a gang of another shape before one is broken up between two trials.
PATIENCE_SECONDS = 20.0
#: How long a gang that nobody uses keeps its memory.
IDLE_SECONDS = 600.0
_RETRY_SECONDS = 5.0
_ROUNDING = 1e-9
#: What the layouts demand of a gang, in words.
_LAYOUTS = {"STRICT_PACK": " on one node", "STRICT_SPREAD": " on nodes of their own"}
_TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster; a worker is on one, and does not span two."""

    name: str = "this machine"
    cpus: float
    gpus: float = 0.0

    def place(self, seats: Sequence[Seat]) -> Sequence[Seat]:
        """Takes as many of some processes as it has room for; returns the others."""
        left, cpus, gpus = [], self.cpus + _ROUNDING, self.gpus + _ROUNDING
        for seat in seats:
            if seat.cpus <= cpus and seat.gpus <= gpus:
                cpus, gpus = cpus - seat.cpus, gpus - seat.gpus
            else:
                left.append(seat)
        return left

    def __str__(self) -> str:
        return f"{self.name} has {self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the machine, or the cluster, offers to all gangs together."""

    nodes: tuple[Node, ...]
    #: `this machine`, or `the Ray cluster`.
    where: str = "this machine"
    #: How the workers of a gang are laid out: a strategy of Ray's placement groups.
    placement: str = "PACK"

    @property
    def cpus(self) -> float:
        """Those of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Those of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def check(self, shape: Shape) -> None:
        """Raises InvalidArgumentError if not even one gang of the shape fits."""
        for kind, needed, offered in (
            ("CPUs", shape.cpus, self.cpus),
            ("GPUs", shape.gpus, self.gpus),
        ):
            if needed > offered + _ROUNDING and len(self.nodes) == 1:
                one = kind.lower() + "_per_worker"
                of = f" ({shape})" if len(shape.seats) > shape.workers else ""
                raise InvalidArgumentError(
                    f"each trial needs {needed:g} {kind}{of}, but {self.where} offers "
                    f"{offered:g}: lower resources.workers or resources.{one}"
                    + (", or give the runner more with --cpus." if kind == "CPUs" else ".")
                )
        places = self._places(shape.seats)
        if places < len(shape.seats):
            raise InvalidArgumentError(
                f"each trial needs {shape}, but {self.where} has room for {places}"
                f"{_LAYOUTS.get(self.placement, '')}: {'; '.join(map(str, self.nodes))}. Lower "
                "what each worker needs, or add nodes."
            )

    def _places(self, seats: Sequence[Seat]) -> int:
        """How many processes of a gang find room in the layout, the largest first."""
        left: Sequence[Seat] = sorted(seats, key=lambda seat: (seat.gpus, seat.cpus), reverse=True)
        if self.placement == "STRICT_PACK":
            return max((len(left) - len(node.place(left)) for node in self.nodes), default=0)
        # Machines without what only some processes need are for the others.
        for node in sorted(self.nodes, key=lambda node: (node.gpus, node.cpus)):
            rest = node.place(left)
            if self.placement == "STRICT_SPREAD" and len(rest) < len(left):
                taken = next(seat for seat in left if seat not in rest)
                rest = [seat for seat in left if seat is not taken]
            left = rest
        return len(seats) - len(left)


class PooledGang(Protocol):
    """What the pool knows of a gang."""

    @property
    def shape(self) -> Shape:
        """What it is made of."""

    @property
    def broken(self) -> bool:
        """Whether it cannot train another trial."""

    def close(self) -> None:
        """Ends its processes."""


G = TypeVar("G", bound=PooledGang)


@dataclass(eq=False, slots=True)
class _Waiter:
    shape: Shape
    since: float


class Pool(Generic[G]):
    """Gangs within a capacity, given out in the order of asking. Thread-safe; owns every gang."""

    def __init__(
        self,
        capacity: Callable[[], Capacity],
        build: Callable[[Shape], G],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._capacity = capacity
        self._build_gang = build
        self._patience_seconds = patience_seconds
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._waiters: list[_Waiter] = []
        self._idle: list[tuple[G, float]] = []
        self._used: list[Shape] = []
        self._closed = False
        #: What was said to be missing.
        self._missing: set[str] = set()

    def acquire(self, shape: Shape, stop: threading.Event) -> G | None:
        """Returns a gang once one is free or there is room for one; None when `stop` is set."""
        while True:
            granted = self._wait_turn(shape, stop)
            if granted is None or not isinstance(granted, Shape):
                return granted
            try:
                return self._build(shape)
            except TunerError as error:
                logger.warning("no gang could be built: %s", error.message)
                # What is idle may stand where this one would have to.
                self._evict(lambda gang, since: True)
                stop.wait(_RETRY_SECONDS)

    def exchange(self, gang: G, stop: threading.Event) -> G | None:
        """Returns the gang for another trial; if others wait for its place, one in their turn."""
        if not stop.is_set() and self.is_spared(gang):
            return gang
        self.release(gang)
        return self.acquire(gang.shape, stop)

    def is_spared(self, gang: G) -> bool:
        """Whether a slot may keep its gang for another trial: nobody waits for its place."""
        return not gang.broken and not self._is_wanted(gang.shape)

    def release(self, gang: G) -> None:
        """Takes a gang back: it stays warm for the next slot unless it is broken."""
        keep = not gang.broken and not self._closed
        if not keep:
            gang.close()
        with self._changed:
            self._used.remove(gang.shape)
            if keep:
                self._idle.append((gang, time.monotonic()))
            self._changed.notify_all()

    def counts(self) -> tuple[int, int]:
        """How many gangs are in use, being built included, and how many are idle."""
        with self._changed:
            return len(self._used), len(self._idle)

    def tidy(self) -> None:
        """Ends gangs that nobody has used for long; says for which there is no room at all."""
        oldest = time.monotonic() - self._idle_seconds
        self._evict(lambda gang, since: since < oldest)
        self._say_what_is_missing()

    def close(self) -> None:
        """Ends idle gangs now and every other one when it is released."""
        self._closed = True
        self._evict(lambda gang, since: True)

    def _wait_turn(self, shape: Shape, stop: threading.Event) -> G | Shape | None:
        waiter = _Waiter(shape, time.monotonic())
        with self._changed:
            self._waiters.append(waiter)
            try:
                while not stop.is_set() and not self._closed:
                    if (granted := self._grant(waiter)) is not None:
                        return granted
                    self._changed.wait(_TICK_SECONDS)
                return None
            finally:
                self._waiters.remove(waiter)
                self._changed.notify_all()

    def _grant(self, waiter: _Waiter) -> G | Shape | None:
        shape = waiter.shape
        first_of_shape = waiter is next(w for w in self._waiters if w.shape == shape)
        if first_of_shape and not self._goes_first(shape):
            for position, (gang, _) in enumerate(self._idle):
                if gang.shape == shape:
                    del self._idle[position]
                    self._used.append(shape)
                    return gang
        if waiter is self._waiters[0] and self._make_room(shape):
            self._used.append(shape)
            return shape
        return None

    def _make_room(self, shape: Shape) -> bool:
        capacity = self._capacity()
        while not self._fits(shape, capacity, self._used + [gang.shape for gang, _ in self._idle]):
            if not self._idle or not self._fits(shape, capacity, self._used):
                return False
            gang, _ = self._idle.pop(0)
            gang.close()
        return True

    @staticmethod
    def _fits(shape: Shape, capacity: Capacity, others: list[Shape]) -> bool:
        cpus = shape.cpus + sum(other.cpus for other in others)
        gpus = shape.gpus + sum(other.gpus for other in others)
        return cpus <= capacity.cpus + _ROUNDING and gpus <= capacity.gpus + _ROUNDING

    def _build(self, shape: Shape) -> G:
        try:
            return self._build_gang(shape)
        except BaseException:
            with self._changed:
                self._used.remove(shape)
                self._changed.notify_all()
            raise

    def _is_wanted(self, shape: Shape) -> bool:
        with self._changed:
            if not self._waiters or self._closed:
                return self._closed
            return self._waiters[0].shape == shape or self._goes_first(shape)

    def _goes_first(self, shape: Shape) -> bool:
        """Whether the first in the queue wants another shape, and has waited too long for it."""
        first = self._waiters[0]
        waited = time.monotonic() - first.since
        return first.shape != shape and waited > self._patience_seconds

    def _say_what_is_missing(self) -> None:
        with self._changed:
            shapes = {waiter.shape for waiter in self._waiters}
        capacity, missing = self._capacity(), set[str]()
        for shape in shapes:
            try:
                capacity.check(shape)
            except InvalidArgumentError as error:  # a node may have gone since the study came
                missing.add(error.message)
        for message in missing - self._missing:
            logger.warning("a trial waits for room: %s", message)
        self._missing = missing

    def _evict(self, chosen: Callable[[G, float], bool]) -> None:
        with self._changed:
            gone = [gang for gang, since in self._idle if chosen(gang, since)]
            self._idle = [(gang, since) for gang, since in self._idle if gang not in gone]
            self._changed.notify_all()
        for gang in gone:
            gang.close()
