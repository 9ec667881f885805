"""The study server as a contender: its own process, called through its Python client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from tests.benchmarks.bench import SPACE, STUDY, Bench, Place, drawn, score, server
from tests.benchmarks.crowd import Turn
from tuner import convert
from tuner.client.client import Client
from tuner.config import Settings
from tuner.space import Value
from tuner.study import Measurement
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

_TRIALS = 1_000_000
_CALL_SECONDS = 60.0
#: The most that one call may add.
_ADDED = 1000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Suggests and completes trials, as a script does: a loop in two calls, `optimize` in one.

    A turn says how long suggesting and completing took, or the exchange that is both.
    """

    address: str
    study: str
    one_call: bool = True

    @contextmanager
    def open(self, client: int) -> Iterator[Turn]:
        """Connects."""
        with Client(self.address) as tuner, closing(_trials(tuner, self.study)) as trials:

            def turn() -> tuple[float, ...]:
                begun = time.perf_counter()
                trial = next(trials)
                # What `optimize` does around the objective.
                trial.exchanges = self.one_call
                suggested = time.perf_counter()
                trial.complete(score(trial.parameters))
                ended = time.perf_counter()
                if self.one_call:
                    return (ended - begun,)
                return suggested - begun, ended - suggested

            yield turn


@dataclass(frozen=True, slots=True)
class Spread:
    """Every client on one of several studies, each at an address of its own."""

    #: The address and the name of each study.
    studies: tuple[tuple[str, str], ...]

    @contextmanager
    def open(self, client: int) -> Iterator[Turn]:
        """Connects."""
        with Pairs(*self.studies[client % len(self.studies)]).open(client) as turn:
            yield turn


def _trials(tuner: Client, study: str) -> Any:
    return iter(tuner.get_study(study))


@contextmanager
def running(place: Place, name: str = "data") -> Iterator[tuple[str, int]]:
    """A study server with a data directory of that name; gives its address and its process id."""
    settings = Settings(
        data_dir=place.folder / name,
        database_url=place.url,
        server_port=0,
        log_level="warning",
    )
    environment = settings.environment()
    with server(
        f"study server {name}", place.folder, "-m", "tuner.service", environment=environment
    ) as said:
        yield str(said["address"]), int(said["pid"])


@contextmanager
def contender(place: Place) -> Iterator[Bench]:
    """The study server with a study that has its history."""
    with running(place) as (address, pid):
        study(address, STUDY, place.algorithm, place.history)
        yield Bench(work=Pairs(address, STUDY), server_pid=pid)


@contextmanager
def in_two_calls(place: Place) -> Iterator[Bench]:
    """The same, worked on by loops."""
    with running(place) as (address, pid):
        study(address, STUDY, place.algorithm, place.history)
        yield Bench(work=Pairs(address, STUDY, one_call=False), server_pid=pid)


def study(address: str, name: str, algorithm: str, history: int) -> None:
    """Creates a study with finished trials."""
    with Client(address) as tuner:
        tuner.create_study(
            name,
            SPACE,
            maximize="score",
            trials=_TRIALS,
            search=algorithm,
            early_stopping="none",
        )
    fill(address, name, history)


def fill(address: str, name: str, history: int) -> None:
    """Gives a study its finished trials."""
    trials = [_past(values) for values in drawn(history)]
    with grpc.insecure_channel(address) as channel:
        stub = StudyServiceStub(channel)
        for first in range(0, history, _ADDED):
            request = pb.AddTrialsRequest(
                parent=f"studies/{name}", trials=trials[first : first + _ADDED]
            )
            stub.AddTrials(request, timeout=_CALL_SECONDS)


def _past(values: Mapping[str, Value]) -> pb.AddTrialsRequest.NewTrial:
    result = Measurement(step=0, metrics={"score": score(values)})
    return pb.AddTrialsRequest.NewTrial(
        parameters=convert.values_to_proto(values),
        final_measurement=convert.measurement_to_proto(result),
    )
