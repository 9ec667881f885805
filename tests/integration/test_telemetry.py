"""What watches a real server: its metrics page, its log, its traces."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.service_support import Caller, refused, running, until
from tests.integration.test_service_studies import Process
from tuner.config import Settings
from tuner.errors import FailedPreconditionError
from tuner.service import StudyServer
from tuner.v1 import study_service_pb2 as pb

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- metrics ---


@contextmanager
def measured(folder: Path, url: str, **changes: Any) -> Iterator[tuple[Caller, int]]:
    port = free_port()
    with running(folder, url, metrics_port=port, **changes) as caller:
        yield caller, port


def figures(port: int) -> dict[str, float]:
    """Every sample of the page, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


def test_a_page_shows_what_the_server_does(tmp_path: Path, database_url: str) -> None:
    with measured(tmp_path, database_url) as (caller, port):
        caller.create()
        trial = caller.one("ann")
        caller.report(trial, 1, auc=0.5)
        caller.complete(caller.one("bob"), 0.75)
        with refused("NOT_FOUND", "NOT_FOUND"):
            caller.study("nobody")
        stream = caller.watch()
        next(stream)
        found = figures(port)
        stream.cancel()
        assert found['tuner_requests_total{code="OK",method="SuggestTrials"}'] == 2
        assert found['tuner_requests_total{code="NOT_FOUND",method="GetStudy"}'] == 1
        assert found['tuner_request_seconds_count{method="ReportTrial"}'] == 1
        assert found["tuner_studies_owned"] == 1
        assert found['tuner_trials{state="RUNNING"}'] == 1
        assert found['tuner_trials{state="SUCCEEDED"}'] == 1
        assert found["tuner_open_leases"] == 1
        assert found["tuner_suggestions_total"] == 2
        assert found["tuner_leases_expired_total"] == 0
        assert found["tuner_watchers"] == 1
        # Two leases, a report and a result.
        assert found["tuner_commit_writes_sum"] >= 4
        assert found["tuner_commit_seconds_count"] >= 1
        assert found['tuner_database_pool{state="open"}'] >= 1
        assert found['tuner_database_pool_events_total{event="lent"}'] > 4
        until(lambda: figures(port)["tuner_watchers"] == 0)


def test_leases_that_expire_are_counted(tmp_path: Path, database_url: str) -> None:
    with measured(tmp_path, database_url, lease_seconds=1) as (caller, port):
        caller.create()
        caller.one("ann")
        until(lambda: figures(port)["tuner_leases_expired_total"] == 1)
        assert figures(port)["tuner_open_leases"] == 0


def test_there_is_no_page_unless_it_is_asked_for(tmp_path: Path, database_url: str) -> None:
    assert Settings(data_dir=tmp_path).metrics_port == 0
    with measured(tmp_path, database_url) as (_, port):
        pass
    with pytest.raises(OSError, match="refused"):
        figures(port)


def test_a_port_for_metrics_that_is_in_use(tmp_path: Path, database_url: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = int(other.getsockname()[1])
        settings = Settings(
            data_dir=tmp_path, server_port=0, database_url=database_url, metrics_port=port
        )
        with pytest.raises(FailedPreconditionError, match="choose another port by TUNER_METRICS"):
            StudyServer(settings)


# --- the log ---


def test_every_line_of_the_log_is_a_json_object(tmp_path: Path, database_url: str) -> None:
    server = Process(
        tmp_path,
        TUNER_DATABASE_URL=database_url,
        TUNER_LOG_FORMAT="json",
        TUNER_LOG_LEVEL="debug",
    )
    with grpc.insecure_channel(server.said["address"]) as channel:
        caller = Caller(channel)
        caller.create()
        request = pb.GetStudyRequest(name="studies/s")
        caller.stub.GetStudy(request, timeout=30, metadata=(("x-request-id", "from-outside"),))
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=40)
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    said = {line["method"]: line for line in lines if line["logger"] == "tuner.service.access"}
    assert said["CreateStudy"]["level"] == "info" and said["CreateStudy"]["code"] == "OK"
    assert re.fullmatch("[0-9a-f]{16}", said["CreateStudy"]["request"])
    assert said["GetStudy"]["level"] == "debug"
    assert said["GetStudy"]["request"] == "from-outside"


# --- traces ---


def test_calls_are_spans_also_through_another_server(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the tracing extra")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tuner.service import tracing

    spans = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter", lambda: SimpleSpanProcessor(spans))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://nowhere.invalid:4317")
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    with (
        running(tmp_path / "a", database_url) as owner,
        running(tmp_path / "b", database_url) as other,
    ):
        owner.create()
        owner.study()
        spans.clear()
        request = pb.GetStudyRequest(name="studies/s")
        other.stub.GetStudy(request, timeout=30, metadata=metadata)
        until(lambda: len(spans.get_finished_spans()) == 2)
        answered, forwarded = spans.get_finished_spans()
        with refused("NOT_FOUND", "NOT_FOUND"):
            owner.study("nobody")
        failed = spans.get_finished_spans()[-1]
    for span in (answered, forwarded):
        assert span.name == "tuner.v1.StudyService/GetStudy"
        assert span.context is not None and f"{span.context.trace_id:032x}" == TRACE
        assert span.attributes is not None and span.attributes["tuner.study"] == "s"
    assert forwarded.parent is not None and f"{forwarded.parent.span_id:016x}" == PARENT
    assert answered.parent is not None and forwarded.context is not None
    assert answered.parent.span_id == forwarded.context.span_id
    assert failed.attributes is not None and failed.attributes["tuner.code"] == "NOT_FOUND"


@contextmanager
def collector() -> Iterator[tuple[int, list[str]]]:
    """A collector of traces: its port, and the names of the spans that it got."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
        TraceServiceServicer,
        add_TraceServiceServicer_to_server,
    )

    got: list[str] = []

    class Collector(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            for resource in request.resource_spans:
                got.extend(span.name for scope in resource.scope_spans for span in scope.spans)
            return messages.ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port, got
        server.stop(None).wait(60)


def _call_and_end(folder: Path, url: str, endpoint: str) -> tuple[int, Sequence[str]]:
    server = Process(folder, TUNER_DATABASE_URL=url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    with grpc.insecure_channel(server.said["address"]) as channel:
        Caller(channel).create()
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=20)
    return server.process.returncode, log.splitlines()


def test_traces_reach_a_collector_before_the_server_ends(
    tmp_path: Path, database_url: str
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the tracing extra")
    with collector() as (port, got):
        code, _ = _call_and_end(tmp_path, database_url, f"http://127.0.0.1:{port}")
        assert (code, got) == (0, ["tuner.v1.StudyService/CreateStudy"])


def test_a_collector_that_is_gone_holds_nobody_up(tmp_path: Path, database_url: str) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the tracing extra")
    code, _ = _call_and_end(tmp_path, database_url, f"http://127.0.0.1:{free_port()}")
    assert code == 0


def test_without_the_extra_a_server_says_so_and_serves(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Found first, and not what is looked for.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    code, log = _call_and_end(tmp_path / "data", database_url, "http://127.0.0.1:4317")
    assert code == 0
    assert any("pip install 'tuner[tracing]'" in line for line in log)
