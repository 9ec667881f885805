"""What every call passes through: who may, errors into statuses, and on to a study's owner."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tuner.client.channel import REQUEST_KEY
from tuner.errors import InternalError, InvalidArgumentError, TunerError, UnavailableError
from tuner.service import call as calls
from tuner.service.call import Call, Metadata
from tuner.service.fleet import ElsewhereError
from tuner.service.forwarding import Forwarder

logger = logging.getLogger(__name__)

_DOMAIN = "tuner"
_DETAILS = "grpc-status-details-bin"
_SERVICES = "/tuner.v1."
#: In bytes. It travels in headers, twice, and of more than 8 KiB of them a client is told nothing.
_LONGEST_MESSAGE = 1_200
#: Each open stream takes a thread of the server, forwarded or not; what is left answers calls.
STREAMS = 1000
#: How long a stream goes on without a new look at who reads it.
_ADMITTED_SECONDS = 1.0

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard(Protocol):
    """Decides who may call what."""

    def is_stranger(self, metadata: Metadata) -> bool:
        """Whether a call's metadata alone says that it will not be admitted."""

    def admit(self, call: Call, request: Any) -> None:
        """Says in `call` who calls; raises UnauthenticatedError or PermissionDeniedError."""


class Observer(Protocol):
    """Is told of every call that has ended."""

    def observe(self, call: Call) -> None:
        """Takes notice; must not raise."""


class Tracer(Observer, Protocol):
    """Is also told of every call that begins."""

    def begin(self, call: Call, request: Any) -> None:
        """Takes notice; must not raise."""


