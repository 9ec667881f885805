"""Workers with TensorFlow imported that belong to no gang yet: a lost gang is replaced at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from tuner.client.access import Access
from tuner.runner import placement
from tuner.runner.memory import UNKNOWN, Memory, gib
from tuner.runner.worker import Worker

logger = logging.getLogger(__name__)

#: How long a gang stands before it gets spares: a short study needs none.
AFTER_SECONDS = 30.0
#: What a spare takes.
SPARE_BYTES = 1024**3
#: The share of a node's memory that spares leave free.
FREE_SHARE = 0.25
#: How long a node that had no memory for a spare is left alone.
_PAUSE_SECONDS = 60.0
#: How long a spare may take to stand.
_START_SECONDS = 180.0
_ANSWER_SECONDS = 5.0
#: How often spares are asked how they are.
_LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spare:
    node_id: str
    actor: Any
    #: Is there once TensorFlow is imported.
    ready: Any
    since: float


class Spares:
    """Keeps as many workers warm on each node as the largest gang has there, memory permitting.

    They hold no CPUs: where they are taken into a gang, it has reserved them. Spares are started
    one after another, and end with the last gang of their node. Thread-safe; owns its workers.

    Args:
        access: how workers reach the study server.
        after_seconds: how long a gang stands before it gets spares.
        free_share: the share of a node's memory that has to stay free.
    """

    def __init__(
        self,
        access: Access,
        *,
        after_seconds: float = AFTER_SECONDS,
        free_share: float = FREE_SHARE,
    ) -> None:
        self._access = access
        self._after_seconds = after_seconds
        self._free_share = free_share
        self._lock = threading.Lock()
        self._gangs: dict[object, tuple[Counter[str], float]] = {}
        self._ready: list[_Spare] = []
        self._starting: _Spare | None = None
        self._paused: dict[str, float] = {}
        self._look_time = 0.0
        self._closed = False

    def start(self, options: dict[str, Any], *, tensorflow: bool = True) -> Any:
        """Starts a worker, with TensorFlow or without; returns its actor at once."""
        worker = ray.remote(Worker).options(max_restarts=0, **options)
        return worker.remote(self._access, tensorflow=tensorflow)

    def take(self, node_id: str) -> Any | None:
        """Returns the actor of a spare on a node, which is the caller's then; None without one."""
        while (spare := self._pop(node_id)) is not None:
            if _answer(spare) is not None:
                return spare.actor
        return None

    def _pop(self, node_id: str) -> _Spare | None:
        with self._lock:
            for position, spare in enumerate(self._ready):
                if spare.node_id == node_id:
                    return self._ready.pop(position)
        return None

    def serve(self, gang: object, nodes: Sequence[str]) -> None:
        """Takes notice of a gang that stands on these nodes."""
        with self._lock:
            self._gangs[gang] = (Counter(nodes), time.monotonic())

    def leave(self, gang: object) -> None:
        """Takes notice that a gang is gone."""
        with self._lock:
            self._gangs.pop(gang, None)

    @property
    def count(self) -> int:
        """How many stand."""
        with self._lock:
            return len(self._ready)

    def tend(self) -> None:
        """Starts a spare that is missing, ends those of no use; call it now and then."""
        self._receive()
        self._look()
        wanted = self._wanted()
        self._dismiss(wanted)
        present = Counter(spare.node_id for spare in self._ready)
        if self._starting is None and not self._closed:
            for node_id, count in wanted.items():
                if present[node_id] < count and self._has_room(node_id):
                    self._start(node_id)
                    return

    def close(self) -> None:
        """Ends all spares, and starts no more."""
        with self._lock:
            self._closed = True
        self._dismiss(Counter())

    def _wanted(self) -> Counter[str]:
        """The most that any gang has on each node."""
        wanted: Counter[str] = Counter()
        oldest = time.monotonic() - self._after_seconds
        with self._lock:
            for counts, since in self._gangs.values():
                # Spares of a gang that was replaced just now stay.
                wanted |= counts if since <= oldest else counts & self._present()
        return wanted

    def _present(self) -> Counter[str]:
        return Counter(spare.node_id for spare in self._ready)

    def _receive(self) -> None:
        """Takes the spare that is being started when it stands, or gives it up."""
        spare = self._starting
        if spare is None:
            return
        try:
            ray.get(spare.ready, timeout=0)
        except GetTimeoutError:
            if time.monotonic() - spare.since < _START_SECONDS:
                return
            logger.warning("a spare worker did not stand in %g s", _START_SECONDS)
            _end(spare)
        except RayError as error:
            logger.warning("a spare worker did not come up: %s", error)
            self._paused[spare.node_id] = time.monotonic() + _PAUSE_SECONDS
        else:
            with self._lock:
                self._ready.append(spare)
            logger.info("a spare worker stands after %.1f s", time.monotonic() - spare.since)
        self._starting = None

    def _look(self) -> None:
        """Ends spares that are dead already, and one where a node is short of memory."""
        if time.monotonic() < self._look_time:
            return
        self._look_time = time.monotonic() + _LOOK_SECONDS
        with self._lock:
            present = {spare.node_id: spare for spare in self._ready}
        for node_id, spare in present.items():
            found = _answer(spare)
            if found is None or found.free_bytes < self._free_share * found.total_bytes / 2:
                logger.info("a spare worker ends: %s", found or "it does not answer")
                self._paused[node_id] = time.monotonic() + _PAUSE_SECONDS
                with self._lock:
                    taken = spare not in self._ready
                    if not taken:
                        self._ready.remove(spare)
                if not taken:
                    _end(spare)

    def _dismiss(self, wanted: Counter[str]) -> None:
        """Ends the spares beyond what is wanted."""
        kept: Counter[str] = Counter()
        gone: list[_Spare] = []
        with self._lock:
            for spare in [*self._ready]:
                kept[spare.node_id] += 1
                if kept[spare.node_id] > wanted[spare.node_id]:
                    self._ready.remove(spare)
                    gone.append(spare)
        starting = self._starting
        if starting is not None and not wanted[starting.node_id]:
            gone.append(starting)
            self._starting = None
        for spare in gone:
            _end(spare)
        if gone:
            logger.info(
                "%d spare workers ended: there is no gang that they could replace", len(gone)
            )

    def _has_room(self, node_id: str) -> bool:
        if self._paused.get(node_id, 0.0) > time.monotonic():
            return False
        try:
            found = placement.memory_of(node_id)
        except RayError as error:  # the node is gone, or busy
            logger.debug("a node does not say how much memory it has: %s", error)
            found = UNKNOWN
        left_bytes = found.free_bytes - SPARE_BYTES
        if found.total_bytes and left_bytes >= self._free_share * found.total_bytes:
            return True
        self._paused[node_id] = time.monotonic() + _PAUSE_SECONDS
        logger.info(
            "no spare worker: it would leave less than %s of memory free (%s)",
            gib(int(self._free_share * found.total_bytes)),
            found,
        )
        return False

    def _start(self, node_id: str) -> None:
        actor = self.start(placement.on_node(node_id))
        self._starting = _Spare(
            node_id=node_id, actor=actor, ready=actor.memory.remote(), since=time.monotonic()
        )


def _answer(spare: _Spare) -> Memory | None:
    """How much memory a spare and its node have; None if it is dead."""
    try:
        found: Memory = ray.get(spare.actor.memory.remote(), timeout=_ANSWER_SECONDS)
    except RayError:
        return None
    return found


def _end(spare: _Spare) -> None:
    ray.kill(spare.actor, no_restart=True)
