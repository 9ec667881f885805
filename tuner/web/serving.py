"""Runs the pages with uvicorn until the process is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Collection

import uvicorn

from tuner.client.access import Access
from tuner.config import Settings, is_loopback
from tuner.errors import FailedPreconditionError, TunerError
from tuner.web.app import create_app
from tuner.web.security import LOOPBACK
from tuner.web.source import StudySource

_STOP_SECONDS = 3


class AddressInUseError(TunerError):
    """The pages cannot listen where they were told to."""

    code = "UNAVAILABLE"
    reason = "ADDRESS_IN_USE"


def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serves the pages until SIGINT or SIGTERM; call it from the main thread.

    Args:
        settings: `host` and `web_port` say where, `server` whose studies.
        ready: called with the pages' address once they can be opened.

    Raises:
        AddressInUseError: the port is taken, or the host is not this machine's.
        FailedPreconditionError: others could open them, and nobody said that they may.
    """
    _check_host(settings)
    source = StudySource(Access.of(settings))
    with listen(settings.host, settings.web_port) as listener:
        port = listener.getsockname()[1]
        app = create_app(source, allowed_hosts=allowed_hosts(settings.host))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        # uvicorn has its own handlers while it runs, and hands the signal on to these afterwards.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        if ready is not None:
            # Connections wait in the listener's queue until uvicorn takes them.
            ready(url(settings.host, port))
        server.run(sockets=[listener])


def allowed_hosts(host: str) -> Collection[str] | None:
    """The names that requests may use: only this machine's own unless others may reach it."""
    return LOOPBACK | {host} if is_loopback(host) else None


def _check_host(settings: Settings) -> None:
    """Whoever opens the pages sees what their token opens: they ask for no sign-in."""
    if not is_loopback(settings.host) and not settings.insecure:
        raise FailedPreconditionError(
            f"the web pages ask for no sign-in, and do not listen on {settings.host}: leave them "
            "on 127.0.0.1, behind a proxy with a sign-in or `ssh -L`, or set TUNER_INSECURE=1 to "
            "show them to everybody."
        )


def url(host: str, port: int) -> str:
    """The address to open; a host of all addresses is named by one that works here."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve from. Raises AddressInUseError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise AddressInUseError(
            f"the web pages cannot listen on {host}:{port} ({error.strerror}): stop what runs "
            "there, or choose another port with TUNER_WEB_PORT."
        ) from error
    # Connections inherit it; asyncio sets it only on sockets that it made itself, and without it
    # every answer waits 40 ms for the reader's acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
