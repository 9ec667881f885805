"""Health checks: whoever may ask, they take no thread of those who have work for the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
)

#: The service, for reflection.
NAME: str = health.SERVICE_NAME

#: So many callers may say at once which service they ask for: some never do, and hold a thread.
_READERS = 16
#: Those who come then are told of the server as a whole, which needs no word of theirs.
_OTHERS = 4


class Health:
    """The service that says whether the server and its services answer. Close it at the end."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self._threads = ThreadPoolExecutor(_READERS + _OTHERS, thread_name_prefix="health")
        self._readers = threading.BoundedSemaphore(_READERS)

    def add_to(self, server: grpc.Server) -> None:
        """Offers the service."""
        # One request, as a stream of one: so it is read by us, and not before a thread is taken.
        check = grpc.stream_unary_rpc_method_handler(
            self._apart(self._check),
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        watch = grpc.stream_stream_rpc_method_handler(
            self._apart(self._watch, experimental_non_blocking=True),
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        handlers = {"Check": check, "Watch": watch}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    def serving(self, *services: str) -> None:
        """From now on the server answers, and so do the services."""
        for name in ("", *services):
            self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    def ending(self) -> None:
        """From now on nothing answers."""
        self._servicer.enter_graceful_shutdown()

    def close(self) -> None:
        """Ends the threads, once the server has stopped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        return self._servicer.Check(self._read(requests), context)

    def _watch(self, requests: Iterator[Any], context: grpc.ServicerContext, tell: Any) -> None:
        # gRPC hands a function over that sends: who watches holds no thread.
        self._servicer.Watch(self._read(requests), context, tell)

    def _read(self, requests: Iterator[Any]) -> Any:
        everything = health_pb2.HealthCheckRequest()
        if not self._readers.acquire(blocking=False):
            return everything
        try:
            return next(requests, everything)
        except grpc.RpcError:  # it went away without a word
            return everything
        finally:
            self._readers.release()

    def _apart(self, method: Callable[..., Any], **marks: bool) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, **options)

        vars(call).update(marks, experimental_thread_pool=self._threads)
        return call
