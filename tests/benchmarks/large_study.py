"""What a large study costs: adding, reading, filtering, watching, loading, taking over.

    python tests/benchmarks/large_study.py [--trials N] [--watchers N] [--json]

Every figure is of one server process, called over gRPC on this machine, on an embedded PostgreSQL;
at the end there are two, and the one that owns the study is killed. The peer of loading is a COPY
of the same rows, which is as fast as PostgreSQL gives them away. Figures are shown on standard
error as they come; with --json, standard output is one JSON object of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.large_study", *sys.argv[1:]])

from tests.benchmarks.bench import cpu_seconds, server
from tuner.client import Client
from tuner.config import Settings
from tuner.space import Float
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceStub
from tuner_storage import EmbeddedPostgres

_STUDY, _METRICS = "large", {"auc": "maximize", "latency": "minimize"}
_SPACE = {name: Float(0, 1) for name in "abcdef"}
_SECONDS = 300.0
_LOAD, _COPY = "loading the study after a restart, s", "a COPY of its rows, s"


class Measures:
    """Figures by name, shown as they come."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def note(self, name: str, value: float) -> None:
        """Keeps a figure."""
        self.figures[name] = round(value, 4)
        print(f"{name:>56}  {value:12,.3f}", file=sys.stderr, flush=True)

    def time(self, name: str, work: Callable[[], object], repeat: int = 1) -> None:
        """Keeps how long something takes, in seconds: the shortest of some times."""
        best = float("inf")
        for _ in range(repeat):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        self.note(name, best)


@contextmanager
def running(folder: Path, url: str) -> Iterator[tuple[str, int]]:
    """A study server; gives its address and its process id."""
    settings = Settings(
        data_dir=folder / "data", database_url=url, server_port=0, log_level="warning"
    )
    with server("server", folder, "-m", "tuner.service", environment=settings.environment()) as s:
        yield str(s["address"]), int(s["pid"])


def add(address: str, trials: int) -> None:
    """Adds past results, many to a call."""
    with Client(address) as client:
        study = client.create_study(
            _STUDY, _SPACE, metrics=_METRICS, search="random", trials=1_000_000
        )
        study.add_results(
            (
                {
                    name: ((number * 7919 + i * 104729) % 100_003) / 100_003
                    for i, name in enumerate(_SPACE)
                },
                {"auc": ((number * 31) % 9973) / 9973, "latency": float((number * 17) % 1009)},
            )
            for number in range(trials)
        )


def read(measures: Measures, address: str) -> None:
    """Lists, filters, orders and streams."""
    with grpc.insecure_channel(
        address, options=[("grpc.max_receive_message_length", 2**26)]
    ) as to:
        stub = StudyServiceStub(to)

        def page(**fields: Any) -> pb.ListTrialsResponse:
            request = pb.ListTrialsRequest(parent=f"studies/{_STUDY}", page_size=1000, **fields)
            return stub.ListTrials(request, timeout=_SECONDS)

        measures.time("a page of 1,000 trials by number, s", page, 3)
        measures.time("the best 1,000, s", lambda: page(order_by="best"), 3)
        measures.time("a page ordered by a metric, s", lambda: page(order_by="metrics.latency"), 3)
        measures.time("all pages of the best, s", lambda: _all_pages(page, order_by="best"))
        condition = "metrics.auc > 0.99 AND parameters.a < 0.5"
        measures.time("a page of what a filter finds, s", lambda: page(filter=condition), 3)
        measures.time("the Pareto front, s", lambda: page(optimal=True), 3)
        request = pb.ListTrialsRequest(parent=f"studies/{_STUDY}")
        measures.time(
            "all trials as a stream, s",
            lambda: sum(1 for _ in stub.StreamTrials(request, timeout=_SECONDS)),
        )
        study = pb.GetStudyRequest(name=f"studies/{_STUDY}")
        measures.time("the study, s", lambda: stub.GetStudy(study, timeout=_SECONDS), 5)


def _all_pages(page: Callable[..., pb.ListTrialsResponse], **fields: str) -> None:
    token = page(**fields).next_page_token
    while token:
        token = page(page_token=token, **fields).next_page_token


