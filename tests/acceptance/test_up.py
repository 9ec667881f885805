"""`tuner up` as a user runs it: starts, serves, restarts, stops, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.support import Up, command, is_alive, until
from tests.integration.test_runner import STUDY, write_rows
from tuner.client import Client, Study
from tuner.study import StudyState, TrialState

pytestmark = pytest.mark.timeout(300)


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


def child(up: Up, word: str) -> int:
    """The process that a keeper keeps."""
    (pid,) = [
        pid
        for pid in up.pids
        if command(pid).endswith(f"cli {word} --json ") and "keeper" not in command(pid)
    ]
    return pid


def test_it_starts_everything_restarts_what_dies_and_stops_on_ctrl_c(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start()
    said = up.ready()
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
    with urllib.request.urlopen(said["web"], timeout=10) as answer:
        assert answer.status == 200
    with Client(said["address"]) as client:
        study = submit(client, tmp_path, "lively", trials=2, epochs=150)
        until(lambda: list(study.trials()) and study.trial(0).measurements)
        up.look()
        runner = child(up, "runner")
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
        study = submit(client, tmp_path, "long", trials=2, epochs=150)
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


def test_a_dead_ray_ends_the_runner_which_comes_back_with_another(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start()
    with Client(up.ready()["address"]) as client:
        study = submit(client, tmp_path, "headless", trials=1, epochs=800)
        until(lambda: list(study.trials()) and study.trial(0).record.checkpoint)
        up.look()
        (head,) = [pid for pid in up.pids if "gcs_server" in command(pid).partition(" ")[0]]
        os.kill(head, signal.SIGKILL)
        assert study.wait(200) is StudyState.COMPLETED
        trial = study.trial(0)
        assert trial.state is TrialState.SUCCEEDED and trial.record.attempt == 2
        log = "".join(text for _, text in study.log(0))
        assert "going on after epoch" in log
    said = (up.data_dir / "logs" / "runner.log").read_text()
    assert "does not answer any more" in said and "the runner has to start again" in said


def test_a_killed_server_comes_back_and_costs_no_attempt(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start("--lease-seconds", "60")
    with Client(up.ready()["address"]) as client:
        study = submit(client, tmp_path, "patient", trials=1, epochs=300)
        until(lambda: list(study.trials()) and study.trial(0).measurements)
        up.look()
        server = child(up, "server")
        os.kill(server, signal.SIGKILL)
        until(lambda: not is_alive(server))
        assert study.wait(200) is StudyState.COMPLETED
        trial = study.trial(0)
        assert trial.state is TrialState.SUCCEEDED
        assert trial.record.attempt == 1
        assert len(trial.measurements) == 300, "what was reported meanwhile was reported again"


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


def test_somebody_elses_directory_is_left_as_it_was(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    message = start(data_dir=tmp_path).refused()
    assert "is not a data directory of tuner, but holds 'thesis.txt'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_host_that_is_not_this_machine_is_said(start: Callable[..., Up]) -> None:
    assert "'192.0.2.77'" in start("--host", "192.0.2.77").refused()
