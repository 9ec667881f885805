"""The gateway: one process without TensorFlow that answers prediction requests."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop

from tuner import tls
from tuner.client.access import Access
from tuner.config import Settings, is_loopback
from tuner.endpoint import Scaling
from tuner.errors import FailedPreconditionError, UnavailableError
from tuner.serving.bodies import Bodies
from tuner.serving.callers import Callers
from tuner.serving.catalog import Folder
from tuner.serving.connections import Connections, Limits, room
from tuner.serving.endpoints import Endpoints
from tuner.serving.files import Files
from tuner.serving.grpc_api import PredictionApi
from tuner.serving.metrics import Dropped, VersionMetrics
from tuner.serving.monitoring import Monitor
from tuner.serving.pool import Pool, Replicas
from tuner.serving.predictions import Predictions, Source
from tuner.serving.recording import Recorder
from tuner.serving.rest import Rest
from tuner.serving.server import Server
from tuner.serving.starter import Starter
from tuner.serving.sync import Kept, Sync

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GRACE_SECONDS = 10
_RENEW_SECONDS = 1.0
_FAREWELL_SECONDS = 3.0
_GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
_MOST_CALLS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a gateway serves, and where."""

    settings: Settings
    #: A folder with models; None: the endpoints of the study server that the settings name.
    models: Path | None = None
    #: Of the models in a folder; each endpoint has its own.
    scaling: Scaling = field(default_factory=Scaling)
    #: How many threads an operation of a model may use.
    threads: int = 1
    #: How long a prediction with a model in a folder may take; each endpoint says it itself.
    seconds: float = 30.0
    most_bytes: int = 64 * 2**20
    #: How many connections each of the two ports may have.
    connections: int = 4096
    cors: bool = False
    #: The Ray cluster whose nodes have the replicas; empty: this machine has them.
    ray_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is served, and what belongs to that."""

    source: Source
    callers: Callers
    recorder: Recorder | None = None
    sync: Sync | None = None


def run(
    options: Options, *, ready: Callable[[Mapping[str, Any]], None] = lambda said: None
) -> None:
    """Serves until SIGTERM or SIGINT; call it from the main thread.

    Args:
        options: What it serves.
        ready: Is told the addresses, `rest` and `grpc`, once requests are answered.

    Raises:
        FailedPreconditionError: the folder is not there, the port is in use, or strangers could
            call and nobody said so.
        TunerError: the study server refuses this gateway, or none is known.
    """
    if options.models is not None and not options.models.is_dir():
        raise FailedPreconditionError(
            f"{options.models} is no folder; name one with models, MODEL/VERSION/saved_model.pb."
        )
    _check_open(options)
    uvloop.run(_serve(options, ready))


def _check_open(options: Options) -> None:
    """Raises FailedPreconditionError if strangers could call, and nobody said so."""
    settings = options.settings
    if is_loopback(settings.host) or settings.insecure:
        return
    if options.models is not None:
        raise FailedPreconditionError(
            f"on {settings.host} anybody could call, unasked who they are: serve the endpoints of "
            "a study server with tokens, or put a proxy that asks in front, and set "
            "TUNER_INSECURE=1 if this is what you want."
        )
    if not settings.tls_certificate:
        raise FailedPreconditionError(
            f"the gateway does not listen on {settings.host} without TLS: set "
            "TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY, or TUNER_INSECURE=1."
        )


async def _serve(options: Options, ready: Callable[[Mapping[str, Any]], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    monitor = Monitor()
    async with AsyncExitStack() as stack:
        starter = await _starter(options, stack)
        if options.models is not None:
            parts = await stack.enter_async_context(_folder(options, options.models, starter))
        else:
            parts = await stack.enter_async_context(_endpoints(options, starter, monitor))
        monitor.add(VersionMetrics(parts.source))
        addresses = await stack.enter_async_context(_listening(options, parts, monitor))
        if parts.sync is not None:
            parts.sync.start(addresses)
        ready(addresses)
        await stop.wait()


@asynccontextmanager
async def _folder(options: Options, root: Path, starter: Replicas) -> AsyncIterator[_Parts]:
    await starter.prepare()

    def pool_of(name: str, directory: Path) -> Pool:
        async def locate() -> Path:
            return directory

        return Pool(name, locate, starter, options.scaling)

    folder = Folder(root, pool_of, seconds=options.seconds)
    try:
        yield _Parts(source=folder, callers=Callers(is_open=True))
    finally:
        await folder.close()


@asynccontextmanager
async def _endpoints(
    options: Options, starter: Replicas, monitor: Monitor
) -> AsyncIterator[_Parts]:
    settings = options.settings
    callers = Callers(is_open=is_loopback(settings.host) or settings.insecure)
    folder = settings.data_dir / "gateway"
    with Server(Access.of(settings)) as server:
        recorder = Recorder(server)
        endpoints = Endpoints(starter, Files(folder / "versions"), recorder)
        kept = Kept(folder / "endpoints.json", settings.server)
        sync = Sync(server, endpoints, callers, kept)
        monitor.add(Dropped("shadow_calls", lambda: endpoints.dropped_shadows))
        monitor.add(Dropped("recorded_predictions", lambda: recorder.dropped))
        try:
            await _load(sync, settings)
            if endpoints.is_ready and not (callers.has_tokens or callers.is_open):
                raise FailedPreconditionError(
                    f"the gateway does not listen on {settings.host} where the study server asks "
                    "for no tokens: set TUNER_AUTH=token there, or TUNER_INSECURE=1 here."
                )
            yield _Parts(source=endpoints, callers=callers, recorder=recorder, sync=sync)
        finally:
            # A study server that hangs is not waited for: who stops a gateway may be in a hurry.
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await recorder.close()
                    await sync.close()
            await endpoints.close()


async def _load(sync: Sync, settings: Settings) -> None:
    """Finds out what there is to serve; a study server that was named may come later."""
    try:
        await sync.load()
    except UnavailableError as error:
        if not settings.server and not (settings.data_dir / "server.json").exists():
            raise FailedPreconditionError(
                f"there is nothing to serve: {error.message} Or name a folder with models: tuner "
                "gateway FOLDER."
            ) from None
        logger.warning("waiting for the study server: %s", error.message)


@asynccontextmanager
async def _listening(
    options: Options, parts: _Parts, monitor: Monitor
) -> AsyncIterator[Mapping[str, str]]:
    """Answers requests; yields the addresses."""
    settings = options.settings
    predictions, bodies = Predictions(parts.source, monitor), Bodies()
    rest = Rest(
        predictions,
        parts.callers,
        recorder=parts.recorder,
        most_bytes=options.most_bytes,
        bodies=bodies,
        cors=options.cors,
    )
    connections = Connections(Limits(connections=room(options.connections)))
    server = _server(options, rest, connections)
    try:
        sockets = [server.config.bind_socket()]
    except SystemExit:  # uvicorn's way to say so
        raise _in_use(options.settings.rest_port) from None
    calls = grpc.aio.server(
        options=(*_GRPC_OPTIONS, ("grpc.max_allowed_incoming_connections", options.connections)),
        maximum_concurrent_rpcs=_MOST_CALLS,
    )
    PredictionApi(predictions, parts.callers, bodies).add_to(calls)
    grpc_port = _bind(calls, options)
    await calls.start()
    renewing = asyncio.create_task(_renew(server.config, settings))
    serving = asyncio.create_task(server.serve(sockets=sockets))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        host, port = sockets[0].getsockname()[:2]
        yield {"rest": _address(host, port), "grpc": _address(settings.host, grpc_port)}
    finally:
        server.should_exit = True
        await asyncio.gather(serving, calls.stop(_GRACE_SECONDS))
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await connections.close()


def _bind(calls: grpc.aio.Server, options: Options) -> int:
    address = _address(options.settings.host, options.settings.grpc_port)
    credentials = tls.server_credentials(options.settings)
    try:
        if credentials is None:
            return calls.add_insecure_port(address)
        return calls.add_secure_port(address, credentials)
    except RuntimeError:
        raise _in_use(options.settings.grpc_port) from None


def _in_use(port: int) -> FailedPreconditionError:
    return FailedPreconditionError(f"port {port} is in use; choose another one.")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _starter(options: Options, stack: AsyncExitStack) -> Replicas:
    if not options.ray_address:
        return await stack.enter_async_context(Starter(threads=options.threads))
    from tuner.serving.cluster import ClusterStarter  # Ray takes seconds to import

    starter = ClusterStarter(options.ray_address, threads=options.threads)
    return await stack.enter_async_context(starter)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the gateway's own."""
        yield


