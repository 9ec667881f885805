"""What a gateway's versions did and do, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from tuner.endpoint import LATENCY_BOUNDS, Traffic
from tuner.serving.predictions import Source

_LABELS = ("endpoint", "version")
_BOUNDS = [*(f"{bound:.6g}" for bound in LATENCY_BOUNDS), "+Inf"]


class VersionMetrics(Collector):
    """Says by endpoint and version what is counted anyway: a call costs nothing for it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Called by the client library."""
        rows = list(self._rows())
        for name, text, values in (
            ("requests", "Calls that a version got", lambda t: t.requests),
            ("errors", "Calls that failed for a reason that is not the caller's", _errors),
            ("differences", "Answers of a shadow that differed", lambda t: t.differences),
        ):
            counter = CounterMetricFamily(
                f"tuner_gateway_{name}", text, labels=(*_LABELS, "shadow")
            )
            for labels, traffic in rows:
                counter.add_metric(labels, values(traffic))
            yield counter
        latency = HistogramMetricFamily(
            "tuner_gateway_latency_seconds",
            "Seconds from a call to its answer, errors left out",
            labels=(*_LABELS, "shadow"),
        )
        for labels, traffic in rows:
            counts = accumulate(traffic.latencies)
            latency.add_metric(labels, list(zip(_BOUNDS, counts, strict=True)), None)
        yield latency
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily(
            "tuner_gateway_replicas", "Replicas that can predict", labels=_LABELS
        )
        calls = GaugeMetricFamily(
            "tuner_gateway_calls", "Calls that are under way or wait", labels=_LABELS
        )
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for name, each in self._source.all():
            size, waiting = found.get((name, str(each.number)), (0, 0))
            found[name, str(each.number)] = size + each.pool.size, waiting + each.pool.calls
        for labels, (size, waiting) in found.items():
            replicas.add_metric(labels, size)
            calls.add_metric(labels, waiting)
        yield from (replicas, calls)

    def _rows(self) -> Iterable[tuple[tuple[str, str, str], Traffic]]:
        """The traffic by labels; what ends and what came in its place are counted together."""
        found: dict[tuple[str, str, str], Traffic] = {}
        for name, each in self._source.all():
            for shadow, traffic in (("false", each.answered), ("true", each.shadowed)):
                if traffic.requests:
                    found.setdefault((name, str(each.number), shadow), Traffic()).add(traffic)
        return found.items()


class Dropped(Collector):
    """Says how much was left out for want of room."""

    def __init__(self, what: str, count: Callable[[], int]) -> None:
        self._what = what
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """Called by the client library."""
        name = f"tuner_gateway_dropped_{self._what}"
        yield CounterMetricFamily(name, "Left out for want of room", value=self._count())


def _errors(traffic: Traffic) -> int:
    return traffic.errors
