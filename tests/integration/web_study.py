"""A managed study on a real server, worked on by a pretended runner, and the pages over it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import uvicorn

from tests.unit.web_source import SPACE, a_study
from tuner import convert
from tuner.client import Client, Study
from tuner.client.channel import Connection
from tuner.client.trial import RunningTrial
from tuner.model import Lineage, ModelVersion, Published
from tuner.space import Value
from tuner.study import Limits, StudySpec
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner.web import create_app
from tuner.web.serving import listen
from tuner.web.source import StudySource

ROWS = 32_561


def spec(*, trials: int = 60, export_model: str = "adult-income") -> StudySpec:
    """What a user would submit: nothing but the data is known of the space."""
    limits = Limits(trials=trials, parallel=2)
    return replace(a_study().spec, limits=limits, export_model=export_model)


def prepared(
    client: Client, name: str, *, trials: int = 60, export_model: str = "adult-income"
) -> Study:
    """Creates a study and answers for its runner that the data is fine."""
    study = client.create(name, spec(trials=trials, export_model=export_model))
    request = pb.PrepareStudyRequest(
        name=study.name,
        prepared=pb.PrepareStudyRequest.Prepared(
            space=convert.space_to_proto(SPACE),
            statistics=study_pb2.StatisticsRef(fingerprint="f1", uri="statistics/f1", rows=ROWS),
        ),
    )
    connection = Connection(client.address)
    connection.call(lambda stub: stub.PrepareStudy, request)
    connection.close()
    return study


def write_log(client: Client, trial: RunningTrial, text: str, offset: int = 0) -> None:
    """Appends to a trial's log, as a runner does."""
    connection = Connection(client.address)
    held = connection.call(lambda stub: stub.GetTrial, pb.GetTrialRequest(name=trial.name))
    request = pb.WriteTrialLogRequest(
        name=trial.name, lease_token=held.lease.token, text=text, offset=offset
    )
    connection.call(lambda stub: stub.WriteTrialLog, request)
    connection.close()


def work(study: Study, trials: int, *, fail: int | None = None) -> None:
    """Trains some trials; the one numbered `fail` raises."""
    for trial in islice(study, trials):
        with trial as parameters:
            if trial.number == fail:
                raise ValueError(f"no such activation: {parameters['activation']}")
            train(trial, parameters)


@contextmanager
def leased(study: Study) -> Iterator[RunningTrial]:
    """A trial in the hands of this process until the block ends."""
    trials = iter(study)
    yield next(trials)
    del trials  # Letting go of it gives an open trial back.


def train(trial: RunningTrial, parameters: Mapping[str, Value], epochs: int = 10) -> None:
    """Reports a learning curve that the parameters decide, until it is stopped."""
    noise = random.Random(trial.number)
    top = worth(parameters) + noise.gauss(0, 0.002)
    speed = 0.35 + 0.3 * noise.random()
    for step in range(epochs):
        left = math.exp(-speed * (step + 1))
        metrics = {
            "val_auc": top - 0.09 * left + noise.gauss(0, 0.0007),
            "auc": top + 0.008 - 0.1 * left,
            "val_loss": 0.32 + 2 * (0.915 - top) + 0.28 * left + noise.gauss(0, 0.001),
            "loss": 0.31 + 2 * (0.915 - top) + 0.3 * left,
        }
        if not trial.report(metrics, step=step):
            return


def worth(parameters: Mapping[str, Value]) -> float:
    """How good the parameters are: an optimum inside the space."""
    rate = math.log10(float(parameters["learning_rate"]) / 4e-3)
    buckets = math.log2(float(parameters["age.buckets"]) / 20)
    units = math.log2(float(parameters["units"]) / 128)
    hashed = 0.004 if parameters["native_country.encoding"] == "hash" else 0.0
    return 0.921 - 0.02 * rate * rate - 0.0022 * buckets**2 - 0.0015 * units**2 - hashed


CARD = """# adult-income

Predicts `income`. <script>alert('x')</script> [away](https://elsewhere.example)

| metric | value |
|---|---|
| val_auc | 0.91 |
"""


def published(client: Client, study: Study, model: str, trials: int) -> list[ModelVersion]:
    """Publishes trials of a study as a publisher does, whatever lies at their places."""
    versions = []
    for number in range(trials):
        lineage = Lineage(trial=f"{study.name}/trials/{number}", trainer="tabular")
        begun = client.models.begin(model, lineage, publisher="box:1")
        what = Published(
            uri=f"/models/{model}/{begun.version}",
            size_bytes=3 << 20,
            sha256="ab" * 32,
            lineage=lineage,
            metrics={"val_auc": 0.91},
            card=CARD,
            report="a fresh process predicted the golden rows",
        )
        versions.append(client.models.finish(begun, what))
    return versions


@contextmanager
def pages(source: StudySource, port: int = 0) -> Iterator[str]:
    """Serves the pages from a thread; yields their address."""
    with listen("127.0.0.1", port) as listener:
        config = uvicorn.Config(create_app(source), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=60)
