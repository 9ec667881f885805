"""Errors on their way out: the domain's with their reason, all others with an id in the log."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from tuner.errors import InternalError, TunerError

logger = logging.getLogger(__name__)

_DOMAIN = "tuner"
_DETAILS = "grpc-status-details-bin"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns exceptions of methods into statuses. The only place that catches all of them."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps a method."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), **codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_stream(handler.unary_stream), **codec)
        return handler


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request, context)
        except Exception as error:
            _abort(context, error)

    return call


def _stream(method: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from method(request, context)
        except Exception as error:
            _abort(context, error)

    return call


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    known = error if isinstance(error, TunerError) else _unexpected(error)
    code = grpc.StatusCode[known.code]
    context.set_trailing_metadata(((_DETAILS, status_details(known)),))
    context.abort(code, known.message)


def _unexpected(error: Exception) -> TunerError:
    name = secrets.token_hex(4)
    logger.error("unexpected error %s", name, exc_info=error)
    return InternalError(f"an unexpected error; the study server's log has it as {name}.")


def status_details(error: TunerError) -> bytes:
    """A google.rpc.Status with an ErrorInfo, as the trailing metadata carries it."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN))
    number: int = grpc.StatusCode[error.code].value[0]
    status = status_pb2.Status(code=number, message=error.message, details=[detail])
    body: bytes = status.SerializeToString()
    return body
