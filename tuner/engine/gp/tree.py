"""Cubes of spaces: of ours, and of what trials of other programs show of theirs."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.engine import domains, encoding
from tuner.engine.gp.cube import Axis, Cube
from tuner.space import Parameter, Space

# Trials that have all of their parameters.
_WHOLE = (TrialState.COMPLETE, TrialState.PRUNED)


def cube_of(space: Space) -> Cube:
    """The cube of a space; a parameter with a single value has no axis, but its children may."""
    axes: dict[str, Axis] = {}

    def add(parameter: Parameter, parent: int | None, when: tuple[float, ...]) -> None:
        axis = Axis(encoding.distribution_of(parameter.domain), parent, when)
        if axis.distribution.single():
            for active in parameter.active_children(domains.nth(parameter.domain, 0)):
                add(active, parent, when)
            return
        own = len(axes)
        axes[parameter.name] = axis
        for child in parameter.children:
            values = [domains.canonical(parameter.domain, v) for v in child.parent_values]
            encoded = [encoding.encode(parameter.domain, v) for v in values if v is not None]
            add(child.parameter, own, tuple(axis.coordinates(encoded)))

    for parameter in space.parameters:
        add(parameter, None, ())
    return Cube(tuple(axes), tuple(axes.values()))


def inferred(trials: Sequence[FrozenTrial]) -> Cube:
    """The cube of all parameters that ended trials had, by their latest distributions.

    A running trial may be asked for more, and a failed one may not have come so far. A parameter
    that some trials lack is taken for the child of the first one whose value tells,
    in every trial, whether it is there; if none does, as one that is always there.
    """
    trials = [trial for trial in trials if trial.state in _WHOLE]
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
            when = tuple(sorted(axes[index].coordinates(with_it)))
            return Axis(axis.distribution, index, when)
    return axis
