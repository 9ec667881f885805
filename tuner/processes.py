"""Owned child processes: started under a keeper, restarted after a crash, never orphaned."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner import keeper
from tuner.errors import TunerError

logger = logging.getLogger(__name__)

#: What a keeper adds to its child's time to stop: ending orphans.
_KEEPER_SECONDS = 4.0
#: Tells a process that it runs under a keeper.
_KEPT = "TUNER_KEPT"
#: A log that is longer is put aside when its process starts.
_LOG_BYTES = 10_000_000


class ProcessError(TunerError):
    """A child process could not start, or keeps crashing."""

    code = "UNAVAILABLE"
    reason = "PROCESS"


class RefusedError(ProcessError):
    """A child process said what is wrong with what it was told; the message is its own."""

    code = "FAILED_PRECONDITION"
    reason = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start a child process.

    A child says that it is ready by one line of JSON on its standard output, an object. One with
    the key `error` says that it refuses, and why. Everything else belongs on standard error.
    """

    #: What people call the process: `study server`.
    name: str
    args: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    #: How long it may take to stop before it is killed.
    grace_seconds: float = 8.0


def python(*args: str) -> tuple[str, ...]:
    """The arguments that run this Python with `args`."""
    return (sys.executable, *args)


def spawn(command: Command, *, keep_open: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts a child that ends when this process does, however this process ends.

    Call it from the main thread: Linux ends the child when the thread that started it does. The
    process returned is the child's keeper: it exits with the child's code after everything the
    child started has ended, and a SIGTERM to it stops the child.

    Args:
        keep_open: File descriptors that the keeper holds until it exits.
    """
    command.log.parent.mkdir(parents=True, exist_ok=True)
    if command.log.exists() and command.log.stat().st_size > _LOG_BYTES:
        command.log.replace(command.log.with_suffix(".log.1"))
    with command.log.open("ab") as log:
        return subprocess.Popen(
            _kept(command.args, command.grace_seconds),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **command.environment, _KEPT: "1"},
            pass_fds=keep_open,
            start_new_session=True,
        )


def is_kept(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment runs under a keeper."""
    return environment.get(_KEPT) == "1"


def keep(
    args: Sequence[str], environment: Mapping[str, str], *, grace_seconds: float = 8.0
) -> int:
    """Runs a program in the foreground under a keeper; returns its exit code.

    SIGTERM and SIGINT stop it; killed, it takes all that it started with it. Call it
    from the main thread.
    """
    process = launch(args, {**os.environ, **environment, _KEPT: "1"}, grace_seconds=grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.terminate())
    return process.wait()


def launch(
    args: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    grace_seconds: float = 8.0,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a program under a keeper, which is returned; its output goes where ours goes.

    Call it from the main thread.

    Args:
        args: The program, looked for in the environment's PATH, and its arguments.
        environment: The program's variables, all of them.
        folder: Where it starts.
        grace_seconds: How long it may take to end after a SIGTERM to the keeper.
        keep_open: File descriptors that the keeper holds until it exits.
    """
    return subprocess.Popen(
        _kept(args, grace_seconds),
        stdin=subprocess.PIPE,
        env=environment,
        cwd=folder,
        pass_fds=keep_open,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ends a program that was launched, and waits until nothing of it is left."""
    process.terminate()
    try:
        process.wait(grace_seconds + _KEEPER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def oom_kills() -> int:
    """How many processes the kernel of this machine has killed for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _kept(args: Sequence[str], grace_seconds: float) -> tuple[str, ...]:
    return (*python("-IS", keeper.__file__, str(os.getpid()), str(grace_seconds)), *args)


class Child:
    """A child process through its lives. Used by one thread, the main one."""

    def __init__(self, command: Command, keep_open: Sequence[int] = ()) -> None:
        self.command = command
        self._keep_open = keep_open
        self._process: subprocess.Popen[bytes] | None = None
        self._line = b""
        self.start_time = 0.0

    @property
    def keeper_pid(self) -> int:
        """The process id of the child's keeper; 0 while it does not run."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the process; returns at once."""
        self._line = b""
        self.start_time = time.monotonic()
        self._process = spawn(self.command, keep_open=self._keep_open)

    def exit_code(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait_ready(self, deadline: float) -> Mapping[str, Any]:
        """Returns what the child said when it was ready.

        Raises:
            RefusedError: it refused; the message is its own.
            ProcessError: it crashed, or did not answer in time.
        """
        return wait_ready([self], deadline)[0]

    def fileno(self) -> int:
        """The descriptor on which the child says that it is ready."""
        if self._process is None or self._process.stdout is None:
            raise ProcessError(f"the {self.command.name} was not started.")
        return self._process.stdout.fileno()

    def receive(self) -> Mapping[str, Any] | None:
        """Reads what is there to read; returns what the child said once it has said all.

        Raises:
            RefusedError: it refused; the message is its own.
            ProcessError: it crashed.
        """
        if not self._line.endswith(b"\n"):
            chunk = os.read(self.fileno(), 65536)
            if not chunk:
                raise self._crashed()
            self._line += chunk
        return self._said() if self._line.endswith(b"\n") else None

    def _said(self) -> Mapping[str, Any]:
        try:
            said: object = json.loads(self._line.splitlines()[0])
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise ProcessError(
                f"the {self.command.name} printed {self._line[:200]!r} where one line of JSON was "
                f"expected; see {self.command.log}."
            )
        if "error" in said:
            error = said["error"]
            raise RefusedError(str(error["message"] if isinstance(error, dict) else error))
        return said

    def _crashed(self) -> ProcessError:
        return ProcessError(
            f"the {self.command.name} stopped while it was starting; see {self.command.log}."
        )

    def complaint(self) -> str:
        """Returns what the ended process said is wrong, or an empty text."""
        try:
            self.wait_ready(time.monotonic())
        except RefusedError as error:
            return error.message
        except ProcessError:
            return ""
        return ""

    def signal_stop(self) -> None:
        """Asks the child to stop; returns at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Asks the child to stop, and waits until nothing of it is left."""
        if self._process is None:
            return
        self.signal_stop()
        try:
            self._process.wait(self.command.grace_seconds + _KEEPER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None


def wait_ready(children: Sequence[Child], deadline: float) -> list[Mapping[str, Any]]:
    """Returns what each of several children said when it was ready.

    Raises:
        RefusedError: one refused, the first of them; the message is its own.
        ProcessError: one crashed, or did not answer in time.
    """
    said: dict[Child, Mapping[str, Any]] = {}
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child, selectors.EVENT_READ)
        while len(said) < len(children):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                late = next(child for child in children if child not in said).command
                raise ProcessError(f"the {late.name} did not answer in time; see {late.log}.")
            for key, _ in ready:
                child = next(child for child in children if child is key.fileobj)
                if (answer := child.receive()) is not None:
                    said[child] = answer
                    selector.unregister(child)
    return [said[child] for child in children]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a crashed child is started again."""

    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 8.0
    #: A child that lived longer than this did not die quickly.
    quick_seconds: float = 30.0
    #: The quick deaths in a row after which to give up.
    quick_deaths: int = 5


class Supervisor:
    """Children that are kept running until it is closed. Used by one thread, the main one."""

    def __init__(
        self,
        *,
        policy: RestartPolicy = RestartPolicy(),
        start_seconds: float = 60.0,
        keep_open: Sequence[int] = (),
        on_event: Callable[[str], None] = logger.warning,
    ) -> None:
        self._policy = policy
        self._start_seconds = start_seconds
        self._keep_open = keep_open
        self._on_event = on_event
        self._batches: list[list[Child]] = []
        self._deaths: dict[str, deque[float]] = {}
        self._due: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, *batches: Sequence[Command]) -> list[Mapping[str, Any]]:
        """Starts children side by side; returns what each said when it was ready.

        Args:
            batches: The children of a batch are stopped together, after those of later batches.

        Raises:
            RefusedError: one refused.
            ProcessError: one crashed, or did not answer in time.
        """
        for batch in batches:
            self._batches.append([Child(command, self._keep_open) for command in batch])
        for child in self._children():
            child.start()
        return wait_ready(self._children(), time.monotonic() + self._start_seconds)

    def replace(self, command: Command) -> None:
        """Says how the child of `command.name` is started the next time."""
        for child in self._children():
            if child.command.name == command.name:
                child.command = command

    def check(self) -> None:
        """Restarts children that have crashed; call it about every 0.2 s.

        Raises:
            ProcessError: one keeps crashing.
        """
        for child in self._children():
            if child.command.name in self._due:
                self._restart_if_due(child)
            elif (code := child.exit_code()) is not None:
                self._schedule(child, code)

    def _schedule(self, child: Child, code: int) -> None:
        name, now = child.command.name, time.monotonic()
        deaths = self._deaths.setdefault(name, deque())
        if now - child.start_time > self._policy.quick_seconds:
            deaths.clear()
        deaths.append(now)
        if len(deaths) >= self._policy.quick_deaths:
            raise ProcessError(
                f"the {name} stopped {len(deaths)} times in a row, the last time with "
                f"{child.complaint() or _ended(code)}; see {child.command.log}."
            )
        delay = self._policy.first_delay_seconds * 2 ** (len(deaths) - 1)
        delay = min(delay, self._policy.longest_delay_seconds)
        why = child.complaint() or _ended(code)
        self._on_event(f"the {name} stopped ({why}); starting it again in {delay:g} s")
        self._due[name] = now + delay

    def _restart_if_due(self, child: Child) -> None:
        if time.monotonic() < self._due[child.command.name]:
            return
        del self._due[child.command.name]
        child.stop()
        child.start()

    def close(self) -> None:
        """Stops the children, batch by batch, the last one first."""
        while self._batches:
            for child in self._batches[-1]:
                child.signal_stop()
            for child in self._batches.pop():
                child.stop()

    def _children(self) -> list[Child]:
        return [child for batch in self._batches for child in batch]


def _ended(code: int) -> str:
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"
