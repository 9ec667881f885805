"""What the runner decides without Ray: failures, shapes, tasks, and Ray's environment."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tuner.errors import InfeasibleError, InvalidArgumentError, UnavailableError
from tuner.runner import environment
from tuner.runner.chore import Chore
from tuner.runner.preparation import shape_of
from tuner.runner.shape import Shape
from tuner.runner.slot import task_of
from tuner.runner.worker import MESSAGE_CHARACTERS, STACK_CHARACTERS, failure_of
from tuner.study import (
    Cause,
    Constraint,
    DataSource,
    Feature,
    Metric,
    Resources,
    Search,
    Selection,
    StatisticsRef,
    Strategy,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialState,
)
from tuner.trainer_spaces import PROGRAM

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class ResourceExhaustedError(Exception):
    """Named like TensorFlow's."""


class AbortedError(Exception):
    """Named like TensorFlow's."""


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (ValueError("first line\nsecond line"), Cause.USER_ERROR, "ValueError: first line"),
        (KeyError(), Cause.USER_ERROR, "KeyError"),
        (KeyboardInterrupt(), Cause.USER_ERROR, "KeyboardInterrupt"),
        (AbortedError("\n peer is gone"), Cause.LOST, "AbortedError: peer is gone"),
        (InfeasibleError("the loss is not finite."), Cause.INFEASIBLE, "the loss is not finite."),
    ],
)
def test_a_failure_names_its_cause_in_one_line(
    error: BaseException, cause: Cause, message: str
) -> None:
    failure = failure_of(error, "the end of the log")
    assert (failure.cause, failure.message) == (cause, message)
    assert failure.log_tail == "the end of the log"


@pytest.mark.parametrize("error", [MemoryError(), ResourceExhaustedError("OOM")])
def test_want_of_memory_is_told_with_the_sizes(error: BaseException) -> None:
    failure = failure_of(error)
    assert failure.cause is Cause.OUT_OF_MEMORY
    sizes = re.search(
        r"\(the worker held (\S+) GiB; its machine has (\S+) GiB of memory, (\S+) GiB of it free",
        failure.message,
    )
    assert sizes is not None
    held, total, free = map(float, sizes.groups())
    assert 0 < held < total and 0 < free < total


def test_a_failure_keeps_the_end_of_a_long_stack() -> None:
    failure = failure_of(ValueError("x" * 50_000 + "end"))
    assert len(failure.message) == MESSAGE_CHARACTERS
    assert len(failure.stack) == STACK_CHARACTERS
    assert failure.stack.endswith("end\n")


@pytest.mark.parametrize(
    ("resources", "shape"),
    [
        (Resources(), Shape(workers=1)),
        (Resources(strategy="multi_worker", workers=1), Shape(workers=1)),
        (Resources(workers=2), Shape(workers=2, strategy=Strategy.MULTI_WORKER)),
        (Resources(strategy="single", workers=2), Shape(workers=1)),
        (
            Resources(gpus_per_worker=2),
            Shape(workers=1, gpus_per_worker=2, strategy=Strategy.MIRRORED),
        ),
        (
            Resources(workers=2, cpus_per_worker=2, gpus_per_worker=0.5),
            Shape(
                workers=2, cpus_per_worker=2, gpus_per_worker=0.5, strategy=Strategy.MULTI_WORKER
            ),
        ),
    ],
)
def test_resources_become_a_shape(resources: Resources, shape: Shape) -> None:
    assert shape_of(resources) == shape


def test_parameter_servers_are_seats_of_a_gang() -> None:
    asked = Resources(strategy="parameter_server", workers=2, gpus_per_worker=0.5)
    assert (asked.servers, asked.occupied) == (1, 4)
    shape = shape_of(replace(asked, parameter_servers=2))
    assert [(seat.name, seat.cpus, seat.gpus) for seat in shape.seats] == [
        ("the coordinator", 1, 0),
        ("worker 0", 1, 0.5),
        ("worker 1", 1, 0.5),
        ("parameter server 0", 1, 0),
        ("parameter server 1", 1, 0),
    ]
    assert (shape.cpus, shape.gpus, shape.trainers) == (5, 1, 1)
    program = shape_of(Resources(workers=2, parameter_servers=1), PROGRAM)
    assert (len(program.seats), program.trainers, program.replicas) == (3, 3, 1)


def test_mirrored_workers_are_one_process() -> None:
    shape = shape_of(Resources(strategy="mirrored", workers=3, gpus_per_worker=1))
    assert [(seat.cpus, seat.gpus) for seat in shape.seats] == [(3, 3)]
    assert (shape.trainers, shape.replicas) == (1, 3)


