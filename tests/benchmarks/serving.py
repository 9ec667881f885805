"""The gateway beside servers of the same model that one writes by hand, in one run.

    python tests/benchmarks/serving.py [--quick] [--json] [--ray-python PYTHON] [--cycles N]

All serve one winner over Adult, 14 raw columns with its preprocessing inside, to the same callers,
ours as an endpoint whose traffic two versions share by the callers' keys, with a tenth of the
predictions recorded. The callers are one process that keeps its connections, checks every answer,
and sends the next request once the last was answered. The servers take turns in short rounds, so
that a slow minute of the machine strikes all alike; a ratio is the median over the rounds of ours
by the other's.

The rows are `adult/train.csv` in the folder that TUNER_BENCHMARK_DATA names, or beside the
repository in `shared/data`. Ray Serve is measured where --ray-python, or
TUNER_BENCHMARK_RAY_PYTHON, names a Python that has `ray[serve]` and TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.serving", *sys.argv[1:]])

from tests.acceptance.support import descendants
from tests.benchmarks import serving_load, serving_model, serving_peers
from tests.benchmarks.bench import cpu_seconds, server
from tests.benchmarks.report import Report
from tests.benchmarks.study import adult
from tuner.client import Client
from tuner.endpoint import Recording, Scaling
from tuner.model import Lineage, Published

_REST, _GRPC, _RAY = "tuner, REST", "tuner, gRPC", "Ray Serve"
_FLOOR = "an empty ASGI app"
#: Which of these is faster depends on the case, and who writes one by hand takes that.
_UVICORNS = {"FastAPI, async": "async", "FastAPI, threads": "threads"}
_PREDICT = f"/v1/models/{serving_model.MODEL}:predict"
#: Connections, and rows per request.
_CASES = ((1, 1), (16, 1), (1, 32), (16, 32))
_MAKE_SECONDS, _CALL_SECONDS, _IDLE_SECONDS = 600.0, 60.0, 30.0
_RECORDED_PERCENT = 10.0
#: How many callers wait for a version that wakes.
_WAKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure."""

    #: How long a round takes, and how many each case has.
    seconds: float
    rounds: int
    #: How often the model wakes from zero replicas.
    cycles: int
    #: A Python with Ray Serve; empty for none.
    ray_python: str


@dataclass(slots=True, kw_only=True)
class Stand:
    """A server, and what it did in each round of each case."""

    kind: str
    address: str
    path: str
    #: The processes that it started as.
    pids: set[int]
    rates: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    latencies: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    cpu_seconds: dict[tuple[int, int], float] = field(default_factory=dict)

    def round(self, case: tuple[int, int], requests: Sequence[Any], seconds: float) -> None:
        """Lets the callers call for a while."""
        order = {
            "kind": self.kind,
            "address": self.address,
            "path": self.path,
            "connections": case[0],
            "seconds": seconds,
            "requests": requests,
        }
        family = self.pids.union(*map(descendants, self.pids))
        used = sum(map(cpu_seconds, family))
        # A file, as uvloop makes pipes non-blocking: of many figures the last would be lost.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            subprocess.run(
                [sys.executable, "-m", serving_load.__name__],
                input=json.dumps(order),
                stdout=output,
                text=True,
                check=True,
                timeout=_MAKE_SECONDS,
            )
            output.seek(0)
            found = json.load(output)
        self.rates.setdefault(case, []).append(len(found["latencies"]) / found["seconds"])
        self.latencies.setdefault(case, []).extend(found["latencies"])
        used = sum(map(cpu_seconds, family)) - used
        self.cpu_seconds[case] = self.cpu_seconds.get(case, 0.0) + used

    def figures(self, case: tuple[int, int]) -> dict[str, float]:
        """What the rounds of a case come to."""
        latencies = self.latencies[case]
        percent = quantiles(latencies, n=100)
        rate = median(self.rates[case])
        return {
            "requests/s": rate,
            "rows/s": rate * case[1],
            "p50 ms": 1e3 * percent[49],
            "p99 ms": 1e3 * percent[98],
            "CPU ms": 1e3 * self.cpu_seconds[case] / len(latencies),
        }


