"""Trials of trainers that are the user's own: what the gang's workers are told to run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from tuner.errors import UnavailableError
from tuner.runner.worker import Assignment, Context
from tuner.space import Discrete, Space, Value
from tuner.study import Study, Trial, parse_lease_token
from tuner.trainer_spaces import PROGRAM
from tuner_trainers import own, program
from tuner_trainers.context import Result
from tuner_trainers.own import OwnTask
from tuner_trainers.program import ProgramTask

if TYPE_CHECKING:
    import tensorflow as tf


def assignment(study: Study, trial: Trial, artifacts: Path) -> Assignment:
    """Returns a leased trial of a study without data as a task for a gang."""
    if trial.lease is None or study.spec.trainer is None:
        raise UnavailableError(f"{trial.name} is not leased.")
    token, folder = trial.lease.token, artifacts / "studies" / trial.study_id / "trials"
    folder /= str(trial.number)
    parameters = {**study.spec.settings, **typed(study.spec.space, trial.parameters)}
    if study.spec.trainer == PROGRAM:
        # All attempts work in one folder, which no study of the same name had before.
        job = folder / f"job-{parse_lease_token(token)[0]}"
        task = _program_task(study, trial, parameters, artifacts, folder / f"meeting-{token}")
        return Assignment(
            trial=trial.name,
            lease_token=token,
            artifact_dir=str(job),
            train=partial(run_program, task),
            fresh=False,
        )
    return Assignment(
        trial=trial.name,
        lease_token=token,
        artifact_dir=str(folder / str(trial.attempt)),
        train=partial(
            own.run,
            OwnTask(
                trainer=study.spec.trainer,
                trial=trial.number,
                code=study.spec.own.code,
                parameters=parameters,
                metrics=study.spec.metric_names,
                seed=study.spec.search.seed,
                artifacts=artifacts,
            ),
        ),
    )


def _program_task(
    study: Study, trial: Trial, parameters: Mapping[str, Value], artifacts: Path, meeting: Path
) -> ProgramTask:
    resources = study.spec.resources
    return ProgramTask(
        study=study.study_id,
        trial=trial.number,
        attempt=trial.attempt,
        own=study.spec.own,
        flags=parameters,
        metrics=study.spec.metric_names,
        workers=1 if resources.strategy == "single" else resources.workers,
        parameter_servers=resources.servers,
        artifacts=artifacts,
        meeting=meeting,
    )


def run_program(
    task: ProgramTask, context: Context, strategy: tf.distribute.Strategy | None
) -> Result:
    """Runs a worker's part of a program."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return program.run(task, context, host)


def typed(space: Space, parameters: Mapping[str, Value]) -> Mapping[str, Value]:
    """A trial's parameters as they were written: whole numbers among discrete ones are floats."""
    whole = {
        parameter.name
        for parameter in space.walk()
        if isinstance(parameter.domain, Discrete)
        and all(float(value).is_integer() for value in parameter.domain.values)
    }
    return {
        name: int(value) if name in whole and not isinstance(value, str) else value
        for name, value in parameters.items()
    }
