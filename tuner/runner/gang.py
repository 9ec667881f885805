"""The Ray actors that train one trial together, and trial after trial."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError

from tuner.errors import UnavailableError
from tuner.runner import memory, placement
from tuner.runner.memory import UNKNOWN, Memory, gib
from tuner.runner.placement import Reservation
from tuner.runner.servers import Servers
from tuner.runner.shape import Shape
from tuner.runner.spares import Spares
from tuner.runner.worker import Assignment, Home, Outcome
from tuner.study import Cause, Failure

logger = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: How Ray tells of a process that nobody asked to end, and of one that was.
_BY_ITSELF, _ASKED_TO = "its worker process has died", "SIGTERM"
_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received")
#: What follows a stack, and takes pages.
_MODULES = "Extension modules:"
#: What the stack of a crash holds.
_LINES = 60

#: How long a gang may take to stand: TensorFlow's import on a busy machine, several times over.
BUILD_SECONDS = 180.0
#: How much a worker may hold beyond what it held after its first trial before it is replaced.
GROWTH_BYTES = 1024**3
#: How long the other workers may take to end once one has ended well.
_STRAGGLER_SECONDS = 60.0
_ANSWER_SECONDS = 20.0
#: How long the other workers may take to get over a failure.
_FAILURE_SECONDS = 5.0
#: What a trainer may fail of without harm to the processes it ran in.
_HARMLESS = frozenset({Cause.USER_ERROR, Cause.INFEASIBLE})
_TICK_SECONDS = 0.5


class Gang:
    """N actors with one strategy. Used by one thread at a time; close() may be called by any.

    Args:
        shape: what it is made of.
        spares: gives it warm workers where there are some, and starts the others.
        placement: how its workers are laid out: a strategy of Ray's placement groups.
        growth_bytes: how much a worker may grow from its first trial on before it is replaced.

    Raises:
        UnavailableError: it did not come up; says what is missing.
    """

    def __init__(
        self,
        shape: Shape,
        spares: Spares,
        placement: str = "PACK",
        *,
        growth_bytes: int = GROWTH_BYTES,
    ) -> None:
        self.shape = shape
        self.broken = False
        self._spares = spares
        self._growth_bytes = growth_bytes
        #: What each worker held after its first trial.
        self._first_bytes: list[int] = []
        self._actors: list[Any] = []
        start = time.monotonic()
        self._reservation = Reservation(shape, placement)
        try:
            warm = self._gather()
            self._homes: list[Home] = self._ask("home")
            self._join()
            self._count(BUILD_SECONDS)
            #: Of each worker, as last seen.
            self._memory: list[Memory] = self._ask("memory")
        except (RayError, UnavailableError) as error:
            self.close()
            raise UnavailableError(f"a gang did not come up: {_gist(error)}") from error
        if shape.tensorflow:
            spares.serve(self, self._reservation.nodes)
        logger.info(
            "a gang of %d stands after %.1f s, %d of them warm before",
            len(self._actors),
            time.monotonic() - start,
            warm,
        )

    @property
    def pids(self) -> list[int]:
        """The processes of the workers, by rank."""
        return [home.pid for home in self._homes]

    @property
    def nodes(self) -> list[str]:
        """The ids of the nodes that the workers are on, by rank."""
        return [home.node_id for home in self._homes]

    def train(self, assignment: Assignment, cancelled: Callable[[], bool]) -> Outcome | None:
        """Trains one attempt; returns None if it was cancelled.

        After a lost worker or a cancellation the gang is broken, and after a failure that not all
        of its workers have got over: the others may wait in a collective for ever. It is broken,
        too, when a worker holds too much memory, or something that its trial left behind.
        """
        trainers = self.shape.trainers
        refs = [actor.train.remote(assignment) for actor in self._actors[:trainers]]
        servers = Servers(self.shape, dict(enumerate(self._actors[trainers:], trainers)))
        try:
            outcome = self._collect(refs, servers, cancelled)
            if outcome is not None and _is_lost(outcome):
                # It has seen that another one is gone, but not which, and how.
                death = servers.look(_ANSWER_SECONDS) or _death_among(refs)
                outcome = outcome if death is None else Outcome(failure=self._death(death))
        except RayActorError as error:
            self.broken = True
            return Outcome(failure=self._death(error))
        except RayError as error:
            self.broken = True
            return Outcome(failure=Failure(cause=Cause.LOST, message=_gist(error)))
        if outcome is None or outcome.failure is not None:
            self.broken = outcome is None or not self._survives(outcome, refs)
        self.broken = self.broken or bool(servers.lost)
        if not self.broken:
            self._inspect(ray.get(refs))
        return outcome

    def answers(self) -> bool:
        """Whether every worker is there; a gang with a dead one is broken."""
        refs = [actor.home.remote() for actor in self._actors]
        try:
            ray.get(refs, timeout=_ANSWER_SECONDS)
        except RayError as error:
            logger.warning("a gang is replaced: %s", _gist(error))
            self.broken = True
        return not self.broken

    def _survives(self, outcome: Outcome, refs: Sequence[Any]) -> bool:
        if outcome.failure is None or outcome.failure.cause not in _HARMLESS:
            return False
        _, pending = ray.wait(list(refs), num_returns=len(refs), timeout=_FAILURE_SECONDS)
        try:
            if not pending:
                self._count(_FAILURE_SECONDS)
        except (RayError, UnavailableError) as error:
            logger.info("a gang is replaced after a failure: %s", _gist(error))
            return False
        return not pending

    def _count(self, timeout_seconds: float) -> None:
        """Makes the workers do something together."""
        counts = self._ask("count", timeout_seconds=timeout_seconds)[: self.shape.trainers]
        if set(counts) != {self.shape.replicas}:
            raise UnavailableError(f"{self.shape} count {counts}.")

    def close(self) -> None:
        """Kills the workers."""
        self.broken = True
        self._spares.leave(self)
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._reservation.close()

    def _gather(self) -> int:
        """Takes spares, and starts what is missing; returns how many were warm."""
        warm = 0
        places = zip(self.shape.seats, self._reservation.nodes, strict=True)
        for rank, (seat, node_id) in enumerate(places):
            # A spare sees no GPU: Ray decides that when a process starts.
            fits = self.shape.tensorflow and not seat.gpus
            actor = self._spares.take(node_id) if fits else None
            warm += actor is not None
            options = self._reservation.options(rank)
            self._actors.append(
                actor or self._spares.start(options, tensorflow=self.shape.tensorflow)
            )
        return warm

    def _ask(self, method: str, *, timeout_seconds: float = BUILD_SECONDS) -> list[Any]:
        refs = [getattr(actor, method).remote() for actor in self._actors]
        return self._get(method, refs, timeout_seconds)

    def _get(self, what: str, refs: Sequence[Any], timeout_seconds: float) -> list[Any]:
        try:
            return list(ray.get(list(refs), timeout=timeout_seconds))
        except GetTimeoutError as error:
            raise UnavailableError(f"no answer to {what} in {timeout_seconds:g} s.") from error

    def _join(self) -> None:
        endpoints = self._ask("endpoint")
        hosts = {endpoint.rpartition(":")[0] for endpoint in endpoints}
        if len(hosts) == 1:  # one machine: its own address works whatever its network looks like
            endpoints = ["127.0.0.1:" + endpoint.rpartition(":")[2] for endpoint in endpoints]
        self._get(
            "join",
            [
                actor.join.remote(rank, endpoints, self.shape)
                for rank, actor in enumerate(self._actors)
            ],
            BUILD_SECONDS,
        )

    def _collect(
        self, refs: Sequence[Any], servers: Servers, cancelled: Callable[[], bool]
    ) -> Outcome | None:
        """Returns the first failure, or rank 0's outcome once all have ended."""
        pending, outcomes = list(refs), dict[Any, Outcome]()
        deadline = float("inf")
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=_TICK_SECONDS)
            for ref in done:
                outcomes[ref] = ray.get(ref)
                if outcomes[ref].failure is not None:
                    return outcomes[ref]
                deadline = min(deadline, time.monotonic() + _STRAGGLER_SECONDS)
            self._look()
            if (death := servers.look()) is not None:
                return Outcome(failure=self._death(death))
            if cancelled():
                return None
            if time.monotonic() > deadline:
                message = "a worker of the gang did not end with the others."
                return Outcome(failure=Failure(cause=Cause.LOST, message=message))
        return outcomes[refs[0]]

    def _look(self) -> None:
        """Sees how much memory the workers of this machine hold: a dead one cannot be asked."""
        here = placement.own_node()
        for rank, home in enumerate(self._homes):
            if home.node_id == here and (seen := memory.measure(home.pid)).process_bytes:
                before = self._memory[rank]
                self._memory[rank] = replace(before, process_bytes=seen.process_bytes)

    def _inspect(self, outcomes: Sequence[Outcome]) -> None:
        """Looks at how a trial left the workers: whether they are fit for another."""
        servers = [actor.memory.remote() for actor in self._actors[len(outcomes) :]]
        try:
            asked = self._get("memory", servers, _ANSWER_SECONDS)
        except (RayError, UnavailableError) as error:
            self.broken = True
            logger.warning("a gang is replaced: %s", _gist(error))
            return
        self._memory = [*(outcome.memory for outcome in outcomes), *asked]
        held = [found.process_bytes for found in self._memory]
        self._first_bytes = self._first_bytes or held
        leftovers = [outcome.leftovers for outcome in outcomes]
        for rank, seat in enumerate(self.shape.seats):
            grown = held[rank] - self._first_bytes[rank]
            why = leftovers[rank] if rank < len(leftovers) else ""
            if not why and grown > self._growth_bytes:
                why = f"it holds {gib(held[rank])}, {gib(grown)} more than after its first trial"
            if why:
                self.broken = True
                logger.warning("a gang is replaced for what %s has: %s", seat.name, why)

    def _death(self, error: RayActorError) -> Failure:
        """Says why a worker died. A kill by the kernel looks like any other, but is counted."""
        text = _COLOUR.sub("", str(error))
        rank = self._rank_of(error)
        before, home = self._memory[rank], self._homes[rank]
        now = _memory_of(home.node_id)
        by_ray = isinstance(error, OutOfMemoryError) or "running low on memory" in text
        if by_ray or now.kills > before.kills:
            sizes = replace(now, process_bytes=before.process_bytes)
            message = (
                f"a worker was killed because its machine ran out of memory ({sizes}): lower "
                "batch_size, limits.parallel or resources.workers."
            )
            return Failure(cause=Cause.OUT_OF_MEMORY, message=message, stack=text[-20_000:])
        name = self.shape.seats[rank].name
        if (words := _last_words(home, text)) is not None:
            return _crash(name, home.pid, words)
        message = f"{name} of the gang died (process {home.pid})."
        return Failure(cause=Cause.LOST, message=message, stack=text[-20_000:])

    def _rank_of(self, error: RayActorError) -> int:
        """The rank of the worker that died; 0 if Ray does not say."""
        ids = [actor._actor_id.hex() for actor in self._actors]
        return ids.index(error.actor_id) if error.actor_id in ids else 0


