"""Study files: YAML read into a study, with every mistake found at once, each with its line."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import yaml

from tuner import trainer_spaces
from tuner.errors import InvalidArgumentError, StudyFileError
from tuner.setting import Setting
from tuner.space import Float, Group, Space
from tuner.study import StudySpec
from tuner.study_file import (
    feature_section,
    metric_sections,
    parameters,
    sections,
    trainer_section,
)
from tuner.study_file.nodes import Problem, Problems, Section, compose, listed, show
from tuner.study_file.parameters import Found, Lookup
from tuner.trainer_spaces import CLASS_WEIGHT

__all__ = ["KEYS", "Problem", "StudyFile", "check", "load", "parse", "read"]

#: The keys of a study file.
KEYS = (
    "study",
    "metric",
    "metrics",
    "constraints",
    "measurement",
    "data",
    "trainer",
    "features",
    "parameters",
    "training",
    "search",
    "warm_start",
    "limits",
    "resources",
    "export",
    "labels",
)
_MANAGED_ONLY = ("features", "resources", "export")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFile:
    """A file as it was read: what it asks for, or else its mistakes."""

    study_id: str
    spec: StudySpec | None
    problems: tuple[Problem, ...] = ()


def load(path: str | Path) -> tuple[str, StudySpec]:
    """Reads a study file.

    Returns:
        The study's id and what is asked for.

    Raises:
        StudyFileError: the file has mistakes; one line for each.
        InvalidArgumentError: the file cannot be opened.
    """
    file = read(path)
    if file.spec is None:
        raise StudyFileError("\n".join(problem.describe(str(path)) for problem in file.problems))
    return file.study_id, file.spec


def check(source: str | Path) -> list[Problem]:
    """Every mistake of a file (a Path) or of a text (a str)."""
    file = read(source) if isinstance(source, Path) else parse(source)
    return list(file.problems)


def read(path: str | Path) -> StudyFile:
    """Reads a file, mistakes and all; raises InvalidArgumentError if it cannot be opened."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise InvalidArgumentError(
            f"cannot read {path}: {cause}; give the path of a study file."
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return _broken(Problem(line, 1, "not UTF-8 text; save the file as UTF-8"))
    return parse(text, folder=path.absolute().parent)


def parse(text: str, *, folder: Path | None = None) -> StudyFile:
    """Reads the text of a study file; relative paths in it start at `folder`."""
    try:
        root = compose(text)
    except yaml.YAMLError as error:
        return _broken(_syntax_problem(error))
    except RecursionError:
        return _broken(Problem(1, 1, "nested too deeply"))
    if root is None:
        return _broken(Problem(1, 1, "the file is empty; start with `study: NAME`"))
    problems = Problems()
    if not isinstance(root, yaml.MappingNode):
        problems.add(root, f"a study file is a mapping of keys, but got {show(root)}")
        return _broken(*problems.sorted())
    top = Section(problems, root, root, "", KEYS)
    study_id = sections.study_id(top)
    spec = _spec(top, study_id, folder or Path.cwd())
    found = tuple(problems.sorted())
    return StudyFile(study_id=study_id, spec=None if found else spec, problems=found)


def _broken(*problems: Problem) -> StudyFile:
    return StudyFile(study_id="", spec=None, problems=problems)


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        cause = ", ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Problem(line, column, f"not valid YAML: {cause}")
    return Problem(1, 1, f"not valid YAML: {str(error).splitlines()[0]}")


def _spec(top: Section, study_id: str, folder: Path) -> StudySpec:
    managed = top.has("trainer") or top.has("data")
    trainer, own = trainer_section.trainer(top, managed, folder)
    data = sections.data(top, folder, trainer)
    found = Found()
    features = feature_section.features(top, data.label if data else None, trainer, found)
    _read_parameters(top, trainer or _likely_trainer(top, managed), found)
    if not managed:
        _check_script(top, found)
    elif trainer_spaces.is_own(trainer) and data is None:
        _check_own(top, trainer == trainer_spaces.PROGRAM, found)
    # Without data a trainer of the user's own reports what it likes.
    boxed = trainer in trainer_spaces.TRAINERS
    boxed |= trainer != trainer_spaces.PROGRAM and top.has("data")
    metrics = metric_sections.metrics(top, boxed, data)
    spec = StudySpec(
        metrics=metrics,
        space=_space(top, found),
        settings=found.settings,
        search=sections.search(top, len(metrics)),
        limits=sections.limits(top),
        trainer=trainer,
        own=own,
        data=data,
        features=features,
        resources=sections.resources(top, trainer),
        export_model=sections.export_model(top),
        labels=sections.labels(top),
        constraints=metric_sections.constraints(top, boxed, data),
        warm_start=sections.warm_start(top, study_id),
        measurement_selection=metric_sections.measurement(top),
    )
    _check_grid(top, spec)
    return spec


