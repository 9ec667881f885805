"""The connections to a gateway's REST port: slow, idle and too many of them hold nobody up."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

#: How often it is looked who takes too long.
_SWEEP_SECONDS = 0.5
#: Where there are too many connections, this part of them is closed if they idle.
_SHARE = 50
#: How many files a gateway needs for other things than connections.
_OTHER_FILES = 256
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What connections may cost."""

    #: How many there may be. For one more, some are closed that idle: those that do so longest of
    #: those that never asked for anything, or else of all.
    connections: int = 4096
    #: How long a client may take for the head of a request, for its body, and for the answer.
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 60.0
    #: How long a connection may wait for its first request; later it is uvicorn's affair.
    idle_seconds: float = 75.0
    head_bytes: int = 64 * 2**10


def room(most: int) -> int:
    """How many connections there may be: `most`, or what the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(1, min(most, soft - _OTHER_FILES))
    return most


class _Stage(Enum):
    """What a connection is at, and what is said if that takes too long."""

    NEW = "a request did not arrive in time."
    HEAD = "the head of the request did not arrive in time."
    BODY = "the body of the request did not arrive in time."
    ANSWER = "the answer"
    IDLE = "the next request"


class Connections:
    """Watches over connections, now and then: a request costs nothing for it.

    It belongs to an event loop.

    Args:
        limits: What they may cost.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Connection] = set()
        self._sweeper = asyncio.create_task(self._sweep())

    def protocol(self, **given: Any) -> Connection:
        """A connection, for uvicorn."""
        return Connection(self, **given)

    def opened(self, connection: Connection) -> bool:
        """Takes a connection in; returns whether there is room for it."""
        if len(self._all) >= self.limits.connections:
            self._make_room()
        if len(self._all) >= self.limits.connections:
            return False
        self._all.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._all.discard(connection)

    async def close(self) -> None:
        """Watches no more."""
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper

    def _make_room(self) -> None:
        """Closes some that idle: first those that never asked for anything, the oldest first."""
        idle = [each for each in self._all if each.stage in (_Stage.NEW, _Stage.IDLE)]
        idle.sort(key=lambda each: (each.stage is _Stage.IDLE, each.since))
        # Several at once, so that they are not looked for with each new connection.
        for each in idle[: max(1, self.limits.connections // _SHARE)]:
            self.closed(each)
            each.transport.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self._all):
                connection.look(now)


class Connection(HttpToolsProtocol):
    """A connection that is given up when its client takes too long, or sends too much."""

    def __init__(self, guard: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._guard = guard
        self._head_bytes = 0
        #: Since when it is at what it was at when it was last looked at.
        self.since = self.loop.time()
        self._seen: tuple[_Stage, object] = (_Stage.NEW, None)
        self._stuck_since: float | None = None

    @property
    def stage(self) -> _Stage:
        """What it is at."""
        cycle: Any = self.cycle  # uvicorn's types do not know that there may be none
        if self.scope is not (None if cycle is None else cycle.scope):
            return _Stage.HEAD
        if cycle is None:
            return _Stage.NEW
        if cycle.response_complete:
            return _Stage.IDLE
        return _Stage.BODY if cycle.more_body else _Stage.ANSWER

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        if not self._guard.opened(self):
            self._refuse(503, "there are too many connections; try again, and keep them open.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._guard.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        if self.stage is not _Stage.HEAD:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > self._guard.limits.head_bytes and not self.transport.is_closing():
            most = self._guard.limits.head_bytes
            self._refuse(431, f"the head of a request has at most {most} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._refuse(400, msg)

    def look(self, now: float) -> None:
        """Gives the client up if it takes too long."""
        limits, stage = self._guard.limits, self.stage
        if self._seen[0] is not stage or self._seen[1] is not self.scope:
            self._seen, self.since = (stage, self.scope), now
        most = {
            _Stage.NEW: limits.idle_seconds,
            _Stage.HEAD: limits.head_seconds,
            _Stage.BODY: limits.body_seconds,
        }.get(stage)
        if most is not None and now - self.since > most and not self.transport.is_closing():
            self._refuse(408, stage.value)
        if not self.flow.write_paused:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > limits.answer_seconds:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Says what is wrong, if no answer is under way, and closes."""
        if self.stage is not _Stage.ANSWER and not (
            self.stage is _Stage.BODY and self.cycle.response_started
        ):
            body = json.dumps({"error": message}).encode()
            self.transport.write(
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
                f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                + body
            )
        self.transport.close()
