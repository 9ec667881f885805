"""A gateway's line to the study server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from tuner.client.access import Access
from tuner.client.channel import Connection, ServerStub

Request = TypeVar("Request")
Response = TypeVar("Response")

#: Reports, recorded predictions and results must not wait for one another.
_THREADS = 4


class Server:
    """Calls the study server, in threads; use it in `with`."""

    def __init__(self, access: Access) -> None:
        self._connection = Connection(access)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="server")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def address(self) -> str:
        """The address in use."""
        return self._connection.address

    async def call(
        self,
        verb: Callable[[ServerStub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        seconds: float,
    ) -> Response:
        """The answer; each address is asked once.

        Args:
            verb: What is called.
            request: What is asked.
            seconds: How long an answer may take.

        Raises:
            TunerError: what the server said, or UnavailableError.
        """
        call: Callable[[], Any] = partial(
            self._connection.call, verb, request, timeout_seconds=seconds, patience_seconds=0.0
        )
        found: Response = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return found
