"""Reads a study's data once and completes its features and space, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from tuner.errors import DataError, InvalidArgumentError, TunerError
from tuner.runner.shape import Shape
from tuner.space import Space, Value
from tuner.study import Feature, Resources, StatisticsRef, Strategy, StudySpec
from tuner.trainer_spaces import PROGRAM, is_own
from tuner_trainers.own import examine
from tuner_trainers.prepare import prepare

#: How long importing a trainer of the user's own, and finding its space, may take.
EXAMINE_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What the data says, and where its statistics lie."""

    space: Space
    features: tuple[Feature, ...]
    settings: Mapping[str, Value]
    #: None without data.
    statistics: StatisticsRef | None


def prepare_study(spec: StudySpec, artifacts: Path) -> Preparation:
    """Prepares a study in a Ray task, so that data too large for this machine ends only the task.

    Raises:
        TunerError: the data, the trainer or the study cannot be used.
    """
    # The gangs that warm up meanwhile hold the CPUs; they are idle until this ends. The process of
    # a trainer of the user's own ends as well, and with it what their code did to it.
    prepares = _examine if spec.data is None else _read_data
    calls = 1 if is_own(spec.trainer) else 0
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=calls)(prepares)
    reference = task.remote(spec, artifacts)
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
    return Preparation(
        space=examine(spec, artifacts), features=(), settings=spec.settings, statistics=None
    )


def _read_data(spec: StudySpec, artifacts: Path) -> Preparation:
    prepared = prepare(spec, artifacts=artifacts)
    statistics = prepared.statistics
    folder = artifacts / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{statistics.fingerprint}.json"
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
    )


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
