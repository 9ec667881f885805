"""What clients may cost a gateway: real sockets, slow, idle, many, and full of nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvicorn

from tuner.serving.bodies import Bodies
from tuner.serving.callers import Callers
from tuner.serving.catalog import Folder
from tuner.serving.connections import Connections, Limits, room
from tuner.serving.grpc_api import PredictionApi
from tuner.serving.monitoring import Monitor
from tuner.serving.predictions import Predictions
from tuner.serving.rest import Rest

pytestmark = pytest.mark.timeout(60)

LIMITS = Limits(connections=20, head_seconds=0.3, body_seconds=0.6, idle_seconds=1.5)


class Server:
    """The REST part of a gateway, in a thread, with nothing to serve."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self.port = 0

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        folder = Folder(self._folder, lambda name, directory: pytest.fail(name), seconds=1.0)
        rest = Rest(
            Predictions(folder, Monitor()), Callers(is_open=True), most_bytes=10_000,
            bodies=Bodies(25_000),
        )  # fmt: skip
        connections = Connections(LIMITS)
        protocol: Any = connections.protocol
        config = uvicorn.Config(
            rest, port=0, http=protocol, loop="none", lifespan="off", interface="asgi3",
            log_config=None, access_log=False, timeout_keep_alive=5,
        )  # fmt: skip
        server = uvicorn.Server(config)
        listener = config.bind_socket()
        self.port = listener.getsockname()[1]
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        self._started.set()
        await self._stop.wait()
        server.should_exit = True
        await serving
        await connections.close()
        await folder.close()

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.settimeout(20)
        return made

    def said(self, *sent: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the document that come back, after which the connection is closed."""
        with self.connect() as made:
            for part in sent:
                made.sendall(part)
            return answer_of(made)


def answer_of(made: socket.socket) -> tuple[int, dict[str, Any]]:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        part = made.recv(65536)
        if not part:
            break
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("nothing")) as running:
        yield running


POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ([b"GET /v1/models/m HTTP/1.1\r\nHost"], 408, "the head of the request"),
        ([POST + b"Content-Length: 9\r\n\r\n{"], 408, "the body of the request"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"], 408, "the body of the request"),
        ([b""], 408, "a request did not arrive"),
        ([b"GET /" + b"x" * 70_000], 431, "65536 bytes"),
        ([POST, b"A: " + b"x" * 70_000], 431, "65536 bytes"),
        ([POST + b"Content-Length: 99999999999\r\n\r\n"], 413, "more than 10000 bytes"),
        ([POST + b"Content-Length: -1\r\n\r\n"], 400, "Invalid HTTP"),
        ([POST + b"Content-Length: 1e3\r\n\r\n"], 400, "Invalid HTTP"),
        (
            [POST + b"Transfer-Encoding: chunked\r\n\r\n", b"2711\r\n" + b"x" * 10001 + b"\r\n"],
            413,
            "more than 10000 bytes",
        ),
        ([b"\x16\x03\x01\x02\x00\x01\x00"], 400, "Invalid HTTP"),
        ([b"GET /v1/models/\xff\xfe HTTP/1.1\r\n\r\n"], 400, ""),
        ([b"GET http://[ HTTP/1.1\r\n\r\n"], 400, ""),
    ],
)
def test_what_is_too_slow_too_large_or_nonsense_is_refused(
    server: Server, sent: list[bytes], status: int, said: str
) -> None:
    found, document = server.said(*sent)
    assert found == status, document
    assert said in document["error"]


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e%2f..%2fetc", "%00", "a%00b", "%ff", "m%2fversions%2f1", "x" * 5000, "%"]
)
def test_names_lead_nowhere(server: Server, name: str) -> None:
    for path in (f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"):
        status, document = server.said(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        assert status == 404 and "Servable not found" in document["error"]
        assert len(document["error"]) < 1000


def test_idle_connections_make_room_for_others(server: Server) -> None:
    first = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20)
    with first:
        assert first.get("/v2/health/live").is_success
        idle = [server.connect() for _ in range(200)]
        try:
            for _ in range(20):
                assert first.get("/v2/health/live").is_success
        finally:
            for each in idle:
                each.close()


def test_where_all_are_busy_one_more_is_told_so(server: Server) -> None:
    busy = [server.connect() for _ in range(LIMITS.connections)]
    for each in busy:
        each.sendall(POST + b"Content-Length: 2\r\n\r\n{")
    time.sleep(0.1)
    try:
        status, document = server.said(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    except (ConnectionResetError, IndexError):
        status, document = 503, {"error": "too many connections"}
    assert status == 503 and "too many connections" in document["error"]
    # Those that are slow are given up, and there is room again.
    assert [answer_of(each)[0] for each in busy] == [408] * LIMITS.connections
    for each in busy:
        each.close()
    assert server.said(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_bodies_that_are_too_large_together_are_refused(server: Server) -> None:
    with server.connect() as one, server.connect() as other:
        for each in (one, other):
            each.sendall(POST + b"Content-Length: 10000\r\n\r\n" + b"x" * 9999)
        time.sleep(0.1)
        status, document = server.said(POST + b"Content-Length: 10000\r\n\r\n" + b"x" * 10_000)
    assert status == 429 and "as large as they may be" in document["error"]


def test_bodies_of_grpc_count_as_well(tmp_path: Path) -> None:
    async def ask() -> grpc.StatusCode:
        source, bodies = Folder(tmp_path, lambda *_: pytest.fail(), seconds=1.0), Bodies(1_000)
        server = grpc.aio.server()
        api = PredictionApi(Predictions(source, Monitor()), Callers(is_open=True), bodies)
        api.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
                with bodies.held(900):
                    code, message = await refused(call)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "as large as" in message
                return (await refused(call))[0]
        finally:
            await server.stop(None)
            await source.close()

    async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"x" * 200)
        return raised.value.code(), str(raised.value.details())

    # It was counted out again.
    assert asyncio.run(ask()) is grpc.StatusCode.INVALID_ARGUMENT


def test_room_is_what_the_system_allows() -> None:
    assert room(10) == 10
    assert replace(LIMITS, connections=room(10**9)).connections < 10**9
