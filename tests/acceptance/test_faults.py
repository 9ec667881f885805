"""Kill -9 of everything, again and again: what was acknowledged is there, and nothing twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.support import Process, free_port, study_server, until
from tuner.client import Client
from tuner.config import Settings
from tuner.errors import TunerError
from tuner.space import Float
from tuner.study import Limits, StudyState
from tuner.v1 import study_pb2
from tuner_storage import EmbeddedPostgres, embedded

WORKERS, SERVERS = 8, 2
KILLS = int(os.environ.get("TUNER_TEST_KILLS", "36"))
LEASE_SECONDS = 4
#: More than can be tried meanwhile; the real limit is set when the killing is over.
ENDLESS = 100_000
LEFT = 40


class Database:
    """The embedded PostgreSQL, which is stopped as by a power cut and started again."""

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = EmbeddedPostgres(folder)
        self.url = self._server.url

    def kill(self) -> None:
        """`pg_ctl stop -m immediate`, as the user that PostgreSQL runs as."""
        cluster, account = self._folder / "postgres", embedded._account()
        subprocess.run(
            [
                *embedded._launcher(account),
                *(str(embedded._programs() / "pg_ctl"), "stop", "-m", "immediate", "-D", "."),
            ],
            cwd=cluster,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def start(self) -> None:
        self._server.close()
        self._server = EmbeddedPostgres(self._folder)
        assert self._server.url == self.url

    def close(self) -> None:
        self._server.close()


class Scene:
    """A database, two servers and eight workers on one study, and a list of what was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed: Counter[str] = Counter()
        self.database = Database(folder / "db")
        self.ports = [free_port() for _ in range(SERVERS)]
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.servers = [self._server(number) for number in range(SERVERS)]
        self.workers: list[Process] = []

    def _server(self, number: int) -> Process:
        settings = Settings(
            data_dir=self.folder / f"server-{number}",
            server_port=self.ports[number],
            database_url=self.database.url,
            lease_seconds=LEASE_SECONDS,
        )
        return study_server(f"server {number}", self.folder / f"server-{number}.log", settings)

    def hire(self) -> None:
        """Starts the workers; each prefers another server, and knows both."""
        for number in range(WORKERS):
            known = self.addresses[number % SERVERS :] + self.addresses[: number % SERVERS]
            ledger = self.folder / f"worker-{number}.jsonl"
            self.workers.append(
                Process(
                    "worker",
                    self.folder / f"worker-{number}.log",
                    *("-m", "tests.acceptance.fault_worker", ",".join(known), "s", str(ledger)),
                    # Half of them end a trial and lease the next one in one call.
                    "optimize" if number % 2 else "loop",
                )
            )

    def client(self) -> Client:
        return Client(",".join(self.addresses))

    def kill_one(self, victim: Process | Database, dice: random.Random) -> None:
        """Kills, lets the others notice, and starts it again."""
        victim.kill()
        self.killed[victim.name.split()[0]] += 1
        time.sleep(dice.uniform(0.0, 0.6))
        victim.start()

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every line that a worker wrote; the last one of a killed worker may be half a line."""
        for file in sorted(self.folder.glob("worker-*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def close(self) -> None:
        for process in (*self.workers, *self.servers):
            if process.process.poll() is None:
                process.kill()
        self.database.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    # Short, so that PostgreSQL's socket stays where it is from one start to the next.
    with tempfile.TemporaryDirectory(prefix="tuner-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "db").mkdir()
        found = Scene(folder)
        try:
            yield found
        finally:
            found.close()


@pytest.mark.timeout(360 + 10 * KILLS)
def test_kill_everything_again_and_again(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(7)
    with scene.client() as client:
        client.ping(60)
        study = client.create_study(
            "s",
            {"x": Float(0, 1)},
            maximize="auc",
            trials=ENDLESS,
            search="random",
            early_stopping="none",
        )
        seen: list[str] = []
        watcher = threading.Thread(target=_watch, args=(scene, seen), daemon=True)
        watcher.start()
        scene.hire()
        begun = time.monotonic()
        victims = ("worker", "server", "worker", "postgres", "worker", "server")
        for number in range(KILLS):
            time.sleep(dice.uniform(0.2, 1.0))
            kind = victims[number % len(victims)]
            choice = {"worker": scene.workers, "server": scene.servers}.get(kind)
            scene.kill_one(dice.choice(choice) if choice else scene.database, dice)
        seconds = time.monotonic() - begun
        total = study.refresh().trial_counts.total
        limit = _set_limit(scene, total + LEFT)
        assert study.wait(240) is StudyState.COMPLETED
        until(lambda: all(w.process.poll() is not None for w in scene.workers), 120)
        watcher.join(60)
        found = study.refresh().trial_counts
    told = _check(scene, limit)
    with capsys.disabled():
        killed = ", ".join(f"{count} x {name}" for name, count in sorted(scene.killed.items()))
        print(
            f"\nkilled in {seconds:.0f} s: {killed}; {limit} trials ({found.succeeded} succeeded, "
            f"{found.failed} failed), {told['attempts']} attempts, {told['lost']} of them lost, "
            f"{told['measurements']} acknowledged measurements and {told['completed']} results, "
            "all found"
        )
    assert sum(scene.killed.values()) >= KILLS
    assert not watcher.is_alive()
    assert seen[-1] == "COMPLETED"
    assert (found.total, found.queued, found.running) == (limit, 0, 0)
    assert [worker.process.returncode for worker in scene.workers] == [0] * WORKERS


def _set_limit(scene: Scene, trials: int) -> int:
    """The limit is set while workers work: it must hold for whatever was proposed by then."""
    from google.protobuf.field_mask_pb2 import FieldMask

    from tuner import convert
    from tuner.v1 import study_service_pb2 as pb

    with scene.client() as client:
        limits = convert.limits_to_proto(Limits(trials=trials))
        request = pb.UpdateStudyRequest(
            study=study_pb2.Study(name="studies/s", limits=limits),
            update_mask=FieldMask(paths=["limits"]),
        )
        client._connection.call(lambda stub: stub.UpdateStudy, request)
    return trials


def _watch(scene: Scene, seen: list[str]) -> None:
    """A watcher that lives through all of it."""
    while True:
        try:
            with scene.client() as client:
                for event in client.get_study("s").events():
                    if event.WhichOneof("event") == "study":
                        seen.append(study_pb2.Study.State.Name(event.study.state))
                return
        except TunerError:
            time.sleep(0.5)


def _check(scene: Scene, limit: int) -> dict[str, int]:
    """Compares what workers were told with what the database holds."""
    with psycopg.connect(scene.database.url) as connection:
        numbers = [n for (n,) in connection.execute("SELECT number FROM tuner.trials ORDER BY 1")]
        measured = {
            (trial, attempt, step): values[0]
            for trial, attempt, step, values in connection.execute(
                "SELECT trial, attempt, step, metric_values FROM tuner.measurements"
            )
        }
        results = {
            number: (state, None if values is None else values[0])
            for number, state, values in connection.execute(
                "SELECT number, state, final_values FROM tuner.trials"
            )
        }
        causes = Counter(
            cause for (cause,) in connection.execute("SELECT failure_cause FROM tuner.attempts")
        )
    assert numbers == list(range(limit))
    told = Counter[str]()
    leases = Counter[tuple[int, int]]()
    for line in scene.ledger():
        for kind in ("leased", "reported", "completed"):
            if kind not in line:
                continue
            trial, attempt = line[kind]["trial"], line[kind]["attempt"]
            if kind == "leased":
                leases[trial, attempt] += 1
            elif kind == "reported":
                told["measurements"] += 1
                assert measured[trial, attempt, line["step"]] == line["value"], line
            else:
                told["completed"] += 1
                assert results[trial] == ("SUCCEEDED", line["value"]), (line, results[trial])
    assert max(leases.values()) == 1, "one attempt was leased to two workers"
    return {**told, "attempts": sum(causes.values()), "lost": causes["LOST"]}
