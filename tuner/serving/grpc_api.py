"""TensorFlow Serving's gRPC services, `PredictionService` and `ModelService`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int64Value

from tuner.endpoint import STICKY_KEY
from tuner.errors import InternalError, InvalidArgumentError, TunerError, UnimplementedError
from tuner.serving.bodies import Bodies
from tuner.serving.callers import Callers
from tuner.serving.predictions import (
    VERSION,
    Call,
    Predictions,
    Served,
    parse_version,
    request_id,
)
from tuner.serving.wire import Method
from tuner.v1 import tensorflow_serving_pb2 as pb

logger = logging.getLogger(__name__)

_PREDICTION = "tensorflow.serving.PredictionService"
_MODELS = "tensorflow.serving.ModelService"
_DEFAULT_SIGNATURE = "serving_default"
_REQUEST_ID = "x-request-id"

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str | bytes]
Answer = Callable[[bytes, Metadata, Context], Awaitable[bytes]]
Handler = Callable[[bytes, Context], Awaitable[bytes]]


class PredictionApi:
    """Answers gRPC calls; bodies of predictions pass through as they are.

    Args:
        predictions: Has predictions answered.
        callers: Who may call.
        bodies: Counts the bytes of the bodies under way.
    """

    def __init__(self, predictions: Predictions, callers: Callers, bodies: Bodies) -> None:
        self._predictions = predictions
        self._source = predictions.source
        self._callers = callers
        self._bodies = bodies

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the services."""
        calls = {
            "Predict": self._forwarded("predict", Method.PREDICT_PROTO, pb.PredictResponse),
            "Classify": self._forwarded(
                "classify", Method.CLASSIFY_PROTO, pb.ClassificationResponse
            ),
            "Regress": self._forwarded("regress", Method.REGRESS_PROTO, pb.RegressionResponse),
            "GetModelMetadata": self._answered(self._metadata),
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

    def _forwarded(self, verb: str, method: Method, response: type[Any]) -> Handler:
        async def answer(body: bytes, metadata: Metadata, context: Context) -> bytes:
            spec = _spec(body)
            version, label = _version(spec), spec.version_label
            if version is None and not label and VERSION in metadata:
                version, label = parse_version(_text(metadata[VERSION]))
            call = Call(
                model=spec.name,
                version=version,
                label=label,
                key=_text(metadata.get(STICKY_KEY, "")).encode(),
                request=request_id(_text(metadata.get(_REQUEST_ID, ""))[:64]),
                verb=verb,
                method=method,
                body=body,
                entrypoint="gRPC",
            )
            served, found = await self._predictions.predict(call, context.time_remaining())
            context.set_trailing_metadata(
                ((_REQUEST_ID, call.request), ("x-model-version", str(served.number)))
            )
            return _merged(found, response, spec, served)

        return self._answered(answer)

    async def _metadata(self, body: bytes, metadata: Metadata, context: Context) -> bytes:
        spec = _spec(body)
        served = await self._predictions.find(spec.name, _version(spec), spec.version_label)
        found = await served.pool.call(Method.METADATA_PROTO, body, served.seconds)
        return _merged(found, pb.GetModelMetadataResponse, spec, served)

    async def _status(self, body: bytes, metadata: Metadata, context: Context) -> bytes:
        spec = _spec(body)
        versions = self._source.versions(spec.name, _version(spec))
        response = pb.GetModelStatusResponse()
        for number, served in sorted(versions.items(), reverse=True):
            pool = served.pool
            state = pb.ModelVersionStatus.END if pool.failure else pb.ModelVersionStatus.AVAILABLE
            added = response.model_version_status.add(version=number, state=state)
            added.status.error_message = pool.failure
            added.status.error_code = 2 if pool.failure else 0
        return response.SerializeToString()

    def _missing(self, name: str) -> Handler:
        async def answer(body: bytes, metadata: Metadata, context: Context) -> bytes:
            raise UnimplementedError(f"{name} is not served here; send the calls one by one.")

        return self._answered(answer)

    def _answered(self, method: Answer) -> Handler:
        async def answer(body: bytes, context: Context) -> bytes:
            try:
                metadata = dict(context.invocation_metadata() or ())
                self._callers.check(_text(metadata.get("authorization", "")).encode())
                with self._bodies.held(len(body)):
                    return await method(body, metadata, context)
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


def _handlers(calls: dict[str, Handler]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
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


def _merged(found: bytes, response: type[Any], spec: pb.ModelSpec, served: Served) -> bytes:
    """A replica's answer, and which version it is from."""
    resolved = pb.ModelSpec(
        name=spec.name,
        version=Int64Value(value=served.number),
        signature_name=spec.signature_name or _DEFAULT_SIGNATURE,
    )
    # Messages that follow one another are one message.
    merged: bytes = found + response(model_spec=resolved).SerializeToString()
    return merged


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
