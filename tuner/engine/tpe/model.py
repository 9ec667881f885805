"""The model: what is drawn for a block of parameters, from what was seen of them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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
        # On each axis with an order, the coordinates in ascending order, and their places: of all
        # trials that mixtures have kernels for, and perhaps of others.
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
        if len(rows) > _FEW:
            self._sort(np.concatenate([self._order.view, _each(numeric, places)], axis=1))
            return
        self._ordered.append(kernels[:numeric])
        self._order.append(_each(numeric, places))
        ordered, order = self._ordered.view, self._order.view
        for end in range(ordered.shape[1] - len(rows), ordered.shape[1]):
            for values, whose in zip(ordered[:, : end + 1], order[:, : end + 1], strict=True):
                value = values[end]
                at = np.searchsorted(values[:end], value, side="right")
                values[at + 1 :], values[at] = values[at:end], value
                place = whose[end]
                whose[at + 1 :], whose[at] = whose[at:end], place

    def _sort(self, places: Indices) -> None:
        """Keeps the trials at some places in order, given for each axis; equal ones by place."""
        places = np.sort(places, axis=1)
        ordered, order = self._in_order(places)
        self._ordered, self._order = (
            Growing(len(places), dtype) for dtype in (np.float64, np.intp)
        )
        self._ordered.append(ordered)
        self._order.append(np.take_along_axis(places, order, axis=1))

    def _in_order(self, places: Indices) -> tuple[Floats, Indices]:
        """Coordinates in ascending order on each axis, and which of the places each is at."""
        kernels = np.take_along_axis(self._kernels.view[: len(places)], places, axis=1)
        order = np.argsort(kernels, axis=1, kind="stable")
        return np.take_along_axis(kernels, order, axis=1), order

    def mixtures(self, outcomes: Outcomes) -> tuple[Mixture, Mixture]:
        """The mixtures of the good trials and of the others."""
        rows = self._rows.view[0]
        rows_of_good = outcomes.good()
        good = np.searchsorted(rows, rows_of_good)
        inside = good < len(rows)
        good = good[inside]
        good = good[rows[good] == rows_of_good[inside]]
        key = good.tobytes()
        if self._good is None or self._good[0] != key:
            weights = np.ones(len(good)) if outcomes.several else weights_by_age(len(good))
            in_order = self._in_order(_each(len(self._axes.numeric), good))
            self._good = key, self._mixture(good, weights, *in_order, len(good))
        is_bad = outcomes.standing[rows] > Standing.NONE.value
        is_bad[good] = False
        bad = np.flatnonzero(is_bad)
        trials = len(bad)
        weights = weights_by_age(trials)
        if trials > MOST_KERNELS:
            kept, factors = thinned(bad)
            bad, weights = bad[kept], weights[kept] * factors
        return self._good[1], self._mixture(bad, weights, *self._among_kept(bad, good), trials)

    def _mixture(
        self, places: Indices, weights: Floats, ordered: Floats, order: Indices, trials: int
    ) -> Mixture:
        choices = self._choices.view.take(places, axis=1)
        return mixture(self._axes, weights, ordered, order, choices, places, self._kept, trials)

    def _among_kept(self, bad: Indices, good: Indices) -> tuple[Floats, Indices]:
        """As `_in_order` of the bad trials, from the order that is kept."""
        count, numeric = self._rows.view.shape[1], len(self._axes.numeric)
        position = np.full(count, -1)
        position[bad] = np.arange(len(bad))
        at = position[self._order.view]
        is_bad = at >= 0
        if np.count_nonzero(is_bad) < numeric * len(bad):
            # One that was left out is back: rare.
            self._sort(_each(numeric, np.arange(count)))
            return self._among_kept(bad, good)
        shape = numeric, len(bad)
        found = self._ordered.view[is_bad].reshape(shape), at[is_bad].reshape(shape)
        if self._order.view.shape[1] > 2 * MOST_KERNELS:
            # Trials are thinned, and what was left out seldom comes back: but good ones may
            # become bad ones, and if some of the newer half fail, older ones count to it again.
            kept = np.zeros(count, dtype=bool)
            kept[bad] = kept[good] = True
            kept[max(0, bad[-(MOST_KERNELS // 2)] - MOST_KERNELS // 8) :] = True
            self._sort(_each(numeric, np.flatnonzero(kept)))
        return found


def _each(axes: int, places: Indices) -> Indices:
    return np.broadcast_to(places, (axes, len(places)))


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
