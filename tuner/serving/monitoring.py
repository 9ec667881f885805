"""What a gateway counts, under TensorFlow Serving's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

#: In microseconds.
_BOUNDS = [float(10 * 1.8**step) for step in range(33)]


class _Requests(Collector):
    """Calls by model and status; a counter of the library would be called `..._total`."""

    _NAME = ":tensorflow:serving:request_count"

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        metric = Metric(self._NAME, "Calls by model and status", "unknown")
        for (model, status), count in self.counts.items():
            metric.add_sample(self._NAME, {"model_name": model, "status": status}, count)
        yield metric


class Monitor:
    """Counts calls."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Requests()
        self._registry.register(self._requests)
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from a call to its answer",
            ("model_name", "API", "entrypoint"),
            buckets=_BOUNDS,
            registry=self._registry,
        )

        # To look a series up costs more than to count in it.
        self._request_latency = cache(self._latency.labels)

    def called(self, model: str, verb: str, entrypoint: str, code: str, seconds: float) -> None:
        """Takes note of a call that was answered."""
        self._requests.counts[model, code] += 1
        if code == "OK":
            self._request_latency(model, verb.capitalize(), entrypoint).observe(seconds * 1e6)

    def add(self, collector: Collector) -> None:
        """Says what somebody else counts, too."""
        self._registry.register(collector)

    def exposition(self) -> bytes:
        """All counts, as Prometheus reads them."""
        return generate_latest(self._registry)
