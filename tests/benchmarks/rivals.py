"""Optuna as a contender: over its RDBStorage, and over its gRPC proxy of the same.

`python -m tests.benchmarks.rivals URL` is the proxy as a process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, GrpcStorageProxy, get_storage, run_grpc_proxy_server

from tests.benchmarks.bench import SPACE, STUDY, Bench, Place, drawn, score, server
from tests.benchmarks.crowd import Turn
from tuner.space import Categorical, Discrete, Domain, Int

_HOST = "127.0.0.1"
_CONNECT_SECONDS = 30.0

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Optuna calls its proxy experimental with every use.
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Categorical():
            return CategoricalDistribution(domain.choices)
        case Discrete():
            return CategoricalDistribution(domain.values)
        case Int():
            return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


DISTRIBUTIONS: Mapping[str, BaseDistribution] = {
    name: _distribution(domain) for name, domain in SPACE.items()
}


@dataclass(frozen=True, slots=True)
class Pairs:
    """Asks for trials with all parameters, and tells their results."""

    #: A database's URL, or the port of a proxy.
    storage: str | int
    algorithm: str

    @contextmanager
    def open(self, client: int) -> Iterator[Turn]:
        """Connects."""
        with _opened(self.storage) as storage:
            # Samplers of one seed would all propose the same.
            sampler = _sampler(self.algorithm, seed=client + 1)
            study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)

            def turn() -> tuple[float, float]:
                begun = time.perf_counter()
                trial = study.ask(dict(DISTRIBUTIONS))
                suggested = time.perf_counter()
                study.tell(trial, score(trial.params))
                return suggested - begun, time.perf_counter() - suggested

            yield turn


@contextmanager
def _opened(storage: str | int) -> Iterator[BaseStorage]:
    if isinstance(storage, str):
        yield get_storage(storage)
        return
    with closing(GrpcStorageProxy(host=_HOST, port=storage)) as proxy:
        proxy.wait_server_ready(_CONNECT_SECONDS)
        yield proxy


def _sampler(algorithm: str, seed: int) -> BaseSampler:
    return TPESampler(seed=seed) if algorithm == "tpe" else RandomSampler(seed=seed)


@contextmanager
def rdb(place: Place) -> Iterator[Bench]:
    """RDBStorage: every client calls the database itself."""
    url = _filled(place)
    yield Bench(work=Pairs(url, place.algorithm))


@contextmanager
def proxy(place: Place) -> Iterator[Bench]:
    """The gRPC proxy: one process calls the database for all clients."""
    url = _filled(place)
    with server("Optuna proxy", place.folder, "-m", "tests.benchmarks.rivals", url) as said:
        yield Bench(work=Pairs(int(said["port"]), place.algorithm), server_pid=int(said["pid"]))


def _filled(place: Place) -> str:
    """Creates a study with finished trials; returns SQLAlchemy's URL of its database."""
    url = place.url.replace("postgresql://", "postgresql+psycopg://", 1)
    study = optuna.create_study(study_name=STUDY, storage=get_storage(url), direction="maximize")
    study.add_trials(
        optuna.create_trial(
            params=dict(values), distributions=dict(DISTRIBUTIONS), value=score(values)
        )
        for values in drawn(place.history)
    )
    return url


def main() -> None:
    """Serves the proxy of a database until it is killed; says its port on standard output."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = int(probe.getsockname()[1])
    storage = get_storage(sys.argv[1])
    # The call does not come back to say that it serves.
    threading.Thread(
        target=run_grpc_proxy_server,
        kwargs={"storage": storage, "host": _HOST, "port": port},
        daemon=True,
    ).start()
    with closing(GrpcStorageProxy(host=_HOST, port=port)) as client:
        client.wait_server_ready(_CONNECT_SECONDS)
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
