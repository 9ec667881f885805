"""Checks what a study asks for against its data: before the pass over it, and after."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

from tuner.errors import DataError, InvalidArgumentError
from tuner.feature_kinds import CROSS_NUMBER_BUCKETS
from tuner.features import (
    check_feature,
    effective_settings,
    expression_of,
    find_setting,
    kind_of,
    share_problems,
    shared_tables,
    source_columns,
)
from tuner.space import Domain, Space
from tuner.study import DataSource, Feature, StudySpec
from tuner.trainer_spaces import CLASS_WEIGHT, TRAINERS, find_parameter, parameter_of
from tuner_trainers import data
from tuner_trainers.column_statistics import BLURRED, ColumnStatistics
from tuner_trainers.columns import decode
from tuner_trainers.data import Layout
from tuner_trainers.derived import Images, Values, instants_of, no_times
from tuner_trainers.expression_values import fits
from tuner_trainers.statistics import Statistics
from tuner_trainers.target import Target


def check_request(spec: StudySpec) -> None:
    """Checks what needs no data: features, parameters, settings; raises InvalidArgumentError."""
    tuned: dict[str, dict[str, Domain]] = {feature.name: {} for feature in spec.features}
    if len(tuned) != len(spec.features):
        raise InvalidArgumentError("two features have the same name; give one another name.")
    trainer, boxed = spec.trainer or "", spec.trainer in TRAINERS
    for parameter in spec.space.walk():
        found = find_setting(parameter.name, spec.features)
        own = find_parameter(trainer, parameter.name)
        if found is not None:
            tuned[found[0].name][found[1]] = parameter.domain
        elif own is not None:
            own.setting.check_domain(parameter.domain)
        elif boxed and spec.features:
            raise InvalidArgumentError(_unknown(spec, parameter.name))
    for name, value in spec.settings.items():
        if boxed or find_parameter(trainer, name) is not None:
            parameter_of(trainer, name).setting.check(value)
    for feature, _, why in share_problems(spec.features, tuned):
        raise InvalidArgumentError(f"feature {feature.name!r}: {why}.")
    for feature in spec.features:
        check_feature(feature, tuned[feature.name])
        trainers = kind_of(feature.kind).trainers
        if trainers and spec.trainer not in trainers:
            raise InvalidArgumentError(
                f"feature {feature.name!r}: {feature.kind} features need `trainer: {trainers[0]}`."
            )
        if spec.data is not None and spec.data.label in source_columns(feature, spec.features):
            raise InvalidArgumentError(
                f"feature {feature.name!r} uses the label {spec.data.label!r}, which a model "
                "cannot see when it predicts; remove it."
            )


def check_layout(source: DataSource, features: Sequence[Feature]) -> None:
    """Checks from headers alone that every file has the columns it needs; raises DataError."""
    train = data.layout(source.train_uri, source.column_types)
    columns = {column for feature in features for column in source_columns(feature, features)}
    _require_label(source.train_uri, train, source.label)
    train.require(source.train_uri, sorted(columns))
    for name in source.column_types:
        train.require(source.train_uri, [name])
    for uri in (source.validation_uri, source.test_uri):
        if uri:
            held_out = data.layout(uri)
            _require_label(uri, held_out, source.label)
            held_out.require(uri, sorted(columns))


def check_held_out(
    source: DataSource, statistics: Statistics, features: Sequence[Feature], target: Target
) -> None:
    """Reads the first rows of validation and test data as the model will; raises DataError."""
    columns = dict.fromkeys(
        [source.label, *(name for f in features for name in source_columns(f, features))]
    )
    for uri in (source.validation_uri, source.test_uri):
        if not uri:
            continue
        data.layout(uri).require(uri, columns)
        batches = data.encoded(
            uri,
            types=statistics.types,
            missing_values=source.missing_values,
            columns=tuple(columns),
        )
        with closing(batches):
            first, _ = next(batches)
        try:
            target.encode(decode({source.label: first[source.label]})[source.label])
        except DataError as error:
            raise DataError(f"{uri}: {error.message}") from error


def check_rows(source: DataSource, label: ColumnStatistics, classes: Sequence[str]) -> None:
    """Checks that training and validation get rows, and classes are apart; raises DataError."""
    if classes and label.is_blurred:
        raise DataError(
            f"{source.train_uri}: the classes in the label {label.name!r} cannot be told apart: "
            f"{BLURRED}; write `types: {{{label.name}: string}}` under `data`."
        )
    fraction = source.validation_fraction
    if source.validation_uri or fraction is None:
        return
    if not 0.0 < fraction < 1.0:
        raise InvalidArgumentError(
            f"`0 < validation < 1` must hold for a fraction, but got {fraction:g}."
        )
    if len(classes) == 2 and (rarest := min(label.top, key=lambda of: of[1]))[1] < 2:
        raise DataError(
            f"{source.train_uri}: the label {label.name!r} is {rarest[0]!r} in one row only, but "
            "training and validation need one each; add such rows."
        )
    validation = round(label.present * fraction)
    training = label.present - validation
    if min(validation, training) < 2:
        raise DataError(
            f"{source.train_uri}: of {label.present} rows with a label, a validation fraction of "
            f"{fraction:g} leaves {training} to train on and {validation} to validate with; "
            "each needs 2 at least, so add rows."
        )


def check_class_weights(spec: StudySpec, classes: Sequence[str]) -> None:
    """Checks that what is weighted is a class of the label; raises InvalidArgumentError."""
    names = [name for name, value in spec.settings.items() if value != "none"]
    names += [parameter.name for parameter in spec.space.walk()]
    weighted = [name for name in names if name.startswith(CLASS_WEIGHT)]
    if not classes and (weighted or "class_weights" in names):
        raise InvalidArgumentError(
            "class_weights are for classes, but the label is a number: remove them, or write "
            "`task: classification` under `data`."
        )
    for name in weighted:
        asked = name.removeprefix(CLASS_WEIGHT)
        if asked not in classes:
            raise InvalidArgumentError(
                f"class_weights names {asked!r}, but the classes of the label are "
                f"{', '.join(map(repr, classes[:16]))}."
            )


def check_features(features: Sequence[Feature], statistics: Statistics, uri: str) -> None:
    """Checks that each feature's columns hold what it needs; raises DataError."""
    for feature in features:
        kinds = kind_of(feature.kind).column_kinds
        for name in source_columns(feature, features):
            column = statistics.columns[name]
            if not column.present:
                raise DataError(
                    f"{uri}: the column {name!r} of feature {feature.name!r} is missing in every "
                    "row; remove the feature."
                )
            if column.kind not in kinds and column.kind == "bytes":
                raise DataError(
                    f"{uri}: feature {feature.name!r} is {feature.kind}, but the column {name!r} "
                    "holds bytes; say `kind: image`, or remove the feature."
                )
            if column.kind not in kinds and column.kind == "number":
                raise DataError(
                    f"{uri}: feature {feature.name!r} is {feature.kind}, but the column {name!r} "
                    "holds numbers; say another kind, or give the column the type string by "
                    "`types` under `data`."
                )
            if column.kind not in kinds:
                raise DataError(
                    f"{uri}: feature {feature.name!r} is {feature.kind}, but the column {name!r} "
                    f"holds text such as {column.top[0][0]!r}; say `kind: categorical`, or add "
                    "words that mean missing to `missing` under `data`."
                )
        _check_told_apart(feature, statistics, uri)
        if feature.kind == "datetime":
            _check_times(feature, statistics, uri)
        if feature.kind == "image":
            _check_images(feature, statistics, uri)
        if feature.kind == "expression":
            _check_expression(feature, statistics, uri)
    for table, members in shared_tables(features).items():
        columns = {statistics.columns[feature.columns[0]].kind for feature in members}
        if len(columns) > 1:
            raise DataError(
                f"{uri}: the features that share the table {table!r} hold numbers and text; give "
                "their columns one type by `types` under `data`."
            )


