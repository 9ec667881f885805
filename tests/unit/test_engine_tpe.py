"""Our TPE against Optuna's on the same trials: the same good ones, kernels and proposals."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna._hypervolume.hssp import _solve_hssp
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.samplers._tpe import parzen_estimator
from optuna.samplers._tpe import sampler as optunas
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from tuner.engine.tpe import Model, Outcomes, model
from tuner.engine.tpe.axes import Axes, Continuous
from tuner.engine.tpe.mixture import Mixture, Points

NOW = datetime(2025, 1, 1)
SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1, log=True),
    "units": IntDistribution(8, 512, log=True),
    "kind": CategoricalDistribution(["a", "b", True]),
    "dropout": FloatDistribution(0, 0.8, step=0.05),
    "momentum": FloatDistribution(-1, 3),
    "layers": IntDistribution(1, 8),
    "buckets": IntDistribution(10, 1000, step=10),
    "optimizer": CategoricalDistribution([0, 1]),
}
COMPLETE, PRUNED, RUNNING, FAIL = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.FAIL,
)
MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


def frozen(
    number: int,
    params: dict[str, Any],
    state: TrialState = COMPLETE,
    values: Sequence[float] | None = None,
    *,
    curve: dict[int, float] | None = None,
    violation: float | None = None,
) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values,
        datetime_start=NOW,
        datetime_complete=NOW if state.is_finished() else None,
        params=params,
        distributions={name: SPACE[name] for name in params},
        user_attrs={},
        system_attrs={} if violation is None else {"constraints:c": violation},
        intermediate_values=curve or {},
    )


def drawn(generator: np.random.Generator, names: Sequence[str]) -> dict[str, Any]:
    """A point at random, denser in the middle, with many ties where there are steps."""
    point: dict[str, Any] = {}
    for name in names:
        axes = Axes.of({name: SPACE[name]})
        axis = axes.all[0]
        unit = generator.beta(2, 3, size=1)
        point[name] = axes.values(axis.points(unit))[name]
    return point


def history(
    seed: int, count: int, directions: Sequence[StudyDirection], *, plain: bool = False
) -> list[FrozenTrial]:
    """Trials of every kind; some lack some parameters."""
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        names = [name for name in SPACE if plain or generator.random() < 0.99]
        point = drawn(generator, names)
        values = generator.normal(size=len(directions)).round(1).tolist()
        kind = 1.0 if plain else generator.random()
        if kind < 0.06:
            trials.append(frozen(number, point, RUNNING))
        elif kind < 0.12:
            trials.append(frozen(number, point, FAIL))
        elif kind < 0.3 and len(directions) == 1:
            curve = {
                int(step): math.nan if generator.random() < 0.1 else values[0] + step
                for step in generator.integers(0, 9, size=generator.integers(0, 4))
            }
            trials.append(frozen(number, point, PRUNED, curve=curve))
        elif kind < 0.5:
            violation = float(generator.normal())
            trials.append(frozen(number, point, COMPLETE, values, violation=violation))
        else:
            trials.append(frozen(number, point, COMPLETE, values))
    return trials


def read(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> Outcomes:
    outcomes = Outcomes(directions)
    for trial in trials:
        outcomes.put(trial.number, trial)
    return outcomes


def study_of(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    study.add_trials(trials)
    return study


def optunas_split(
    study: optuna.Study,
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    trials = [t for t in study.get_trials(deepcopy=False) if t.state is not FAIL]
    ended = sum(t.state is not RUNNING for t in trials)
    several = len(study.directions) > 1
    gamma = optunas.default_gamma_multiobjective if several else optunas.default_gamma
    return optunas._split_trials(study, trials, gamma(ended))


DIRECTIONS: list[list[StudyDirection]] = [
    [MINIMIZE],
    [MAXIMIZE],
    [MINIMIZE, MAXIMIZE],
    [MINIMIZE, MINIMIZE, MAXIMIZE],
]


@pytest.mark.parametrize("directions", DIRECTIONS, ids=lambda d: "-".join(x.name for x in d))
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 60, 400])
def test_the_good_trials_are_optunas(directions: list[StudyDirection], count: int) -> None:
    for seed in range(4):
        trials = history(seed, count, directions)
        below, _ = optunas_split(study_of(trials, directions))
        good = read(trials, directions).good()
        assert good.tolist() == [trial.number for trial in below]


def test_rows_come_without_gaps() -> None:
    outcomes = Outcomes([MINIMIZE])
    with pytest.raises(ValueError, match="row 1 came before row 0"):
        outcomes.put(1, frozen(1, {}, values=[0.0]))


@pytest.mark.parametrize("count", [80, 201, 202])
def test_of_a_large_front_a_good_part_is_chosen(count: int) -> None:
    generator = np.random.default_rng(0)
    front = np.abs(generator.normal(size=(203, 3)))
    front = 1 - front / np.linalg.norm(front, axis=1, keepdims=True)
    behind = np.full((10 * count - 203, 3), 2.0)
    losses = [*front.tolist(), *behind.tolist()]
    trials = [frozen(number, {}, values=values) for number, values in enumerate(losses)]
    good = read(trials, [MINIMIZE] * 3).good()
    assert len(good) == count
    assert good.max() < 203
    reference = front.max(axis=0) * 1.1
    whole = _solve_hssp(front, np.arange(203), count, reference)
    ours, optunas_own = (compute_hypervolume(front[rows], reference) for rows in (good, whole))
    assert ours > 0.98 * optunas_own


def stable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Optuna sort ties by number; which of equal values it takes first is left open."""

    class Numpy:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def argsort(values: Any) -> Any:
            return np.argsort(values, kind="stable")

    monkeypatch.setattr(parzen_estimator, "np", Numpy())


