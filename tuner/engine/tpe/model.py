"""The model: what is drawn for a block of parameters, from what was seen of them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from tuner.engine.tpe.axes import Axes, Floats, Indices
from tuner.engine.tpe.growing import Growing
from tuner.engine.tpe.kept import Kept
from tuner.engine.tpe.mixture import Mixture, Points, mixture
from tuner.engine.tpe.outcomes import Outcomes, Standing

#: The most trials that a mixture has kernels for; see `thinned`.
MOST_KERNELS = 16384
_CANDIDATES = 24
# So many new trials are sorted in one by one.
_FEW = 16


class Model:
    """Draws values for blocks of parameters, each jointly.

    What is drawn depends on the outcomes and the generator alone. What can be kept from one draw
    to the next is kept: per axis the order of trials, and the coefficients of kernels whose
    neighbours stayed the same.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._blocks: dict[tuple[str, ...], _Block] = {}

    def draw(
        self, block: Mapping[str, BaseDistribution], generator: np.random.Generator
    ) -> dict[str, Any]:
        """Values for the parameters of a block, none of which has only one value.

        The candidate that is likeliest among good trials relative to the others, of 24 drawn from
        the good ones.
        """
        if not block:
            return {}
        good, bad = self.mixtures(block)
        points = Points.of(good.axes, good.sample(generator, _CANDIDATES))
        scores = good.log_density(points) - bad.log_density(points)
        return good.axes.values(points.coordinates[scores.argmax()])

    def mixtures(self, block: Mapping[str, BaseDistribution]) -> tuple[Mixture, Mixture]:
        """The mixtures of the good trials and of the others that have the block's parameters."""
        names = tuple(block)
        known = self._blocks.get(names)
        if known is None or known.distributions != block:
            known = self._blocks[names] = _Block(block)
        known.read(self._outcomes)
        return known.mixtures(self._outcomes)


