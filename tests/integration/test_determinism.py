"""The same seed and the same results give the same proposals, whatever happens to the server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.integration.service_support import Caller, Trial
from tests.integration.test_service_studies import Process
from tuner.engine import ALGORITHMS
from tuner.v1 import space_pb2, study_pb2

#: A generation of NSGA-II is 20 trials; the models start sooner.
TRIALS = {name: 23 if name == "nsga-ii" else 14 for name in ALGORITHMS}
#: Where the server is killed, with a trial out.
CUT = 9
Points = dict[str, list[dict[str, float]]]


def space() -> space_pb2.Space:
    """Of numbers, for every algorithm, and finite, for the grid."""
    made = space_pb2.Space()
    float_domain = made.parameters.add(name="dropout").float_domain
    float_domain.low, float_domain.high, float_domain.step = 0.0, 0.5, 0.05
    rate = made.parameters.add(name="rate").float_domain
    rate.low, rate.high, rate.step = 0.0, 1.0, 0.001
    layers = made.parameters.add(name="layers").int_domain
    layers.low, layers.high = 1, 8
    return made


def values(trial: Trial) -> dict[str, float]:
    return {
        name: value.double_value or float(value.int_value)
        for name, value in trial.parameters.items()
    }


def score(point: dict[str, float]) -> float:
    return -abs(point["rate"] - 0.3) - abs(point["dropout"] - 0.2) - abs(point["layers"] - 3) / 8


def create(caller: Caller) -> None:
    for algorithm in ALGORITHMS:
        search = study_pb2.Search(algorithm=algorithm, early_stopping="none", seed=7)
        caller.create(algorithm, space=space(), search=search, trials=TRIALS[algorithm])


def work(caller: Caller, points: Points, most: int = 1000) -> None:
    """One worker for each study suggests, reports and completes, one trial after the other."""
    for algorithm in ALGORITHMS:
        seen = points.setdefault(algorithm, [])
        while len(seen) < min(most, TRIALS[algorithm]):
            trial = caller.one(algorithm, algorithm)
            seen.append(values(trial))
            caller.report(trial, 1, auc=score(seen[-1]) - 0.1)
            caller.complete(trial, auc=score(seen[-1]))


@contextmanager
def calls(process: Process) -> Iterator[Caller]:
    with grpc.insecure_channel(process.said["address"]) as channel:
        yield Caller(channel)


@contextmanager
def busy(caller: Caller) -> Iterator[None]:
    """Meanwhile others work on a study, so that many threads of the server are at work."""
    caller.create("crowd", search=study_pb2.Search(algorithm="tpe", seed=1), trials=100_000)
    end = threading.Event()

    def crowd(worker: str) -> None:
        while not end.is_set():
            trial = caller.one(worker, "crowd")
            caller.complete(trial, auc=trial.parameters["x"].double_value)

    threads = [threading.Thread(target=crowd, args=(f"w{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.timeout(240)
def test_a_server_that_was_killed_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    straight: Points = {}
    server = Process(tmp_path / "straight", TUNER_FIT_SECONDS="15")
    with calls(server) as caller:
        create(caller)
        work(caller, straight)
        used = {name: caller.study(name).search.algorithm_in_use for name in ALGORITHMS}
    server.end(signal.SIGTERM)

    broken: Points = {}
    server = Process(tmp_path / "broken", TUNER_FIT_SECONDS="15")
    with calls(server) as caller:
        create(caller)
        with busy(caller):
            work(caller, broken, CUT)
        held = {name: caller.one(name, name) for name in ALGORITHMS}
    server.end(signal.SIGKILL)
    server = Process(tmp_path / "broken", TUNER_FIT_SECONDS="15")
    with calls(server) as caller:
        for name, trial in held.items():
            assert caller.one(name, name).parameters == trial.parameters
        work(caller, broken)
        notes = {t.search_note for name in ALGORITHMS for t in caller.trials(name)}
        after = {name: caller.study(name).search.algorithm_in_use for name in ALGORITHMS}
    server.end(signal.SIGTERM)

    for algorithm in ALGORITHMS:
        assert broken[algorithm] == straight[algorithm], algorithm
    assert notes == {""}
    assert after == used
    assert used["auto"].startswith("gp (auto: ") and used["nsga-ii"].startswith("nsga-ii")