@pytest.mark.parametrize(
    ("resources", "trainer", "why"),
    [
        (Resources(strategy="best"), "tabular", "'best' is not supported: use one of single, "),
        (Resources(parameter_servers=1), "tabular", "need `strategy: parameter_server`"),
        (Resources(strategy="parameter_server"), PROGRAM, "a program needs no strategy"),
        (Resources(gpus_per_worker=1.5), "tabular", "a part of one or a whole number"),
        (Resources(strategy="mirrored", gpus_per_worker=0.5), "tabular", "have whole GPUs"),
        (Resources(strategy="parameter_server", gpus_per_worker=2), "tabular", "have 1 GPU at"),
    ],
)
def test_what_does_not_go_together_is_refused(
    resources: Resources, trainer: str, why: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        shape_of(resources, trainer)


STUDY = Study(
    study_id="s",
    spec=StudySpec(
        metrics=(Metric(name="val_auc"),),
        trainer="tabular",
        data=DataSource(train_uri="rows.csv", label="y"),
        features=(Feature(name="age", kind="numeric", columns=("age",)),),
        settings={"epochs": 3},
        search=Search(seed=9),
    ),
    state=StudyState.ACTIVE,
    statistics=StatisticsRef(fingerprint="f", uri="/statistics/f.json", rows=7),
    create_time=NOW,
    update_time=NOW,
)
TRIAL = Trial(
    study_id="s",
    number=4,
    state=TrialState.RUNNING,
    parameters={"units": 8},
    attempt=1,
    create_time=NOW,
)


def test_a_task_has_all_that_a_trainer_reads() -> None:
    task = task_of(STUDY, TRIAL, Path("/artifacts"))
    assert (task.study, task.trial, task.trainer, task.seed) == ("s", 4, "tabular", 9)
    assert task.parameters == {"units": 8} and task.settings == {"epochs": 3}
    assert task.features == STUDY.spec.features
    assert task.statistics_path == "/statistics/f.json"
    assert task.selection is Selection.BEST and not task.constraints
    bounded = replace(
        STUDY.spec,
        constraints=(Constraint(metric="val_loss", at_most=0.5),),
        metrics=(Metric(name="val_auc"), Metric(name="val_f1")),
    )
    task = task_of(replace(STUDY, spec=bounded), TRIAL, Path("/artifacts"))
    assert task.selection is Selection.LAST and task.constraints == bounded.constraints


def test_the_epoch_that_counts_is_the_one_that_the_study_server_would_choose() -> None:
    plain = task_of(STUDY, TRIAL, Path("/artifacts"))
    early, late = {"val_auc": 0.8, "val_loss": 0.4}, {"val_auc": 0.9, "val_loss": 0.6}
    assert plain.is_result(late, early)
    assert not plain.is_result(early, late) and not plain.is_result(early, early)
    bounded = replace(plain, constraints=(Constraint(metric="val_loss", at_most=0.5),))
    assert not bounded.is_result(late, early) and bounded.is_result(early, late)
    last = replace(bounded, selection=Selection.LAST)
    assert last.is_result(late, early) and last.is_result(early, late)


def test_an_unprepared_study_has_no_tasks() -> None:
    with pytest.raises(UnavailableError, match="not prepared yet"):
        task_of(replace(STUDY, statistics=None), TRIAL, Path("/artifacts"))


def test_a_ray_of_our_own_is_closed_to_others() -> None:
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    environment.prepare(first, own_cluster=True)
    environment.prepare(second, own_cluster=True)
    assert first["RAY_AUTH_MODE"] == "token"
    assert (
        len(first["RAY_AUTH_TOKEN"]) >= 32 and first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    )
    assert first["RAY_USAGE_STATS_ENABLED"] == "0"
    joined = {"RAY_AUTH_TOKEN": "the user's"}
    environment.prepare(joined, own_cluster=False)
    assert joined.pop("RAY_AUTH_TOKEN") == "the user's"
    assert sorted(joined) == ["RAY_ENABLE_AUTO_CONNECT", "RAY_USAGE_STATS_ENABLED"]


def test_a_chore_that_hurries_is_done_again_once_it_has_ended() -> None:
    begun, go_on = list[int](), threading.Event()

    def work() -> None:
        begun.append(1)
        go_on.wait(10)

    chore = Chore("chore", work, 3600.0)
    chore.tend()
    chore.hurry()
    chore.tend()
    assert len(begun) == 1
    go_on.set()
    for _ in range(500):
        chore.tend()
        if len(begun) == 2:
            break
        time.sleep(0.01)
    chore.tend()
    assert len(begun) == 2
