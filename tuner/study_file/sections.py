"""The sections of a study file: each reads its keys and returns a plain value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuner import early_stopping
from tuner.early_stopping import RULES, Progress, Stopping
from tuner.errors import InvalidArgumentError
from tuner.study import DataSource, Limits, Resources, Search, Strategy, check_study_id
from tuner.study_file.nodes import Section
from tuner.trainer_spaces import PROGRAM, Task, is_own

#: What the study server can search with; a test compares with the engine.
ALGORITHMS = ("auto", "random", "grid", "qmc", "tpe", "gp", "cma-es", "nsga-ii")
#: How many studies one may start from; a test compares with the engine.
MAX_EARLIER = 5
#: What can be asked for, and what that may turn out to be.
TASKS: Mapping[str, tuple[Task, ...]] = {
    "classification": (Task.BINARY, Task.MULTICLASS),
    "regression": (Task.REGRESSION,),
}
_COLUMN_TYPES = ("number", "string")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
#: Ten years.
_MAX_HOURS = 87_600
#: What is read on with after a mistake; never part of a result.
_STAND_IN = "unnamed"


def study_id(top: Section) -> str:
    """The study's name."""
    top.require("study", "a name such as `study: adult-income`")
    name = top.text("study", "a name of a-z, 0-9 and -")
    if name is None:
        return _STAND_IN
    try:
        return check_study_id(name)
    except InvalidArgumentError as error:
        top.reject("study", error.message.rstrip("."))
        return _STAND_IN


# --- data ------------------------------------------------------------------------------------


def data(top: Section, folder: Path, trainer: str | None) -> DataSource | None:
    """What is trained on; relative paths start at `folder`."""
    example = "{train: train.csv, label: income}"
    if trainer == PROGRAM and top.has("data"):
        message = "a program reads its data by itself: name it in the command, and remove `data`"
        top.problems.add(top.entries["data"][0], message)
        return None
    if trainer is not None and not is_own(trainer):
        top.require("data", f"`data: {example}`")
    keys = ("train", "validation", "test", "label", "task", "types", "missing", "exclude")
    section = top.section("data", keys, example)
    if section is None:
        return None
    section.require("train", "a path such as `train: train.csv`")
    section.require("label", "the column to predict")
    label = section.text("label", "a column's name")
    train = section.text("train", "a path, a glob or a URI")
    fraction, uri = _validation(section, folder)
    test = section.text("test", "a path, a glob or a URI")
    task = section.choice("task", tuple(TASKS), "task")
    types = _column_types(section)
    missing = section.texts("missing", "[NA, '?']")
    exclude = section.texts("exclude", "[id, 'arr_*']")
    if train is None or label is None:
        return None
    return DataSource(
        train_uri=_resolved(train, folder),
        label=label,
        validation_fraction=fraction,
        validation_uri=uri,
        test_uri=_resolved(test, folder) if test else None,
        task=task,
        column_types=types,
        missing_values=missing,
        exclude=exclude,
    )


def _validation(section: Section, folder: Path) -> tuple[float | None, str | None]:
    value = section.value("validation")
    if not section.has("validation"):
        return 0.2, None
    if isinstance(value, str) and value:
        return None, _resolved(value, folder)
    if isinstance(value, (bool, str)) or value is None or not 0 < value < 1:
        section.expect("validation", "a fraction above 0 and below 1, or a path")
        return 0.2, None
    return float(value), None


def _column_types(section: Section) -> Mapping[str, str]:
    inner = section.section("types", None, "{zip_code: string}")
    if inner is None:
        return {}
    words = {key: inner.choice(key, _COLUMN_TYPES, "column type") for key in inner.entries}
    return {key: word for key, word in words.items() if word is not None}


def _resolved(path: str, folder: Path) -> str:
    return path if "://" in path else os.path.normpath(folder / Path(path).expanduser())


# --- limits and the rest ---------------------------------------------------------------------


def warm_start(top: Section, own: str) -> tuple[str, ...]:
    """The earlier studies whose results the search starts from."""
    named = top.texts("warm_start", "[older-study]")
    if len(named) > MAX_EARLIER:
        top.reject(
            "warm_start", f"warm_start names at most {MAX_EARLIER} studies, but got {len(named)}"
        )
    for index, name in enumerate(named):
        where = top.entries["warm_start"][1].value[index]
        if name in named[:index]:
            top.problems.add(where, f"warm_start names {name!r} twice; name it once")
        elif name == own:
            top.problems.add(where, "a study does not start from its own results; remove it")
        else:
            try:
                check_study_id(name)
            except InvalidArgumentError as error:
                top.problems.add(where, f"warm_start: {error.message.rstrip('.')}")
    return named


