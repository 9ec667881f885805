"""The gateway: one process without TensorFlow that answers prediction requests."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from tuner.errors import FailedPreconditionError
from tuner.serving.catalog import Folder
from tuner.serving.monitoring import Monitor
from tuner.serving.pool import Pool, Scaling
from tuner.serving.rest import Rest
from tuner.serving.starter import Starter

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_IDLE_SECONDS = 75
_GRACE_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a gateway serves, and where."""

    models: Path
    host: str = "127.0.0.1"
    #: 0 takes a free one.
    rest_port: int = 8501
    scaling: Scaling = field(default_factory=Scaling)
    #: How many threads an operation of a model may use.
    threads: int = 1
    #: How long a prediction may take.
    seconds: float = 30.0
    most_bytes: int = 64 * 2**20
    cors: bool = False


def run(
    options: Options, *, ready: Callable[[Mapping[str, Any]], None] = lambda said: None
) -> None:
    """Serves until SIGTERM or SIGINT; call it from the main thread.

    Args:
        options: What it serves.
        ready: Is told the `rest` address once requests are answered.

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
    async with Starter(threads=options.threads) as starter:
        models = Folder(
            options.models,
            lambda name, directory: Pool(name, directory, starter, options.scaling),
        )
        rest = Rest(
            models,
            Monitor(),
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
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        ready({"rest": "{}:{}".format(*sockets[0].getsockname()[:2])})
        await stop.wait()
        server.should_exit = True
        await serving
        await models.close()


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
