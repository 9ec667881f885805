"""What the machine allows: one durable commit, and one empty call.

`python -m tests.benchmarks.floor` is the server of the empty calls as a process.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import psycopg
from google.protobuf.empty_pb2 import Empty

from tests.benchmarks.crowd import Turn

_SERVICE, _METHOD = "benchmark.Floor", "Call"
_THREADS = 32
_CALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits one row, again and again."""

    url: str

    @contextmanager
    def open(self, client: int) -> Iterator[Turn]:
        """Connects."""
        with psycopg.connect(self.url, autocommit=True) as connection:

            def turn() -> tuple[float]:
                begun = time.perf_counter()
                connection.execute("INSERT INTO floor (client) VALUES (%s)", (client,))
                return (time.perf_counter() - begun,)

            yield turn


def make_table(url: str) -> None:
    """Creates what Commits writes to."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE floor (number bigserial PRIMARY KEY, client integer)")


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes the empty call, again and again."""

    address: str

    @contextmanager
    def open(self, client: int) -> Iterator[Turn]:
        """Connects."""
        with grpc.insecure_channel(self.address) as channel:
            call = channel.unary_unary(
                f"/{_SERVICE}/{_METHOD}",
                request_serializer=Empty.SerializeToString,
                response_deserializer=Empty.FromString,
            )

            def turn() -> tuple[float]:
                begun = time.perf_counter()
                call(Empty(), timeout=_CALL_SECONDS)
                return (time.perf_counter() - begun,)

            yield turn


def main() -> None:
    """Answers empty calls until it is killed; says its address on standard output."""
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request,
        request_deserializer=Empty.FromString,
        response_serializer=Empty.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}", "pid": os.getpid()}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