def work(measures: Measures, address: str, name: str, pairs: int = 200) -> None:
    """Suggests and completes trials, one worker."""
    with Client(address) as client:
        trials, times = iter(client.get_study(_STUDY)), list[float]()
        for _ in range(pairs):
            start = time.perf_counter()
            trial = next(trials)
            times.append(time.perf_counter() - start)
            trial.complete({"auc": 0.5, "latency": 1.0})
        measures.note(name, 1000 * sorted(times)[len(times) // 2])


def watch(measures: Measures, address: str, pid: int, watchers: int) -> None:
    """What it costs to be watched: CPU of the server for the same work, with and without."""
    with Client(address) as client:
        client.create_study("watched", _SPACE, maximize="auc", trials=1_000_000, search="random")
    spent = {}
    for count in (0, watchers):
        with ExitStack() as stack:
            seen = [_watcher(stack, address) for _ in range(count)]
            before = cpu_seconds(pid)
            start = time.perf_counter()
            with Client(address) as client:
                trials = iter(client.get_study("watched"))
                for _ in range(200):
                    trial = next(trials)
                    last = trial.number
                    trial.complete(0.5)
            seconds = time.perf_counter() - start
            deadline = time.monotonic() + 60
            while any(last not in numbers for numbers in seen) and time.monotonic() < deadline:
                time.sleep(0.05)
            behind = sum(last not in numbers for numbers in seen)
            spent[count] = cpu_seconds(pid) - before
            measures.note(f"200 trials with {count} watchers, s", seconds)
            measures.note(f"server CPU for it with {count} watchers, s", spent[count])
            measures.note(f"of {count} watchers, still behind after it", behind)


def _watcher(stack: ExitStack, address: str) -> set[int]:
    numbers = set[int]()
    channel = stack.enter_context(grpc.insecure_channel(address))
    stream = StudyServiceStub(channel).WatchStudy(
        pb.WatchStudyRequest(name="studies/watched"), timeout=_SECONDS
    )
    ready = threading.Event()

    def follow() -> None:
        try:
            for message in stream:
                ready.set()
                names = [event.trial.name for event in message.events if event.trial.name]
                numbers.update(int(name.rpartition("/")[2]) for name in names)
        except grpc.RpcError:
            return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(stream.cancel)
    ready.wait(30)
    return numbers


def copy(url: str) -> None:
    """Reads the rows of the study's trials, and does nothing with them."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        query = (
            "COPY (SELECT trials.* FROM tuner.trials JOIN tuner.studies USING (study)"
            f" WHERE study_id = '{_STUDY}' ORDER BY number) TO STDOUT (FORMAT BINARY)"
        )
        with cursor.copy(query.encode()) as rows:
            for _ in rows:
                pass


def take_over(measures: Measures, folder: Path, url: str) -> None:
    """Kills the server that owns the study: how long until another one goes on with it."""
    (folder / "second").mkdir()
    with (
        running(folder, url) as (first, owner),
        running(folder / "second", url) as (second, heir),
        grpc.insecure_channel(first) as to_first,
        grpc.insecure_channel(second) as to_second,
    ):
        lease = pb.SuggestTrialsRequest(parent=f"studies/{_STUDY}", worker_id="held")
        held = StudyServiceStub(to_first).SuggestTrials(lease, timeout=_SECONDS).trials[0]
        stub = StudyServiceStub(to_second)
        report = pb.ReportTrialRequest(name=held.name, lease_token=held.lease.token)
        another = pb.SuggestTrialsRequest(parent=f"studies/{_STUDY}", worker_id="other")
        stub.ReportTrial(report, timeout=_SECONDS)
        before = cpu_seconds(heir)
        os.kill(owner, signal.SIGKILL)
        start = time.perf_counter()
        _until(lambda: stub.ReportTrial(report, timeout=_SECONDS))
        measures.note("from kill -9 to a report at the other server, s", _since(start))
        _until(lambda: stub.SuggestTrials(another, timeout=_SECONDS))
        measures.note("from kill -9 to a new trial at the other server, s", _since(start))
        measures.note("CPU of the other server for it, s", cpu_seconds(heir) - before)


def _until(call: Callable[[], object]) -> None:
    """Calls until it is answered, as a client does."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            call()
            return
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _since(start: float) -> float:
    return time.perf_counter() - start


def memory(pid: int) -> float:
    """A process's resident memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--watchers", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    measures = Measures()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tuner-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        (folder / "db").mkdir()
        with EmbeddedPostgres(folder / "db") as postgres:
            with running(folder, postgres.url) as (address, pid):
                measures.note("memory of an idle server, MiB", memory(pid))
                measures.time(
                    f"adding {asked.trials:,} past results, s", lambda: add(address, asked.trials)
                )
                measures.note(f"memory with {asked.trials:,} trials, MiB", memory(pid))
                read(measures, address)
                work(measures, address, "suggest p50, ms")
                watch(measures, address, pid, asked.watchers)
            with running(folder, postgres.url) as (address, pid), Client(address) as client:
                measures.time(_LOAD, lambda: client.get_study(_STUDY))
                measures.note("CPU of a server that starts and loads it, s", cpu_seconds(pid))
                measures.note("memory after that, MiB", memory(pid))
                client.get_study("watched").delete(force=True)
            measures.time(_COPY, lambda: copy(postgres.url), 3)
            take_over(measures, folder, postgres.url)
    if asked.json:
        ratios = {"loading/COPY": measures.figures[_LOAD] / measures.figures[_COPY]}
        print(json.dumps({"ratios": ratios, **measures.figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
