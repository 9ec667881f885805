"""Two runners on one study, one of them killed; and what is left of a runner without work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.support import command, descendants, is_alive, until
from tests.acceptance.test_up import submit
from tuner.client import Client
from tuner.config import Settings
from tuner.service import StudyServer
from tuner.study import Cause, StudyState, TrialState

pytestmark = pytest.mark.timeout(300)

TRIALS, EPOCHS = 4, 120


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
        until(lambda: not [pid for pid in below if is_alive(pid)], 30)

    def close(self) -> None:
        below = descendants(self.process.pid)
        self.process.terminate()
        self.process.communicate(timeout=30)
        until(lambda: not [pid for pid in below if is_alive(pid)], 30)


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
    study = submit(client, tmp_path, "shared", trials=TRIALS, parallel=2, epochs=EPOCHS, workers=1)
    # Both train, and what the first one trains has been kept.
    until(lambda: first.workers() and second.workers())
    until(
        lambda: (
            len(running := [*study.trials(states=[TrialState.RUNNING])]) == 2
            and all(trial.record.checkpoint for trial in running)
        )
    )
    first.kill()
    assert study.wait(200) is StudyState.COMPLETED
    trials = list(study.trials(full=True))
    assert [trial.number for trial in trials] == [*range(TRIALS)]
    assert all(trial.state is TrialState.SUCCEEDED for trial in trials)
    again = [trial for trial in trials if trial.record.attempt > 1]
    assert [trial.record.attempt for trial in again] == [2], "one attempt was lost, and no other"
    (lost, _) = again[0].record.attempts
    assert lost.failure is not None and lost.failure.cause is Cause.LOST
    said = "".join(text for _, text in study.log(again[0].number))
    gone_on = re.search(r"going on after epoch (\d+) and 0 steps", said)
    assert gone_on is not None and int(gone_on[1]) >= 1
    for trial in trials:
        assert [m.step for m in trial.measurements] == [*range(1, EPOCHS + 1)]
    workers = {attempt.worker_id for trial in trials for attempt in trial.record.attempts}
    assert len({worker.rpartition("-")[0] for worker in workers}) >= 2
    assert not [*(tmp_path / "artifacts").rglob("checkpoints")]
    # Without work for a while, no worker keeps its memory.
    until(lambda: not second.workers(), 60)
    assert second.process.poll() is None
