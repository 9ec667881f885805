"""TensorFlow Serving's gRPC services, `PredictionService` and `ModelService`."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int64Value

from tuner.errors import InternalError, InvalidArgumentError, TunerError, UnimplementedError
from tuner.serving.catalog import Folder
from tuner.serving.monitoring import Monitor
from tuner.serving.wire import Method
from tuner.v1 import tensorflow_serving_pb2 as pb

logger = logging.getLogger(__name__)

_PREDICTION = "tensorflow.serving.PredictionService"
_MODELS = "tensorflow.serving.ModelService"
_DEFAULT_SIGNATURE = "serving_default"

Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[bytes, Context], Awaitable[bytes]]


class PredictionApi:
    """Answers gRPC calls; bodies of predictions pass through as they are.

    Args:
        models: What is served.
        monitor: Is told of every call.
        seconds: How long a prediction may take, where the client gives no earlier deadline.
    """

    def __init__(self, models: Folder, monitor: Monitor, *, seconds: float = 30.0) -> None:
        self._models = models
        self._monitor = monitor
        self._seconds = seconds

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the services."""
        calls = {
            "Predict": self._forwarded("predict", Method.PREDICT_PROTO, pb.PredictResponse),
            "Classify": self._forwarded(
                "classify", Method.CLASSIFY_PROTO, pb.ClassificationResponse
            ),
            "Regress": self._forwarded("regress", Method.REGRESS_PROTO, pb.RegressionResponse),
            "GetModelMetadata": self._forwarded(
                "metadata", Method.METADATA_PROTO, pb.GetModelMetadataResponse
            ),
            "MultiInference": self._missing("MultiInference"),
        }
        models = {
            "GetModelStatus": self._answered(self._status),
            "HandleReloadConfigRequest": self._missing("HandleReloadConfigRequest"),
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(_PREDICTION, _handlers(calls)),
                grpc.method_handlers_generic_handler(_MODELS, _handlers(models)),
            )
        )

    def _forwarded(self, verb: str, method: Method, response: type[Any]) -> Answer:
        async def answer(body: bytes, context: Context) -> bytes:
            spec = _spec(body)
            start, code = time.perf_counter(), InternalError.code
            try:
                number, pool = self._models.find(spec.name, _version(spec), spec.version_label)
                seconds = min(self._seconds, context.time_remaining() or self._seconds)
                found = await pool.call(method, body, seconds)
                code = "OK"
            except TunerError as error:
                code = error.code
                raise
            finally:
                self._monitor.called(spec.name, verb, "gRPC", code, time.perf_counter() - start)
            resolved = pb.ModelSpec(
                name=spec.name,
                version=Int64Value(value=number),
                signature_name=spec.signature_name or _DEFAULT_SIGNATURE,
            )
            # Messages that follow one another are one message.
            merged: bytes = found + response(model_spec=resolved).SerializeToString()
            return merged

        return self._answered(answer)

    async def _status(self, body: bytes, context: Context) -> bytes:
        spec = _spec(body)
        versions = self._models.versions(spec.name, _version(spec))
        response = pb.GetModelStatusResponse()
        for number, pool in sorted(versions.items(), reverse=True):
            state = pb.ModelVersionStatus.END if pool.failure else pb.ModelVersionStatus.AVAILABLE
            added = response.model_version_status.add(version=number, state=state)
            added.status.error_message = pool.failure
            added.status.error_code = 2 if pool.failure else 0
        return response.SerializeToString()

    def _missing(self, name: str) -> Answer:
        async def answer(body: bytes, context: Context) -> bytes:
            raise UnimplementedError(f"{name} is not served here; send the calls one by one.")

        return self._answered(answer)

    def _answered(self, method: Answer) -> Answer:
        async def answer(body: bytes, context: Context) -> bytes:
            try:
                return await method(body, context)
            except TunerError as error:
                code, message = error.code, error.message
            except Exception as error:
                request = secrets.token_hex(8)
                logger.error("unexpected error in request %s", request, exc_info=error)
                code = InternalError.code
                message = f"an unexpected error; the gateway's log has it as request {request}."
            await context.abort(grpc.StatusCode[code], message)
            raise AssertionError  # not reached: abort raises

        return answer


def _handlers(calls: dict[str, Answer]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    # Without serializers: messages come and go as bytes.
    return {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}


def _spec(body: bytes) -> pb.ModelSpec:
    try:
        spec = pb.AnyRequest.FromString(body).model_spec
    except DecodeError:
        raise InvalidArgumentError("the request cannot be read.") from None
    if not spec.name:
        raise InvalidArgumentError("Missing model name in request.")
    return spec


def _version(spec: pb.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None
