"""Versions that are only asked, too: their answers are compared, counted and dropped."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.message import DecodeError

from tuner.errors import TunerError
from tuner.serving.predictions import ERRORS, Call, Served
from tuner.serving.wire import Method
from tuner.v1 import tensorflow_serving_pb2 as pb

#: How many calls may be under way, and how many bytes they may hold. What is more is left out.
_MOST_CALLS, _MOST_BYTES = 64, 64 * 2**20


class Shadows:
    """Asks shadows, as far as there is room for it. It belongs to an event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        #: How many calls were left out.
        self.dropped = 0

    def ask(self, shadow: Served, call: Call, answer: bytes) -> None:
        """Has a shadow answer a call, soon: the answer of another version is sent first.

        Args:
            shadow: The version that is asked.
            call: The call.
            answer: What the version which answered said.
        """
        size = len(call.body) + len(answer)
        if len(self._tasks) >= _MOST_CALLS or self._bytes + size > _MOST_BYTES:
            self.dropped += 1
            return
        self._bytes += size
        task = asyncio.create_task(_ask(shadow, call, answer))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, size))

    def close(self) -> None:
        """Drops what is under way."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.discard(task)
        self._bytes -= size


async def _ask(shadow: Served, call: Call, answer: bytes) -> None:
    start, code, found = time.perf_counter(), "OK", b""
    try:
        found = await shadow.pool.call(call.method, call.body, shadow.seconds)
    except TunerError as error:
        code = error.code
    is_error, traffic = code in ERRORS, shadow.shadowed
    traffic.count(time.perf_counter() - start, is_error=is_error)
    # A shadow that refuses what the other one took differs from it.
    if not is_error and (code != "OK" or not _is_same(call.method, answer, found)):
        traffic.differences += 1


def _is_same(method: Method, one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    if method is not Method.PREDICT_PROTO:
        return False
    try:
        # Maps come in any order.
        first, second = map(pb.PredictResponse.FromString, (one, other))
    except DecodeError:
        return False
    return dict(first.outputs) == dict(second.outputs)