def compare(ours: Mixture, optunas_own: Any, space: dict[str, BaseDistribution]) -> None:
    """That two mixtures are one: weights, kernels and densities."""
    distribution = optunas_own._mixture_distribution
    np.testing.assert_allclose(ours.weights, distribution.weights, rtol=1e-12)
    kernels = dict(zip(space, distribution.distributions, strict=True))
    constant = 0.0
    for column, axis in enumerate(ours.axes.numeric):
        kernel = kernels[axis.name]
        if isinstance(axis, Continuous):
            centres, widths = ours.normals.centres[column], ours.normals.widths[column]
            constant += math.log(axis.scale.span)
        else:
            cells = ours.cells[column - len(ours.axes.continuous)]
            centres, widths = cells.centres[cells.index], cells.widths[cells.index]
        low, span = axis.scale.low, axis.scale.span
        np.testing.assert_allclose(low + span * centres, kernel.mu, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(span * widths, kernel.sigma, rtol=1e-12, atol=1e-12)
    points = np.concatenate(
        [ours.sample(np.random.default_rng(0), 50), spread(ours.axes, np.random.default_rng(1))]
    )
    given = [ours.axes.values(point) for point in points]
    samples = {
        name: np.array([space[name].to_internal_repr(point[name]) for point in given])
        for name in space
    }
    theirs = optunas_own.log_pdf(samples)
    got = ours.log_density(Points.of(ours.axes, points)) - constant
    np.testing.assert_allclose(got, theirs, rtol=1e-8, atol=1e-8)


def spread(axes: Axes, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.array([axis.points(generator.random(50)) for axis in axes.all]).T


@pytest.mark.parametrize("directions", DIRECTIONS, ids=lambda d: "-".join(x.name for x in d))
@pytest.mark.parametrize("count", [1, 2, 12, 30, 110, 500])
def test_the_mixtures_are_optunas(
    monkeypatch: pytest.MonkeyPatch, directions: list[StudyDirection], count: int
) -> None:
    stable(monkeypatch)
    trials = history(count, count, directions)
    study = study_of(trials, directions)
    sampler = TPESampler(multivariate=True, constant_liar=True)
    below, above = optunas_split(study)
    ours = Model(read(trials, directions))
    for names in [list(SPACE), ["rate", "momentum"], ["units"], ["kind", "optimizer"]]:
        space = {name: SPACE[name] for name in names}
        good, bad = ours.mixtures(space)
        for mine, theirs, is_below in ((good, below, True), (bad, above, False)):
            built = sampler._build_parzen_estimator(study, space, theirs, handle_below=is_below)
            compare(mine, built, space)


@pytest.mark.parametrize("count", [12, 150])
def test_proposals_are_distributed_as_optunas(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    stable(monkeypatch)
    trials = history(3, count, [MINIMIZE])
    study = study_of(trials, [MINIMIZE])
    ours = Model(read(trials, [MINIMIZE]))
    number = 200
    mine = [ours.draw(SPACE, np.random.default_rng(seed)) for seed in range(number)]
    theirs = []
    asked = study.ask()
    trial = study._storage.get_trial(asked._trial_id)
    for seed in range(number):
        sampler = TPESampler(multivariate=True, constant_liar=True, seed=seed)
        theirs.append(sampler._sample(study, trial, dict(SPACE)))
    for name, distribution in SPACE.items():
        a = [distribution.to_internal_repr(point[name]) for point in mine]
        b = [distribution.to_internal_repr(point[name]) for point in theirs]
        if isinstance(distribution, CategoricalDistribution):
            options = range(len(distribution.choices))
            table = np.array([[v.count(c) for c in options] for v in (a, b)])
            p = stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue
        else:
            p = stats.ks_2samp(a, b).pvalue
        # 16 comparisons in all: chance alone is below it once in 60 choices of the seeds.
        assert p > 0.001, (name, p)


def events(seed: int, count: int, directions: Sequence[StudyDirection]) -> Iterator[FrozenTrial]:
    """Trials as they come, run, end, start again, and get other parameters."""
    generator = np.random.default_rng(seed)
    trials: list[FrozenTrial] = []
    ends = [t for t in history(seed, count, directions) if t.state is not RUNNING]
    for end in ends:
        number = len(trials)
        trials.append(frozen(number, end.params, RUNNING))
        yield trials[-1]
        which = int(generator.integers(max(0, number - 5), number + 1))
        again = copy.copy(trials[which])
        again.state, again.values = end.state, end.values
        again.intermediate_values, again.system_attrs = end.intermediate_values, end.system_attrs
        if generator.random() < 0.1:
            again.params = drawn(generator, ["rate", "kind", "layers"])
        trials[which] = again
        yield again


@pytest.mark.parametrize("most", [20, model.MOST_KERNELS])
@pytest.mark.parametrize("directions", DIRECTIONS, ids=lambda d: "-".join(x.name for x in d))
def test_what_is_kept_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, directions: list[StudyDirection], most: int
) -> None:
    monkeypatch.setattr(model, "MOST_KERNELS", most)
    blocks: list[dict[str, BaseDistribution]] = [
        {name: SPACE[name] for name in names}
        for names in (list(SPACE), ["rate", "kind", "layers"], ["units"])
    ]
    outcomes, present = Outcomes(directions), dict[int, FrozenTrial]()
    kept = Model(outcomes)
    for number, trial in enumerate(events(7, 120, directions)):
        present[trial.number] = trial
        outcomes.put(trial.number, trial)
        if number % 5:
            continue
        fresh = read([present[row] for row in range(len(present))], directions)
        assert fresh.good().tolist() == outcomes.good().tolist()
        assert fresh.ended == outcomes.ended
        for block in blocks:
            ours = kept.draw(block, np.random.default_rng(number))
            assert ours == Model(fresh).draw(block, np.random.default_rng(number))


def test_trials_that_were_left_out_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MOST_KERNELS", 20)
    space = {name: SPACE[name] for name in ("rate", "layers", "kind")}
    ended = history(0, 40, [MINIMIZE], plain=True)
    running = [frozen(n, t.params, RUNNING) for n, t in enumerate(ended, len(ended))]
    outcomes = read(ended, [MINIMIZE])
    kept = Model(outcomes)
    for trial in running:
        outcomes.put(trial.number, trial)
        kept.draw(space, np.random.default_rng(0))
    for trial in reversed(running):
        failed = frozen(trial.number, trial.params, FAIL)
        outcomes.put(trial.number, failed)
        running[trial.number - len(ended)] = failed
        fresh = Model(read([*ended, *running], [MINIMIZE]))
        ours = kept.draw(space, np.random.default_rng(0))
        assert ours == fresh.draw(space, np.random.default_rng(0))


def test_too_many_trials_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = history(0, 3000, [MINIMIZE], plain=True)
    outcomes = read(trials, [MINIMIZE])
    space = {name: SPACE[name] for name in ("layers", "kind")}
    good, whole = Model(outcomes).mixtures(space)
    monkeypatch.setattr(model, "MOST_KERNELS", 2048)
    _, thin = Model(outcomes).mixtures(space)
    assert len(whole.weights) > 2900
    assert 1400 < len(thin.weights) < 2060
    # The prior counts as much as it did, and so does each age.
    assert thin.weights[-1] == pytest.approx(whole.weights[-1], rel=0.02)
    newer = thin.weights[-1025:].sum()
    assert newer == pytest.approx(whole.weights[-1025:].sum(), rel=0.02)
    points = Points.of(good.axes, good.sample(np.random.default_rng(0), 200))
    difference = thin.log_density(points) - whole.log_density(points)
    assert abs(difference.mean()) < 0.05
    assert difference.std() < 0.1


def test_the_number_of_kernels_is_bounded() -> None:
    for trials in (16385, 20000, 24576, 24577, 100_000, 1_000_000):
        kept, factors = model.thinned(np.arange(trials))
        assert model.MOST_KERNELS / 2 < len(kept) <= model.MOST_KERNELS + 1
        assert factors.sum() == pytest.approx(trials, rel=0.001)
        assert (kept[-8192:] == np.arange(trials - 8192, trials)).all()


@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(0, 2**60),
        IntDistribution(-(2**53), 2**53, step=8),
        IntDistribution(1, 2**55, log=True),
        FloatDistribution(-1e300, 1e300),
        FloatDistribution(1e300, math.nextafter(1e300, math.inf), log=True),
        FloatDistribution(1e-300, 1e300, log=True),
        FloatDistribution(0, 5e-324),
        FloatDistribution(0, 2**30, step=0.5),
    ],
    ids=str,
)
def test_extreme_ranges_are_searched(distribution: BaseDistribution) -> None:
    space = {"x": distribution}
    outcomes = Outcomes([MINIMIZE])
    ours = Model(outcomes)
    for number in range(130):
        point = ours.draw(space, np.random.default_rng(number))
        internal = distribution.to_internal_repr(point["x"])
        assert distribution._contains(internal)
        good, bad = ours.mixtures(space)
        points = Points.of(good.axes, good.sample(np.random.default_rng(0), 9))
        assert np.isfinite(good.log_density(points)).all()
        assert np.isfinite(bad.log_density(points)).all()
        outcomes.put(number, frozen(number, {}, values=[internal]), point)


def test_a_value_outside_the_range_counts_at_its_end() -> None:
    axes = Axes.of({"x": FloatDistribution(1, 10, log=True), "n": IntDistribution(2, 5)})
    x, n = axes.all
    assert [x.kernel(value) for value in (-1.0, 0.5, 1.0, 10.0, 11.0)] == [0, 0, 0, 1, 1]
    assert [n.kernel(value) for value in (-9, 2, 5, 99)] == [0, 0.125, 0.875, 1]


@pytest.mark.parametrize("name", list(SPACE))
def test_random_values_are_spread_over_the_whole_range(name: str) -> None:
    distribution = SPACE[name]
    axes = Axes.of({name: distribution})
    generator = np.random.default_rng(0)
    drawn_at_random = [axes.spread(generator)[name] for _ in range(4000)]
    optunas_own = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study()
    trial = frozen(0, {})
    expected = [
        optunas_own.sample_independent(study, trial, name, distribution) for _ in range(4000)
    ]
    internal = [
        [distribution.to_internal_repr(value) for value in values]
        for values in (drawn_at_random, expected)
    ]
    assert stats.ks_2samp(*internal).pvalue > 0.001
    assert {type(value) for value in drawn_at_random} == {type(value) for value in expected}
