"""The parts of a study file that say what is measured, what is better, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from tuner import trainer_spaces
from tuner.study import Constraint, DataSource, Goal, Metric, Selection
from tuner.study_file.nodes import Section, hint, show
from tuner.study_file.sections import TASKS
from tuner.trainer_spaces import Task

#: What is read on with after a mistake; never part of a result.
_STAND_IN = Metric(name="unnamed")
_EXAMPLE = "{name: val_auc, goal: maximize}"
_LIST = f"[{_EXAMPLE}, {{name: val_loss}}]"
_BOUNDS = ("at_most", "at_least")


def metrics(top: Section, managed: bool, data: DataSource | None) -> tuple[Metric, ...]:
    """The numbers that trials are compared by, from `metric` or `metrics`."""
    known = _known(data) if managed else None
    if not top.has("metrics"):
        top.require("metric", f"`metric: {_EXAMPLE}`")
        section = top.section("metric", ("name", "goal"), _EXAMPLE)
        return (_STAND_IN if section is None else _metric(section, known),)
    if top.has("metric"):
        key_node = top.entries["metrics"][0]
        top.problems.add(key_node, "a study has `metric` or `metrics`, but not both; keep one")
    return _several(top, known) or (_STAND_IN,)


def _several(top: Section, known: Mapping[str, Goal] | None) -> tuple[Metric, ...]:
    node = top.entries["metrics"][1]
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        top.expect("metrics", f"a list such as {_LIST}")
        return ()
    found: list[Metric] = []
    for index, item in enumerate(node.value):
        path = f"metrics[{index}]"
        if not isinstance(item, yaml.MappingNode):
            message = f"{path} must be a mapping such as {_EXAMPLE}, but got {show(item)}"
            top.problems.add(item, message)
            continue
        section = Section(top.problems, item, item, path, ("name", "goal"))
        metric = _metric(section, known)
        if metric is not _STAND_IN and metric.name in [other.name for other in found]:
            section.reject("name", f"{path}: {metric.name!r} appears twice; name it once")
        found.append(metric)
    return tuple(found)


def _metric(section: Section, known: Mapping[str, Goal] | None) -> Metric:
    section.require("name", "`name: val_auc`")
    name = section.text("name")
    goal = section.choice("goal", [goal.value for goal in Goal], "goal")
    if name is None:
        return _STAND_IN
    if known is None:
        return Metric(name=name, goal=Goal(goal or Goal.MAXIMIZE))
    if name not in known:
        section.reject("name", f"unknown metric {name!r}{hint(name, tuple(known))}")
        return Metric(name=name)
    if goal is not None and goal != known[name]:
        section.reject("goal", f"{name} is better the other way; write `goal: {known[name]}`")
    return Metric(name=name, goal=known[name])


def _known(data: DataSource | None) -> Mapping[str, Goal]:
    """What the trainers of the box report."""
    tasks = TASKS.get(data.task or "", tuple(Task)) if data else tuple(Task)
    return {name: goal for task in tasks for name, goal in trainer_spaces.METRICS[task].items()}


def constraints(top: Section, managed: bool, data: DataSource | None) -> tuple[Constraint, ...]:
    """The bounds that a trial must keep to, by metric."""
    section = top.section("constraints", None, "{latency_ms: {at_most: 50}}")
    if section is None:
        return ()
    known = _known(data) if managed else None
    found: list[Constraint] = []
    for name in section.entries:
        if known is not None and name not in known:
            key_node = section.entries[name][0]
            message = f"unknown metric {name!r}{hint(name, tuple(known))}"
            section.problems.add(key_node, message)
        found += _bounds(section, name)
    return tuple(found)


def _bounds(parent: Section, name: str) -> list[Constraint]:
    section = parent.section(name, _BOUNDS, "{at_most: 50}")
    if section is None:
        return []
    values = {
        key: section.number(key, "a number", -1e300, 1e300) for key in _BOUNDS if section.has(key)
    }
    if not values and not section.has_unknown:
        section.problems.add(
            section.where, f"{section.path} needs {{at_most: 50}} or {{at_least: 50}}"
        )
    most, least = values.get("at_most"), values.get("at_least")
    if most is not None and least is not None and least > most:
        section.reject("at_least", f"nothing is at least {least:g} and at most {most:g}")
    found = []
    if most is not None:
        found.append(Constraint(metric=name, at_most=float(most)))
    if least is not None:
        found.append(Constraint(metric=name, at_least=float(least)))
    return found


def measurement(top: Section) -> Selection | None:
    """Which of a trial's measurements is its result; None if nothing is said."""
    word = top.choice("measurement", [each.value.lower() for each in Selection], "measurement")
    return None if word is None else Selection(word.upper())
