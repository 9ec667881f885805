"""Proposes features and what to tune of them, from the statistics, and says why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tuner.features import parameter_name
from tuner.space import Domain, Group, Parameter
from tuner.study import Feature
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.drafts import TELLS_NOTHING, Draft, draft_of, useless
from tuner_trainers.sharing import sharing
from tuner_trainers.statistics import Statistics

#: Preprocessing parameters proposed at most: what some twenty trials can tell apart.
_MAX_TUNED = 5
#: Part of the label's entropy above which a column may be a leak.
_TELLS_ALL = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Features with their fixed settings, parameters that tune others, and columns left out."""

    features: tuple[Feature, ...]
    parameters: tuple[Parameter, ...]
    #: Why a column is no feature, by column.
    skipped: Mapping[str, str] = field(default_factory=dict)


def propose(
    statistics: Statistics,
    label: str,
    relevance: Mapping[str, float] | None = None,
    *,
    without: Collection[str] = (),
    tune: bool = True,
    leading: str = "",
) -> Proposal:
    """Proposes features from all columns but the label.

    Args:
        statistics: of the training data.
        label: the column to predict.
        without: more columns to leave alone.
        tune: whether to propose parameters too, or fix every setting.
        leading: the kind of feature that the trainer is made for, of which more is tuned.
        relevance: how much each column tells of the label, 0 to 1; the settings of those that
            tell most are tuned. Without it, the first columns count as telling most.
    """
    drafts: list[Draft] = []
    skipped: dict[str, str] = {}
    for name, column in statistics.columns.items():
        if name == label or name in without:
            continue
        told = (relevance or {}).get(name)
        draft = draft_of(column, statistics, told, leading)
        if draft is None:
            skipped[name] = useless(column)
            continue
        reason = f"{draft.feature.reason}{_missing(column)}{_tells(label, told)}"
        drafts.append(replace(draft, feature=replace(draft.feature, reason=reason)))
    drafts = sharing(drafts, statistics)
    skipped |= {
        name: f"it holds {kind}, which is not read"
        for name, kind in statistics.unsupported.items()
        if name not in without
    }
    weights = {**(relevance or {}), **dict.fromkeys(_leading(drafts, leading), 1.0)}
    tuned = _most_relevant(drafts, weights) if tune else {}
    return Proposal(
        features=tuple(_untuned(draft, tuned) for draft in drafts),
        parameters=tuple(tuned.values()),
        skipped=skipped,
    )


def _leading(drafts: list[Draft], kind: str) -> Iterator[str]:
    """The features of a kind: by itself a text or an image tells nothing that can be counted."""
    yield from (draft.feature.name for draft in drafts if draft.feature.kind == kind)


def _most_relevant(drafts: list[Draft], relevance: Mapping[str, float]) -> dict[str, Parameter]:
    """The parameters worth tuning, in the order of the columns."""
    candidates = list(_candidates(drafts, relevance))
    # Sorting is stable, so columns of which nothing is known keep their order.
    chosen = {name for _, name, _ in sorted(candidates, key=lambda c: -c[0])[:_MAX_TUNED]}
    return {
        name: Parameter(name=name, domain=domain, group=Group.PREPROCESSING)
        for _, name, domain in candidates
        if name in chosen
    }


def _candidates(
    drafts: list[Draft], relevance: Mapping[str, float]
) -> Iterator[tuple[float, str, Domain]]:
    """What could be tuned, with its weight: a second setting of a feature weighs half."""
    for draft in drafts:
        for rank, (setting, domain) in enumerate(draft.tunable.items(), start=1):
            weight = relevance.get(draft.feature.name, 1.0) / rank
            yield weight, parameter_name(draft.feature.name, setting), domain


def _untuned(draft: Draft, tuned: Mapping[str, Parameter]) -> Feature:
    feature = draft.feature
    settings = {
        name: value
        for name, value in feature.settings.items()
        if parameter_name(feature.name, name) not in tuned
    }
    return replace(feature, settings=settings)


def _missing(column: ColumnStatistics) -> str:
    absent = column.count - column.present
    return f"; {absent / column.count:.1%} missing" if absent else ""


def _tells(label: str, relevance: float | None) -> str:
    if relevance is None:
        return ""
    if relevance < TELLS_NOTHING:
        return f"; tells next to nothing of {label} by itself"
    warning = ", so make sure that it is known when predicting" if relevance > _TELLS_ALL else ""
    return f"; tells {relevance:.1%} of {label} by itself{warning}"
