"""Studies are prepared by Ray tasks, whichever of them dies, and from what the server knows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.test_runner import descends
from tuner.client import Access, Client
from tuner.client.channel import Connection
from tuner.config import Settings
from tuner.errors import DataError, FailedPreconditionError, InvalidArgumentError
from tuner.runner import preparation
from tuner.runner.cluster import Cluster
from tuner.runner.portions import RayWorkers
from tuner.runner.preparation import Preparation, prepare_study
from tuner.service import StudyServer
from tuner.study import DataSource, Goal, Metric, StudySpec
from tuner_trainers import statistics
from tuner_trainers.statistics import Statistics, Survey

pytestmark = [
    pytest.mark.timeout(300),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyServer]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), server_port=0)
    with StudyServer(settings) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(Settings(data_dir=tmp_path_factory.mktemp("ray"), cpus=2)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes three portions."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(1)
    for name in "abc":
        x, z = rng.normal(size=(2, 800_000))
        table = pa.table({"x": x, "z": z, "y": np.where(x + z > 0, "yes", "no")})
        pq.write_table(table, folder / f"{name}.parquet")
    assert len(Survey.of(str(folder)).portions) == 3
    return folder


@pytest.fixture(scope="module")
def alone(rows: Path) -> Statistics:
    """What one process learns of them."""
    return statistics.scan(str(rows))


@pytest.fixture
def client(server: StudyServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def spec_of(uri: Path, label: str = "y") -> StudySpec:
    return StudySpec(
        metrics=(Metric(name="val_loss", goal=Goal.MINIMIZE),),
        trainer="tabular",
        data=DataSource(train_uri=str(uri), label=label),
    )


def prepare(
    client: Client, name: str, uri: Path, artifacts: Path, label: str = "y"
) -> Preparation:
    study = client.create(name, spec_of(uri, label))
    return prepare_study(study.record, artifacts, Access.to(client.address))


def tasks() -> list[int]:
    """The processes below this one that read a portion right now, as Ray names them."""
    parents, reading = dict[int, int](), list[int]()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
        if command.startswith(b"ray::_run"):
            reading.append(int(name))
    return [pid for pid in reading if descends(pid, os.getpid(), parents)]


class Killer:
    """Kills a process that reads a portion, as soon as there is one, as often as is wanted."""

    def __init__(self, times: int) -> None:
        self.killed: list[int] = []
        self._times = times
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while len(self.killed) < self._times and not self._stop.wait(0.01):
            for pid in tasks()[:1]:
                if pid not in self.killed:
                    os.kill(pid, 9)
                    self.killed.append(pid)


def test_a_killed_task_costs_a_portion_and_what_is_learned_is_kept(
    client: Client, rows: Path, alone: Statistics, tmp_path: Path
) -> None:
    with Killer(2) as killer:
        first = prepare(client, "first", rows, tmp_path)
    assert len(killer.killed) == 2
    assert first.statistics is not None and not first.was_known
    assert first.statistics.rows == 2_400_000
    assert first.statistics.fingerprint == alone.fingerprint
    assert Path(first.statistics.uri).read_text() == alone.to_json()
    again = prepare(client, "again", rows, tmp_path)
    assert again.was_known
    assert (again.statistics, again.features) == (first.statistics, first.features)
    assert all("of y by itself" in feature.reason for feature in again.features)


def test_another_label_needs_only_what_tells_of_it(
    client: Client, rows: Path, tmp_path: Path
) -> None:
    kept = client.shelf.find(Survey.of(str(rows)).version)
    assert kept is not None, "the first test has left it"
    other = prepare(client, "other", rows, tmp_path, label="z")
    assert not other.was_known
    assert all("of z by itself" in feature.reason for feature in other.features)
    assert prepare(client, "other-again", rows, tmp_path, label="z").was_known


def test_what_goes_wrong_with_what_is_kept_is_told_to_the_runner(
    client: Client, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("x,y\n" + "".join(f"{i * i % 97},{i % 3}\n" for i in range(300)))
    first = prepare(client, "small", rows, tmp_path)
    assert first.statistics is not None and first.notes == ()
    client.shelf.keep(first.statistics.fingerprint, 300, b"noise")
    again = prepare(client, "small-again", rows, tmp_path)
    assert (again.statistics, again.was_known) == (first.statistics, False)
    assert len(again.notes) == 1 and "It is learned again." in again.notes[0]


def test_what_could_not_be_kept_is_not_read(client: Client, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(InvalidArgumentError, match=r"nothing can be written to \S+/statistics: "):
        prepare(client, "kept-nowhere", rows, tmp_path / "taken")


def test_a_study_that_was_stopped_is_not_read_for_any_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_REPORT_SECONDS", 0.0)
    study = client.create("stopped", spec_of(Path("rows.csv")))
    with closing(Connection(client.address)) as connection:
        tell = preparation._Reports(connection, study.name)
        tell(10, 30, 100)
        assert study.refresh().state_reason == "reading the data: 30%, 10 rows"
        study.stop()
        with pytest.raises(FailedPreconditionError, match="STOPPED"):
            tell(20, 60, 100)


def test_a_mistake_in_one_portion_is_said_as_it_is(rows: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,y\n" + "1,2\n" * 4_500_000)
    (tmp_path / "c.csv").write_text("x,y\n1,2,3\n")
    with pytest.raises(DataError, match=r"c\.csv: row 2 has 3 values"):
        statistics.scan(str(tmp_path), workers=RayWorkers())
