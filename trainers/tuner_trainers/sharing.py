"""Proposes that features whose columns hold the same values share a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tuner.feature_kinds import TABLE_SETTINGS
from tuner_trainers.drafts import Draft
from tuner_trainers.statistics import Statistics

#: The part of the values of two columns that both of them have, from which on they share a table.
_IN_COMMON = 0.5
#: Characters of the name of a table.
_NAME = 63


def sharing(drafts: Sequence[Draft], statistics: Statistics) -> list[Draft]:
    """Lets drafts of features with learned vectors share them where their values are the same.

    Which cities a flight leaves and reaches, say: each value is then learned from the rows of
    both. The first of such features has the settings of the table.
    """
    values = {
        draft.feature.name: {text for text, _ in statistics.columns[draft.feature.name].top}
        for draft in drafts
        if draft.feature.kind == "categorical" and "vocabulary" in draft.tunable
    }
    owners: dict[str, str] = {}
    for name, mine in values.items():
        same = (owner for owner in dict.fromkeys(owners.values()) if _same(mine, values[owner]))
        owners[name] = next(same, name)
    members: dict[str, list[str]] = {}
    for name, owner in owners.items():
        members.setdefault(owner, []).append(name)
    return [_shared(draft, owners, members) for draft in drafts]


def _same(mine: set[str], others: set[str]) -> bool:
    return len(mine & others) >= _IN_COMMON * len(mine | others)


def _shared(
    draft: Draft, owners: Mapping[str, str], members: Mapping[str, Sequence[str]]
) -> Draft:
    name = draft.feature.name
    owner = owners.get(name, "")
    together = members.get(owner, ())
    if len(together) < 2:
        return draft
    others = " and ".join(repr(other) for other in together if other != name)
    settings = {**draft.feature.settings, "share": " & ".join(together)[:_NAME]}
    if owner != name:
        settings = {key: of for key, of in settings.items() if key not in TABLE_SETTINGS}
    reason = f"{draft.feature.reason}; most values are also in {others}, so they share vectors"
    return replace(
        draft,
        feature=replace(draft.feature, settings=settings, reason=reason),
        tunable=draft.tunable if owner == name else {},
    )
