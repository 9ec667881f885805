"""Spans of calls: what they are called, whose children they are, what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tuner.service.call import Call
from tuner.v1 import study_pb2, study_service_pb2

pytest.importorskip("opentelemetry.sdk", reason="needs the tracing extra")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tuner.service.tracing import Tracing, study_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Recorded:
    """A tracer, and the spans that it ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracing(SimpleSpanProcessor(self.exporter))

    def of(self, call: Call, request: Any) -> ReadableSpan:
        self.tracer.begin(call, request)
        self.tracer.observe(call)
        (span,) = self.exporter.get_finished_spans()
        return span


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    made = Recorded()
    yield made
    made.tracer.close()


def call(**changes: Any) -> Call:
    values = {"path": "/tuner.v1.StudyService/StopStudy", "method": "StopStudy", "request": "4f"}
    return Call(**{**values, **changes})


def test_a_call_is_a_server_span(recorded: Recorded) -> None:
    request = study_service_pb2.StopStudyRequest(name="studies/adult")
    span = recorded.of(call(caller="ann", peer="ipv4:10.0.0.7:1"), request)
    assert (span.name, span.kind) == ("tuner.v1.StudyService/StopStudy", SpanKind.SERVER)
    assert dict(span.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "tuner.v1.StudyService",
        "rpc.method": "StopStudy",
        "rpc.grpc.status_code": 0,
        "network.peer.address": "ipv4:10.0.0.7:1",
        "tuner.request": "4f",
        "tuner.study": "adult",
        "tuner.code": "OK",
        "tuner.caller": "ann",
    }
    assert span.resource.attributes["service.name"] == "tuner-server"
    assert span.parent is None


def test_it_continues_its_callers_trace_and_hands_it_on(recorded: Recorded) -> None:
    made = call(metadata={"traceparent": f"00-{TRACE}-{PARENT}-01", "authorization": "Bearer x"})
    span = recorded.of(made, study_service_pb2.GetStudyRequest(name="studies/adult"))
    assert span.parent is not None and span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert made.metadata["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert made.metadata["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("code", "status"),
    [("UNAVAILABLE", StatusCode.ERROR), ("NOT_FOUND", StatusCode.UNSET), ("OK", StatusCode.UNSET)],
)
def test_only_the_servers_own_failures_are_errors(
    recorded: Recorded, code: str, status: StatusCode
) -> None:
    span = recorded.of(call(code=code), study_service_pb2.ListStudiesRequest())
    assert span.status.status_code is status


def test_a_call_that_was_not_begun_has_no_span(recorded: Recorded) -> None:
    recorded.tracer.observe(call())
    assert recorded.exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("request_", "study"),
    [
        (study_service_pb2.GetTrialRequest(name="studies/a/trials/3"), "a"),
        (study_service_pb2.SuggestTrialsRequest(parent="studies/b"), "b"),
        (study_service_pb2.CreateStudyRequest(study_id="c"), "c"),
        (study_service_pb2.UpdateStudyRequest(study=study_pb2.Study(name="studies/d")), "d"),
        (study_service_pb2.ListStudiesRequest(), ""),
    ],
)
def test_the_study_of_a_request(request_: Any, study: str) -> None:
    assert study_of(request_) == study
