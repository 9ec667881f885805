"""`tuner up`, and what it is made of: `tuner server` and `tuner runner`."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from tuner import logs
from tuner.cli.session import Session, json_option
from tuner.config import PLACEMENTS, Settings, is_loopback
from tuner.errors import DataDirectoryError, InvalidArgumentError, UnavailableError
from tuner.processes import Command, Supervisor, is_kept, keep, python

F = TypeVar("F", bound=Callable[..., object])

#: Ray, PostgreSQL and TensorFlow on a machine that does something else besides.
_START_SECONDS = 120.0
_HEALTH_SECONDS = 10.0
_CHECK_SECONDS = 0.2
#: How long a killed `tuner up` may take to be cleaned up by its keepers.
_TAKEOVER_SECONDS = 30.0
_SERVER, _RUNNER, _WEB, _GATEWAY = "study server", "runner", "web pages", "gateway"

_FLAGS: Mapping[str, tuple[Any, str]] = {
    "data-dir": (click.Path(file_okay=False), "Where the database, artifacts and logs lie."),
    "host": (str, "The address to listen on."),
    "server-port": (int, "The study server's port; 0 takes a free one."),
    "web-port": (int, "The web pages' port; 0 takes a free one."),
    "rest-port": (int, "The gateway's port for REST; 0 takes a free one."),
    "grpc-port": (int, "The gateway's port for gRPC; 0 takes a free one."),
    "server": (str, "The study server's address, host:port."),
    "database-url": (str, "A PostgreSQL server, instead of the embedded one."),
    "artifacts": (click.Path(file_okay=False), "Where statistics, weights and models lie."),
    "ray-address": (str, "A Ray cluster, instead of one on this machine."),
    "cpus": (int, "The CPUs that trials share; 0 means all."),
    "placement": (
        click.Choice(PLACEMENTS),
        "How the workers of a trial are laid out over a cluster's nodes.",
    ),
    "idle-seconds": (float, "How long the processes of a runner stay warm without work."),
    "lease-seconds": (float, "How long a silent worker keeps its trial."),
    "auth": (str, "none, or token: callers need one."),
    "tls-certificate": (click.Path(dir_okay=False), "The server's certificate, a PEM file."),
    "tls-key": (click.Path(dir_okay=False), "Its key, a PEM file."),
    "tls-client-ca": (click.Path(dir_okay=False), "Whose certificates clients must show."),
    "advertise": (str, "Where other study servers reach this one, host:port."),
    "log-level": (str, "debug, info, warning or error."),
    "log-format": (str, "text, or json: an object in each line."),
    "metrics-port": (int, "The port of Prometheus metrics; 0 means none."),
}


def settings_options(*names: str) -> Callable[[F], F]:
    """Adds flags for settings, by their names."""

    def add(command: F) -> F:
        for name in reversed(names):
            kind, text = _FLAGS[name]
            command = click.option(f"--{name}", type=kind, help=text)(command)
        return json_option(command)

    return add


@click.command()
@settings_options(
    "data-dir", "host", "server-port", "web-port", "rest-port", "grpc-port", "database-url",
    "artifacts", "ray-address", "cpus", "placement", "idle-seconds", "lease-seconds",
    "log-level", "log-format", "metrics-port", "auth", "tls-certificate", "tls-key",
    "tls-client-ca", "advertise",
)  # fmt: skip
@click.pass_obj
def up(session: Session, /, **flags: Any) -> None:
    """Start everything on this machine; Ctrl-C stops it."""
    from tuner_storage.directory import check_ours  # needs the server extra

    settings = Settings.read(**flags)
    # Shells start background jobs with SIGINT ignored; whoever sends one means it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    check_ours(settings.data_dir)
    try:
        with _owned(settings.data_dir, session) as lock:
            _run(session, settings, lock)
    except KeyboardInterrupt:
        session.say("stopped; `tuner up` continues where this ended")


@click.command()
@settings_options(
    "data-dir", "host", "server-port", "database-url", "lease-seconds", "log-level", "log-format",
    "metrics-port", "auth", "tls-certificate", "tls-key", "tls-client-ca", "advertise",
)  # fmt: skip
@click.pass_obj
def server(session: Session, /, **flags: Any) -> None:
    """Start the study server alone."""
    settings = Settings.read(**flags)
    from tuner.service import access, serve  # needs the server extra

    logs.configure(settings, access.context)

    serve(settings, ready=_announcer(session, "the study server answers at {address}"))


@click.command()
@settings_options(
    "server", "data-dir", "artifacts", "ray-address", "cpus", "placement", "idle-seconds",
    "log-level", "log-format",
)  # fmt: skip
@click.pass_obj
def runner(session: Session, /, **flags: Any) -> None:
    """Start a runner alone: it trains the studies of a server."""
    settings = Settings.read(**_given(flags, server=session.server))
    if not is_kept(os.environ):
        # Of a runner that is killed, some of Ray's processes would run on for a minute.
        again = python("-m", "tuner.cli", "runner", *(["--json"] if session.as_json else []))
        sys.exit(keep(again, settings.environment()))
    logs.configure(settings)
    from tuner.runner import environment

    environment.prepare(os.environ, own_cluster=not settings.ray_address)
    from tuner.runner.runner import (
        serve,  # needs the worker extra, and the environment as it is now
    )

    serve(settings, ready=_announcer(session, "training for {address} with {cpus:g} CPUs"))


def _given(flags: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """The flags; where one was not given, what was said before the command."""
    return {**others, **{name: value for name, value in flags.items() if value is not None}}


def _announcer(session: Session, text: str) -> Callable[[Mapping[str, Any]], None]:
    def announce(said: Mapping[str, Any]) -> None:
        if session.as_json:
            session.print_line(said)
        else:
            session.say(text.format(**said))

    return announce


@contextmanager
def _owned(data_dir: Path, session: Session) -> Iterator[int]:
    """Keeps the data directory for one `tuner up`; yields what its children hold, too."""
    with ExitStack() as stack:
        try:
            (data_dir / "logs").mkdir(parents=True, exist_ok=True)
            owner = os.open(data_dir / "up.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise DataDirectoryError(
                f"{data_dir} cannot be written ({error.strerror}): choose another with --data-dir."
            ) from error
        stack.callback(os.close, owner)
        if not _try_lock(owner):
            holder = os.pread(owner, 32, 0).decode() or "unknown"
            raise DataDirectoryError(
                f"`tuner up` already runs on {data_dir} (process {holder}): stop it first, or "
                "choose another directory with --data-dir."
            )
        os.ftruncate(owner, 0)
        os.pwrite(owner, str(os.getpid()).encode(), 0)
        # The children's lock is on the folder that they log to: it needs no file of its own.
        children = os.open(data_dir / "logs", os.O_RDONLY)
        stack.callback(os.close, children)
        if not _try_lock(children):
            session.note("waiting for what is left of the last run to end")
            _wait_lock(children, data_dir)
        yield children


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_lock(descriptor: int, data_dir: Path) -> None:
    deadline = time.monotonic() + _TAKEOVER_SECONDS
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise DataDirectoryError(
                f"processes of an earlier `tuner up` still run on {data_dir}: stop them first."
            )
        time.sleep(_CHECK_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """What `tuner up` offers."""

    address: str
    web: str
    #: Where the gateway answers REST and gRPC.
    rest: str
    grpc: str
    cpus: float
    data_dir: Path

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "address": self.address,
            "web": self.web,
            "rest": self.rest,
            "grpc": self.grpc,
            "cpus": self.cpus,
            "data_dir": str(self.data_dir),
            "logs": str(self.data_dir / "logs"),
            "pid": os.getpid(),
        }

    def text(self) -> str:
        """For people."""
        return (
            "tuner is up\n"
            f"  study server  {self.address}\n"
            f"  web pages     {self.web}\n"
            f"  predictions   {self.rest} (REST), {self.grpc} (gRPC)\n"
            f"  training      {self.cpus:g} CPUs\n"
            f"  data          {self.data_dir}\n"
            f"  logs          {self.data_dir / 'logs'}\n"
            "`tuner submit study.yaml` starts a study; Ctrl-C stops everything"
        )


def _run(session: Session, settings: Settings, lock: int) -> None:
    supervisor = Supervisor(start_seconds=_START_SECONDS, keep_open=[lock], on_event=session.note)
    with supervisor:
        session.note("starting the study server, the runner, the web pages and the gateway")
        running = _start(supervisor, settings)
        if session.as_json:
            session.print_line(running.document())
        else:
            session.say(running.text())
        while True:
            supervisor.check()
            time.sleep(_CHECK_SECONDS)


def _start(supervisor: Supervisor, settings: Settings) -> _Running:
    """Starts everything at once: each waits for what it needs of the others."""
    # The port is chosen here, so that all know it, and a restarted server keeps it.
    port = _free_port(settings.host, settings.server_port, "server-port")
    # Trials on other machines reach the server by the name that the user gave it.
    named = settings.server if settings.ray_address else ""
    settings = replace(settings, server_port=port)
    runner = _client(settings, named or _local_address(settings))
    pages = replace(_client(settings, _local_address(settings)), host=_web_host(settings))
    gateway = replace(_client(settings, _local_address(settings)), host=_gateway_host(settings))
    # Each says itself what it cannot listen on, but only once the others have started, too.
    _free_port(pages.host, pages.web_port, "web-port")
    _free_port(gateway.host, gateway.rest_port, "rest-port")
    _free_port(gateway.host, gateway.grpc_port, "grpc-port")
    server_said, runner_said, web_said, gateway_said = supervisor.start(
        [_command(_SERVER, "server", settings)],
        [
            _command(_RUNNER, "runner", runner),
            _command(_WEB, "web", pages),
            _command(_GATEWAY, "gateway", gateway),
        ],
    )
    _check_health(str(server_said["local"]))
    web = str(web_said["url"])
    pages = replace(pages, web_port=_port(web))
    supervisor.replace(_command(_WEB, "web", pages))
    rest, calls = str(gateway_said["rest"]), str(gateway_said["grpc"])
    gateway = replace(gateway, rest_port=_port(rest), grpc_port=_port(calls))
    supervisor.replace(_command(_GATEWAY, "gateway", gateway))
    return _Running(
        address=str(server_said["address"]),
        web=web,
        rest=f"{'https' if settings.tls_certificate else 'http'}://{rest}",
        grpc=calls,
        cpus=float(runner_said["cpus"]),
        data_dir=settings.data_dir,
    )


def _client(settings: Settings, server: str) -> Settings:
    """What the server's clients are told: nothing of its database, and where its token lies."""
    settings = replace(settings, server=server, database_url="")
    if not settings.has_tokens or (settings.ray_address and settings.token):
        return settings
    return replace(settings, token="", token_file=str(settings.local_token_file))


