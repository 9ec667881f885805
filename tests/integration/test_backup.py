"""Backups: written under load, restored elsewhere, refused where they would do harm."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from tests.integration.conftest import database_of, make_database
from tests.integration.service_support import Caller, running
from tests.integration.test_restarts import working
from tests.integration.test_service_studies import Process
from tuner.errors import (
    DataDirectoryError,
    FailedPreconditionError,
    InvalidArgumentError,
    TunerError,
)
from tuner.v1 import study_service_pb2 as pb
from tuner_storage import Database, EmbeddedPostgres, backup, embedded


def tuner(*arguments: str | Path, **environment: str) -> dict[str, Any]:
    """What a command says; raises the error that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tuner.cli", *map(str, arguments), "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == ("error" not in said), done.stderr
    if "error" in said:
        raise TunerError.of(said["error"]["reason"], said["error"]["message"])
    return said


def test_a_backup_of_a_busy_server_is_restored_elsewhere(tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "b" / "tuner.dump"
    file.parent.mkdir()
    server = Process(old)
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            caller.create("ended", trials=1)
            caller.complete(caller.one("ann", "ended"), 0.75)
            trial = (
                caller.one("bob", "ended") if caller.suggest("bob", 1, "ended").trials else None
            )
            assert trial is None
            with working(caller, stubborn=True) as workers:
                workers[0].acknowledge_more(20)
                finished = caller.one("cyd")
                caller.report(finished, 1, auc=0.25)
                caller.write_log(finished, "hello")
                caller.complete(finished, 0.5)
                study, trials = caller.study("ended"), caller.trials("ended", view=pb.FULL)
                finished = caller.trial(int(finished.name.rpartition("/")[2]))
                known = [list(worker.acknowledged) for worker in workers]
                said = tuner("backup", file, "--data-dir", old)
                workers[0].acknowledge_more(20)
            assert not any(worker.refused for worker in workers)
            last = caller.create("last")
    finally:
        assert server.end(signal.SIGTERM) == 0
    assert said == {"file": str(file), "bytes": file.stat().st_size}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]

    assert tuner("restore", file, "--data-dir", new) == {"studies": 2}
    server = Process(new)
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            assert caller.study("ended") == study
            assert caller.trials("ended", view=pb.FULL) == trials
            number = int(finished.name.rpartition("/")[2])
            assert caller.trial(number) == finished
            assert [piece.text for piece in caller.read_log(finished)] == ["hello"]
            for number, steps in enumerate(known):
                there = {m.step for m in caller.trial(number).measurements}
                assert set(steps) <= there
            # Its keys go on where they were; its trials do, too.
            assert caller.one("new").name == f"studies/s/trials/{len(caller.trials()) - 1}"
            assert caller.create("last").name == last.name
            assert caller.report(workers[0].trial, 10**6, auc=0.9).decision
    finally:
        assert server.end(signal.SIGTERM) == 0


def test_a_database_of_ones_own(
    database_url: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with running(tmp_path / "data", database_url) as caller:
        caller.create()
        caller.complete(caller.one(), 0.5)
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Nothing of it is tuner's, so it is nobody's business.
        connection.execute("CREATE TABLE public.others AS SELECT 1 AS n")
    file = tmp_path / "tuner.dump"
    tuner("backup", file, TUNER_DATABASE_URL=database_url)
    make_database(postgres, "restored")
    url = database_of(postgres, "restored")
    assert tuner("restore", file, "--database-url", url) == {"studies": 1}
    with psycopg.connect(url) as connection:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables.encode()).fetchone() == (0,)
        key = "SELECT nextval(pg_get_serial_sequence('tuner.studies', 'study'))"
        assert connection.execute(key.encode()).fetchone() == (2,)
        servers = connection.execute("SELECT count(*) FROM tuner.servers").fetchone()
        assert servers == (0,)
    Database(url).close()


def test_nothing_is_restored_over_something(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tuner.dump"
    backup.dump(database_url, file)
    with pytest.raises(FailedPreconditionError, match=r"holds tuner's tables already.*name a new"):
        backup.restore(database_url, file)


def test_a_running_servers_directory_is_refused(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tuner.dump"
    backup.dump(database_url, file)
    with (
        running(tmp_path / "data", database_url),
        pytest.raises(DataDirectoryError, match=f"process {os.getpid()}"),
    ):
        tuner("restore", file, "--data-dir", tmp_path / "data")


def test_a_newer_tuners_backup_is_refused(
    database_url: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO tuner.migrations VALUES (99, 'from_the_future')")
    file = tmp_path / "tuner.dump"
    backup.dump(database_url, file)
    make_database(postgres, "too_old")
    url = database_of(postgres, "too_old")
    with pytest.raises(DataDirectoryError, match=r"newer tuner wrote .* upgrade tuner"):
        backup.restore(url, file)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT to_regnamespace('tuner') IS NULL").fetchone()
    assert found == (True,)


def test_a_file_that_is_no_backup(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    make_database(postgres, "empty")
    url = database_of(postgres, "empty")
    file = tmp_path / "notes.txt"
    file.write_text("not a backup")
    with pytest.raises(InvalidArgumentError, match=r"notes\.txt is not a backup \("):
        backup.restore(url, file)
    # A dump of something else.
    backup._run([str(embedded.program("pg_dump")), "-Fc", f"--file={file}"], url)
    with pytest.raises(InvalidArgumentError, match=r"notes\.txt is not a backup; name"):
        backup.restore(url, file)
    with pytest.raises(FailedPreconditionError, match="holds nothing of tuner's"):
        backup.dump(url, file)


def test_what_cannot_be_written_leaves_what_was_there(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataDirectoryError, match=r"cannot be written \(No such file"):
        backup.dump(database_url, tmp_path / "nowhere" / "tuner.dump")
    file = tmp_path / "tuner.dump"
    file.write_text("the last one")
    monkeypatch.setattr(backup, "_NOT_KEPT", "a b.c d.e")
    with pytest.raises(DataDirectoryError, match=r"pg_dump failed: .*\. Nothing was written"):
        backup.dump(database_url, file)
    assert file.read_text() == "the last one"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_where_there_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match=r"no database in .*--data-dir"):
        tuner("backup", tmp_path / "b", "--data-dir", tmp_path / "data")
    with pytest.raises(FailedPreconditionError, match="there is no file"):
        tuner("restore", tmp_path / "b", "--data-dir", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_server_is_backed_up_too(tmp_path: Path) -> None:
    with running(tmp_path / "data") as caller:
        caller.create()
    file = tmp_path / "tuner.dump"
    tuner("backup", file, "--data-dir", tmp_path / "data")
    assert tuner("restore", file, "--data-dir", tmp_path / "new") == {"studies": 1}


def test_programs_older_than_the_server() -> None:
    assert backup.newest_enough("pg_dump", 17, {"a": 18, "b": 19}) == "a"
    assert backup.newest_enough("pg_dump", 19, {"a": 18, "b": 19}) == "b"
    with pytest.raises(FailedPreconditionError, match=r"PostgreSQL 19, and pg_dump is older \(18"):
        backup.newest_enough("pg_dump", 19, {"a": 18})
    with pytest.raises(FailedPreconditionError, match="pg_restore is missing here; install"):
        backup.newest_enough("pg_restore", 19, {})


def test_the_password_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(options, command=command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    backup._run(["pg_dump"], "postgresql://ann:ses%40me@db/tuner")
    assert not any("ses" in word for word in seen["command"])
    assert seen["env"]["PGPASSWORD"] == "ses@me"
