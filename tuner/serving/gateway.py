"""The gateway: one process without TensorFlow that answers prediction requests."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import uvicorn
import uvloop

from tuner.errors import FailedPreconditionError
from tuner.serving.catalog import Folder
from tuner.serving.grpc_api import PredictionApi
from tuner.serving.monitoring import Monitor
from tuner.serving.pool import Pool, Scaling
from tuner.serving.rest import Rest
from tuner.serving.starter import Starter

if TYPE_CHECKING:
    from tuner.serving.cluster import ClusterStarter

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_IDLE_SECONDS = 75
_GRACE_SECONDS = 10
_GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a gateway serves, and where."""

    models: Path
    host: str = "127.0.0.1"
    #: 0 takes a free one.
    rest_port: int = 8501
    grpc_port: int = 8500
    scaling: Scaling = field(default_factory=Scaling)
    #: How many threads an operation of a model may use.
    threads: int = 1
    #: How long a prediction may take.
    seconds: float = 30.0
    most_bytes: int = 64 * 2**20
    cors: bool = False
    #: The Ray cluster whose nodes have the replicas; empty: this machine has them.
    ray_address: str = ""


def run(
    options: Options, *, ready: Callable[[Mapping[str, Any]], None] = lambda said: None
) -> None:
    """Serves until SIGTERM or SIGINT; call it from the main thread.

    Args:
        options: What it serves.
        ready: Is told the addresses, `rest` and `grpc`, once requests are answered.

    Raises:
        FailedPreconditionError: the folder is not there, or the port is in use.
    """
    if not options.models.is_dir():
        raise FailedPreconditionError(
            f"{options.models} is no folder; name one with models, MODEL/VERSION/saved_model.pb."
        )
    uvloop.run(_serve(options, ready))


async def _serve(options: Options, ready: Callable[[Mapping[str, Any]], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _starter(options) as starter:
        models = Folder(
            options.models,
            lambda name, directory: Pool(name, directory, starter, options.scaling),
        )
        monitor = Monitor()
        rest = Rest(
            models,
            monitor,
            seconds=options.seconds,
            most_bytes=options.most_bytes,
            cors=options.cors,
        )
        server = _server(options, rest)
        try:
            sockets = [server.config.bind_socket()]
        except SystemExit:  # uvicorn's way to say so
            raise FailedPreconditionError(
                f"port {options.rest_port} is in use; choose another one."
            ) from None
        calls = grpc.aio.server(options=_GRPC_OPTIONS)
        PredictionApi(models, monitor, seconds=options.seconds).add_to(calls)
        try:
            grpc_port = calls.add_insecure_port(f"{options.host}:{options.grpc_port}")
        except RuntimeError:
            raise FailedPreconditionError(
                f"port {options.grpc_port} is in use; choose another one."
            ) from None
        await calls.start()
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        host, port = sockets[0].getsockname()[:2]
        ready({"rest": f"{host}:{port}", "grpc": f"{options.host}:{grpc_port}"})
        await stop.wait()
        server.should_exit = True
        await asyncio.gather(serving, calls.stop(_GRACE_SECONDS))
        await models.close()


def _starter(options: Options) -> Starter | ClusterStarter:
    if not options.ray_address:
        return Starter(threads=options.threads)
    # Ray takes seconds to import.
    from tuner.serving.cluster import ClusterStarter

    return ClusterStarter(options.ray_address, threads=options.threads)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the gateway's own."""
        yield


def _server(options: Options, rest: Rest) -> uvicorn.Server:
    config = uvicorn.Config(
        rest,
        host=options.host,
        port=options.rest_port,
        http="httptools",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return _Server(config)
