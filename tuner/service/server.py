"""The study server as a process: what it opens, in which order, and how all of it ends."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from tuner.config import Settings
from tuner.fits import Fits
from tuner.service import health, listen
from tuner.service.admin import AdminServicer
from tuner.service.allowed import Allowed
from tuner.service.auth import TokenGuard
from tuner.service.endpoints import EndpointServicer
from tuner.service.fleet import Fleet
from tuner.service.forwarding import Forwarder
from tuner.service.health import Health
from tuner.service.holdings import holdings
from tuner.service.interceptor import STREAMS, CallInterceptor, Everybody
from tuner.service.local_token import LocalToken
from tuner.service.models import ModelServicer
from tuner.service.online import OnlineResults
from tuner.service.servicer import StudyServicer
from tuner.service.statistics import StatisticsServicer
from tuner.service.studies import Studies
from tuner.service.telemetry import Telemetry
from tuner.service.threads import CallThreads
from tuner.service.ticker import Ticker
from tuner.v1 import (
    admin_service_pb2,
    endpoint_service_pb2,
    model_service_pb2,
    statistics_service_pb2,
    study_service_pb2,
)
from tuner.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from tuner.v1.endpoint_service_pb2_grpc import add_EndpointServiceServicer_to_server
from tuner.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from tuner.v1.statistics_service_pb2_grpc import add_StatisticsServiceServicer_to_server
from tuner.v1.study_service_pb2_grpc import add_StudyServiceServicer_to_server
from tuner_storage import Database, DataDirectory, EmbeddedPostgres, Store
from tuner_storage.directory import replace_file
from tuner_storage.embedded import POSTGRES
from tuner_storage.endpoints import EndpointStore
from tuner_storage.gateways import GatewayStore
from tuner_storage.models import ModelStore
from tuner_storage.results import ResultStore
from tuner_storage.statistics import StatisticsStore
from tuner_storage.tokens import AdminStore

logger = logging.getLogger(__name__)

_CALLS = 32
_MESSAGE_BYTES = 16 * 2**20
_GRACE_SECONDS = 5.0
_LAST_CALLS_SECONDS = 0.05
_TEND_SECONDS = 1.0
_STOP_SECONDS = 45.0
_SERVICES = (
    study_service_pb2.DESCRIPTOR.services_by_name["StudyService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    endpoint_service_pb2.DESCRIPTOR.services_by_name["EndpointService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
    statistics_service_pb2.DESCRIPTOR.services_by_name["StatisticsService"].full_name,
)

_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # Two servers on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
)
#: To another server, which is reached directly; one that is gone, or hangs, is noticed soon.
_CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long a connection may take to be made, in spite of its name.
    ("grpc.min_reconnect_backoff_ms", 1500),
    ("grpc.keepalive_time_ms", 2_000),
    # gRPC waits for a keepalive's answer as for that of any ping, a minute unless told otherwise.
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class StudyServer:
    """A running study server. Start it from the main thread, which then has to stay.

    Args:
        settings: Where it keeps its data and listens; port 0 takes a free one.

    Raises:
        FailedPreconditionError: the port is in use, or is not safe to listen on.
        DataDirectoryError: the data directory or the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._health = Health()
        self._postgres: EmbeddedPostgres | None = None
        try:
            self.address, self.local_address = self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def tend(self) -> None:
        """Starts the embedded PostgreSQL again if it died.

        Call it about every second from the thread that started the server.
        """
        if self._postgres is not None:
            self._postgres.revive()

    def close(self) -> None:
        """Lets calls under way finish, and stops everything."""
        self._health.ending()
        self._stack.close()
        self._health.close()

    def _start(self) -> tuple[str, str]:
        settings, stack = self._settings, self._stack
        listen.check(settings)
        telemetry = self._telemetry = stack.enter_context(Telemetry(settings, os.environ))
        forwarder = Forwarder(listen.peers(settings, _CHANNEL))
        stack.callback(forwarder.close)
        pool = stack.enter_context(CallThreads(_CALLS + STREAMS, _CALLS // 2 + STREAMS))
        # The port is taken before anything is opened or written, and no call is answered before.
        guard = TokenGuard(lambda now: tokens.active_tokens(now)) if settings.has_tokens else None
        interceptor = CallInterceptor(
            guard or Everybody(),
            forwarder,
            telemetry.observers,
            telemetry.tracer,
            announce=partial(setattr, pool, "caller"),
        )
        server = grpc.server(pool, interceptors=[interceptor], options=_OPTIONS)
        address = listen.listen(server, settings)
        # Before the first start, closing it is what frees the port.
        stack.callback(lambda: server.stop(None).wait(_GRACE_SECONDS))
        database = self._open_database()
        store, tokens = Store(database), AdminStore(database)
        local_address = listen.listen_locally(server, settings, address)
        if guard is not None:
            stack.enter_context(LocalToken(tokens, settings.local_token_file))
        fleet = Fleet(store, settings.data_dir)
        stack.enter_context(fleet.joined(listen.announced(settings, address)))
        lease = timedelta(seconds=settings.lease_seconds)
        # Closed after the last call: those that wait for a fit are still answered.
        fits = stack.enter_context(Fits())
        studies = Studies(
            store,
            fleet,
            lease,
            fits,
            settings.fit_seconds,
            telemetry.metrics,
            Allowed.of(settings),
        )
        stack.callback(studies.close)
        telemetry.metrics.read_from(holdings=lambda: holdings(studies))
        statistics = StatisticsServicer(StatisticsStore(database))
        gateways, results = GatewayStore(database), ResultStore(database)
        endpoints = EndpointServicer(
            EndpointStore(database),
            gateways,
            results,
            has_tokens=settings.has_tokens,
        )
        refresh = (lambda: None) if guard is None else guard.refresh
        housekeeping: Mapping[str, Callable[[], None]] = {
            "changes": partial(_forget_changes, tokens, settings.audit_days),
            "statistics": statistics.forget,
            "gateways": gateways.forget,
            "predictions": results.forget,
        }
        online = OnlineResults(results, studies, fleet.server)
        stack.enter_context(
            Ticker(studies, refresh=refresh, tell=online.tell, housekeeping=housekeeping)
        )
        add_StudyServiceServicer_to_server(StudyServicer(studies), server)
        root = settings.models_uri if settings.has_tokens else None
        add_ModelServiceServicer_to_server(ModelServicer(ModelStore(database), root), server)
        add_EndpointServiceServicer_to_server(endpoints, server)
        add_StatisticsServiceServicer_to_server(statistics, server)
        forget = (lambda: None) if guard is None else guard.forget
        admin = AdminServicer(tokens, store.list_servers, forget)
        add_AdminServiceServicer_to_server(admin, server)
        self._health.add_to(server)
        if guard is None:
            # What strangers may ask for would hold threads of those who have tokens.
            names = (*_SERVICES, health.NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self._health.serving(*_SERVICES)
        server.start()
        stack.callback(lambda: server.stop(_GRACE_SECONDS).wait(2 * _GRACE_SECONDS))
        stack.callback(studies.end_streams)
        # What is on its way arrives and is refused, before gRPC closes the connections.
        stack.callback(time.sleep, _LAST_CALLS_SECONDS)
        stack.callback(interceptor.refuse)
        self._write_address(address, local_address)
        logger.info("the study server listens on %s", address)
        return address, local_address

    def _open_database(self) -> Database:
        settings, stack = self._settings, self._stack
        embedded = not settings.database_url
        postgres = POSTGRES if embedded else None
        stack.enter_context(DataDirectory(settings.data_dir, postgres=postgres))
        url, name = settings.database_url, "TUNER_DATABASE_URL"
        if embedded:
            self._postgres = stack.enter_context(EmbeddedPostgres(settings.data_dir))
            url, name = self._postgres.url, "the embedded PostgreSQL"
        database = stack.enter_context(Database(url, name=name))
        self._telemetry.metrics.read_from(pool=database.stats)
        return database

    def _write_address(self, address: str, local_address: str) -> None:
        file = self._settings.data_dir / "server.json"
        self._stack.callback(file.unlink, missing_ok=True)
        said = {"address": address, "local": local_address, "pid": os.getpid()}
        replace_file(file, json.dumps(said) + "\n")


def _forget_changes(store: AdminStore, days: int) -> None:
    """Forgets who changed what, after a number of days; 0 is never."""
    if days:
        store.forget_entries(datetime.now(UTC) - timedelta(days=days))


def serve(
    settings: Settings, *, ready: Callable[[Mapping[str, Any]], None] = lambda said: None
) -> None:
    """Runs a study server until SIGTERM or SIGINT; call it from the main thread.

    Args:
        settings: Where it keeps its data and listens.
        ready: Is told the `address`, the `local` one for this machine and the `pid` once calls are
            answered.

    Raises:
        FailedPreconditionError: the port is in use, or is not safe to listen on.
        DataDirectoryError: the data directory or the database cannot be used.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # What a server keeps lives long, and looking through it for cycles after every 700 new objects
    # finds none: a call's own are freed by their counts.
    gc.set_threshold(50_000, 20, 50)
    with StudyServer(settings) as server:
        local = server.local_address
        ready({"address": server.address, "local": local, "pid": os.getpid()})
        while not stop.wait(_TEND_SECONDS):
            server.tend()
        logger.info("the study server stops")
        # A database that hangs must not keep it: whoever asked it to stop waits for that.
        last = threading.Timer(_STOP_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
