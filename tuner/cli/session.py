"""What the commands of one invocation share: the server, the terminal and the form of output."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tuner.config import Settings
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.client import Access, Client

F = TypeVar("F", bound=Callable[..., object])

#: A server that was just started may need a moment.
_CONNECT_SECONDS = 2.0
#: Where nobody looks at a terminal, tables may be wide.
_FILE_WIDTH = 200


class Session:
    """One invocation. Closes the client that it opened."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.server: str | None = None
        #: How the server is reached, where that is known better than by flags and variables.
        self.access: Access | None = None
        self.out = _console(width=None if os.isatty(1) else _width())
        self.err = _console(stderr=True)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the server that was named, or that runs on this machine.

        Raises:
            UnavailableError: nobody answers there.
        """
        if self._client is None:
            from tuner.client import Access, Client  # gRPC is not needed for --help

            client = Client(self.access or Access.of(Settings.read(server=self.server)))
            try:
                client.ping(_CONNECT_SECONDS)
            except BaseException:
                client.close()
                raise
            self._client = client
        return self._client

    def find_client(self) -> Client | None:
        """The client, for what can do without; None where no server is known, or it is away.

        Raises:
            TunerError: the server that was named on the command line cannot be used.
        """
        if self.server or self.access is not None:
            return self.client
        settings = Settings.read()
        if settings.server or (settings.data_dir / "server.json").exists():
            with suppress(TunerError):
                return self.client
        return None

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def print_json(self, document: object) -> None:
        """Prints one JSON document; numbers that JSON does not know become null."""
        click.echo(json.dumps(_finite(document), ensure_ascii=False, indent=2))

    def print_line(self, document: object) -> None:
        """Prints one JSON document in one line, as part of a stream."""
        click.echo(json.dumps(_finite(document), ensure_ascii=False))

    def say(self, text: str) -> None:
        """Prints text as it is, unless the output is for machines."""
        if not self.as_json:
            self.out.print(text, soft_wrap=True)

    def spinner(self, text: str) -> AbstractContextManager[object]:
        """Shows that something takes its time, where somebody looks."""
        if self.as_json or not self.err.is_terminal:
            return nullcontext()
        return self.err.status(text)

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, int, int], None] | None]:
        """A bar that goes away again, where somebody looks.

        Yields:
            What is told rows read, bytes read and bytes in all; None if nobody looks.
        """
        if self.as_json or not self.err.is_terminal:
            yield None
            return
        columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=None, rows=0)
            yield lambda rows, done, total: bar.update(
                task, completed=done, total=total, rows=rows
            )

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of what is done, where somebody looks; yields what is told how much was."""
        if self.as_json or not self.err.is_terminal:
            yield lambda done: None
            return
        columns = (
            TextColumn(text),
            BarColumn(),
            TextColumn("{task.completed:,} of {task.total:,}"),
        )
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.advance(task, done)

    def note(self, text: str) -> None:
        """Prints text for people on standard error."""
        self.err.print(text, soft_wrap=True, style="dim")


def json_option(command: F) -> F:
    """Adds `--json`, and `--server` after the command as well as before it."""

    def set_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            context.find_object(Session).as_json = True  # type: ignore[union-attr]

    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=set_json,
        help="Print JSON on standard output.",
    )
    return option(command)


def server_option(command: F) -> F:
    """Adds `--server` after the command, where people also look for it."""

    def set_server(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.find_object(Session).server = value  # type: ignore[union-attr]

    option = click.option(
        "--server",
        metavar="ADDRESS",
        expose_value=False,
        callback=set_server,
        help="The study server, host:port.",
    )
    return json_option(option(command))


def _console(*, width: int | None = None, stderr: bool = False) -> Console:
    """A console that prints text as it is: names and messages may hold brackets."""
    return Console(width=width, stderr=stderr, markup=False, highlight=False, emoji=False)


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else _FILE_WIDTH


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
