"""The study server's metrics: what they are called, and that they count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import REPOSITORY
from tuner.service.call import Call
from tuner.service.metrics import Holdings, Metrics
from tuner.study import TrialState


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    page = generate_latest(metrics.registry).decode()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = [v for n, having, v in samples(metrics) if n == name and having == labels]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def call(method: str, code: str = "OK", seconds: float = 0.004) -> Call:
    return Call(method=method, request="r", code=code, seconds=seconds)


def test_calls_are_counted_by_method_and_code(metrics: Metrics) -> None:
    for code in ("OK", "OK", "ABORTED"):
        metrics.observe(call("ReportTrial", code))
    assert value(metrics, "tuner_requests_total", method="ReportTrial", code="OK") == 2
    assert value(metrics, "tuner_requests_total", method="ReportTrial", code="ABORTED") == 1
    assert value(metrics, "tuner_request_seconds_count", method="ReportTrial") == 3
    assert value(metrics, "tuner_request_seconds_sum", method="ReportTrial") == pytest.approx(
        0.012
    )
    bucket = "tuner_request_seconds_bucket"
    assert value(metrics, bucket, method="ReportTrial", le="0.0025") == 0
    assert value(metrics, bucket, method="ReportTrial", le="0.005") == 3


def test_a_streams_time_is_nobodys_latency(metrics: Metrics) -> None:
    metrics.observe(call("WatchStudy", "CANCELLED", 3600.0))
    assert value(metrics, "tuner_requests_total", method="WatchStudy", code="CANCELLED") == 1
    assert not [name for name, *_ in samples(metrics) if name.startswith("tuner_request_seconds")]


def test_work_is_counted(metrics: Metrics) -> None:
    metrics.suggested(3)
    metrics.expired()
    metrics.committed(4, 0.002)
    assert value(metrics, "tuner_suggestions_total") == 3
    assert value(metrics, "tuner_leases_expired_total") == 1
    assert value(metrics, "tuner_commit_writes_sum") == 4
    assert value(metrics, "tuner_commit_seconds_bucket", le="0.0025") == 1


def test_what_the_server_holds_is_read_when_asked(metrics: Metrics) -> None:
    held = Holdings(studies=1, trials={TrialState.RUNNING: 2}, leases=2, watchers=1)
    metrics.read_from(holdings=lambda: held)
    metrics.read_from(pool=lambda: {"pool_size": 4, "pool_available": 3, "connections_lost": 5})
    assert value(metrics, "tuner_studies_owned") == 1
    assert value(metrics, "tuner_trials", state="RUNNING") == 2
    assert value(metrics, "tuner_trials", state="FAILED") == 0
    assert value(metrics, "tuner_open_leases") == 2
    assert value(metrics, "tuner_watchers") == 1
    assert value(metrics, "tuner_database_pool", state="idle") == 3
    assert value(metrics, "tuner_database_pool_events_total", event="lost") == 5


def test_two_servers_in_one_process_count_apart(metrics: Metrics) -> None:
    Metrics().suggested(1)
    assert value(metrics, "tuner_suggestions_total") == 0


def test_every_metric_and_its_labels_are_documented(metrics: Metrics) -> None:
    metrics.observe(call("ReportTrial"))
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in text or f"`{name}{{" in text, name
        for label in {label for s in family.samples for label in s.labels} - {"le"}:
            assert label in text.partition(f"`{name}")[2].partition("\n")[0], (name, label)
