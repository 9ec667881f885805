"""Calls that arrive at another server than their study's owner, and go on to that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tuner.client.channel import REQUEST_KEY, rebuilt
from tuner.errors import UnavailableError
from tuner.service.call import Call
from tuner.service.fleet import ElsewhereError

#: Marks a call that was forwarded: it goes no further.
_FORWARDED_KEY = "tuner-forwarded"
#: What the owner needs to know of the call: who makes it, and the trace that it belongs to.
_PASSED_ON = ("authorization", "traceparent", "tracestate")
_LONGEST_SECONDS = 60.0

#: Opens a channel to another server, by the address that it registered.
Dial = Callable[[str], grpc.Channel]


class Forwarder:
    """Passes calls on, bytes in and bytes out. Thread-safe; `close` it.

    Only addresses from servers' own registrations are ever dialled.

    Args:
        dial: How another server is reached.
    """

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}

    def unary(
        self, call: Call, elsewhere: ElsewhereError, request: Any, context: grpc.ServicerContext
    ) -> bytes:
        """The owner's answer; raises the error that it raised."""
        channel = self._channel(call, elsewhere)
        method: Any = channel.unary_unary(call.path, request_serializer=_serialized)
        try:
            answer: bytes = method(request, timeout=_timeout(context), metadata=_metadata(call))
        except grpc.RpcError as error:
            raise _failure(error, elsewhere) from None
        return answer

    def stream(
        self, call: Call, elsewhere: ElsewhereError, request: Any, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """What the owner streams; raises the error that it raised."""
        channel = self._channel(call, elsewhere)
        method: Any = channel.unary_stream(call.path, request_serializer=_serialized)
        stream = method(request, timeout=context.time_remaining(), metadata=_metadata(call))
        context.add_callback(lambda: stream.cancel() and None)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise _failure(error, elsewhere) from None
        finally:
            stream.cancel()

    def close(self) -> None:
        """Closes every channel."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _channel(self, call: Call, elsewhere: ElsewhereError) -> grpc.Channel:
        if call.metadata.get(_FORWARDED_KEY):
            elsewhere.doubt()
            raise UnavailableError("the study is changing its server; try again.")
        with self._lock:
            address = elsewhere.address
            if address not in self._channels:
                self._channels[address] = self._dial(address)
            return self._channels[address]


def _failure(error: grpc.RpcError, elsewhere: ElsewhereError) -> Exception:
    failure = rebuilt(error, elsewhere.address)
    if isinstance(failure, UnavailableError):
        elsewhere.doubt()
        return UnavailableError("the server that owns the study does not answer; try again.")
    return failure


def _serialized(request: Any) -> bytes:
    body: bytes = request.SerializeToString()
    return body


def _timeout(context: grpc.ServicerContext) -> float:
    left = context.time_remaining()
    return _LONGEST_SECONDS if left is None else min(left, _LONGEST_SECONDS)


def _metadata(call: Call) -> tuple[tuple[str, str], ...]:
    passed_on = [(key, call.metadata[key]) for key in _PASSED_ON if key in call.metadata]
    return (*passed_on, (REQUEST_KEY, call.request), (_FORWARDED_KEY, "1"))
