"""Health checks: whoever may ask, they take no thread of those who have work for the server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)

#: A check is answered at once; what holds a thread is a caller who never says what he asks for.
_THREADS = 16

#: The service, for reflection.
NAME: str = health.SERVICE_NAME


class Health:
    """The service that says whether the server and its services answer. Close it at the end."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="health")
        # On this object: the library would set them on its class, for all servers of a process.
        self._servicer.Check = self._apart(self._servicer.Check)
        self._servicer.Watch = self._apart(self._servicer.Watch)
        self._servicer.Watch.experimental_non_blocking = True

    def _apart(self, method: Callable[..., Any]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, **options)

        call.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return call

    def add_to(self, server: grpc.Server) -> None:
        """Offers the service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

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
