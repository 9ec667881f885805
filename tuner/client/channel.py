"""A connection to a study server: deadlines, retries, and errors as `tuner.errors` again."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from tuner.errors import TunerError, UnavailableError
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")

#: How long one call may take.
CALL_SECONDS = 20.0
#: How long a call is repeated while nobody answers: a server may be restarted meanwhile.
PATIENCE_SECONDS = 60.0
#: How long a stream stays open before it is taken up again.
STREAM_SECONDS = 600.0

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.1, 3.0
_OPTIONS = (
    # A study server is reached directly, whatever proxy the web needs.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Two connections of one process must not share a broken one.
    ("grpc.use_local_subchannel_pool", 1),
)


class Connection:
    """A channel to one server. Threads may share it; after a fork each process opens its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._pid = 0
        self._channel: grpc.Channel | None = None
        self._stub: StudyServiceStub | None = None
        # A channel of the parent process: neither usable nor safely closed in the child.
        self._inherited: list[grpc.Channel] = []

    def close(self) -> None:
        """Closes the channel of this process."""
        with self._lock:
            if self._channel is not None and self._pid == os.getpid():
                self._channel.close()
            self._channel = self._stub = None

    def call(
        self,
        verb: Callable[[StudyServiceStub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Response:
        """Calls a verb that may be repeated, until it answers or patience ends.

        Raises:
            TunerError: what the server said, or UnavailableError.
        """
        give_up = time.monotonic() + patience_seconds
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                return verb(self._service())(request, timeout=timeout_seconds)
            except grpc.RpcError as error:
                # Jitter keeps the workers of a restarted server from calling all at once.
                pause = delay * random.uniform(0.5, 1.0)
                if _code(error) not in _RETRIED or time.monotonic() + pause > give_up:
                    raise rebuilt(error, self.address) from None
            time.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def stream(
        self,
        verb: Callable[[StudyServiceStub], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
    ) -> Iterator[Response]:
        """Yields what a verb streams; it ends after STREAM_SECONDS at the latest.

        Raises:
            TunerError: what the server said, or UnavailableError.
        """
        call = verb(self._service())(request, timeout=STREAM_SECONDS)
        try:
            yield from call
        except grpc.RpcError as error:
            if _code(error) is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise rebuilt(error, self.address) from None
        finally:
            call.cancel()

    def _service(self) -> StudyServiceStub:
        with self._lock:
            if self._stub is None or self._pid != os.getpid():
                if self._channel is not None:
                    self._inherited.append(self._channel)
                self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)
                self._stub = StudyServiceStub(self._channel)
                self._pid = os.getpid()
            return self._stub


def rebuilt(error: grpc.RpcError, address: str) -> TunerError:
    """The error that the server raised, or one that says why it did not answer."""
    code, details = _code(error), error.details() if isinstance(error, grpc.Call) else None
    message = details or "the study server failed without a message"
    reason = _reason(error)
    if reason is not None:
        return TunerError.of(reason, message)
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(
            f"no study server at {address}: start one with `tuner up`, or set TUNER_SERVER."
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(f"the study server at {address} does not answer; try again.")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return TunerError(
            f"what answers at {address} is no study server of this version ({message}); "
            "check the address."
        )
    return TunerError.of(code.name, message)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def _reason(error: grpc.RpcError) -> str | None:
    """The reason of the google.rpc.ErrorInfo that came with the error."""
    if not isinstance(error, grpc.Call):
        return None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return None
