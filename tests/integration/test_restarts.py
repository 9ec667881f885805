"""What a server outlives: PostgreSQL's restarts and its death; and how it ends itself in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest

from tests.integration.service_support import Caller, until
from tests.integration.test_embedded import value
from tests.integration.test_service_studies import Process
from tuner.errors import UnavailableError
from tuner.v1 import study_service_pb2 as pb
from tuner.v1 import trial_pb2
from tuner_storage import Database, EmbeddedPostgres, embedded
from tuner_storage import database as database_module

WORKERS = 4


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that the test may kill."""
    with EmbeddedPostgres(tmp_path) as server:
        yield server


def end(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """Kills a server, SIGQUIT being an immediate shutdown, and waits until it is gone."""
    process = server._process
    assert process is not None
    process.send_signal(number)
    process.wait(20)


def revive(server: EmbeddedPostgres) -> None:
    """What a study server does once a second."""
    until(server.revive)
    until(lambda: not server.revive() and embedded._is_ready(server._cluster, server.pid))


# --- the embedded PostgreSQL ---


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
def test_it_is_started_again_at_the_same_address(
    own: EmbeddedPostgres, number: signal.Signals
) -> None:
    value(own.url, b"CREATE TABLE kept AS SELECT 7 AS n")
    url, pid = own.url, own.pid
    assert not own.revive()
    end(own, number)
    revive(own)
    assert own.url == url and own.pid != pid
    assert value(own.url, b"SELECT n FROM kept") == 7


def test_one_that_was_closed_stays_closed(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.close()
    assert not server.revive()
    assert server.pid == 0


def test_one_that_cannot_start_is_tried_more_and_more_rarely(
    own: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "postgres" / "postgresql.conf"
    good = conf.read_text()
    conf.write_text("max_connections = many\n")
    end(own, signal.SIGKILL)
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    starts = []
    for second in range(30):
        now[0] += 1.0
        if own.revive():
            starts.append(second)
            assert own._process is not None
            own._process.wait(20)
    assert starts == [0, 1, 3, 7, 15]
    monkeypatch.undo()
    conf.write_text(good)
    own._next_start = 0.0
    revive(own)
    assert value(own.url, b"SELECT 1") == 1


# --- the pool ---


def take(database: Database, count: int) -> None:
    """Uses so many connections at once."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(database.connection()).execute(b"SELECT 1")


def test_no_connection_to_the_server_that_was_is_lent(own: EmbeddedPostgres) -> None:
    with Database(own.url) as database:
        take(database, 8)
        end(own, signal.SIGQUIT)
        revive(own)
        for _ in range(20):
            take(database, 1)
        assert database.stats()["connections_lost"] >= 1


def test_callers_wait_while_it_starts(
    own: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine takes longer to start it than callers usually wait.
    monkeypatch.setattr(database_module, "_WAIT_SECONDS", 60.0)
    with Database(own.url) as database, ThreadPoolExecutor() as callers:
        take(database, 2)
        end(own, signal.SIGQUIT)
        waiting = callers.submit(take, database, 4)
        # Longer than the pool tries by itself, with nobody new who would make it try again.
        time.sleep(2 * database_module._RECONNECT_SECONDS)
        until(own.revive)
        waiting.result(60)


def test_while_it_is_away_callers_are_told_to_try_again(own: EmbeddedPostgres) -> None:
    with Database(own.url) as database:
        end(own, signal.SIGQUIT)
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"does not answer \(.*\); try again"):
            take(database, 1)
        assert time.monotonic() - begun < 20
        # Long enough that the pool gave up by itself.
        time.sleep(3)
        revive(own)
        begun = time.monotonic()
        take(database, 1)
        assert time.monotonic() - begun < 20


def test_a_connection_that_was_cut_is_not_lent(database_url: str) -> None:
    with Database(database_url, connections=1) as database:
        with database.connection() as connection:
            pid = connection.info.backend_pid
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with database.connection() as connection:
            assert connection.info.backend_pid != pid


# --- the study server ---


class Worker(threading.Thread):
    """Reports step after step of one trial; notes what was acknowledged, and every refusal."""

    def __init__(self, caller: Caller, trial: trial_pb2.Trial, *, stubborn: bool) -> None:
        super().__init__(daemon=True)
        self.trial = trial
        self.acknowledged: list[int] = []
        self.refused: Counter[str] = Counter()
        self.stop = threading.Event()
        self._caller = caller
        self._stubborn = stubborn

    def run(self) -> None:
        step = 0
        while not self.stop.is_set():
            step += 1
            try:
                self._caller.report(self.trial, step, auc=0.5)
            except grpc.RpcError as error:
                self.refused[error.code().name] += 1
                if not self._stubborn:
                    return
                time.sleep(0.05)
            else:
                self.acknowledged.append(step)

    def acknowledge_more(self, count: int, seconds: float = 30) -> None:
        """Waits until so many more reports were acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= before + count, seconds)

    def check(self, caller: Caller) -> None:
        """All that was acknowledged is there."""
        number = int(self.trial.name.rpartition("/")[2])
        assert set(self.acknowledged) <= {m.step for m in caller.trial(number).measurements}
        assert set(self.refused) <= {"UNAVAILABLE"}, self.refused


@contextmanager
def working(caller: Caller, *, stubborn: bool) -> Iterator[list[Worker]]:
    """Workers on a study, each with a trial."""
    caller.create(trials=1000)
    names = [f"worker-{number}" for number in range(WORKERS)]
    workers = [Worker(caller, caller.one(name), stubborn=stubborn) for name in names]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop.set()
        for worker in workers:
            worker.join(40)


def test_a_server_starts_its_postgres_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = Process(folder, TUNER_LEASE_SECONDS="30")
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            with working(caller, stubborn=True) as workers:
                for number in (signal.SIGKILL, signal.SIGQUIT):
                    for worker in workers:
                        worker.acknowledge_more(20)
                    pid = embedded._pid(folder / "postgres" / "postmaster.pid")
                    os.kill(pid, number)
                    killed = time.monotonic()
                    for worker in workers:
                        worker.acknowledge_more(20, seconds=20)
                    print(f"{number.name}: working again after {time.monotonic() - killed:.1f} s")
            print(f"refused: {[dict(worker.refused) for worker in workers]}")
            for worker in workers:
                worker.check(caller)
    finally:
        assert server.end(signal.SIGTERM) == 0
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_server_ends_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = Process(folder, TUNER_LEASE_SECONDS="30")
    seen: list[str] = []
    with grpc.insecure_channel(server.said["address"]) as channel:
        caller = Caller(channel)
        with working(caller, stubborn=False) as workers:
            watcher = threading.Thread(target=_watch, args=(caller, seen), daemon=True)
            watcher.start()
            for worker in workers:
                worker.acknowledge_more(20)
            begun = time.monotonic()
            assert server.end(signal.SIGTERM) == 0
            seconds = time.monotonic() - begun
            for worker in workers:
                worker.join(60)
                assert not worker.is_alive() and worker.refused == {"UNAVAILABLE": 1}
            watcher.join(60)
    print(f"ended after {seconds:.1f} s; the watcher got {len(seen) - 1} events, then {seen[-1]}")
    assert seconds < 20
    assert seen[-1] in ("the end", "UNAVAILABLE") and len(seen) > 1
    assert not (folder / "server.json").exists()
    again = Process(folder, TUNER_LEASE_SECONDS="30")
    try:
        with grpc.insecure_channel(again.said["address"]) as channel:
            caller = Caller(channel)
            for worker in workers:
                worker.check(caller)
                # The lease outlived the server.
                answer = caller.report(worker.trial, 10**6, auc=0.9)
                assert answer.decision == pb.ReportTrialResponse.CONTINUE
    finally:
        assert again.end(signal.SIGTERM) == 0


def _watch(caller: Caller, seen: list[str]) -> None:
    try:
        for event in caller.watch():
            seen.append(event.WhichOneof("event") or "")
    except grpc.RpcError as error:
        seen.append(error.code().name)
    else:
        seen.append("the end")
