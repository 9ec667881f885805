"""Calls as OpenTelemetry spans. Needs the `tracing` extra; imported only where it is wanted."""

from __future__ import annotations

import threading
from importlib import metadata
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tuner.service.call import Call

#: How long what was not sent yet may keep a server from ending.
_FLUSH_SECONDS = 2.0
#: Whose fault it is: of the codes of gRPC, those that OpenTelemetry calls errors of a server.
_ERRORS = frozenset({
    "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
})  # fmt: skip
_CONTEXT = TraceContextTextMapPropagator()


def exporter() -> SpanProcessor:
    """Sends spans over OTLP, as the variables OTEL_EXPORTER_OTLP_* say."""
    return BatchSpanProcessor(OTLPSpanExporter())


class Tracing:
    """Makes a span of each call, in the trace that the caller's `traceparent` names. Thread-safe.

    Args:
        processor: Where spans go; `close` ends it, too.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        named = Resource({SERVICE_NAME: "tuner-server"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tuner", metadata.version("tuner"))

    def begin(self, call: Call, request: Any) -> None:
        """Starts the call's span; calls made on its behalf become its children."""
        service = call.path.strip("/").rpartition("/")[0]
        span = self._tracer.start_span(
            call.path.strip("/"),
            context=_CONTEXT.extract(call.metadata),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": call.method,
                "network.peer.address": call.peer,
                "tuner.request": call.request,
                "tuner.study": study_of(request),
            },
        )
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, set_span_in_context(span))
        call.metadata = {**call.metadata, **carrier}
        call.trace = span

    def observe(self, call: Call) -> None:
        """Ends the call's span."""
        span = call.trace
        if not isinstance(span, Span):
            return
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[call.code].value[0])
        span.set_attribute("tuner.code", call.code)
        span.set_attribute("tuner.caller", call.caller)
        if call.code in _ERRORS:
            span.set_status(Status(StatusCode.ERROR, call.code))
        span.end()

    def close(self) -> None:
        """Sends what was not sent yet, if somebody takes it."""
        # The exporter's own limits are for a server that runs on: it tries again and again.
        flush = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)


def study_of(request: Any) -> str:
    """The id of the study that a request is about; empty if it is about none."""
    for field in ("name", "parent"):
        name = getattr(request, field, "")
        if isinstance(name, str) and name.startswith("studies/"):
            return name.split("/")[1]
    study_id = getattr(request, "study_id", "")
    if study_id:
        return str(study_id)
    # UpdateStudy and UpdateTrial name what they change inside it.
    for field in ("study", "trial"):
        inner = getattr(request, field, None)
        if inner is not None and inner.name.startswith("studies/"):
            return str(inner.name.split("/")[1])
    return ""
