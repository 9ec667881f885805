"""How a gateway and a replica talk: numbered frames, in any order, over one connection.

A frame is a header, `_HEADER`, and a body. The gateway's frames name a `Method`, and the replica
answers each with the number of a gRPC status; of an error the body is the message.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Any

import grpc

from tuner.errors import TunerError, UnavailableError

#: The body's length in bytes, the call's number, and the method or the status.
_HEADER = struct.Struct("<IQB")
OK = 0
#: The variable with what callers have to show where a replica listens on a host.
SECRET = "TUNER_REPLICA_SECRET"
#: The status codes by name, `INVALID_ARGUMENT`, and the names by code.
CODES = {code.name: int(code.value[0]) for code in grpc.StatusCode}
NAMES = {number: name for name, number in CODES.items()}


class RefusedError(TunerError):
    """A replica's answer was an error.

    Args:
        status: The number of the gRPC status.
        message: What it said.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.code = NAMES[status]  # type: ignore[misc]  # each has its own


class Method(IntEnum):
    """What a replica can be asked. JSON and protos are those of TensorFlow Serving."""

    #: Shows the secret of a replica that listens on a host.
    HELLO = 0
    #: Ends the replica.
    END = 1
    PREDICT_JSON = 2
    CLASSIFY_JSON = 3
    REGRESS_JSON = 4
    METADATA_JSON = 5
    PREDICT_PROTO = 6
    CLASSIFY_PROTO = 7
    REGRESS_PROTO = 8
    METADATA_PROTO = 9
    #: Of the Open Inference Protocol.
    INFER_JSON = 10
    DESCRIBE_JSON = 11
    #: What a model of tuner's own says of itself.
    ABOUT_JSON = 12
    #: A PredictResponse of its own, as the JSON of the same answer.
    SHOW_PROTO = 13


class Frames(asyncio.Protocol, ABC):
    """One end of a connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    @abstractmethod
    def received(self, number: int, code: int, body: bytes) -> None:
        """Is told of each frame."""

    def lost(self, error: Exception | None) -> None:
        """Is told that no more frames will come."""

    def send(self, number: int, code: int, body: bytes) -> None:
        """Sends a frame; nothing once the connection is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEADER.pack(len(body), number, code) + body)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        stream: Any = transport  # of sockets, always one that can write
        self._transport = stream

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= _HEADER.size:
            length, number, code = _HEADER.unpack_from(buffer, start)
            stop = start + _HEADER.size + length
            if stop > end:
                break
            body = bytes(memoryview(buffer)[start + _HEADER.size : stop])
            start = stop
            self.received(number, code, body)
        if start:
            del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self.lost(exc)


class Caller(Frames):
    """The gateway's end."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._owed = 0
        self._silent_since = 0.0
        self.is_lost = False

    @property
    def in_flight(self) -> int:
        """How many calls have no answer yet, also those for which nobody waits any more."""
        return self._owed

    @property
    def awaited(self) -> int:
        """For how many of those somebody waits."""
        return len(self._waiting)

    @property
    def abandoned(self) -> int:
        """For how many of those nobody waits."""
        return self._owed - len(self._waiting)

    def silence(self, now: float) -> float:
        """For how many seconds it has owed answers and given none."""
        return now - self._silent_since if self._owed else 0.0

    async def call(self, method: Method, body: bytes) -> bytes:
        """The answer.

        Raises:
            RefusedError: it was an error.
            UnavailableError: the replica is gone, maybe after it did what was asked.
        """
        if self.is_lost:
            raise UnavailableError("the replica is gone.")
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        if not self._owed:
            self._silent_since = loop.time()
        self._owed += 1
        self._waiting[number] = answer
        self.send(number, method, body)
        try:
            status, found = await answer
        finally:
            self._waiting.pop(number, None)
        if status != OK:
            raise RefusedError(status, found.decode("utf-8", "replace"))
        return found

    def received(self, number: int, code: int, body: bytes) -> None:
        """Wakes who waits for an answer; nobody does after a deadline."""
        self._owed -= 1
        self._silent_since = asyncio.get_running_loop().time()
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result((code, body))

    def lost(self, error: Exception | None) -> None:
        """Tells all who wait."""
        self.is_lost = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError("the replica is gone."))
