"""The replicas of one model version: as many as its traffic needs, from zero on."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tuner.endpoint import Scaling
from tuner.errors import (
    DataError,
    DeadlineError,
    ModelRejectedError,
    ResourceExhaustedError,
    TunerError,
    UnavailableError,
)
from tuner.serving.starter import Running
from tuner.serving.tasks import spawn
from tuner.serving.wire import Method

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
#: The time over which calls under way are averaged, upwards and downwards.
_UP_SECONDS, _DOWN_SECONDS = 0.5, 30.0
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 30.0
_DRAIN_SECONDS = 30.0
#: How many replicas a call may lose: it may be what they die of.
_TRIES = 3
_PAUSE_SECONDS = 0.05
#: A replica that owes answers hangs when it gave none for this many times as long as calls may
#: take, and at least for so long: nobody waits for those any more.
_HANGS, _HANGS_SECONDS = 2.0, 10.0


class Replicas(Protocol):
    """Starts and ends replicas."""

    async def prepare(self) -> None:
        """Does beforehand what the first replica would wait for; raises UnavailableError."""

    async def start(self, directory: Path) -> Running:
        """Returns a replica that can predict; raises DataError or UnavailableError."""

    async def stop(self, running: Running) -> None:
        """Ends one that has nothing more to answer."""


#: Says where a version's directory lies on this machine; fetches it if it lies elsewhere.
Locate = Callable[[], Awaitable[Path]]


class Pool:
    """The replicas of a model version. It belongs to an event loop.

    Replicas are added as soon as calls under way exceed what those that run are meant to have, and
    ended only after half a minute in which fewer would have done.

    Args:
        name: The version, for messages.
        locate: Returns its SavedModel; raises DataError or ModelRejectedError.
        replicas: Starts and ends them.
        scaling: How many there should be; it may be changed.
    """

    def __init__(self, name: str, locate: Locate, replicas: Replicas, scaling: Scaling) -> None:
        self.name = name
        self.scaling = scaling
        self._locate = locate
        self._replicas = replicas
        self._running: list[Running] = []
        self._starting = 0
        self._calls = 0
        self._changed = asyncio.Event()
        self._failure = ""
        self._failures = 0
        self._is_broken = False
        self._not_before = 0.0
        self._load = 0.0
        #: The longest that a call might take so far.
        self._patience = 0.0
        self._enough_since = self._used = asyncio.get_running_loop().time()
        self._starts: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ticker = asyncio.create_task(self._tick())

    @property
    def size(self) -> int:
        """How many replicas can predict."""
        return len(self._running)

    @property
    def calls(self) -> int:
        """How many calls are under way or wait."""
        return self._calls

    @property
    def failure(self) -> str:
        """Why the last start failed; empty after one that did not."""
        return self._failure

    async def call(self, method: Method, body: bytes, seconds: float) -> bytes:
        """Has a call answered by a replica; waits for one to wake where none runs.

        A call whose replica dies goes to another: predicting changes nothing.

        Args:
            method: What is asked.
            body: The request.
            seconds: How long it may take.

        Raises:
            RefusedError: the replica's answer was an error.
            ResourceExhaustedError: too many calls wait.
            DeadlineError: it took too long.
            UnavailableError: no replica starts.
        """
        # Replicas still work on calls that took too long for who asked.
        calls = self._calls + sum(running.caller.abandoned for running in self._running)
        if calls >= self.scaling.max_queue:
            raise ResourceExhaustedError(
                f"{self.name} has {calls} calls under way, and takes no more; try again, or raise "
                "its `max_replicas` or `max_queue`."
            )
        self._calls += 1
        self._used = asyncio.get_running_loop().time()
        self._patience = max(self._patience, seconds)
        try:
            async with asyncio.timeout(seconds):
                for _ in range(_TRIES):
                    running = await self._free()
                    try:
                        return await running.caller.call(method, body)
                    except UnavailableError:
                        self._forget(running)
                    # Those that die together are not lost one by one.
                    await asyncio.sleep(_PAUSE_SECONDS)
                raise UnavailableError(
                    f"{_TRIES} replicas of {self.name} died of this call or while it was under "
                    "way; if it is the call, the gateway's log shows what they said."
                )
        except TimeoutError:
            why = f" ({self._failure})" if self._failure else ""
            raise DeadlineError(f"{self.name} gave no answer within {seconds:g} s{why}.") from None
        finally:
            self._calls -= 1
            self._used = asyncio.get_running_loop().time()

    async def warm(self, seconds: float) -> None:
        """Returns once a replica can predict, which it starts if there is none.

        Raises:
            UnavailableError: the model cannot be loaded.
            DeadlineError: it took too long.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._free()
        except TimeoutError:
            raise DeadlineError(f"{self.name} did not start within {seconds:g} s.") from None
        self._used = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Lets calls under way and those that wait be answered, and ends all replicas."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _DRAIN_SECONDS
        while self._calls and loop.time() < end:
            await asyncio.sleep(_TICK_SECONDS)
        self._closed = True
        self._ticker.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticker
        for running in list(self._running):
            self._retire(running)
        # Those that still start end by themselves, once they have.
        if self._stops:
            await asyncio.wait(self._stops, timeout=_DRAIN_SECONDS)

    async def _free(self) -> Running:
        """The replica with the fewest calls; waits until there is one."""
        while True:
            if self._running:
                return min(self._running, key=lambda each: each.caller.in_flight)
            if self._closed:
                raise UnavailableError(f"{self.name} is not served any more.")
            if self._is_broken and asyncio.get_running_loop().time() < self._not_before:
                raise UnavailableError(f"{self.name} does not start: {self._failure}")
            self._grow(1)
            self._changed.clear()
            await self._changed.wait()

    def _grow(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        missing = size - len(self._running) - self._starting
        if missing > 0 and now >= self._not_before and not self._closed:
            for _ in range(missing):
                self._starting += 1
                spawn(self._start(), self._starts)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            running = await self._replicas.start(await self._locate())
        except (TunerError, OSError) as error:
            self._failures += 1
            self._failure = str(error)
            # A model that cannot be loaded is not waited for; a process that died is.
            self._is_broken = isinstance(error, (DataError, ModelRejectedError))
            backoff = _FIRST_BACKOFF_SECONDS * 2 ** (self._failures - 1)
            self._not_before = loop.time() + min(backoff, _LAST_BACKOFF_SECONDS)
            if not self._closed:
                logger.warning("%s: a replica did not start: %s", self.name, error)
        else:
            self._failures, self._failure, self._not_before = 0, "", 0.0
            self._is_broken = False
            self._running.append(running)
            if self._closed:
                self._retire(running)
        finally:
            self._starting -= 1
            self._changed.set()

    def _forget(self, running: Running) -> None:
        """Takes note that a replica died."""
        if running in self._running:
            self._running.remove(running)
            logger.warning("%s: a replica died", self.name)
            self._grow(max(self.scaling.min_replicas, 1 if self._calls else 0))

    def _retire(self, running: Running) -> None:
        self._running.remove(running)
        spawn(self._stop(running), self._stops)

    async def _stop(self, running: Running) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _DRAIN_SECONDS
        while running.caller.awaited and loop.time() < end:
            await asyncio.sleep(0.01)
        await self._replicas.stop(running)

    async def _tick(self) -> None:
        while True:
            self._look()
            self._scale()
            if self._not_before and not self._running:
                self._changed.set()  # who waits asks again, after a failure
            await asyncio.sleep(_TICK_SECONDS)

    def _look(self) -> None:
        """Replaces replicas that died or hang."""
        now, most = asyncio.get_running_loop().time(), max(_HANGS * self._patience, _HANGS_SECONDS)
        for running in list(self._running):
            if running.caller.is_lost:
                self._forget(running)
            elif running.caller.silence(now) > most:
                logger.warning("%s: a replica gave no answer for %.0f s", self.name, most)
                running.caller.close()
                self._forget(running)
                spawn(self._replicas.stop(running), self._stops)

    def _scale(self) -> None:
        scaling, now = self.scaling, asyncio.get_running_loop().time()
        weight = min(1.0, _TICK_SECONDS / _UP_SECONDS)
        self._load += weight * (self._calls - self._load)
        wanted = math.ceil(self._load / scaling.target_concurrency - 0.05)
        wanted = min(
            max(wanted, scaling.min_replicas, 1 if self._calls else 0), scaling.max_replicas
        )
        size = len(self._running)
        if wanted > size + self._starting:
            self._grow(wanted)
        if wanted >= size:
            self._enough_since = now
            return
        idle = not self._calls and now - self._used > scaling.idle_time.total_seconds()
        if idle and scaling.min_replicas == 0 and wanted == 0:
            for running in list(self._running):
                self._retire(running)
        elif size > max(wanted, 1) and now - self._enough_since > _DOWN_SECONDS:
            self._enough_since = now
            self._retire(min(self._running, key=lambda each: each.caller.in_flight))