class Everybody:
    """The guard of a server that only its own machine reaches: everybody may do everything."""

    def is_stranger(self, metadata: Metadata) -> bool:
        """Nobody is."""
        return False

    def admit(self, call: Call, request: Any) -> None:
        """Lets the call pass."""


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the methods of tuner's services. The only place that catches all exceptions.

    Args:
        guard: Decides who may call what.
        forwarder: Passes calls on to the owners of their studies.
        observers: Are told of every call that has ended.
        tracer: Is also told of every call that begins.
        announce: Is told whose call comes next, before it is given to a thread.
    """

    def __init__(
        self,
        guard: Guard,
        forwarder: Forwarder,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        *,
        announce: Callable[[str], None],
    ) -> None:
        self._guard = guard
        self._announce = announce
        self._forwarder = forwarder
        self._observers = tuple(observers) if tracer is None else (*observers, tracer)
        self._tracer = tracer
        self._ends = False
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._wrapped: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps a method; health checks and reflection are left as they are."""
        path = handler_call_details.method
        self._announce(_credentials(handler_call_details.invocation_metadata))
        if not path.startswith(_SERVICES):
            return continuation(handler_call_details)
        if self._guard.is_stranger(handler_call_details.invocation_metadata):
            # Answered without its message: who never sends one would hold a thread for ever.
            return grpc.stream_unary_rpc_method_handler(partial(self._turn_away, path))
        known = self._wrapped.get(path)
        if known is not None:
            return known
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        # Made once: it is asked for at every call.
        self._wrapped[path] = self._wrap(path, handler)
        return self._wrapped[path]

    def _turn_away(self, path: str, requests: object, context: grpc.ServicerContext) -> Any:
        with self._calling(path, context) as call:
            self._admit(call, None)
            # The token was made on another server, this very moment.
            raise UnavailableError("the token was not known yet; try again.")

    def _wrap(self, path: str, handler: Handler) -> Handler:
        codec = {
            "request_deserializer": _as_it_can_be_read(handler.request_deserializer),
            "response_serializer": _as_it_is(handler.response_serializer),
        }
        if handler.unary_unary is not None:
            unary = self._unary(path, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(unary, **codec)
        if handler.unary_stream is not None:
            stream = self._stream(path, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream, **codec)
        return handler

    def _unary(self, path: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            with self._calling(path, context) as call:
                self._admit(call, request)
                try:
                    return method(request, context)
                except ElsewhereError as elsewhere:
                    return self._forwarder.unary(call, elsewhere, request, context)

        return answer

    def _stream(self, path: str, method: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._calling(path, context) as call:
                self._admit(call, request)
                if not self._streams.acquire(blocking=False):
                    raise UnavailableError(
                        f"{STREAMS} streams are open; close some, or try again."
                    )
                try:
                    yield from self._while_admitted(call, request, method(request, context))
                except ElsewhereError as elsewhere:
                    passed_on = self._forwarder.stream(call, elsewhere, request, context)
                    yield from self._while_admitted(call, request, passed_on)
                finally:
                    self._streams.release()

        return answer

    def _while_admitted(self, call: Call, request: Any, stream: Iterator[Any]) -> Iterator[Any]:
        """What a stream sends, as long as its caller still may see it."""
        asked = time.monotonic()
        for message in stream:
            if time.monotonic() - asked > _ADMITTED_SECONDS:
                self._guard.admit(call, request)
                asked = time.monotonic()
            yield message

    def refuse(self) -> None:
        """From now on every call is told to try again: the server ends.

        gRPC itself says CANCELLED to some of those that arrive while it stops.
        """
        self._ends = True

    def _admit(self, call: Call, request: Any) -> None:
        if self._tracer is not None:
            self._tracer.begin(call, request)
        if self._ends:
            raise UnavailableError("this study server ends; try again.")
        self._guard.admit(call, request)
        if isinstance(request, TunerError):
            raise request

    @contextmanager
    def _calling(self, path: str, context: grpc.ServicerContext) -> Iterator[Call]:
        received = context.invocation_metadata()
        metadata = {key: value for key, value in received if isinstance(value, str)}
        call = Call(
            path=path,
            method=path.rpartition("/")[2],
            request=metadata.get(REQUEST_KEY, "")[:64] or secrets.token_hex(8),
            peer=context.peer(),
            metadata=metadata,
        )
        calls.begin(call)
        start = time.perf_counter()
        try:
            yield call
        except GeneratorExit:
            call.code = "CANCELLED"
            raise
        except Exception as error:
            _abort(context, call, error)
        finally:
            call.seconds = time.perf_counter() - start
            for observer in self._observers:
                observer.observe(call)
            calls.end()


def _credentials(metadata: Metadata) -> str:
    """What came with a call to prove whose it is; not looked into."""
    for key, value in metadata or ():
        if key == "authorization":
            return str(value)
    return ""


def _as_it_can_be_read(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Gives what no message can be read from as the error to answer with; gRPC says INTERNAL."""

    def read(body: bytes) -> Any:
        try:
            return body if parse is None else parse(body)
        except DecodeError:
            return InvalidArgumentError(
                "the request cannot be read: it is no message of this method, or nested too deep."
            )

    return read


def _as_it_is(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Lets through what is bytes already: forwarded answers, events made once for all watchers."""

    def serialized(message: Any) -> bytes:
        if isinstance(message, bytes):
            return message
        body: bytes = message.SerializeToString() if serialize is None else serialize(message)
        return body

    return serialized


def _abort(context: grpc.ServicerContext, call: Call, error: Exception) -> NoReturn:
    known = error if isinstance(error, TunerError) else _unexpected(call, error)
    call.code = known.code
    message = _short(known.message)
    context.set_trailing_metadata(((_DETAILS, _details(known, message)),))
    context.abort(grpc.StatusCode[known.code], message)


def _unexpected(call: Call, error: Exception) -> TunerError:
    logger.error("unexpected error in request %s", call.request, exc_info=error)
    return InternalError(
        f"an unexpected error; the study server's log has it as request {call.request}."
    )


def _short(message: str) -> str:
    body = message.encode(errors="replace")
    if len(body) <= _LONGEST_MESSAGE:
        return message
    return body[:_LONGEST_MESSAGE].decode(errors="ignore") + "…"


def _details(error: TunerError, message: str) -> bytes:
    """A google.rpc.Status with an ErrorInfo, as the trailing metadata carries it."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN))
    number: int = grpc.StatusCode[error.code].value[0]
    status = status_pb2.Status(code=number, message=message, details=[detail])
    body: bytes = status.SerializeToString()
    return body
