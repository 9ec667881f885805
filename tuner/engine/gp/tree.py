"""The space as trials show it: which parameters there are, and what decides that they exist."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tuner.engine.gp.cube import Axis, Cube


def inferred(trials: Sequence[FrozenTrial]) -> Cube:
    """The cube of all parameters that trials had, by their latest distributions.

    A parameter that some trials lack is taken for the child of the first one whose value tells,
    in every trial, whether it is there; if none does, as one that is always there.
    """
    distributions: dict[str, BaseDistribution] = {}
    for trial in trials:
        distributions.update(trial.distributions)
    names = [name for name, d in distributions.items() if not d.single()]
    having = {name: frozenset(t.number for t in trials if name in t.params) for name in names}
    # Parents have at least the trials of their children; choices tell more than numbers.
    names.sort(key=lambda name: -len(having[name]))
    axes: list[Axis] = []
    everything = frozenset(t.number for t in trials if t.params)
    for name in names:
        axis = Axis(distributions[name])
        if having[name] != everything:
            axis = _child(axis, name, names[: len(axes)], axes, trials)
        axes.append(axis)
    return Cube(tuple(names), tuple(axes))


def _child(
    axis: Axis,
    name: str,
    parents: Sequence[str],
    axes: Sequence[Axis],
    trials: Sequence[FrozenTrial],
) -> Axis:
    order = sorted(range(len(parents)), key=lambda i: axes[i].choices == 0)
    for index in order:
        levels, parent = axes[index].levels, parents[index]
        if levels is None or levels > 64:
            continue
        with_it = {t.params[parent] for t in trials if name in t.params and parent in t.params}
        without = {t.params[parent] for t in trials if name not in t.params and parent in t.params}
        orphans = any(name in t.params and parent not in t.params for t in trials)
        if with_it and not orphans and not with_it & without:
            when = tuple(sorted(axes[index].coordinate(value) for value in with_it))
            return Axis(axis.distribution, index, when)
    return axis
