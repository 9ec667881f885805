"""Callers in a process of their own, each of which sends its next request once it was answered.

    python -m tests.benchmarks.serving_load < ORDER

The order is one JSON object: `kind`, rest or grpc, `address`, `path`, `connections`, `seconds` and
`requests`, as `serving_model` writes them. On standard output comes one JSON object: `seconds` and
`latencies`, one per answer, in seconds. An answer that is not right ends it.
"""

from __future__ import annotations

import array
import asyncio
import base64
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import uvloop

from tuner.endpoint import STICKY_KEY

#: A key for each caller, by which an endpoint chooses the version.
_keys = itertools.count()
_METHOD = "/tensorflow.serving.PredictionService/Predict"
_WARM_UP = 20
_CLOSE = 1e-4
_LINE, _END, _LAST_CHUNK = b"\r\n", b"\r\n\r\n", b"\r\n0\r\n\r\n"
_LENGTH = b"content-length:"
_OK = b"HTTP/1.1 200"
#: How much later than its time the last answer may come.
_LATE_SECONDS = 60.0


class WrongAnswerError(Exception):
    """A server answered something else than the model does."""


class Answers:
    """Checks answers; what was found right once is right."""

    def __init__(
        self, scores: Sequence[float], read: Callable[[bytes, int], Sequence[float]]
    ) -> None:
        self._scores = scores
        self._read = read
        self._right: set[bytes] = set()

    def check(self, body: bytes) -> None:
        """Raises WrongAnswerError unless the answer is right to four decimals."""
        if body in self._right:
            return
        found = self._read(body, len(self._scores))
        near = all(abs(a - b) < _CLOSE for a, b in zip(found, self._scores, strict=True))
        if not near:
            raise WrongAnswerError(f"{self._scores} were expected, but got {body[:1000]!r}")
        self._right.add(body)


def scores_of_json(body: bytes, count: int) -> Sequence[float]:
    """The scores in the answer to a `:predict` request."""
    return [score for row in json.loads(body)["predictions"] for score in row["scores"]]


def scores_of_proto(body: bytes, count: int) -> Sequence[float]:
    """The scores in a `PredictResponse`."""
    from tuner.v1 import tensorflow_serving_pb2 as pb

    tensor = pb.PredictResponse.FromString(body).outputs["scores"]
    # Of a TensorProto the content comes last; TensorFlow, which would know, takes seconds to load.
    return array.array("f", tensor[-4 * count :])


class Call(Protocol):
    """A connection on which one request after another is sent."""

    async def __call__(self, number: int) -> None:
        """Sends a request, and checks its answer."""


class Http(asyncio.Protocol):
    """A connection that is kept alive; it reads no more of HTTP than servers send here."""

    def __init__(self, requests: Sequence[bytes], answers: Sequence[Answers]) -> None:
        self._requests = requests
        self._answers = answers
        self._buffer = b""
        self._transport: Any = None
        self._waiting: asyncio.Future[bytes] | None = None

    async def __call__(self, number: int) -> None:
        """Sends a request, and checks its answer."""
        self._buffer = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(self._requests[number])
        self._answers[number].check(await self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        buffer = self._buffer = self._buffer + data if self._buffer else data
        try:
            body = body_of(buffer)
        except WrongAnswerError as error:
            self._fail(error)
        else:
            if body is not None and self._waiting is not None:
                self._waiting.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._fail(ConnectionError("the server closed the connection."))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def body_of(buffer: bytes) -> bytes | None:
    """The body of an answer; None while there is more to come."""
    head, end, rest = buffer.partition(_END)
    if not end:
        return None
    if not head.startswith(_OK):
        raise WrongAnswerError(f"not the answer expected: {buffer[:1000]!r}")
    _, has_length, after = head.lower().partition(_LENGTH)
    if has_length:
        return rest if len(rest) >= int(after.partition(_LINE)[0]) else None
    if not rest.endswith(_LAST_CHUNK):
        return None
    body = b""
    while (size := int((parts := rest.partition(_LINE))[0], 16)) > 0:
        body, rest = body + parts[2][:size], parts[2][size + len(_LINE) :]
    return body


async def http(order: Mapping[str, Any], answers: Sequence[Answers]) -> Call:
    """Connects over HTTP."""
    host, _, port = order["address"].rpartition(":")
    head = f"POST {order['path']} HTTP/1.1\r\nHost: {order['address']}\r\n"
    head += f"{STICKY_KEY}: {next(_keys)}\r\nContent-Type: application/json\r\nContent-Length: "
    bodies = [request["rest"].encode() for request in order["requests"]]
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Http(requests, answers), host, int(port))
    return connection


async def grpc(order: Mapping[str, Any], answers: Sequence[Answers]) -> Call:
    """Connects over gRPC."""
    import grpc  # takes a while, which callers over HTTP need not wait

    options = (("grpc.use_local_subchannel_pool", 1),)  # a connection for each
    call: Any = grpc.aio.insecure_channel(order["address"], options=options).unary_unary(_METHOD)
    bodies = [base64.b64decode(request["grpc"]) for request in order["requests"]]

    key = ((STICKY_KEY, str(next(_keys))),)

    async def send(number: int) -> None:
        answers[number].check(await call(bodies[number], metadata=key))

    return send


async def run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Does what is ordered."""
    is_rest = order["kind"] == "rest"
    read = scores_of_json if is_rest else scores_of_proto
    answers = [Answers(request["scores"], read) for request in order["requests"]]
    connect = http if is_rest else grpc
    calls = [await connect(order, answers) for _ in range(order["connections"])]
    count, latencies = len(answers), list[float]()

    async def caller(place: int, call: Call, end: float, turns: int, found: list[float]) -> None:
        number = place * 7
        while turns and (begun := time.perf_counter()) < end:
            number, turns = number + 1, turns - 1
            await call(number % count)
            found.append(time.perf_counter() - begun)

    async def all_of_them(seconds: float, turns: int, found: list[float]) -> None:
        end = time.perf_counter() + seconds
        callers = (caller(n, call, end, turns, found) for n, call in enumerate(calls))
        await asyncio.wait_for(asyncio.gather(*callers), seconds + _LATE_SECONDS)

    await all_of_them(order["seconds"], _WARM_UP, [])
    begun = time.perf_counter()
    await all_of_them(order["seconds"], -1, latencies)
    return {"seconds": time.perf_counter() - begun, "latencies": latencies}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