def _local_address(settings: Settings) -> str:
    """Where the server is reached from this machine: with TLS by a socket that needs none."""
    if settings.tls_certificate:
        return settings.socket_address
    return _reachable(settings.host, settings.server_port)


def _web_host(settings: Settings) -> str:
    """The pages ask for no sign-in: only the server listens beyond this machine."""
    open_to_all = settings.insecure or is_loopback(settings.host)
    return settings.host if open_to_all else "127.0.0.1"


def _gateway_host(settings: Settings) -> str:
    """The gateway asks who calls where the study server does, and has its certificate."""
    safe = settings.has_tokens and settings.tls_certificate
    open_to_all = safe or settings.insecure or is_loopback(settings.host)
    return settings.host if open_to_all else "127.0.0.1"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2].rstrip("/"))


def _free_port(host: str, port: int, flag: str) -> int:
    """The port, or if it is 0 one that is free; raises InvalidArgumentError if it is not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidArgumentError(
                f"port {port} of {host} is in use by another program: choose another with "
                f"--{flag}; 0 takes a free one."
            ) from error
        raise InvalidArgumentError(
            f"nothing can listen on port {port} of {host!r} ({error.strerror}): choose others "
            f"with --host and --{flag}."
        ) from error


def _reachable(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _command(name: str, word: str, settings: Settings) -> Command:
    return Command(
        name=name,
        args=python("-m", "tuner.cli", word, "--json"),
        log=settings.data_dir / "logs" / f"{word}.log",
        environment=settings.environment(),
    )


def _check_health(address: str) -> None:
    """Asks the server itself: somebody else may answer at its address."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise UnavailableError(f"the study server at {address} does not answer.") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"the study server at {address} is not serving.")
