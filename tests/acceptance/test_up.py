"""`tuner up` as a user runs it: starts, serves, restarts, stops, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.support import Up, command, descendants, is_alive, until
from tests.integration.studies import EPOCHS, Gated
from tuner.client import Client
from tuner.study import StudyState, TrialState

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    runs: list[Up] = []

    def make(*flags: str, data_dir: Path | None = None) -> Up:
        runs.append(Up(data_dir or tmp_path / "data", *flags))
        return runs[-1]

    yield make
    for run in runs:
        run.end()


def test_a_port_in_use_is_said_and_nothing_is_left(start: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag in ("--server-port", "--web-port", "--rest-port", "--grpc-port"):
            assert f"port {port} of 127.0.0.1 is in use" in start(flag, port).refused(), flag


def test_a_wrong_database_password_is_said(start: Callable[..., Up]) -> None:
    url = "postgresql://nobody:wrong@127.0.0.1:1/none"
    message = start("--database-url", url).refused()
    assert "wrong" not in message
    assert "database" in message.lower()


def test_a_directory_that_cannot_be_written_is_said(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in start(data_dir=tmp_path / "file" / "data").refused()


def test_somebody_elses_directory_is_left_as_it_was(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    message = start(data_dir=tmp_path).refused()
    assert "is not a data directory of tuner, but holds 'thesis.txt'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_host_that_is_not_this_machine_is_said(start: Callable[..., Up]) -> None:
    assert "'192.0.2.77'" in start("--host", "192.0.2.77").refused()


# --- one run, which lives until the last of these kills it ---------------------------------


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # A server that is started again must answer before half a lease is over.
    run = Up(tmp_path_factory.mktemp("home") / "data", "--lease-seconds", "15")
    yield run
    run.end()


@pytest.fixture(scope="module")
def said(up: Up) -> dict[str, Any]:
    return up.ready()


@pytest.fixture
def gated(up: Up, said: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Gated]]:
    with Client(said["address"]) as client:

        def submit(name: str, **changes: object) -> Gated:
            return Gated(client, tmp_path, up.data_dir / "artifacts", name, **changes)

        yield submit


def find(up: Up, is_it: Callable[[str], bool]) -> int:
    """The one process of which something holds now."""
    up.look()
    (pid,) = [pid for pid in up.pids if is_it(command(pid))]
    return pid


def find_child(up: Up, word: str) -> int:
    """A process, not the keeper that keeps it."""
    return find(up, lambda it: it.endswith(f"cli {word} --json ") and "keeper" not in it)


def kill(pid: int, victim: int) -> None:
    """Kills a process, and waits for the end of another and of all below it."""
    doomed = {victim, *descendants(victim)}
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, doomed)))


def test_it_starts_everything(up: Up, said: dict[str, Any]) -> None:
    commands = [command(pid) for pid in up.pids]
    for part in (
        "postgres",
        "gcs_server",
        "raylet",
        "cli server",
        "cli runner",
        "cli web",
        "cli gateway",
    ):
        assert any(part in line for line in commands), part
    with urllib.request.urlopen(said["web"], timeout=60) as answer:
        assert answer.status == 200
    logs = {path.name for path in (up.data_dir / "logs").iterdir()}
    assert {"server.log", "runner.log", "web.log"} <= logs


@pytest.mark.usefixtures("said")
def test_a_directory_in_use_is_said(up: Up, start: Callable[..., Up]) -> None:
    message = start(data_dir=up.data_dir).refused()
    assert f"`tuner up` already runs on {up.data_dir} (process {up.process.pid})" in message
    assert up.process.poll() is None


def test_a_killed_server_comes_back_and_costs_no_attempt(
    up: Up, gated: Callable[..., Gated]
) -> None:
    asked = gated("patient", workers=1)
    asked.wait()
    server = find_child(up, "server")
    kill(server, server)
    asked.open()
    assert asked.study.wait(200) is StudyState.COMPLETED
    trial = asked.study.trial(0)
    assert trial.state is TrialState.SUCCEEDED
    assert trial.record.attempt == 1
    assert len(trial.measurements) == EPOCHS, "what was reported meanwhile was reported again"


def test_a_killed_runner_comes_back_and_goes_on(up: Up, gated: Callable[..., Gated]) -> None:
    asked = gated("lively", trials=2, workers=1)
    asked.wait()
    runner = find_child(up, "runner")
    kill(runner, runner)
    asked.open()
    assert asked.study.wait(200) is StudyState.COMPLETED
    assert [trial.record.attempt for trial in asked.study.trials()] == [2, 1]
    assert "the runner stopped (signal 9); starting it again" in up.errors()


def test_a_dead_ray_ends_the_runner_which_comes_back_with_another(
    up: Up, gated: Callable[..., Gated]
) -> None:
    asked = gated("headless", workers=1)
    asked.wait()
    runner = find_child(up, "runner")
    kill(find(up, lambda it: "gcs_server" in it.partition(" ")[0]), runner)
    asked.open()
    assert asked.study.wait(200) is StudyState.COMPLETED
    trial = asked.study.trial(0)
    assert trial.state is TrialState.SUCCEEDED and trial.record.attempt == 2
    assert "going on after epoch 1" in "".join(text for _, text in asked.study.log(0))
    said = (up.data_dir / "logs" / "runner.log").read_text()
    assert "does not answer any more" in said and "the runner has to start again" in said


def test_a_kill_leaves_no_orphan_and_the_next_run_continues_the_study_until_ctrl_c(
    up: Up, gated: Callable[..., Gated], start: Callable[..., Up]
) -> None:
    asked = gated("long", trials=2, workers=1)
    asked.wait()
    up.look()
    assert any("Worker.train" in command(pid) for pid in up.pids)
    up.process.kill()
    again = start(data_dir=up.data_dir)
    with Client(again.ready()["address"]) as client:
        up.left()
        asked.open()
        study = client.get_study("long")
        assert study.wait(200) is StudyState.COMPLETED
        assert [trial.state for trial in study.trials()] == [TrialState.SUCCEEDED] * 2
        assert study.trial(0).record.attempt == 2
    assert again.stop() == ""
    assert again.process.returncode == 0, again.errors()
    assert "Traceback" not in again.errors()
