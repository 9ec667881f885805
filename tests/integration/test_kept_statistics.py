"""What a study server keeps of what is known of data, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.service_support import request_id, study_of
from tests.unit.test_cli import run
from tuner.admin import AuditEntry
from tuner.client import Client
from tuner.client.channel import Connection
from tuner.client.statistics import MOST_BYTES, ServerShelf
from tuner.config import Settings
from tuner.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from tuner.service import StudyServer
from tuner.v1 import statistics_service_pb2 as pb
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as studies
from tuner_storage import Database
from tuner_storage.statistics import KeptStatistics, StatisticsStore

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUDIT = AuditEntry(time=NOW, caller="", method="UpdateStatistics", resource="", request="")
PEOPLE = "age,income\n" + "".join(f"{20 + i % 40},{['low', 'high'][i % 2]}\n" for i in range(99))


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[StudyServer]:
    settings = Settings(data_dir=tmp_path / "data", server_port=0, database_url=database_url)
    with StudyServer(settings) as server:
        yield server


@pytest.fixture
def connection(server: StudyServer) -> Iterator[Connection]:
    connection = Connection(server.address)
    yield connection
    connection.close()


@pytest.fixture
def store(database_url: str) -> Iterator[StatisticsStore]:
    with Database(database_url, connections=1) as database:
        yield StatisticsStore(database)


def kept(fingerprint: str, content: bytes, time: datetime) -> KeptStatistics:
    return KeptStatistics(fingerprint=fingerprint, row_count=3, content=content, update_time=time)


def test_what_was_kept_is_found_and_replaced(connection: Connection) -> None:
    shelf = ServerShelf(connection)
    assert shelf.find(A) is None
    shelf.keep(A, 10, b"ten")
    shelf.keep(B, 5, b"\0five")
    assert (shelf.find(A), shelf.find(B)) == (b"ten", b"\0five")
    shelf.keep(A, 11, b"eleven")
    request = pb.GetStatisticsRequest(name=f"statistics/{A}")
    found = connection.call(lambda stub: stub.GetStatistics, request)
    assert (found.rows, found.content) == (11, b"eleven")
    assert found.update_time.ToDatetime(UTC) <= datetime.now(UTC)
    with Client(connection.address) as client:
        entries = client.admin.audit(resource=f"statistics/{A}")
        assert [entry.method for entry in entries] == ["UpdateStatistics"] * 2


@pytest.mark.parametrize(
    ("name", "rows", "content", "message"),
    [
        ("statistics/x", 1, b"x", "64 hexadecimal digits"),
        (f"statistics/{A}\n", 1, b"x", "64 hexadecimal digits"),
        (f"statistics/{A}", -1, b"x", "`rows` must not be negative"),
        (f"statistics/{A}", 1, b"", "`content` is empty"),
        (f"statistics/{A}", 1, b"x" * (MOST_BYTES + 1), "at most 8388608 bytes"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    connection: Connection, name: str, rows: int, content: bytes, message: str
) -> None:
    statistics = pb.Statistics(name=name, rows=rows, content=content)
    request = pb.UpdateStatisticsRequest(statistics=statistics)
    with pytest.raises(InvalidArgumentError, match=message):
        connection.call(lambda stub: stub.UpdateStatistics, request)
    with pytest.raises(NotFoundError, match="nothing is known"):
        asked = pb.GetStatisticsRequest(name=f"statistics/{A}")
        connection.call(lambda stub: stub.GetStatistics, asked)


def test_what_is_too_large_is_not_sent(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = ServerShelf(connection)
    shelf.keep(A, 1, b"x" * MOST_BYTES)
    assert len(shelf.find(A) or b"") == MOST_BYTES and not caplog.records
    shelf.keep(B, 1, b"x" * (MOST_BYTES + 1))
    assert shelf.find(B) is None
    assert "more than a server keeps" in caplog.text


def test_without_a_server_one_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection("127.0.0.1:1")
    shelf = ServerShelf(connection, patience_seconds=0.0)
    assert shelf.find(A) is None
    shelf.keep(A, 1, b"x")
    connection.close()
    assert len(caplog.records) == 2 and "reads the data again" in caplog.text


def test_what_is_not_used_is_forgotten(store: StatisticsStore) -> None:
    for fingerprint in (A, B):
        store.keep(kept(fingerprint, b"x", NOW), AUDIT)
    assert store.find(B, NOW + timedelta(days=50)) is not None
    store.forget(NOW + timedelta(days=1), 1000)
    assert store.find(A, NOW) is None and store.find(B, NOW) is not None


def test_what_was_used_last_stays_where_there_is_too_much(store: StatisticsStore) -> None:
    for age, fingerprint in enumerate((A, B, C)):
        store.keep(kept(fingerprint, b"x" * 10, NOW - timedelta(days=age)), AUDIT)
    store.find(C, NOW + timedelta(days=1))
    store.forget(NOW - timedelta(days=9), 25)
    assert [store.find(name, NOW) is not None for name in (A, B, C)] == [True, False, True]


def test_the_command_line_says_what_the_server_knows(
    server: StudyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(PEOPLE)
    asked = ("statistics", str(file), "--label", "income", "--server", server.address)

    def last_line() -> str:
        code, out, err = run(capsys, *asked)
        assert (code, err) == (0, "")
        return out.splitlines()[-1]

    assert last_line() == "99 rows · 2 columns"
    known = f"99 rows · 2 columns · known to the study server at {server.address}, not read again"
    assert last_line() == known
    with file.open("a") as people:
        people.write("20,low\n")
    assert last_line() == "100 rows · 2 columns"
    assert last_line().startswith("100 rows · 2 columns · known to the study server")


def test_a_study_says_how_far_its_data_was_read(server: StudyServer) -> None:
    data = study_pb2.DataSource(train_uri="rows.csv", label="y")
    managed = study_of(trainer=study_pb2.Trainer(kind="tabular"), data=data)
    managed.ClearField("space")
    with Client(server.address) as client:
        connection = Connection(server.address)
        create = studies.CreateStudyRequest(study=managed, study_id="s", request_id=request_id())
        connection.call(lambda stub: stub.CreateStudy, create)
        study = client.get_study("s")

        def tell(fraction: float) -> None:
            progress = studies.PrepareStudyRequest.Progress(rows=1234567, fraction=fraction)
            request = studies.PrepareStudyRequest(name="studies/s", progress=progress)
            connection.call(lambda stub: stub.PrepareStudy, request)

        tell(0.45)
        assert study.refresh().state_reason == "reading the data: 45%, 1,234,567 rows"
        with pytest.raises(InvalidArgumentError, match="a fraction of 0 to 1"):
            tell(float("nan"))
        study.stop()
        with pytest.raises(FailedPreconditionError, match="needs no preparation"):
            tell(0.5)
        connection.close()
