"""The gateway beside servers of the same model that one writes by hand, in one run.

    python tests/benchmarks/serving.py [--quick] [--json] [--ray-python PYTHON] [--cycles N]

All serve one winner over Adult, 14 raw columns with its preprocessing inside, to the same callers:
one process that keeps its connections, checks every answer, and sends the next request once the
last was answered. The servers take turns in short rounds, so that a slow minute of the machine
strikes all alike; a ratio is the median over the rounds of ours by the other's.

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

_REST, _GRPC, _UVICORN, _RAY = "tuner, REST", "tuner, gRPC", "uvicorn + FastAPI", "Ray Serve"
_FLOOR = "an empty ASGI app"
_PREDICT = f"/v1/models/{serving_model.MODEL}:predict"
#: Connections, and rows per request.
_CASES = ((1, 1), (16, 1), (1, 32), (16, 32))
_MAKE_SECONDS, _CALL_SECONDS, _IDLE_SECONDS = 600.0, 60.0, 30.0
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
        done = subprocess.run(
            [sys.executable, "-m", serving_load.__name__],
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=_MAKE_SECONDS,
        )
        found = json.loads(done.stdout)
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
    requests: Mapping[str, list[dict[str, Any]]] = made["requests"]
    directory = str(folder / "models" / serving_model.MODEL / str(serving_model.VERSION))
    notes = [
        f"a call of the model alone: {made['call_us']['1']:.0f} us for a row, "
        f"{made['call_us']['32']:.0f} us for 32. CPU is that of the server's processes.",
    ]
    with ExitStack() as stack:
        stands: dict[str, Stand] = {}

        def start(name: str, *args: str, **more: Any) -> tuple[Mapping[str, Any], set[int]]:
            _say(f"{name}: starting")
            before = descendants(os.getpid())
            said = stack.enter_context(server(name, folder, *args, **more))
            return said, descendants(os.getpid()) - before

        ours = ("-m", "tuner.cli", "gateway", str(folder / "models"), "--json")
        ports = ("--rest-port", "0", "--grpc-port", "0")
        said, pids = start("tuner gateway", *ours, *ports, "--least-replicas", "1")
        stands[_REST] = Stand(kind="rest", address=said["rest"], path=_PREDICT, pids=pids)
        stands[_GRPC] = Stand(kind="grpc", address=said["grpc"], path="", pids=pids)
        peers = {_UVICORN: "uvicorn", _FLOOR: "nothing"}
        for name, key in peers.items():
            said, pids = start(name, "-m", serving_peers.__name__, key, directory)
            stands[name] = Stand(
                kind="rest", address=said["rest"], path=serving_peers.PATH, pids=pids
            )
        if options.ray_python:
            said, pids = start(
                _RAY,
                "-m", serving_peers.__name__, "ray", directory,
                interpreter=options.ray_python,
            )  # fmt: skip
            stands[_RAY] = Stand(
                kind="rest", address=said["rest"], path=serving_peers.PATH, pids=pids
            )
        else:
            notes.append(
                "Ray Serve was not measured: name a Python that has ray[serve] by --ray-python."
            )
        for case in _CASES:
            for number in range(options.rounds):
                for name, stand in stands.items():
                    if name == _FLOOR and case[1] > 1:
                        continue
                    _say(f"{_title(case)}: round {number + 1} of {options.rounds}: {name}")
                    # An empty app has one answer.
                    some = requests[str(case[1])][: 1 if name == _FLOOR else None]
                    stand.round(case, some, options.seconds)
    rows = {
        f"{_title(case)}: {name}": stand.figures(case)
        for case in _CASES
        for name, stand in stands.items()
        if case in stand.rates
    }
    waking = _from_zero(folder, requests["1"][0], options.cycles)
    rows["from zero replicas to the first answer"] = {
        "p50 ms": 1e3 * median(waking),
        "p99 ms": 1e3 * max(waking),
    }
    notes.append(
        f"from zero: {len(waking)} cycles of {_WAKERS} calls at once, all answered; the slowest "
        "stands under p99."
    )
    ratios = {}
    for key, name in (("uvicorn", _UVICORN), ("ray_serve", _RAY)):
        if name in stands:
            for connections in (1, 16):
                ratios[f"{key}_{connections}"] = _ratio(
                    stands[_REST], stands[name], (connections, 1)
                )
    ratios["from_zero_seconds"] = median(waking)
    return Report(
        title=f"Adult, 14 columns; rounds of {options.seconds:g} s, {options.rounds} of each",
        rows=rows,
        ratios=ratios,
        notes=notes,
    )


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
    flags = ("--rest-port", "0", "--grpc-port", "0", "--idle-seconds", "0.1")
    ours = ("-m", "tuner.cli", "gateway", str(folder / "models"), "--json")
    found = []
    with server("tuner gateway from zero", folder, *ours, *flags) as said:
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
            raise RuntimeError("the model does not go to sleep.")
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
        rounds=3 if given.quick else 7,
        cycles=given.cycles or (5 if given.quick else 20),
        ray_python=given.ray_python,
    )
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-", dir=given.folder) as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report.as_json(), indent=2) if given.json else report.as_text())


if __name__ == "__main__":
    main()