def _likely_trainer(top: Section, managed: bool) -> str | None:
    """Whose parameters to check while the trainer is missing or misspelt."""
    names = tuple(trainer_spaces.TRAINERS)
    written = top.value("trainer")
    if written is None:
        return names[0] if managed and not top.has("trainer") else None
    return next(iter(difflib.get_close_matches(str(written), names, n=1)), None)


def _read_parameters(top: Section, trainer: str | None, found: Found) -> None:
    for key, group in (("parameters", Group.MODEL), ("training", Group.TRAINING)):
        section = top.section(key, None, "{learning_rate: {float: [1e-4, 1e-1], log: true}}")
        if section is None:
            continue
        if not section.entries and top.has("trainer"):
            top.reject(key, f"{key} is empty; leave it out for the trainer's own space")
        weights = _class_weights(section)
        if weights is not None:
            section = section.without("class_weights")
            parameters.read_entries(weights, _class_weight, found, CLASS_WEIGHT)
        parameters.read_entries(section, _lookup(trainer, group), found)


def _class_weights(section: Section) -> Section | None:
    """The weight of each class, where they are given one by one."""
    node = section.entries.get("class_weights", (None, None))[1]
    if not isinstance(node, yaml.MappingNode):
        return None
    if {str(key.value) for key, _ in node.value} & set(parameters.DOMAINS):
        return None
    return section.section("class_weights", None, "{yes: 2.0}")


def _class_weight(name: str) -> tuple[Group, Setting]:
    """What may stand for a class."""
    item = trainer_spaces.parameter_of("", CLASS_WEIGHT + name)
    return item.group, item.setting


def _lookup(trainer: str | None, group: Group) -> Lookup:
    """The names a section may hold: the trainer's, or any if it has none or an unknown one."""
    if trainer is None or trainer_spaces.is_own(trainer):
        return parameters.free(group)  # what there is of its names is checked with the data
    table = trainer_spaces.TRAINERS[trainer]
    settings: dict[str, Setting] = {name: item.setting for name, item in table.items()}
    return parameters.known(settings, {name: item.group for name, item in table.items()})


def _check_script(top: Section, found: Found) -> None:
    """A study without a trainer is worked on by the user's own script."""
    for key in _MANAGED_ONLY:
        if top.has(key):
            message = f"{key} needs a trainer; add `trainer:` and `data:`, or remove it"
            top.problems.add(top.entries[key][0], message)
    _check_space(top, found, ", or `trainer:` and `data:` for a managed study")


def _check_own(top: Section, is_program: bool, found: Found) -> None:
    """A trainer of the user's own without data: what it leaves is its own affair."""
    if top.has("features"):
        message = "features need `data` and a trainer that is given them; remove them"
        top.problems.add(top.entries["features"][0], message)
    if top.has("export"):
        message = (
            "export knows models of the box's trainers; remove it: what the winner wrote is kept "
            "in its folder, which `tuner trials --json` names as `artifact_uri`"
        )
        top.problems.add(top.entries["export"][0], message)
    if is_program:
        _check_space(top, found, "")


def _check_space(top: Section, found: Found, instead: str) -> None:
    example = "`parameters: {x: {float: [0, 1]}}`"
    if not top.has("parameters") and not top.has("training"):
        top.problems.add(top.where, f"nothing to search: add {example}{instead}")
    elif not found.lines:
        key = "parameters" if top.has("parameters") else "training"
        top.problems.add(top.entries[key][0], f"the space is empty; add {example}")
    elif not found.parameters and not len(top.problems):
        top.problems.add(
            top.entries["parameters" if top.has("parameters") else "training"][0],
            f"the space is empty: every parameter is fixed; give one a domain, as in {example}",
        )


def _check_grid(top: Section, spec: StudySpec) -> None:
    """A grid has every value of every parameter, so that each must have a number of them."""
    endless = [
        parameter.name
        for parameter in spec.space.walk()
        if isinstance(parameter.domain, Float) and parameter.domain.step is None
    ]
    if spec.search.algorithm != "grid" or not endless:
        return
    if (section := top.section("search", None, "{algorithm: grid}")) is not None:
        section.reject(
            "algorithm",
            f"a grid needs a number of values for each parameter, but {listed(endless)} has none; "
            "add `step:`, or write {discrete: [...]}",
        )


def _space(top: Section, found: Found) -> Space:
    try:
        return Space(tuple(found.parameters))
    except InvalidArgumentError as error:
        top.problems.add(top.where, error.message.rstrip("."))
        return Space()