class _Block:
    """The trials that have all parameters of a block, by their places among each other."""

    def __init__(self, block: Mapping[str, BaseDistribution]) -> None:
        self.distributions = dict(block)
        self._axes = Axes.of(block)
        self._all = self._axes.all
        self._forget()

    def _forget(self) -> None:
        numeric, choices = len(self._axes.numeric), len(self._axes.choices)
        self._read = self._changes = 0
        self._rows = Growing(1, np.intp)
        self._kernels = Growing(len(self._all), np.float64)
        self._choices = Growing(choices, np.intp)
        # On each axis with an order, the coordinates in ascending order, and their places.
        self._ordered = Growing(numeric, np.float64)
        self._order = Growing(numeric, np.intp)
        self._kept = Kept(self._axes)
        self._good: tuple[bytes, Mixture] | None = None

    def read(self, outcomes: Outcomes) -> None:
        """Takes in what is new."""
        changed = {row for row in outcomes.changed[self._changes :] if row < self._read}
        moved = [row for row in changed if self._kernel(outcomes, row) != self._known(row)]
        if any(row <= self._rows.view[0, -1:].max(initial=-1) for row in moved):
            # Not only at the end: rare, so it may cost as much as a new block.
            self._forget()
            moved = []
        self._changes = len(outcomes.changed)
        rows: list[int] = []
        kernels: list[list[float]] = []
        for row in (*sorted(moved), *range(self._read, len(outcomes.parameters))):
            kernel = self._kernel(outcomes, row)
            if kernel is not None:
                rows.append(row)
                kernels.append(kernel)
        self._read = len(outcomes.parameters)
        if rows:
            self._append(rows, np.array(kernels).T)

    def _kernel(self, outcomes: Outcomes, row: int) -> list[float] | None:
        """Where the kernel of a trial lies on all axes; None if it lacks a parameter."""
        values = outcomes.parameters[row]
        if not all(name in values for name in self.distributions):
            return None
        return [axis.kernel(values[axis.name]) for axis in self._all]

    def _known(self, row: int) -> list[float] | None:
        """The same, as it was read."""
        rows = self._rows.view[0]
        place = int(np.searchsorted(rows, row))
        if place == len(rows) or rows[place] != row:
            return None
        known: list[float] = self._kernels.view[:, place].tolist()
        return known

    def _append(self, rows: list[int], kernels: Floats) -> None:
        known, numeric = self._rows.view.shape[1], len(self._axes.numeric)
        places = np.arange(known, known + len(rows))
        self._rows.append(np.array([rows]))
        self._kernels.append(kernels)
        self._choices.append(kernels[numeric:].astype(np.intp))
        self._kept.extend(len(rows))
        self._ordered.append(kernels[:numeric])
        self._order.append(np.broadcast_to(places, (numeric, len(rows))))
        ordered, order = self._ordered.view, self._order.view
        if len(rows) > _FEW:
            by_value = np.argsort(ordered, axis=1, kind="stable")
            ordered[:] = np.take_along_axis(ordered, by_value, axis=1)
            order[:] = np.take_along_axis(order, by_value, axis=1)
            return
        for end in places.tolist():
            for values, whose in zip(ordered[:, : end + 1], order[:, : end + 1], strict=True):
                value = values[end]
                at = np.searchsorted(values[:end], value, side="right")
                values[at + 1 :], values[at] = values[at:end], value
                whose[at + 1 :], whose[at] = whose[at:end], end

    def mixtures(self, outcomes: Outcomes) -> tuple[Mixture, Mixture]:
        """The mixtures of the good trials and of the others."""
        rows = self._rows.view[0]
        is_good = np.zeros(len(rows), dtype=bool)
        is_bad = outcomes.standing[rows] > Standing.NONE.value
        good = outcomes.good()
        places = np.searchsorted(rows, good)
        inside = places < len(rows)
        places = places[inside]
        places = places[rows[places] == good[inside]]
        is_good[places] = True
        is_bad[places] = False
        key = places.tobytes()
        if self._good is None or self._good[0] != key:
            self._good = key, self._mixture(is_good, equal=outcomes.several)
        return self._good[1], self._mixture(is_bad)

    def _mixture(self, taken: NDArray[np.bool_], *, equal: bool = False) -> Mixture:
        places = np.flatnonzero(taken)
        trials = len(places)
        weights = np.ones(len(places)) if equal else weights_by_age(len(places))
        if len(places) > MOST_KERNELS:
            kept, factors = thinned(places)
            places, weights = places[kept], weights[kept] * factors
            taken = np.zeros_like(taken)
            taken[places] = True
        position = np.empty(len(taken), dtype=np.intp)
        position[places] = np.arange(len(places))
        order = self._order.view
        in_order = taken[order]
        shape = len(order), len(places)
        return mixture(
            self._axes,
            weights,
            self._ordered.view[in_order].reshape(shape),
            position[order[in_order]].reshape(shape),
            self._choices.view.take(places, axis=1),
            places,
            self._kept,
            trials,
        )


def weights_by_age(trials: int) -> Floats:
    """The weights of trials, oldest first: the latest 25 have 1, older ones ever less.

    Bergstra, Yamins and Cox, Making a Science of Model Search, ICML 2013.
    """
    if trials < 25:
        return np.ones(trials)
    return np.concatenate([np.linspace(1 / trials, 1, trials - 25), np.ones(25)])


def thinned(places: Indices) -> tuple[Indices, Floats]:
    """Which of too many trials to keep, and by what factor each then counts more.

    The newer half of `MOST_KERNELS` is kept, and of all older ones every second, fourth, eighth
    and so on: the mixture's density stays right in the mean, and mostly the same trials are kept
    from one time to the next.

    Args:
        places: The trials' places in the block, ascending.
    """
    older = len(places) - MOST_KERNELS // 2
    stride = 2
    while older > stride * (MOST_KERNELS // 2):
        stride *= 2
    kept = np.concatenate(
        [np.flatnonzero(places[:older] % stride == 0), np.arange(older, len(places))]
    )
    return kept, np.where(kept < older, float(stride), 1.0)