def measure(folder: Path, options: Options) -> Report:
    """Measures all, with its files in an empty folder."""
    made = _make(folder)
    notes = [
        f"a call of the model alone: {made['call_us']['1']:.0f} us for a row, "
        f"{made['call_us']['32']:.0f} us for 32.",
        "CPU is that of the server's processes, of each request.",
        "The ratio to uvicorn is that to its faster one.",
    ]
    if not options.ray_python:
        notes.append("No Ray Serve: name a Python that has ray[serve] by --ray-python.")
    with _servers(folder, options.ray_python) as stands:
        for case in _CASES:
            for number in range(options.rounds):
                for name, stand in stands.items():
                    if name == _FLOOR and case[1] > 1:
                        continue
                    _say(f"{_title(case)}: round {number + 1} of {options.rounds}: {name}")
                    # An empty app has one answer.
                    requests = made["requests"][str(case[1])][: 1 if name == _FLOOR else None]
                    stand.round(case, requests, options.seconds)
    rows = {
        f"{_title(case)}: {name}": stand.figures(case)
        for case in _CASES
        for name, stand in stands.items()
        if case in stand.rates
    }
    waking = _from_zero(folder, made["requests"]["1"][0], options.cycles)
    rows["from zero"] = {"p50 ms": 1e3 * median(waking), "p99 ms": 1e3 * max(waking)}
    notes.append(
        f"From zero replicas to the first answer: {len(waking)} times {_WAKERS} calls at once, "
        "all answered; the slowest stands under p99."
    )
    return Report(
        title=f"Adult, 14 columns; rounds of {options.seconds:g} s, {options.rounds} of each",
        rows=rows,
        ratios={**_ratios(stands), "from_zero_seconds": median(waking)},
        notes=notes,
    )


@contextmanager
def _servers(folder: Path, ray_python: str) -> Iterator[dict[str, Stand]]:
    """All servers, by name."""
    directory = folder / "models" / serving_model.MODEL / str(serving_model.VERSION)
    stands: dict[str, Stand] = {}
    with ExitStack() as stack:

        def start(name: str, *args: str, **more: Any) -> tuple[Mapping[str, Any], set[int]]:
            _say(f"{name}: starting")
            before = descendants(os.getpid())
            said = stack.enter_context(server(name, folder, *args, **more))
            return said, descendants(os.getpid()) - before

        where = {"TUNER_DATA_DIR": str(folder / "study-server")}
        said, studying = start(
            "study server", "-m", "tuner.cli", "server", "--server-port", "0", "--json",
            environment=where,
        )  # fmt: skip
        _deploy(said["address"], directory)
        where = {"TUNER_DATA_DIR": str(folder / "gateway"), "TUNER_SERVER": said["address"]}
        said, pids = start("tuner gateway", *_gateway(), environment=where)
        _until(lambda: _answers(said["rest"]))
        pids |= studying
        stands[_REST] = Stand(kind="rest", address=said["rest"], path=_PREDICT, pids=pids)
        stands[_GRPC] = Stand(kind="grpc", address=said["grpc"], path="", pids=pids)
        peers = {**_UVICORNS, _FLOOR: "nothing", **({_RAY: "ray"} if ray_python else {})}
        for name, key in peers.items():
            args = ("-m", serving_peers.__name__, key, str(directory))
            said, pids = start(name, *args, interpreter=ray_python if key == "ray" else "")
            stands[name] = Stand(
                kind="rest", address=said["rest"], path=serving_peers.PATH, pids=pids
            )
        yield stands


def _gateway(*folder: str) -> tuple[str, ...]:
    ports = ("--rest-port", "0", "--grpc-port", "0")
    return ("-m", "tuner.cli", "gateway", *folder, "--json", *ports)


def _deploy(address: str, directory: Path) -> None:
    """An endpoint as one has it: two versions share its traffic, and predictions are recorded."""
    with Client(address) as client:
        endpoint = client.endpoint(serving_model.MODEL)
        for percent in (100, 40):
            lineage = Lineage(source=f"benchmark {percent}")
            begun = client.models.begin(serving_model.MODEL, lineage, publisher="benchmark")
            what = Published(uri=str(directory), size_bytes=1, sha256="00" * 32, lineage=lineage)
            version = client.models.finish(begun, what)
            endpoint.deploy(
                version,
                percent,
                scaling=Scaling(min_replicas=1),
                recording=Recording(percent=_RECORDED_PERCENT),
            )


