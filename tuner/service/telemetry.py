"""What watches a server: its metrics, its access log and, where they are wanted, its traces."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tuner.config import Settings
from tuner.service.access import AccessLog
from tuner.service.interceptor import Observer, Tracer
from tuner.service.metrics import Metrics, MetricsPage

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Telemetry:
    """Owns all of it; use it in a `with`.

    Args:
        settings: Where metrics are shown.
        environment: Says by OpenTelemetry's own variables where traces go.

    Raises:
        FailedPreconditionError: the port for metrics is in use.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.metrics = Metrics()
        self.observers: Sequence[Observer] = (self.metrics, AccessLog())
        self.tracer: Tracer | None = None
        self._stack = ExitStack()
        if settings.metrics_port:
            page = MetricsPage(self.metrics, settings.host, settings.metrics_port)
            self._stack.enter_context(page)
            logger.info("metrics are at http://%s:%d/metrics", settings.host, page.port)
        if any(environment.get(name) for name in _ENDPOINTS):
            self._trace()

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
        """Ends it; traces that were not sent yet are sent."""
        self._stack.close()

    def _trace(self) -> None:
        try:
            from tuner.service import tracing  # needs the tracing extra
        except ModuleNotFoundError as error:
            logger.warning(
                "traces are not sent (%s is missing): pip install 'tuner[tracing]'", error.name
            )
            return
        tracer = tracing.Tracing(tracing.exporter())
        self._stack.callback(tracer.close)
        self.tracer = tracer
