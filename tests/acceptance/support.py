"""Processes as a user runs them: `tuner up` with all below it, study servers, workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from tuner.config import Settings

T = TypeVar("T")


class Up:
    """One run of `tuner up`, and every process that was seen below it."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.data_dir = data_dir
        self.pids: set[int] = set()
        ports = ["--server-port", "0", "--web-port", "0", "--rest-port", "0", "--grpc-port", "0"]
        usual = [*ports, "--cpus", "2", "--lease-seconds", "5", "--data-dir", str(data_dir)]
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", "up", "--json", *usual, *flags],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        """Waits until it is up; returns what it says."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "error" not in said, said
        self.look()
        return said

    def errors(self) -> str:
        """What it has written to its standard error so far."""
        return os.pread(self._errors.fileno(), 1_000_000, 0).decode()

    def look(self) -> None:
        """Records the processes that run below now; daemons that detached themselves included."""
        self.pids |= descendants(self.process.pid)

    def refused(self) -> str:
        """What it says when it cannot start; nothing of it is left then."""
        while self.process.poll() is None:
            self.look()
            time.sleep(0.05)
        out, _ = self.process.communicate(timeout=60)
        err = self.errors()
        assert self.process.returncode == 2, err
        assert "Traceback" not in err
        message: str = json.loads(out.splitlines()[-1])["error"]["message"]
        assert "\n" not in message
        assert f"error: {message}" in err
        self.left()
        return message

    def left(self) -> None:
        """Nothing of it is left, soon."""
        until(lambda: not [pid for pid in self.pids if is_alive(pid)], 60)

    def stop(self) -> str:
        """Stops it as Ctrl-C does; returns what else it printed. Nothing of it is left then."""
        self.look()
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=60)
        self.left()
        return out

    def end(self) -> None:
        """Kills it if it still runs; nothing of it is left then."""
        self.look()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=60)
        self.left()
        self._errors.close()


class Process:
    """A child that is started again after it was killed."""

    def __init__(self, name: str, log: Path, *args: str, **environment: str) -> None:
        self.name = name
        self._log = log
        self._args = args
        self._environment = {**os.environ, **environment}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *self._args], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def start(self) -> None:
        self.process = self._start()


def study_server(name: str, log: Path, settings: Settings) -> Process:
    """A study server as a process."""
    return Process(name, log, "-m", "tuner.service", **settings.environment())


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found, todo = set[int](), [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo.extend(below)
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(condition: Callable[[], T | None], seconds: float = 120.0) -> T:
    """Waits until something is found or holds; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found