def search(top: Section, metrics: int) -> Search:
    """How trials are chosen and cut short; not cut short by several metrics."""
    section = top.section("search", ("algorithm", "early_stopping", "seed"), "{algorithm: auto}")
    if section is None:
        return Search()
    rule, stopping = _early_stopping(section)
    if metrics > 1 and rule not in (None, "none"):
        section.reject(
            "early_stopping",
            f"{rule} compares trials by one metric, but there are {metrics}; "
            "write `early_stopping: none`, or leave it out",
        )
    return Search(
        algorithm=section.choice("algorithm", ALGORITHMS, "algorithm") or "auto",
        early_stopping=rule or "asha",
        stopping=stopping,
        seed=section.integer("seed", 0, 2**63 - 1) or 0,
    )


def _early_stopping(section: Section) -> tuple[str | None, Stopping]:
    """The rule, by its name alone or with its parameters."""
    if not section.is_mapping("early_stopping"):
        rule = section.choice("early_stopping", tuple(RULES), "early stopping")
        if rule is not None:
            for _, problem in early_stopping.problems(rule, Stopping()):
                section.reject("early_stopping", problem)
        return rule, Stopping()
    example = "{rule: asha, eta: 4}"
    keys = ("rule", *(field.name for field in fields(Stopping)))
    inner = section.section("early_stopping", keys, example)
    if inner is None:
        return None, Stopping()
    inner.require("rule", "a rule such as `rule: asha`")
    rule = inner.choice("rule", tuple(RULES), "rule")
    by = inner.choice("by", tuple(Progress), "measure of progress")
    stopping = Stopping(by=Progress(by or Progress.STEPS), **_parameters(inner))
    if rule is not None:
        for name, problem in early_stopping.problems(rule, stopping):
            inner.reject(name if inner.has(name) else "rule", problem)
    return rule, stopping


def _parameters(section: Section) -> dict[str, Any]:
    found: dict[str, float | None] = {}
    for key in section.entries.keys() - {"rule", "by"}:
        if key in early_stopping.WHOLE:
            found[key] = section.integer(key, 1, 1_000_000)
        else:
            found[key] = section.number(key, "a number", -math.inf, math.inf)
    return found


def limits(top: Section) -> Limits:
    """When the study ends."""
    keys = (
        "trials",
        "parallel",
        "hours",
        "no_improvement_trials",
        "failed_trials",
        "worker_hours",
    )
    section = top.section("limits", keys, "{trials: 30}")
    if section is None:
        return Limits()
    return Limits(
        trials=section.integer("trials", 1, 1_000_000) or 100,
        parallel=section.integer("parallel", 1, 1000),
        duration=_hours(section, "hours"),
        no_improvement_trials=section.integer("no_improvement_trials", 1, 1_000_000),
        failed_trials=section.integer("failed_trials", 1, 1_000_000),
        worker_time=_hours(section, "worker_hours"),
    )


def _hours(section: Section, key: str) -> timedelta | None:
    what = f"a number of hours above 0 and up to {_MAX_HOURS}"
    hours = section.number(key, what, 1e-6, _MAX_HOURS)
    return None if hours is None else timedelta(hours=hours)


def resources(top: Section, trainer: str | None) -> Resources:
    """What each trial gets to run on."""
    keys = ("strategy", "workers", "parameter_servers", "cpus_per_worker", "gpus_per_worker")
    section = top.section("resources", keys, "{strategy: multi_worker, workers: 2}")
    if section is None:
        return Resources()
    strategy = section.choice("strategy", list(Strategy), "strategy")
    workers = section.integer("workers", 1, 1024)
    servers = section.integer("parameter_servers", 0, 1024)
    if strategy == Strategy.SINGLE and workers is not None and workers > 1:
        section.reject("workers", f"strategy single has 1 worker, but got {workers}")
    cpus = section.number("cpus_per_worker", "a number above 0, up to 1024", 0.01, 1024)
    gpus = section.number("gpus_per_worker", "a number from 0 to 64", 0, 64)
    found = Resources(
        strategy=strategy or "",
        workers=workers or 1,
        parameter_servers=servers or 0,
        cpus_per_worker=1.0 if cpus is None else float(cpus),
        gpus_per_worker=0.0 if gpus is None else float(gpus),
    )
    for key, problem in found.problems(program=trainer == PROGRAM).items():
        section.reject(key, problem)
    return found


def export_model(top: Section) -> str | None:
    """The model the winner becomes a version of."""
    section = top.section("export", ("model",), "{model: adult-income}")
    if section is None:
        return None
    section.require("model", "a name such as `model: adult-income`")
    model = section.text("model", "a model's name")
    if model is not None and not _MODEL.fullmatch(model):
        what = "1 to 128 letters, digits, -, _ and ., starting with a letter or digit"
        section.expect("model", what)
    return model


def labels(top: Section) -> Mapping[str, str]:
    """Words of the user's own."""
    section = top.section("labels", None, "{team: research}")
    if section is None:
        return {}
    words = {key: section.text(key) for key in section.entries}
    return {key: word for key, word in words.items() if word is not None}
