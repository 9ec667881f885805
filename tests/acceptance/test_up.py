"""`tuner up` as a user runs it: starts, serves, restarts, stops, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_runner import STUDY, write_rows
from tuner.client import Client, Study
from tuner.study import StudyState, TrialState

pytestmark = pytest.mark.timeout(300)


class Up:
    """One run of `tuner up`, and every process that was seen below it."""

    def __init__(
        self, data_dir: Path, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.pids: set[int] = set()
        ports = ["--server-port", "0", "--web-port", "0"]
        usual = [*ports, "--cpus", "2", "--lease-seconds", "5", "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", "up", "--json", *usual, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "error" not in said, said
        self.look()
        return said

    def look(self) -> None:
        """Records the processes that run below now; daemons that detached themselves included."""
        self.pids |= descendants(self.process.pid)

    def refused(self) -> str:
        """What it says when it cannot start; nothing of it is left then."""
        while self.process.poll() is None:
            self.look()
            time.sleep(0.05)
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 2, err
        assert "Traceback" not in err
        message: str = json.loads(out.splitlines()[-1])["error"]["message"]
        assert "\n" not in message
        assert f"error: {message}" in err
        self.left()
        return message

    def left(self) -> None:
        """Nothing of it is left, soon."""
        until(lambda: not [pid for pid in self.pids if is_alive(pid)], 30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)


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


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    runs: list[Up] = []

    def make(*flags: str, data_dir: Path | None = None) -> Up:
        runs.append(Up(data_dir or tmp_path / "data", *flags))
        return runs[-1]

    yield make
    for run in runs:
        run.look()
        run.kill()
        run.left()


def submit(client: Client, folder: Path, name: str, **changes: object) -> Study:
    values = {"trials": 3, "parallel": 1, "epochs": 2, "workers": 2, "data": "rows.csv"}
    write_rows(folder / "rows.csv")
    path = folder / f"{name}.yaml"
    path.write_text(STUDY.format(name=name, **(values | changes)))
    return client.submit(path)


def test_it_starts_everything_restarts_what_dies_and_stops_on_ctrl_c(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start()
    said = up.ready()
    commands = [command(pid) for pid in up.pids]
    for part in ("postgres", "gcs_server", "raylet", "cli server", "cli runner", "cli web"):
        assert any(part in line for line in commands), part
    with urllib.request.urlopen(said["web"], timeout=10) as answer:
        assert answer.status == 200
    with Client(said["address"]) as client:
        study = submit(client, tmp_path, "lively", trials=2, epochs=60)
        until(lambda: list(study.trials()) and study.trial(0).measurements)
        up.look()
        (runner,) = [pid for pid in up.pids if command(pid).endswith("cli runner --json ")
                     and "keeper" not in command(pid)]  # fmt: skip
        os.kill(runner, signal.SIGKILL)
        until(lambda: not is_alive(runner))
        assert study.wait(200) is StudyState.COMPLETED
        assert study.trial(0).record.attempt == 2
        up.look()
    up.process.send_signal(signal.SIGINT)
    out, err = up.process.communicate(timeout=30)
    assert up.process.returncode == 0, err
    assert "the runner stopped (signal 9); starting it again" in err
    assert "Traceback" not in err and out == ""
    up.left()
    logs = {path.name for path in (up.data_dir / "logs").iterdir()}
    assert {"server.log", "runner.log", "web.log"} <= logs


def test_a_kill_leaves_no_orphan_and_the_next_run_continues_the_study(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start()
    with Client(up.ready()["address"]) as client:
        study = submit(client, tmp_path, "long", trials=2, epochs=60)
        until(lambda: list(study.trials()) and study.trial(0).measurements)
    up.look()
    assert any("Worker.train" in command(pid) for pid in up.pids)
    up.process.kill()
    again = start()
    with Client(again.ready()["address"]) as client:
        up.left()
        study = client.get_study("long")
        assert study.wait(200) is StudyState.COMPLETED
        assert [trial.state for trial in study.trials()] == [TrialState.SUCCEEDED] * 2
        assert study.trial(0).record.attempt == 2


def test_a_port_in_use_is_said_and_nothing_is_left(start: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in start("--server-port", port).refused()
        assert port in start("--web-port", port).refused()


def test_a_wrong_database_password_is_said(start: Callable[..., Up]) -> None:
    url = "postgresql://nobody:wrong@127.0.0.1:1/none"
    message = start("--database-url", url).refused()
    assert "wrong" not in message
    assert "database" in message.lower()


def test_a_directory_in_use_is_said(start: Callable[..., Up]) -> None:
    up = start()
    up.ready()
    message = start().refused()
    assert f"`tuner up` already runs on {up.data_dir} (process {up.process.pid})" in message
    assert up.process.poll() is None


def test_a_directory_that_cannot_be_written_is_said(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in start(data_dir=tmp_path / "file" / "data").refused()


def test_a_host_that_is_not_this_machine_is_said(start: Callable[..., Up]) -> None:
    assert "'192.0.2.77'" in start("--host", "192.0.2.77").refused()