def _server(options: Options, rest: Rest, connections: Connections) -> uvicorn.Server:
    settings = options.settings
    # What strangers send as HTTP is nothing to fill a log with.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        rest,
        host=settings.host,
        port=options.settings.rest_port,
        http=connections.protocol,  # type: ignore[arg-type]  # it is called, and nothing else
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(connections.limits.idle_seconds),
        timeout_graceful_shutdown=_GRACE_SECONDS,
        **_certificates(settings),
    )
    config.load()
    return _Server(config)


def _certificates(settings: Settings) -> dict[str, Any]:
    if not settings.tls_certificate:
        return {}
    files = {
        "ssl_certfile": str(Path(settings.tls_certificate).expanduser()),
        "ssl_keyfile": str(Path(settings.tls_key).expanduser()),
    }
    if not settings.tls_client_ca:
        return files
    authorities = str(Path(settings.tls_client_ca).expanduser())
    return {**files, "ssl_ca_certs": authorities, "ssl_cert_reqs": ssl.CERT_REQUIRED}


async def _renew(config: uvicorn.Config, settings: Settings) -> None:
    """Shows certificates that were renewed in their files to the next caller."""
    if config.ssl is None:
        return
    shown = tls.Shown(settings)
    while True:
        await asyncio.sleep(_RENEW_SECONDS)
        if shown.renew():
            config.ssl.load_cert_chain(
                Path(settings.tls_certificate).expanduser(), Path(settings.tls_key).expanduser()
            )
