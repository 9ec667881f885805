"""What a study will do, in a line, and the features it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from tuner.cli.session import Session
from tuner.client import tables
from tuner.space import Space
from tuner.study import Feature, StudySpec


def summary(
    spec: StudySpec,
    rows: int | None = None,
    *,
    features: Sequence[Feature] | None = None,
    space: Space | None = None,
) -> str:
    """`26,048 rows · 14 features · 9 parameters (5 preprocessing, 4 model) · 30 trials`.

    Args:
        spec: the study.
        rows: of its data, if it was read.
        features: instead of the specification's own.
        space: instead of the specification's own.
    """
    features = spec.features if features is None else features
    parameters = list((spec.space if space is None else space).walk())
    parts = [] if rows is None else [f"{rows:,} rows"]
    if features:
        parts.append(_plural(len(features), "feature"))
    if parameters:
        groups = Counter(parameter.group for parameter in parameters)
        told = ", ".join(f"{count} {group}" for group, count in groups.items())
        parts.append(f"{_plural(len(parameters), 'parameter')} ({told})")
    if len(spec.metrics) > 1:
        parts.append(_plural(len(spec.metrics), "metric"))
    if spec.constraints:
        parts.append(_plural(len(spec.constraints), "constraint"))
    if spec.warm_start:
        parts.append(f"starts from {', '.join(spec.warm_start)}")
    trials = _plural(spec.limits.trials, "trial")
    if spec.limits.parallel is not None and spec.limits.parallel > 1:
        trials += f", {spec.limits.parallel} at once"
    parts.append(trials)
    if spec.resources.workers > 1:
        parts.append(f"{spec.resources.workers} workers each")
    return " · ".join(parts)


def print_features(session: Session, features: Sequence[Feature], space: Space) -> None:
    """Prints the features that were proposed, each with its reason; nothing if none was."""
    if any(feature.reason for feature in features):
        view = _features_table(features, space)
        session.out.print(tables.fitted(view, session.out, "because"))


def _features_table(features: Sequence[Feature], space: Space) -> Table:
    view = tables.table()
    for heading in ("feature", "kind", "settings", "because"):
        view.add_column(heading, no_wrap=True)
    names = [parameter.name for parameter in space.walk()]
    for feature in features:
        prefix = f"{feature.name}."
        tuned = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        fixed = [f"{name}={tables.setting(value)}" for name, value in feature.settings.items()]
        settings = " ".join(fixed + [f"{name}=tuned" for name in tuned])
        view.add_row(feature.name, feature.kind, settings, feature.reason)
    return view


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
