"""Learns of a study's data and completes its features and space, in processes of their own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.client.statistics import ServerShelf
from tuner.errors import DataError, InvalidArgumentError, TunerError, UnavailableError
from tuner.runner.places import check_writable
from tuner.runner.portions import RayWorkers
from tuner.runner.shape import Shape
from tuner.space import Space, Value
from tuner.study import Feature, Resources, StatisticsRef, Strategy, Study, StudySpec
from tuner.trainer_spaces import PROGRAM, is_own
from tuner.v1 import study_service_pb2 as pb
from tuner_trainers.learning import Learner
from tuner_trainers.own import examine
from tuner_trainers.prepare import prepare

logger = logging.getLogger(__name__)

#: How long importing a trainer of the user's own, and finding its space, may take.
EXAMINE_SECONDS = 180.0
#: How often data is learned of if the process that does so dies.
_RETRIES = 3
_REPORT_SECONDS = 2.0
_LOGGERS = ("tuner", "tuner_trainers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What the data says, and where its statistics lie."""

    space: Space
    features: tuple[Feature, ...]
    settings: Mapping[str, Value]
    #: None without data.
    statistics: StatisticsRef | None
    #: Whether all that had to be known of the data was kept from earlier studies.
    was_known: bool = False
    #: What the runner's log should say of it.
    notes: tuple[str, ...] = ()


def prepare_study(study: Study, artifacts: Path, access: Access) -> Preparation:
    """Prepares a study in a Ray task, so that data too large for this machine ends only the task.

    That task starts others, which read the portions of the data.

    Args:
        study: the study.
        artifacts: where its statistics will lie.
        access: how the server is reached, which may know the data already.

    Raises:
        TunerError: the data, the trainer or the study cannot be used.
    """
    # The gangs that warm up meanwhile hold the CPUs; they are idle until this ends. The process of
    # a trainer of the user's own ends as well, and with it what their code did to it.
    spec = study.spec
    calls = 1 if is_own(spec.trainer) else 0
    reference: Any
    if spec.data is None:
        examine_it = ray.remote(num_cpus=0, max_retries=0, max_calls=calls)(_examine)
        reference = examine_it.remote(spec, artifacts)
    else:
        learn = ray.remote(num_cpus=0, max_retries=_RETRIES, max_calls=calls)(_learn)
        reference = learn.remote(spec, artifacts, access, study.name)
    try:
        timeout = EXAMINE_SECONDS if spec.data is None else None
        preparation: Preparation = ray.get(reference, timeout=timeout)
    except GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise InvalidArgumentError(
            f"looking at the trainer took more than {EXAMINE_SECONDS:g} s; what takes long "
            "belongs in `train`."
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, TunerError):
            raise error.cause from error
        name = type(error.cause).__name__
        raise DataError(f"the study could not be prepared: {name}: {error.cause}") from error
    except RayError as error:
        raise DataError(f"the process that prepared the study died: {error}") from error
    return preparation


def _examine(spec: StudySpec, artifacts: Path) -> Preparation:
    """Looks at a trainer of the user's own, which reads its data by itself."""
    check_writable(artifacts)
    return Preparation(
        space=examine(spec, artifacts), features=(), settings=spec.settings, statistics=None
    )


def _learn(spec: StudySpec, artifacts: Path, access: Access, name: str) -> Preparation:
    check_writable(artifacts / "statistics")
    with closing(Connection(access)) as connection, _noting() as notes:
        learner = Learner(RayWorkers(), ServerShelf(connection), _Reports(connection, name))
        prepared = prepare(spec, artifacts=artifacts, learner=learner)
    statistics = prepared.statistics
    path = artifacts / "statistics" / f"{statistics.fingerprint}.json"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    statistics.save(partial)
    partial.replace(path)
    return Preparation(
        space=prepared.space,
        features=prepared.features,
        settings=prepared.settings,
        statistics=StatisticsRef(
            fingerprint=statistics.fingerprint, uri=str(path), rows=statistics.rows
        ),
        was_known=learner.was_kept,
        notes=tuple(notes),
    )


@contextmanager
def _noting() -> Iterator[list[str]]:
    """Notes the warnings of this process, whose log nobody reads."""
    notes: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    handler, loggers = Handler(logging.WARNING), [logging.getLogger(name) for name in _LOGGERS]
    for each in loggers:
        each.addHandler(handler)
    try:
        yield notes
    finally:
        for each in loggers:
            each.removeHandler(handler)


class _Reports:
    """Tells the server now and then how far the data was read."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._due_time = time.monotonic() + _REPORT_SECONDS

    def __call__(self, rows: int, done: int, total: int) -> None:
        """Raises TunerError if the study is not to be prepared any more."""
        if time.monotonic() < self._due_time:
            return
        fraction = min(done / max(total, 1), 1.0)
        progress = pb.PrepareStudyRequest.Progress(rows=rows, fraction=fraction)
        request = pb.PrepareStudyRequest(name=self._name, progress=progress)
        try:
            self._connection.call(lambda stub: stub.PrepareStudy, request, patience_seconds=0.0)
        except UnavailableError as error:
            logger.info("%s: %s", self._name, error.message)
        self._due_time = time.monotonic() + _REPORT_SECONDS


def shape_of(resources: Resources, trainer: str | None = None) -> Shape:
    """Returns what the gangs of a study are made of.

    The tasks of a program find each other by themselves; parameter servers are tasks as well.

    Raises:
        InvalidArgumentError: what is asked for does not go together.
    """
    asked, is_program = resources.strategy, trainer == PROGRAM
    if asked and asked not in list(Strategy):
        raise InvalidArgumentError(
            f"resources.strategy {asked!r} is not supported: use one of {', '.join(Strategy)}."
        )
    for key, problem in resources.problems(program=is_program).items():
        raise InvalidArgumentError(f"resources.{key}: {problem}.")
    workers = 1 if asked == Strategy.SINGLE else resources.workers
    strategy = Strategy(asked or Strategy.MULTI_WORKER)
    if is_program:
        strategy = Strategy.SINGLE
    elif workers == 1 and strategy is Strategy.MULTI_WORKER:
        # A worker by itself has nobody to agree with but its own GPUs.
        strategy = Strategy.MIRRORED if resources.gpus_per_worker > 1 else Strategy.SINGLE
    return Shape(
        workers=workers + (resources.servers if is_program else 0),
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        strategy=strategy,
        parameter_servers=0 if is_program else resources.servers,
        tensorflow=not is_program,
    )
