"""The runner with a real study server, a real Ray and the real trainer, on a small table."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.studies import EPOCHS, STUDY, Gated, write_rows
from tuner.client import Client, Study
from tuner.config import Settings
from tuner.errors import DataError
from tuner.runner.cluster import Cluster
from tuner.runner.runner import Runner
from tuner.service import StudyServer
from tuner.study import Cause, StudyState, TrialState
from tuner.v1 import study_service_pb2 as pb

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("data")
    return Settings(data_dir=folder, server_port=0, cpus=2, lease_seconds=5)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[StudyServer]:
    with StudyServer(settings) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(settings: Settings) -> Iterator[Cluster]:
    with Cluster(settings) as cluster:
        yield cluster


class Crew:
    """A runner at work in a thread."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.runner = Runner(settings, cluster)
        # What spare workers do is shown with gangs; each takes seconds of the processor to start.
        self.runner._spares._after_seconds = math.inf
        self._thread = threading.Thread(target=self.runner.run)
        self._thread.start()

    def stop(self) -> None:
        self.runner.stop()
        self._thread.join(30)
        # The next module starts another Ray in this process: no thread may still use this one.
        self.runner.close(patience_seconds=60)


class Shift:
    """One runner at a time; its gangs stay warm from test to test."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings, self._cluster = settings, cluster
        self._crew: Crew | None = None

    def at_work(self) -> Crew:
        """The runner."""
        return self._crew or self.hire()

    def hire(self, **changes: Any) -> Crew:
        """Another runner, with other settings."""
        self.end()
        self._crew = Crew(replace(self._settings, **changes), self._cluster)
        return self._crew

    def end(self) -> None:
        """Stops the runner."""
        if self._crew is not None:
            self._crew.stop()
        self._crew = None


@pytest.fixture(scope="module")
def shift(settings: Settings, server: StudyServer, cluster: Cluster) -> Iterator[Shift]:
    shift = Shift(replace(settings, server=server.address), cluster)
    yield shift
    shift.end()


@pytest.fixture
def crew(shift: Shift) -> Crew:
    return shift.at_work()


@pytest.fixture
def client(server: StudyServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def submit(client: Client, tmp_path: Path) -> Callable[..., Study]:
    def make(name: str, **changes: object) -> Study:
        values = {"trials": 3, "parallel": 1, "epochs": 2, "workers": 2, "data": "rows.csv"}
        write_rows(tmp_path / "rows.csv")
        path = tmp_path / f"{name}.yaml"
        path.write_text(STUDY.format(name=name, **(values | changes)))
        return client.submit(path)

    return make


@pytest.fixture
def gated(client: Client, settings: Settings, tmp_path: Path) -> Callable[..., Gated]:
    def make(name: str, **changes: object) -> Gated:
        return Gated(client, tmp_path, settings.artifacts_dir, name, **changes)

    return make


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def training_pids() -> list[int]:
    """The Ray actors below this process that train right now, as Ray names them."""
    parents, training = dict[int, int](), list[int]()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
        if b"Worker.train" in command:
            training.append(int(name))
    return sorted(pid for pid in training if descends(pid, os.getpid(), parents))


def descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


@pytest.mark.usefixtures("crew")
def test_a_study_is_prepared_trained_and_kept(
    submit: Callable[..., Study], settings: Settings
) -> None:
    study = submit("whole", trials=4, parallel=2)
    assert study.wait(200) is StudyState.COMPLETED, study.record
    record = study.record
    assert record.statistics is not None and record.statistics.rows == 200
    assert Path(record.statistics.uri).is_relative_to(settings.artifacts_dir / "statistics")
    trials = list(study.trials(full=True))
    failures = [attempt.failure for trial in trials for attempt in trial.record.attempts]
    assert [trial.state for trial in trials] == [TrialState.SUCCEEDED] * 4, failures
    for trial in trials:
        assert [measurement.step for measurement in trial.measurements] in ([0, 1], [1, 2])
        assert Path(trial.record.artifact_uri, "trial.json").is_file()
        assert trial.record.attempt == 1
    assert study.best().value == min(trial.metrics["val_loss"] for trial in trials)


@pytest.mark.usefixtures("crew")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 8}, "each trial needs 8 CPUs, but this machine offers 2: lower resources"),
        ({"data": "nothing.csv"}, "nothing.csv"),
    ],
)
def test_what_cannot_run_is_said_at_once(
    submit: Callable[..., Study],
    changes: dict[str, object],
    message: str,
) -> None:
    study = submit(f"bad-{'-'.join(changes)}", **changes)
    with pytest.raises(DataError, match=message):
        study.wait_prepared(200)
    assert study.state is StudyState.STOPPED


@pytest.mark.usefixtures("crew")
def test_a_study_that_is_stopped_lets_its_gang_go(submit: Callable[..., Study]) -> None:
    study = submit("stopped", trials=1, epochs=10_000)
    until(lambda: list(study.trials()) and study.trial(0).measurements)
    study.stop("enough")
    until(lambda: study.trial(0).state.is_finished)
    assert study.trial(0).state is TrialState.PRUNED
    after = submit("after", trials=1)
    assert after.wait(200) is StudyState.COMPLETED


@pytest.mark.usefixtures("crew")
def test_a_killed_worker_costs_one_attempt_which_another_goes_on_from(
    gated: Callable[..., Gated], settings: Settings
) -> None:
    asked = gated("killed")
    asked.wait()
    pids = training_pids()
    assert len(pids) == 2
    os.kill(pids[1], 9)
    # The gang waits for nobody: the rest of it is killed, too.
    until(lambda: not Path(f"/proc/{pids[0]}").exists())
    asked.open()
    assert asked.study.wait(200) is StudyState.COMPLETED
    trial = asked.study.trial(0)
    assert trial.state is TrialState.SUCCEEDED
    assert trial.record.attempt == 2
    first, second = trial.record.attempts
    assert first.failure is not None and first.failure.cause is Cause.LOST
    assert second.failure is None
    gone_on = re.search(
        r"going on after epoch 1 and 0 steps, from (\S+)",
        "".join(text for _, text in asked.study.log(0)),
    )
    assert gone_on is not None
    assert f"{settings.artifacts_dir}/studies/killed/trials/0/1/" in gone_on[1]
    again = gated("undisturbed")
    again.open()
    assert again.study.wait(200) is StudyState.COMPLETED
    whole = again.study.trial(0)
    assert [m.step for m in trial.measurements] == [*range(1, EPOCHS + 1)]
    for mine, its in zip(trial.measurements, whole.measurements, strict=True):
        assert mine.metrics == pytest.approx(its.metrics, abs=1e-6)
    assert [*(settings.artifacts_dir / "studies").glob("*/trials/0/*/trial.json")]
    assert not [*(settings.artifacts_dir / "studies").rglob("checkpoints")]


def test_a_runner_that_stops_gives_its_trial_back_and_the_next_one_runs_it(
    shift: Shift, gated: Callable[..., Gated]
) -> None:
    shift.at_work()
    asked = gated("handed-over")
    asked.wait()
    shift.end()
    trial = asked.study.trial(0)
    assert trial.state is TrialState.QUEUED
    assert trial.record.lease is None
    asked.open()
    shift.hire()
    assert asked.study.wait(200) is StudyState.COMPLETED
    assert asked.study.trial(0).state is TrialState.SUCCEEDED


def test_a_slot_without_a_trial_lets_its_gang_go(
    shift: Shift,
    submit: Callable[..., Study],
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The study's last trial may take long: nobody else's work, and no memory, waits for it."""
    caplog.set_level(logging.INFO)
    pool = shift.hire(idle_seconds=1.0).runner._tools.pool
    study = submit("last", trials=2, parallel=2, epochs=10_000, workers=1)
    until(lambda: [*map(bool, (t.record.lease for t in study.trials()))] == [True, True])
    assert len(pool._used) == 2
    client._connection.call(
        lambda stub: stub.StopTrial, pb.StopTrialRequest(name=f"{study.name}/trials/0")
    )
    until(lambda: len(pool._used) == 1)
    until(lambda: not pool._idle)
    time.sleep(2)  # the runner looks at its studies meanwhile
    assert len(pool._used) == 1 and not pool._idle
    assert [trial.state for trial in study.trials()] == [TrialState.PRUNED, TrialState.RUNNING]
    study.stop("enough")
    until(lambda: not pool._used and not pool._idle)
    until(lambda: "warm: 0 gangs in use, 0 idle, 0 spare workers" in caplog.text)
    until(lambda: study.refresh().cost.worker_time)
    first, second = (trial.record.cost for trial in study.trials())
    assert study.refresh().cost == first + second
    assert first.cpu_time == first.worker_time > timedelta(0) == first.gpu_time