def _check_told_apart(feature: Feature, statistics: Statistics, uri: str) -> None:
    """Refuses to take numbers for names that a float64 does not tell from their neighbours."""
    for name in feature.columns:
        column = statistics.columns.get(name)
        if column is None:
            continue  # a feature that others take, such as an expression
        as_names = feature.kind == "categorical" or (
            feature.kind == "cross" and column.distinct <= CROSS_NUMBER_BUCKETS
        )
        if as_names and column.is_blurred:
            raise DataError(
                f"{uri}: feature {feature.name!r} takes each value of the column {name!r} by "
                f"itself, but {BLURRED}: write `types: {{{name}: string}}` under `data`."
            )


def _check_times(feature: Feature, statistics: Statistics, uri: str) -> None:
    column = statistics.columns[feature.columns[0]]
    settings = effective_settings(feature, {})
    unit = None if settings["unit"] is None else str(settings["unit"])
    found = instants_of(column, statistics.derived, bool(settings["day_first"]), unit)
    if not len(found.values):
        raise DataError(f"{uri}: feature {feature.name!r} is a datetime, but {no_times(column)}")


def _check_images(feature: Feature, statistics: Statistics, uri: str) -> None:
    column = statistics.columns[feature.columns[0]]
    found = statistics.derived[Images(column.name).keys[0]].present
    if not found:
        raise DataError(
            f"{uri}: feature {feature.name!r} is an image, but what the column {column.name!r} "
            "holds is neither PNG nor JPEG; convert it, or remove the feature."
        )


def _check_expression(feature: Feature, statistics: Statistics, uri: str) -> None:
    wrong = fits(expression_of(feature), statistics.types)
    if wrong:
        raise DataError(f"{uri}: feature {feature.name!r}: {wrong}.")
    if feature.name in statistics.columns:
        raise DataError(
            f"{uri}: feature {feature.name!r} is an expression, but a column is called so; give "
            "the feature another name."
        )
    (key,) = Values(str(feature.settings["expression"])).keys
    if not statistics.derived[key].present:
        raise DataError(
            f"{uri}: the expression of feature {feature.name!r} is missing in every row; see "
            "which of its columns are, or what is divided by zero."
        )


def feature_parameters(space: Space, features: Iterable[Feature]) -> Mapping[str, Feature]:
    """The parameters of the space that tune a feature, each with the feature."""
    known = tuple(features)
    found = {parameter.name: find_setting(parameter.name, known) for parameter in space.walk()}
    return {name: owner[0] for name, owner in found.items() if owner is not None}


def _require_label(uri: str, layout: Layout, label: str) -> None:
    if label not in layout.names and label not in layout.unsupported:
        raise DataError(data.missing_column(uri, label, layout.names, "label"))
    layout.require(uri, [label])


def _unknown(spec: StudySpec, name: str) -> str:
    table = TRAINERS.get(spec.trainer or "", {})
    names = [
        *table,
        *(
            f"{feature.name}.{s}"
            for feature in spec.features
            for s in kind_of(feature.kind).settings
        ),
    ]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the trainer has {', '.join(table)}."
    return f"no parameter is called {name!r}: {hint}"
