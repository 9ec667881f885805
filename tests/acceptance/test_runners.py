"""Two runners on one study, one of them killed; and what is left of a runner without work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.support import command, descendants, is_alive, until
from tests.integration.studies import EPOCHS, Gated
from tuner.client import Client
from tuner.config import Settings
from tuner.service import StudyServer
from tuner.study import Cause, StudyState, TrialState

pytestmark = pytest.mark.timeout(600)

TRIALS = 4


class RunnerProcess:
    """`tuner runner`, and what runs below it."""

    def __init__(self, folder: Path, address: str, artifacts: Path) -> None:
        self.log = folder / "runner.log"
        folder.mkdir()
        flags = {"server": address, "data-dir": folder, "artifacts": artifacts, "cpus": 1}
        flags["idle-seconds"] = 2
        given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.cli", "runner", "--json", *given],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline())["cpus"] == 1

    def workers(self) -> list[int]:
        """The processes that train, or could."""
        below = descendants(self.process.pid)
        return [pid for pid in below if command(pid).startswith("ray::Worker")]

    def kill(self) -> None:
        """Kills the runner itself; its keeper ends the rest."""
        below = descendants(self.process.pid)
        (pid,) = [
            pid for pid in below if "cli runner" in command(pid) and "keeper" not in command(pid)
        ]
        os.kill(pid, 9)
        until(lambda: not [pid for pid in below if is_alive(pid)], 60)

    def close(self) -> None:
        below = descendants(self.process.pid)
        self.process.terminate()
        self.process.communicate(timeout=60)
        until(lambda: not [pid for pid in below if is_alive(pid)], 60)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    settings = Settings(data_dir=tmp_path / "server", server_port=0, lease_seconds=4)
    with StudyServer(settings) as server, Client(server.address) as client:
        yield client


@pytest.fixture
def hire(client: Client, tmp_path: Path) -> Iterator[Callable[[str], RunnerProcess]]:
    runners: list[RunnerProcess] = []

    def start(name: str) -> RunnerProcess:
        runners.append(RunnerProcess(tmp_path / name, client.address, tmp_path / "artifacts"))
        return runners[-1]

    yield start
    for runner in runners:
        runner.close()


def test_two_runners_share_a_study_and_one_is_killed(
    client: Client, hire: Callable[[str], RunnerProcess], tmp_path: Path
) -> None:
    first, second = hire("first"), hire("second")
    for runner in (first, second):
        runner.ready()
    changes = {"trials": TRIALS, "parallel": 2, "workers": 1}
    asked = Gated(client, tmp_path, tmp_path / "artifacts", "shared", **changes)
    # Both train, and what the first one trains has been kept.
    asked.wait(2)
    assert first.workers() and second.workers()
    first.kill()
    asked.open()
    study = asked.study
    assert study.wait(200) is StudyState.COMPLETED
    trials = list(study.trials(full=True))
    assert [trial.number for trial in trials] == [*range(TRIALS)]
    assert all(trial.state is TrialState.SUCCEEDED for trial in trials)
    again = [trial for trial in trials if trial.record.attempt > 1]
    assert [trial.record.attempt for trial in again] == [2], "one attempt was lost, and no other"
    (lost, _) = again[0].record.attempts
    assert lost.failure is not None and lost.failure.cause is Cause.LOST
    said = "".join(text for _, text in study.log(again[0].number))
    assert "going on after epoch 1 and 0 steps" in said
    for trial in trials:
        assert [m.step for m in trial.measurements] == [*range(1, EPOCHS + 1)]
    workers = {attempt.worker_id for trial in trials for attempt in trial.record.attempts}
    assert len({worker.rpartition("-")[0] for worker in workers}) >= 2
    assert not [*(tmp_path / "artifacts").rglob("checkpoints")]
    # Without work for a while, no worker keeps its memory.
    until(lambda: not second.workers(), 60)
    assert second.process.poll() is None
