"""A connection to a study server: deadlines, retries, and errors as `tuner.errors` again."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from tuner.client.access import Access, is_socket
from tuner.errors import InvalidArgumentError, TunerError, UnavailableError
from tuner.v1.admin_service_pb2_grpc import AdminServiceStub
from tuner.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from tuner.v1.model_service_pb2_grpc import ModelServiceStub
from tuner.v1.statistics_service_pb2_grpc import StatisticsServiceStub
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Options = Sequence[tuple[str, Any]]

#: The metadata that says what a call is called in the servers' logs.
REQUEST_KEY = "x-request-id"

#: How long one call may take.
CALL_SECONDS = 20.0
#: How long a call is repeated while nobody answers: a server may be restarted meanwhile.
PATIENCE_SECONDS = 60.0
#: How long a stream stays open before it is taken up again.
STREAM_SECONDS = 600.0

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_CANCELLED_HERE = ("Channel closed!", "Locally cancelled by application!")
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.1, 3.0
#: Of our own: a script that seeded Python's generator gets its numbers, however often we retried.
_JITTER = random.Random()
_OPTIONS = (
    # A study server is reached directly, whatever proxy the web needs.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A server that hangs is left for the next address.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Two connections of one process must not share a broken one.
    ("grpc.use_local_subchannel_pool", 1),
)

#: What to do about some of the reasons why gRPC says that nobody answers at an address.
_HINTS: Mapping[str, str] = {
    "CERTIFICATE_VERIFY_FAILED": "the server at {} shows a certificate that is not trusted here: "
    "set TUNER_TLS_CA to it, or to that of its authority.",
    "Hostname Verification": "the certificate of the server at {} is not made out to that name: "
    "name the server as its certificate does.",
    "WRONG_VERSION_NUMBER": "what answers at {} speaks no TLS: check the address, or leave "
    "TUNER_TLS_CA unset.",
    "Socket closed": "what answers at {} hangs up: try again; if it speaks TLS, set TUNER_TLS_CA, "
    "and if it asks for certificates, TUNER_TLS_CLIENT_CERTIFICATE and TUNER_TLS_CLIENT_KEY.",
}


class ServerStub(
    StudyServiceStub,
    ModelServiceStub,
    EndpointServiceStub,
    StatisticsServiceStub,
    AdminServiceStub,
):
    """The methods of every service of a study server."""

    def __init__(self, channel: grpc.Channel) -> None:
        # The generated classes set their methods here; their stubs only know __new__.
        for service in (
            StudyServiceStub,
            ModelServiceStub,
            EndpointServiceStub,
            StatisticsServiceStub,
            AdminServiceStub,
        ):
            service.__init__(self, channel)  # type: ignore[call-arg]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A channel to one address."""

    address: str
    channel: grpc.Channel
    stub: ServerStub


def open_channel(access: Access, address: str, options: Options) -> grpc.Channel:
    """A channel to one of the addresses, with TLS if that is what the access says."""
    if access.trust is None or is_socket(address):
        return grpc.insecure_channel(address, options=options)
    identity = access.trust.identity
    credentials = grpc.ssl_channel_credentials(
        root_certificates=access.trust.authorities,
        private_key=None if identity is None else identity.key,
        certificate_chain=None if identity is None else identity.certificate,
    )
    return grpc.secure_channel(address, credentials, options=options)


