"""Reads a study's data once and completes its features and space, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from tuner.errors import DataError, InvalidArgumentError, TunerError
from tuner.runner.pool import Shape
from tuner.space import Space, Value
from tuner.study import Feature, Resources, StatisticsRef, StudySpec
from tuner_trainers.prepare import prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What the data says, and where its statistics lie."""

    space: Space
    features: tuple[Feature, ...]
    settings: Mapping[str, Value]
    statistics: StatisticsRef


def read_data(spec: StudySpec, artifacts: Path) -> Preparation:
    """Prepares a study in a Ray task, so that data too large for this machine ends only the task.

    Raises:
        TunerError: the data, or the study, cannot be used.
    """
    # The gangs that warm up meanwhile hold the CPUs; they are idle until this ends.
    task = ray.remote(num_cpus=0, max_retries=0)(_read_data)
    try:
        preparation: Preparation = ray.get(task.remote(spec, artifacts / "statistics"))
    except RayTaskError as error:
        if isinstance(error.cause, TunerError):
            raise error.cause from error
        name = type(error.cause).__name__
        raise DataError(f"the data could not be prepared: {name}: {error.cause}") from error
    except RayError as error:
        raise DataError(f"the process that read the data died: {error}") from error
    return preparation


def _read_data(spec: StudySpec, folder: Path) -> Preparation:
    prepared = prepare(spec)
    statistics = prepared.statistics
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


def shape_of(resources: Resources) -> Shape:
    """Returns what the gangs of a study are made of.

    Raises:
        InvalidArgumentError: the strategy is not one that a gang trains under.
    """
    if resources.strategy not in ("", "single", "multi_worker"):
        raise InvalidArgumentError(
            f"resources.strategy {resources.strategy!r} is not supported: use single or "
            "multi_worker."
        )
    workers = 1 if resources.strategy == "single" else resources.workers
    return Shape(
        workers=workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        mirrored=workers > 1,
    )
