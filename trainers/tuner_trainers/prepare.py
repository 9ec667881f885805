"""Completes a study from its data: features, space and settings; or says why it cannot be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from tuner.errors import InvalidArgumentError
from tuner.space import Space, Value
from tuner.study import DataSource, Feature, StudySpec
from tuner.trainer_spaces import (
    LEADING,
    TRAINERS,
    Task,
    check_metric,
    default_space,
    find_parameter,
    table_of,
)
from tuner_trainers import checks, data
from tuner_trainers.derived import asked_for
from tuner_trainers.features import Proposal, propose
from tuner_trainers.labels import task_of
from tuner_trainers.learning import Learner
from tuner_trainers.statistics import Statistics
from tuner_trainers.target import Target

#: Parameters that a study file has under `training`; tuning them says nothing of the model's own.
_TRAINING_SECTION = frozenset(
    {
        "epochs",
        "batch_size",
        "schedule",
        "warmup",
        "final_rate",
        "clip_norm",
        "clip_value",
        "precision",
        "class_weights",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that can be run, and what its data taught."""

    statistics: Statistics
    features: tuple[Feature, ...]
    space: Space
    #: A value for every parameter of the trainer that is not tuned.
    settings: Mapping[str, Value]
    task: Task
    #: The label's values as text, in the order of the model's outputs; none for regression.
    classes: tuple[str, ...]
    #: Why a column became no feature, where features were proposed.
    skipped: Mapping[str, str] = field(default_factory=dict)


def prepare(
    spec: StudySpec, *, artifacts: Path | None = None, learner: Learner | None = None
) -> Prepared:
    """Learns of a study's data and completes the study from it.

    Columns that no feature names become features too, unless they are excluded; what of them is
    worth tuning is proposed where the study names no feature at all. The trainer's default space
    is added where the study names none of the trainer's parameters, those of the section
    `training` aside.

    Args:
        spec: the study as its user wrote it.
        artifacts: where the code of a trainer of the user's own lies.
        learner: how the data is learned of; by reading it in this process by default.

    Raises:
        DataError: the data cannot be read, or cannot teach what is asked.
        InvalidArgumentError: the study asks for what does not exist.
    """
    source = _source(spec)
    checks.check_request(spec)
    checks.check_layout(source, spec.features)
    learner = learner or Learner()
    statistics = learner.statistics(
        source.train_uri,
        types={**source.column_types, **dict.fromkeys(_images(spec, source), "bytes")},
        missing_values=source.missing_values,
        derived=asked_for(spec.features, spec.space),
    )
    label = statistics.columns[source.label]
    task, classes = task_of(label, source)
    checks.check_class_weights(spec, classes)
    checks.check_rows(source, label, classes)
    checks.check_features(spec.features, statistics, source.train_uri)
    for metric in spec.metrics:
        check_metric(metric, task)
    proposal = _proposal(spec, source, statistics, learner)
    checks.check_held_out(
        source, statistics, proposal.features, Target(label=label.name, task=task, classes=classes)
    )
    if spec.trainer not in TRAINERS:
        space = _built_space(spec, proposal, statistics, artifacts or Path())
        spec = replace(spec, space=space)
    space = _space(spec, proposal)
    return Prepared(
        statistics=statistics,
        features=proposal.features,
        space=space,
        settings=_settings(spec, space),
        task=task,
        classes=classes,
        skipped=proposal.skipped,
    )


def _images(spec: StudySpec, source: DataSource) -> Sequence[str]:
    """The columns with images, or with paths of such."""
    named = [feature.columns[0] for feature in spec.features if feature.kind == "image"]
    if named or LEADING.get(spec.trainer or "") != "image":
        return named
    return data.image_paths(source.train_uri, source.column_types, source.missing_values)


def _source(spec: StudySpec) -> DataSource:
    if spec.data is None or spec.trainer is None:
        raise InvalidArgumentError("only a study with a trainer and data can be prepared.")
    if spec.trainer not in TRAINERS and ":" not in spec.trainer:
        raise InvalidArgumentError(
            f"there is no trainer {spec.trainer!r}; it is one of {', '.join(TRAINERS)}."
        )
    return spec.data


def _proposal(
    spec: StudySpec, source: DataSource, statistics: Statistics, learner: Learner
) -> Proposal:
    """The user's features, then those of the columns that no feature names.

    A column that enters only a cross or an expression is named by none: it is seen by itself as
    well.
    """
    named = {
        feature.columns[0]
        for feature in spec.features
        if len(feature.columns) == 1 and feature.kind != "expression"
    }
    excluded = {
        name
        for name in [*statistics.columns, *statistics.unsupported]
        if any(fnmatchcase(name, pattern) for pattern in source.exclude)
    }
    without = named | excluded
    if without >= statistics.columns.keys() - {source.label}:
        told: Mapping[str, float] = {}
    else:
        told = learner.relevance(source.label)
    leading = LEADING.get(spec.trainer or "", "")
    proposal = propose(
        statistics, source.label, told, without=without, tune=not spec.features, leading=leading
    )
    proposal = replace(proposal, features=(*spec.features, *proposal.features))
    if not proposal.features:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in proposal.skipped.items())
        raise InvalidArgumentError(
            f"{source.train_uri} has no column to learn from beside the label"
            + (f" ({reasons})." if reasons else ".")
        )
    if leading and all(feature.kind != leading for feature in proposal.features):
        raise InvalidArgumentError(
            f"{source.train_uri}: no column was found to be one for `trainer: {spec.trainer}`; "
            f"name it under `features`, as `COLUMN: {{kind: {leading}}}`."
        )
    return proposal


def _space(spec: StudySpec, proposal: Proposal) -> Space:
    trainer = spec.trainer or ""
    named = {parameter.name for parameter in spec.space.walk()}
    of_features = checks.feature_parameters(spec.space, proposal.features)
    own = {name for name in named if find_parameter(trainer, name) is not None}
    unknown = named - set(of_features) - own
    if unknown and trainer in TRAINERS:  # a function of the user's own may ask for any
        raise InvalidArgumentError(f"no parameter is called {min(unknown)!r}.")
    parameters = list(spec.space.parameters)
    parameters += [p for p in proposal.parameters if p.name not in named]
    if {name.partition(".")[0] for name in own - set(of_features)} <= _TRAINING_SECTION:
        parameters += default_space(trainer, named, spec.settings).parameters
    if not parameters:
        raise InvalidArgumentError(
            "the space is empty: every parameter is fixed; give one a range, or leave "
            "`parameters` out."
        )
    return Space(tuple(parameters))


def _built_space(
    spec: StudySpec, proposal: Proposal, statistics: Statistics, artifacts: Path
) -> Space:
    """The space with what the user's function asks for as it builds a network."""
    from tuner_trainers import built  # imports TensorFlow, which no other study needs here
    from tuner_trainers.preprocessing import build_encoder

    source = _source(spec)
    encoder = build_encoder(proposal.features, {}, statistics, source.missing_values)
    return built.space_of(spec, encoder, 1, artifacts)


def _settings(spec: StudySpec, space: Space) -> Mapping[str, Value]:
    tuned = {parameter.name for parameter in space.walk()}
    defaults = {
        name: parameter.setting.default
        for name, parameter in table_of(spec.trainer or "").items()
        if name not in tuned and parameter.setting.default is not None
    }
    return {**defaults, **spec.settings}