class Connection:
    """Channels to the servers of one database, of which one is in use.

    Threads may share it; after a fork each process opens its own channels.
    """

    def __init__(self, access: Access | str) -> None:
        #: How the servers are reached.
        self.access = Access.to(access) if isinstance(access, str) else access
        self._lock = threading.Lock()
        self._turn = 0
        self._pid = 0
        self._lines: dict[str, _Line] = {}
        # Channels of the parent process: neither usable nor safely closed in the child.
        self._inherited: list[_Line] = []

    @property
    def address(self) -> str:
        """The address of the server in use."""
        return self.access.addresses[self._turn]

    def close(self) -> None:
        """Closes the channels of this process."""
        with self._lock:
            if self._pid == os.getpid():
                for line in self._lines.values():
                    line.channel.close()
            self._lines.clear()

    def call(
        self,
        verb: Callable[[ServerStub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Response:
        """Calls a verb that may be repeated, until it answers or patience ends.

        Where several addresses are known, each is asked before patience counts.

        Raises:
            TunerError: what the server said, or UnavailableError.
        """
        give_up = time.monotonic() + patience_seconds
        delay, tries = _FIRST_DELAY_SECONDS, 0
        # One name for all tries, in the logs of every server that they pass through.
        name = secrets.token_hex(8)
        while True:
            tries += 1
            line, token = self._line(), self.access.current_token()
            metadata = (*self.access.metadata(line.address, token), (REQUEST_KEY, name))
            try:
                return verb(line.stub)(request, timeout=timeout_seconds, metadata=metadata)
            except grpc.RpcError as error:
                if self._is_outdated(error, token):
                    continue
                if _code(error) not in _RETRIED:
                    raise rebuilt(error, line.address) from None
                self._leave(line)
                if tries % len(self.access.addresses):
                    continue
                # Jitter keeps the workers of a restarted server from calling all at once.
                pause = delay * _JITTER.uniform(0.5, 1.0)
                if time.monotonic() + pause > give_up:
                    raise rebuilt(error, line.address) from None
            time.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def stream(
        self,
        verb: Callable[[ServerStub], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
    ) -> Generator[Response, None, bool]:
        """Yields what a verb streams; it ends after STREAM_SECONDS at the latest.

        Returns:
            Whether the server has ended it; False after that time.

        Raises:
            TunerError: what the server said, or UnavailableError.
        """
        line, token = self._line(), self.access.current_token()
        metadata = self.access.metadata(line.address, token)
        call = verb(line.stub)(request, timeout=STREAM_SECONDS, metadata=metadata)
        try:
            yield from call
            return True
        except grpc.RpcError as error:
            if _code(error) is grpc.StatusCode.UNAVAILABLE:
                self._leave(line)
            if self._is_outdated(error, token):
                raise UnavailableError(f"the server at {line.address} has restarted.") from None
            if _code(error) is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise rebuilt(error, line.address) from None
            return False
        finally:
            call.cancel()

    def _line(self) -> _Line:
        with self._lock:
            if self._pid != os.getpid():
                self._inherited += self._lines.values()
                self._lines.clear()
                self._pid = os.getpid()
            line = self._lines.get(self.address)
            if line is None:
                channel = open_channel(self.access, self.address, _OPTIONS)
                line = _Line(address=self.address, channel=channel, stub=ServerStub(channel))
                self._lines[self.address] = line
            return line

    def _leave(self, line: _Line) -> None:
        """Turns to the next address, if no other thread has done so already."""
        with self._lock:
            if line.address == self.address:
                self._turn = (self._turn + 1) % len(self.access.addresses)

    def _is_outdated(self, error: grpc.RpcError, token: str) -> bool:
        """Whether a call was refused for a token in whose place there is another by now."""
        refused = _code(error) is grpc.StatusCode.UNAUTHENTICATED
        return refused and self.access.current_token() != token


def rebuilt(error: grpc.RpcError, address: str) -> TunerError:
    """The error that the server raised, or one that says why it did not answer."""
    code, details = _code(error), error.details() if isinstance(error, grpc.Call) else None
    message = details or "the study server failed without a message"
    reason = _reason(error)
    if reason is not None:
        return TunerError.of(reason, message)
    if code is grpc.StatusCode.UNAVAILABLE:
        usual = "no study server at {}: start one with `tuner up`, or set TUNER_SERVER."
        hint = next((hint for cause, hint in _HINTS.items() if cause in message), usual)
        return UnavailableError(hint.format(address))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(f"the study server at {address} does not answer; try again.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return InvalidArgumentError(
            f"this is more than the study server at {address} takes at once, 16 MiB: send less."
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return TunerError(
            f"what answers at {address} is no study server of this version ({message}); "
            "check the address."
        )
    return TunerError.of(code.name, message)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    if not isinstance(error, grpc.Call):
        return grpc.StatusCode.UNKNOWN
    if error.code() is grpc.StatusCode.CANCELLED and error.details() not in _CANCELLED_HERE:
        # A server that ends says so of calls that it did not begin.
        return grpc.StatusCode.UNAVAILABLE
    return error.code()


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
