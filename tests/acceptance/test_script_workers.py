"""Four scripts in plain Keras share a study, without Ray; one of them is killed in the middle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import script_worker
from tests.acceptance.script_worker import EPOCHS, TRIALS
from tests.acceptance.support import Process, free_port, study_server, until
from tuner.client import Client, Study, Trial
from tuner.config import Settings
from tuner.study import Cause, StudyState, TrialState

WORKERS, LEASE_SECONDS = 4, 5


class Scene:
    """A study server, and the workers with what each wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = Settings(
            data_dir=folder / "data", server_port=free_port(), lease_seconds=LEASE_SECONDS
        )
        self.address = settings.server_address
        self._server = study_server("server", folder / "server.log", settings)
        self.workers = [self._hire(number) for number in range(WORKERS)]

    def _hire(self, number: int) -> Process:
        return Process(
            f"worker {number}",
            self.folder / f"worker-{number}.log",
            *("-m", "tests.acceptance.script_worker", str(self._ledger(number))),
            TUNER_SERVER=self.address,
            TF_CPP_MIN_LOG_LEVEL="3",
        )

    def _ledger(self, number: int) -> Path:
        return self.folder / f"worker-{number}.jsonl"

    def told(self, word: str) -> list[Any]:
        """What the workers wrote down under a word."""
        files = filter(Path.exists, map(self._ledger, range(WORKERS)))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line[word] for line in lines if word in line]

    def close(self) -> None:
        for process in (*self.workers, self._server):
            if process.process.poll() is None:
                process.kill()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="tuner-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        scene = Scene(Path(name))
        try:
            yield scene
        finally:
            scene.close()


def in_the_middle(study: Study) -> Trial | None:
    """A trial that somebody has trained for a while, when everybody has one."""
    assert study.state is StudyState.ACTIVE, study.record.state_reason
    running = [study.trial(t.number) for t in study.trials(states=[TrialState.RUNNING])]
    if len(running) < WORKERS:
        return None
    return next((trial for trial in running if 0 < len(trial.measurements) < EPOCHS), None)


def holds(worker: Process, trial: Trial) -> bool:
    """Whether a worker holds a trial: the ids of workers name their processes."""
    lease = trial.record.lease
    return lease is not None and f"-{worker.process.pid}-" in lease.worker_id


@pytest.mark.timeout(600)
def test_a_killed_script_costs_its_attempt_and_nothing_else(scene: Scene) -> None:
    with Client(scene.address) as client:
        client.ping(60)
        study = script_worker.create(client)
        # Importing TensorFlow takes seconds: nobody begins before all can.
        study.pause()
        until(lambda: len(scene.told("ready")) == WORKERS, 120)
        study.resume()
        lost = until(lambda: in_the_middle(study))
        victim = next(worker for worker in scene.workers if holds(worker, lost))
        victim.kill()
        others = [worker for worker in scene.workers if worker is not victim]
        assert study.wait(200) is StudyState.COMPLETED
        until(lambda: all(worker.process.poll() is not None for worker in others))
        trials = list(study.trials(full=True))
    assert [worker.process.returncode for worker in others] == [0] * len(others)
    assert scene.told("ray") == [False] * len(others)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} <= {TrialState.SUCCEEDED, TrialState.PRUNED}
    assert all(trial.value is not None for trial in trials)
    first, second = trials[lost.number].record.attempts
    assert first.failure is not None and first.failure.cause is Cause.LOST
    assert second.worker_id != first.worker_id
    # Nobody was given what had ended, or what somebody else still had.
    expected = [(number, 1) for number in range(TRIALS)] + [(lost.number, 2)]
    assert sorted(map(tuple, scene.told("leased"))) == sorted(expected)
