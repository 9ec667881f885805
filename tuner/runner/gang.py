"""The Ray actors that train one trial together, and trial after trial."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError

from tuner import processes
from tuner.client.access import Access
from tuner.errors import UnavailableError
from tuner.runner.pool import Shape
from tuner.runner.worker import Assignment, Outcome, Worker
from tuner.study import Cause, Failure

logger = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: How long a gang may take to stand: TensorFlow's import on a busy machine, several times over.
BUILD_SECONDS = 180.0
#: How long the other workers may take to end once one has ended well.
_STRAGGLER_SECONDS = 60.0
_ANSWER_SECONDS = 20.0
#: How long the other workers may take to get over a failure.
_FAILURE_SECONDS = 5.0
#: What a trainer may fail of without harm to the processes it ran in.
_HARMLESS = frozenset({Cause.USER_ERROR, Cause.INFEASIBLE})
_TICK_SECONDS = 0.5


class Gang:
    """N actors with one strategy. Used by one thread at a time; close() may be called by any."""

    def __init__(self, shape: Shape, access: Access) -> None:
        self.shape = shape
        self.broken = False
        start = time.monotonic()
        self._actors = [self._start_actor(rank, access) for rank in range(shape.workers)]
        try:
            self.pids: list[int] = self._ask("pid")
            if shape.mirrored:
                self._join()
            self._count(BUILD_SECONDS)
        except (RayError, UnavailableError) as error:
            self.close()
            raise UnavailableError(f"a gang did not come up: {_gist(error)}") from error
        logger.info("a gang of %d stands after %.1f s", shape.workers, time.monotonic() - start)

    def train(self, assignment: Assignment, cancelled: Callable[[], bool]) -> Outcome | None:
        """Trains one attempt; returns None if it was cancelled.

        After a lost worker or a cancellation the gang is broken, and after a failure that not all
        of its workers have got over: the others may wait in a collective for ever.
        """
        oom_kills = processes.oom_kills()
        refs = [actor.train.remote(assignment) for actor in self._actors]
        try:
            outcome = self._collect(refs, cancelled)
        except RayActorError as error:
            self.broken = True
            return Outcome(
                failure=_death(error, killed_by_memory=processes.oom_kills() > oom_kills)
            )
        except RayError as error:
            self.broken = True
            return Outcome(failure=Failure(cause=Cause.LOST, message=_gist(error)))
        if outcome is None or outcome.failure is not None:
            self.broken = outcome is None or not self._survives(outcome, refs)
        return outcome

    def answers(self) -> bool:
        """Whether every worker is there; a gang with a dead one is broken."""
        refs = [actor.pid.remote() for actor in self._actors]
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
        counts = self._ask("count", timeout_seconds=timeout_seconds)
        if set(counts) != {self.shape.workers if self.shape.mirrored else 1}:
            raise UnavailableError(f"{self.shape.workers} workers count {counts}.")

    def close(self) -> None:
        """Kills the workers."""
        self.broken = True
        for actor in self._actors:
            ray.kill(actor, no_restart=True)

    def _start_actor(self, rank: int, access: Access) -> Any:
        shape = self.shape
        options: dict[str, Any] = {
            "num_cpus": shape.cpus_per_worker,
            "num_gpus": shape.gpus_per_worker,
            "max_restarts": 0,
        }
        threads = max(1, int(shape.cpus_per_worker))
        worker = ray.remote(Worker).options(**options)
        return worker.remote(rank, shape.workers, threads, access, tensorflow=shape.tensorflow)

    def _ask(
        self, method: str, *args: object, timeout_seconds: float = BUILD_SECONDS
    ) -> list[Any]:
        refs = [getattr(actor, method).remote(*args) for actor in self._actors]
        try:
            return list(ray.get(refs, timeout=timeout_seconds))
        except GetTimeoutError as error:
            raise UnavailableError(f"no answer to {method} in {timeout_seconds:g} s.") from error

    def _join(self) -> None:
        endpoints = self._ask("endpoint")
        hosts = {endpoint.rpartition(":")[0] for endpoint in endpoints}
        if len(hosts) == 1:  # one machine: its own address works whatever its network looks like
            endpoints = ["127.0.0.1:" + endpoint.rpartition(":")[2] for endpoint in endpoints]
        self._ask("join", endpoints)

    def _collect(self, refs: Sequence[Any], cancelled: Callable[[], bool]) -> Outcome | None:
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
            if cancelled():
                return None
            if time.monotonic() > deadline:
                message = "a worker of the gang did not end with the others."
                return Outcome(failure=Failure(cause=Cause.LOST, message=message))
        return outcomes[refs[0]]


def _death(error: RayActorError, *, killed_by_memory: bool) -> Failure:
    """Says why a worker died. A kill by the kernel looks like any other, but is counted."""
    text = _COLOUR.sub("", str(error))
    by_ray = isinstance(error, OutOfMemoryError) or "running low on memory" in text
    if by_ray or killed_by_memory:
        message = (
            "a worker was killed because the machine ran out of memory: lower batch_size, "
            "limits.parallel or resources.workers."
        )
        return Failure(cause=Cause.OUT_OF_MEMORY, message=message, stack=text[-20_000:])
    return Failure(cause=Cause.LOST, message="a worker of the gang died.", stack=text[-20_000:])


def _gist(error: BaseException) -> str:
    """The line of an error that names its cause: the last one where it carries a stack."""
    lines = _COLOUR.sub("", str(error)).splitlines() or [type(error).__name__]
    return lines[-1].strip() if any("Traceback" in line for line in lines) else lines[0]


def builder(access: Access) -> Callable[[Shape], Gang]:
    """Returns what builds gangs whose rank 0 reports to the study server."""
    return lambda shape: Gang(shape, access.carried())