def _is_lost(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.cause is Cause.LOST


def _death_among(refs: Sequence[Any]) -> RayActorError | None:
    """The death of a worker in training; None if they are all there."""
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_FAILURE_SECONDS)
    for ref in done:
        try:
            ray.get(ref)
        except RayActorError as error:
            return error
    return None


def _memory_of(node_id: str) -> Memory:
    try:
        return placement.memory_of(node_id)
    except RayError:  # the node is gone as well
        return UNKNOWN


def _last_words(home: Home, text: str) -> str | None:
    """What a worker printed before it died by itself; None if it did not, or went with its node.

    Args:
        home: where it was.
        text: what Ray says of its death.
    """
    if _BY_ITSELF not in text or _ASKED_TO in text:
        return None
    try:
        return placement.last_words_of(home.node_id, home.pid)
    except RayError:
        return None


def _crash(name: str, pid: int, words: str) -> Failure:
    """What to tell of a worker that died by itself.

    What C++ and Python print as a signal ends them is among its last words; a process that is
    killed, or that leaves by `os._exit`, says nothing.
    """
    signals = _SIGNAL.findall(words)
    how = f"of {signals[-1]}" if signals else "without a word, as of SIGKILL or os._exit()"
    message = (
        f"{name} of the gang died by itself {how} (process {pid}), while its machine went on: "
        "`tuner logs` shows what it printed last, and its stack."
    )
    lines = [line for line in words.splitlines() if not line.startswith(_MODULES)]
    stack = "\n".join([*lines[-_LINES:], message])
    return Failure(cause=Cause.CRASHED, message=message, stack=stack, log_tail=words)


def _gist(error: BaseException) -> str:
    """The line of an error that names its cause: the last one where it carries a stack."""
    lines = _COLOUR.sub("", str(error)).splitlines() or [type(error).__name__]
    return lines[-1].strip() if any("Traceback" in line for line in lines) else lines[0]
