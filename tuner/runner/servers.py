"""The members of a gang that its coordinator commands: whether they are there while it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError

from tuner.runner.shape import Shape

logger = logging.getLogger(__name__)

#: How often each is asked.
_ASK_SECONDS = 1.0


class Servers:
    """Asks workers and parameter servers now and then. Used by one thread, for one trial.

    The coordinator goes on without a worker, whose steps others take, but not without any.

    Args:
        shape: of the gang.
        actors: all of its processes but the coordinator, by rank.
    """

    def __init__(self, shape: Shape, actors: Mapping[int, Any]) -> None:
        self._shape, self._actors = shape, actors
        #: The ranks of those that died.
        self.lost: set[int] = set()
        self._asked: dict[Any, int] = {}
        self._ask_time = 0.0

    def look(self, timeout_seconds: float = 0.0) -> RayActorError | None:
        """Returns a death that the attempt does not survive.

        Args:
            timeout_seconds: how long to wait for answers; 0 takes those that are there.
        """
        if timeout_seconds or (not self._asked and time.monotonic() >= self._ask_time):
            self._ask()
        if not self._asked:
            return None
        asked = list(self._asked)
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout_seconds)
        for ref in done:
            rank = self._asked.pop(ref)
            try:
                ray.get(ref)
            except RayActorError as error:
                if self._is_fatal(rank):
                    return error
        return None

    def _ask(self) -> None:
        self._ask_time = time.monotonic() + _ASK_SECONDS
        alive = self._actors.keys() - self.lost
        self._asked = {self._actors[rank].home.remote(): rank for rank in alive}

    def _is_fatal(self, rank: int) -> bool:
        self.lost.add(rank)
        workers = set(range(1, 1 + self._shape.workers))
        if rank in workers and not workers <= self.lost:
            name = self._shape.seats[rank].name
            logger.warning("%s of a gang died; the trial goes on with the others", name)
            return False
        return True
