"""The connections to a gateway's REST port: slow, idle and too many of them hold nobody up."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

#: How often it is looked who takes too long.
_SWEEP_SECONDS = 0.5
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

    #: How many there may be. For one more, one is closed that idles: the one that does so longest
    #: of those that never asked for anything, or else of all.
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


class Connections:
    """Watches over connections. It belongs to an event loop.

    Args:
        limits: What they may cost.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Connection] = set()
        #: Those without a request under way, the longest idle first: those that have not asked
        #: for anything yet, and the others.
        self._new: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._sweeper = asyncio.create_task(self._sweep())

    def protocol(self, **given: Any) -> Connection:
        """A connection, for uvicorn."""
        return Connection(self, **given)

    def opened(self, connection: Connection) -> bool:
        """Takes a connection in; returns whether there is room for it."""
        if len(self._all) >= self.limits.connections:
            oldest = next(iter(self._new), None) or next(iter(self._idle), None)
            if oldest is None:
                return False
            self.closed(oldest)
            oldest.transport.close()
        self._all.add(connection)
        self._new[connection] = None
        return True

    def closed(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._all.discard(connection)
        self.is_busy(connection)

    def is_busy(self, connection: Connection) -> None:
        """A request begins."""
        self._new.pop(connection, None)
        self._idle.pop(connection, None)

    def is_idle(self, connection: Connection) -> None:
        """A request was answered."""
        if connection in self._all:
            self._idle[connection] = None

    async def close(self) -> None:
        """Watches no more."""
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper

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
        self._limits = guard.limits
        self._head_bytes = 0
        #: Until when what the client is at has to be done.
        self._deadline = float("inf")
        self._what = ""
        self._stuck_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        if self._guard.opened(self):
            self._expect("a request", self._limits.idle_seconds)
        else:
            self._refuse(503, "there are too many connections; try again, and keep them open.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._guard.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self._refuse(
                431, f"the head of a request has at most {self._limits.head_bytes} bytes."
            )

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._guard.is_busy(self)
        self._expect("the head of the request", self._limits.head_seconds)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        super().on_headers_complete()
        self._expect("the body of the request", self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        self._deadline = float("inf")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request is there already
            self._guard.is_idle(self)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._refuse(400, msg)

    def look(self, now: float) -> None:
        """Gives the client up if it took too long."""
        if now > self._deadline:
            self._refuse(408, f"{self._what} did not arrive in time.")
        if not self.flow.write_paused:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > self._limits.answer_seconds:
            self.transport.abort()

    def _expect(self, what: str, seconds: float) -> None:
        self._what, self._deadline = what, self.loop.time() + seconds

    def _refuse(self, status: int, message: str) -> None:
        """Says what is wrong, if no answer is under way, and closes."""
        self._deadline = float("inf")
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": message}).encode()
            self.transport.write(
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
                f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                + body
            )
        self.transport.close()