def _answers(address: str) -> bool:
    """Whether a gateway serves the model."""
    with _connected(address) as connection:
        connection.request("GET", f"/v1/models/{serving_model.MODEL}")
        return connection.getresponse().status == 200


def _ratios(stands: Mapping[str, Stand]) -> dict[str, float]:
    """Our requests per second over those of the fastest of each kind."""
    found = {}
    for key, names in (("uvicorn", tuple(_UVICORNS)), ("ray_serve", (_RAY,))):
        others = [stands[name] for name in names if name in stands]
        for case in ((1, 1), (16, 1)) if others else ():
            found[f"{key}_{case[0]}"] = min(_ratio(stands[_REST], each, case) for each in others)
    return found


def _ratio(ours: Stand, other: Stand, case: tuple[int, int]) -> float:
    pairs = zip(ours.rates[case], other.rates[case], strict=True)
    return median(mine / theirs for mine, theirs in pairs)


def _title(case: tuple[int, int]) -> str:
    connections, rows = case
    return f"{connections} x {rows} row{'s' * (rows > 1)}"


def _make(folder: Path) -> Any:
    """Has the model trained and exported, and the requests written."""
    _say("training the model")
    with (folder / "model.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", serving_model.__name__, str(folder), str(adult())],
            check=True,
            stdout=log,
            stderr=log,
            timeout=_MAKE_SECONDS,
        )
    made = json.loads((folder / "requests.json").read_text(encoding="utf-8"))
    first = {"predictions": [{"scores": made["requests"]["1"][0]["scores"]}]}
    (folder / "answer.json").write_text(json.dumps(first), encoding="utf-8")
    return made


# --- from zero -----------------------------------------------------------------------------


def _from_zero(folder: Path, request: Mapping[str, Any], cycles: int) -> list[float]:
    """The seconds to the first answer, of each cycle."""
    before = descendants(os.getpid())
    args = (*_gateway(str(folder / "models")), "--idle-seconds", "0.1")
    found = []
    with server("tuner gateway from zero", folder, *args) as said:
        resting = descendants(os.getpid()) - before
        for cycle in range(cycles):
            _say(f"from zero: {cycle + 1} of {cycles}")
            _until(lambda: not descendants(os.getpid()) - before - resting)
            found.append(_first_answer(said["rest"], request))
    return found


def _first_answer(address: str, request: Mapping[str, Any]) -> float:
    """Wakes the model by several calls at once, all of which must be answered."""
    seconds: list[float] = []
    begun = time.perf_counter()

    def call() -> None:
        with _connected(address) as connection:
            connection.request("POST", _PREDICT, request["rest"])
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                serving_load.Answers(request["scores"], serving_load.scores_of_json).check(body)
                seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=call) for _ in range(_WAKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) < _WAKERS:
        raise RuntimeError(f"{_WAKERS - len(seconds)} of {_WAKERS} calls were lost.")
    return min(seconds)


@contextmanager
def _connected(address: str) -> Iterator[HTTPConnection]:
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=_CALL_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _IDLE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("the gateway does not come to what is expected of it.")
        time.sleep(0.05)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short rounds, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--cycles", type=int, help="how often to wake from zero; 20")
    parser.add_argument(
        "--ray-python",
        default=os.environ.get("TUNER_BENCHMARK_RAY_PYTHON", ""),
        help="a Python with ray[serve] and TensorFlow",
    )
    parser.add_argument("--folder", type=Path, help="where to put the files; TMPDIR by default")
    given = parser.parse_args()
    options = Options(
        seconds=1.0 if given.quick else 2.0,
        rounds=3 if given.quick else 5,
        cycles=given.cycles or (5 if given.quick else 20),
        ray_python=given.ray_python,
    )
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-", dir=given.folder) as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report.as_json(), indent=2) if given.json else report.as_text())


if __name__ == "__main__":
    main()
