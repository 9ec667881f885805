"""The server's numbers for Prometheus: some counted where it happens, some read when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tuner.errors import FailedPreconditionError
from tuner.service.call import Call
from tuner.study import TrialState
from tuner.v1 import admin_service_pb2, study_service_pb2

#: From a read out of memory to a call that is given up.
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_CHANGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Streams last as long as somebody reads: their times say nothing about the server.
_STREAMS = frozenset(
    method.name
    for file in (study_service_pb2, admin_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.server_streaming
)

#: The pool's figures: the name of psycopg_pool, and the state that it is shown as.
_POOL_STATES = {
    "pool_size": "open",
    "pool_available": "idle",
    "pool_max": "most",
    "requests_waiting": "waiting",
}
_POOL_EVENTS = {
    "requests_num": "lent",
    "requests_queued": "queued",
    "requests_errors": "timed_out",
    "connections_errors": "connect_failed",
    "connections_lost": "lost",
    "returns_bad": "returned_broken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a server holds in memory at one moment."""

    studies: int = 0
    #: Of the studies above, by state.
    trials: Mapping[TrialState, int] = field(default_factory=dict)
    leases: int = 0
    watchers: int = 0


class Metrics:
    """Counts for one server. Thread-safe; it observes calls and commits.

    What the server holds is read when Prometheus asks, so it costs nothing in between.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._holdings: Callable[[], Holdings] = Holdings
        self._pool: Callable[[], Mapping[str, int]] = dict
        self._requests = Counter(
            "tuner_requests",
            "Calls that have ended, by method and gRPC status.",
            ("method", "code"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "tuner_request_seconds",
            "How long calls took, streams left out.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._suggestions = self._counter("tuner_suggestions", "Trials given to workers.")
        self._expired = self._counter(
            "tuner_leases_expired", "Leases taken from workers that were silent."
        )
        self._commit_seconds = Histogram(
            "tuner_commit_seconds",
            "How long commits took.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._commit_writes = Histogram(
            "tuner_commit_writes",
            "How many changes went into one commit.",
            buckets=_CHANGES,
            registry=self.registry,
        )
        self._ended: dict[tuple[str, str], tuple[Counter, Histogram | None]] = {}
        self.registry.register(_Read(self))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    # --- told by the server ---

    def observe(self, call: Call) -> None:
        """Counts a call that has ended."""
        key = call.method, call.code
        # Looking up labels costs more than counting.
        found = self._ended.get(key)
        if found is None:
            found = self._ended[key] = self._of(*key)
        count, seconds = found
        count.inc()
        if seconds is not None:
            seconds.observe(call.seconds)

    def _of(self, method: str, code: str) -> tuple[Counter, Histogram | None]:
        timed = method not in _STREAMS
        return (
            self._requests.labels(method, code),
            self._request_seconds.labels(method) if timed else None,
        )

    def committed(self, changes: int, seconds: float) -> None:
        """Counts a commit of so many changes."""
        self._commit_writes.observe(changes)
        self._commit_seconds.observe(seconds)

    def suggested(self, count: int = 1) -> None:
        """Counts trials that were given to a worker."""
        self._suggestions.inc(count)

    def expired(self, count: int = 1) -> None:
        """Counts leases that were taken from silent workers."""
        self._expired.inc(count)

    # --- read when asked ---

    def read_from(
        self,
        *,
        holdings: Callable[[], Holdings] | None = None,
        pool: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """Says where to read what the server holds, and how its connection pool does."""
        self._holdings = holdings or self._holdings
        self._pool = pool or self._pool

    def read(self) -> Iterator[Metric]:
        """What the server holds now, and how its connection pool does."""
        held, pool = self._holdings(), self._pool()
        yield _gauge("tuner_studies_owned", "Studies that this server works on.", held.studies)
        trials = {state.value: held.trials.get(state, 0) for state in TrialState}
        yield _gauges("tuner_trials", "Trials of those studies, by state.", trials)
        yield _gauge("tuner_open_leases", "Trials that workers hold.", held.leases)
        yield _gauge("tuner_watchers", "Streams that follow a study.", held.watchers)
        states = {shown: pool.get(name, 0) for name, shown in _POOL_STATES.items()}
        yield _gauges("tuner_database_pool", "Connections to PostgreSQL, by state.", states)
        events = CounterMetricFamily(
            "tuner_database_pool_events",
            "What happened to connections to PostgreSQL, and to who asked for one.",
            labels=("event",),
        )
        for name, shown in _POOL_EVENTS.items():
            events.add_metric((shown,), pool.get(name, 0))
        yield events


class _Read(Collector):
    """What the registry asks for the rest."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """What is read when asked."""
        return self._metrics.read()


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("state",))
    for state, value in values.items():
        family.add_metric((state,), value)
    return family


class MetricsPage:
    """The page that Prometheus reads, `/metrics` on a port of its own. Use it in a `with`.

    Raises:
        FailedPreconditionError: the port is in use.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise FailedPreconditionError(
                f"metrics cannot be shown on {host}:{port} ({error.strerror}); choose another "
                "port by TUNER_METRICS_PORT."
            ) from error
        self.port: int = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
