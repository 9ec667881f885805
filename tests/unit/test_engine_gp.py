"""The Gaussian process: its formulas against plain ones, its gradients, and what it proposes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import beta, norm
from threadpoolctl import threadpool_info

from tests.unit.engine_support import run, spaces, spec
from tuner.engine import StudyEngine
from tuner.engine.encoding import Encoding
from tuner.engine.gp import (
    GPSampler,
    acquisition,
    ascent,
    cube_of,
    models,
    problem_of,
    regressor,
    scales,
)
from tuner.engine.gp.cube import Array, Axis, Cube
from tuner.engine.gp.problem import Problem
from tuner.engine.gp.propose import propose
from tuner.engine.gp.regressor import Kernel, Regressor
from tuner.engine.gp.tree import inferred
from tuner.space import Float, Int, Space

MINIMIZE = StudyDirection.MINIMIZE
UNIT = FloatDistribution(0, 1)
SQUARE = Cube(("x", "y"), (Axis(UNIT), Axis(UNIT)))
RNG = np.random.default_rng(0)
POINTS = RNG.random((20, 3))
# An axis, and one of choices.
OWNERS = np.array([0, 1, 1])
KERNEL = Kernel(np.array([[0.5, 1.0, 1.0], [1.4, 1.0, 1.0]]), np.array([0.3, 0.8]), 1.5, 0.01, 0.2)
MODEL = Regressor(KERNEL, POINTS, OWNERS, np.sin(6 * POINTS[:, 0]) + POINTS[:, 1])
OTHER = Regressor(KERNEL, POINTS, OWNERS, np.cos(5 * POINTS[:, 1]) - POINTS[:, 0])


def ended(
    values: Sequence[float] | None,
    state: TrialState = TrialState.COMPLETE,
    distributions: Mapping[str, BaseDistribution] | None = None,
    curve: dict[int, float] | None = None,
    constraints: dict[str, float] | None = None,
    **params: Any,
) -> FrozenTrial:
    return create_trial(
        state=state,
        values=values,
        params=params,
        distributions=dict(distributions or dict.fromkeys(params, UNIT)),
        intermediate_values=curve,
        constraints=constraints,
    )


def problem(trials: Sequence[FrozenTrial], cube: Cube = SQUARE, objectives: int = 1) -> Problem:
    return problem_of(cube, trials, [MINIMIZE] * objectives, (1, 2, 3))


def bowl(x: float, y: float) -> float:
    return (x - 0.3) ** 2 + (y - 0.6) ** 2


def seen(count: int, seed: int = 0) -> list[FrozenTrial]:
    points = np.random.default_rng(seed).random((count, 2))
    return [ended([bowl(x, y)], x=x, y=y) for x, y in points.tolist()]


# The model.


def bent(points: Array, exponents: Array) -> Array:
    """By SciPy: where x^a has a beta distribution of 1 and b, x has Kumaraswamy's."""
    result: Array = beta(1, exponents[1]).cdf(points ** exponents[0])
    return result


def test_the_posterior_is_the_textbooks() -> None:
    def matern(a: Array, b: Array) -> float:
        gaps = bent(a, KERNEL.exponents) - bent(b, KERNEL.exponents)
        r = math.sqrt(float(((gaps / KERNEL.lengthscales[OWNERS]) ** 2).sum()))
        root = math.sqrt(5) * r
        near = KERNEL.signal * (1 + root + 5 * r**2 / 3) * math.exp(-root)
        off, other = 2 * a - 1, 2 * b - 1
        return near + KERNEL.trend * float(1 + off @ other + off**2 @ other**2)

    values = np.sin(6 * POINTS[:, 0]) + POINTS[:, 1]
    covariance = np.array([[matern(a, b) for b in POINTS] for a in POINTS])
    inverse = np.linalg.inv(covariance + (KERNEL.noise + 1e-6) * np.eye(20))
    there = RNG.random((5, 3))
    cross = np.array([[matern(a, b) for b in POINTS] for a in there])
    mean, deviation = MODEL.predict(there)
    np.testing.assert_allclose(mean, cross @ inverse @ values, atol=1e-8)
    before = np.array([matern(a, a) for a in there])
    variance = before - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    np.testing.assert_allclose(deviation**2, variance, atol=1e-8)


def test_a_fit_tells_what_matters_and_how_much_is_noise() -> None:
    points = RNG.random((60, 3))
    values = np.sin(8 * points[:, 0])
    exact, evidence = regressor.fit(points, np.arange(3), values)
    noisy, less = regressor.fit(points, np.arange(3), values + 0.5 * RNG.standard_normal(60))
    assert exact.lengthscales[0] < 0.5 * exact.lengthscales[1:].min()
    assert exact.noise < 0.01 < 0.1 < noisy.noise < 0.5
    assert less < evidence


def test_a_fit_bends_an_axis_that_matters_at_one_end() -> None:
    points = RNG.random((60, 2))
    values = np.sin(12 * points[:, 0] ** 3)
    kernel, _ = regressor.fit(points, np.arange(2), values)
    slope = np.diff(bent(np.array([[0.0], [0.1], [0.9], [1.0]]), kernel.exponents[:, :1])[:, 0])
    assert slope[2] > 3 * slope[0]


def test_a_fit_is_at_an_optimum() -> None:
    """Moving any of its parameters makes it less probable, so its gradient is right."""
    points = RNG.random((40, 3))
    values = np.sin(5 * points[:, 0]) + points[:, 1] + 0.1 * RNG.standard_normal(40)
    kernel, _ = regressor.fit(points, OWNERS, values)
    off = 2 * points - 1

    def evidence(theta: Array) -> float:
        there = points.copy()
        there[:, :1] = bent(points[:, :1], np.exp(theta[5:, None]))
        square = (((there[:, None] - there[None]) / np.exp(theta[OWNERS])) ** 2).sum(-1)
        covariance = np.exp(theta[2]) * regressor.matern(square)[0]
        covariance += (np.exp(theta[3]) + 1e-6) * np.eye(40)
        covariance += np.exp(theta[4]) * (1 + off @ off.T + off**2 @ (off**2).T)
        mean = [regressor.LENGTHSCALE.mean + 0.5 * math.log(2)] * 2
        priors = [
            *(
                norm.logpdf(t, m, regressor.LENGTHSCALE.deviation)
                for t, m in zip(theta, mean, strict=False)
            ),
            norm.logpdf(theta[2], regressor.SIGNAL.mean, regressor.SIGNAL.deviation),
            norm.logpdf(theta[3], regressor.NOISE.mean, regressor.NOISE.deviation),
            norm.logpdf(theta[4], regressor.TREND.mean, regressor.TREND.deviation),
            *norm.logpdf(theta[5:], regressor.EXPONENT.mean, regressor.EXPONENT.deviation),
        ]
        _, size = np.linalg.slogdet(covariance)
        return float(
            -0.5 * values @ np.linalg.solve(covariance, values) - 0.5 * size + np.sum(priors)
        )

    variances = [kernel.signal, kernel.noise, kernel.trend]
    theta = np.log([*kernel.lengthscales, *variances, *kernel.exponents[:, 0]])
    np.testing.assert_array_equal(kernel.exponents[:, 1:], 1.0)
    top = evidence(theta)
    for index in range(len(theta)):
        for step in (-0.1, 0.1):
            assert evidence(theta + step * np.eye(7)[index]) < top + 1e-3


def test_a_choice_seldom_made_is_judged_by_what_suits_the_others() -> None:
    cube = Cube(("x", "c"), (Axis(UNIT), Axis(CategoricalDistribution(["a", "b"]))))
    seen = np.column_stack([np.linspace(0, 1, 9), np.zeros(9)])
    points = cube.embed(np.vstack([seen, [[0.9, 1.0]]]))
    values = 4 * np.append((seen[:, 0] - 0.3) ** 2, 0.36) + np.append(np.zeros(9), 0.5)

    def means(trend: float) -> list[float]:
        # Too short for one choice to say anything of another one.
        kernel = Kernel(np.ones((2, 3)), np.array([0.5, 0.02]), 1.0, 1e-6, trend)
        model = Regressor(kernel, points, cube.owners, values)
        there = cube.embed(np.array([[0.05, 1.0], [0.3, 1.0], [0.9, 1.0]]))
        found: list[float] = model.predict(there)[0].tolist()
        return found

    start, bottom, known = means(3.0)
    assert bottom < start < known == pytest.approx(1.94, abs=0.01)
    assert bottom == pytest.approx(0.5, abs=0.3)
    # Without it, the furthest corner is best.
    assert means(0.0) == sorted(means(0.0))


# Acquisitions.


@pytest.mark.parametrize("z", [-1e6, -200.0, -30.0, -2.0, -1.0, -0.9, 0.0, 3.0, 30.0])
def test_the_log_of_an_improvement_is_smooth_however_small_it_is(z: float) -> None:
    step = 1e-6 * max(1.0, abs(z))
    (low, here, high), ratio = acquisition.log_improvement(np.array([z - step, z, z + step]))
    assert math.isfinite(here)
    assert ratio[1] == pytest.approx((high - low) / (2 * step), rel=1e-3)
    if z > -5:
        plain = norm.pdf(z) + z * norm.cdf(z)
        assert here == pytest.approx(math.log(plain), rel=1e-9)


def _hypervolume() -> acquisition.Acquisition:
    lower = np.array([[-np.inf, -np.inf], [-0.5, -np.inf]])
    upper = np.array([[-0.5, 1.0], [1.0, 0.2]])
    return acquisition.LogHypervolumeImprovement((MODEL, OTHER), lower, upper)


@pytest.mark.parametrize(
    "goal",
    [
        acquisition.LogImprovement(MODEL, -0.5),
        acquisition.LogFeasibility(MODEL, 0.3),
        _hypervolume(),
        acquisition.Sum((acquisition.LogImprovement(MODEL, 0.1), _hypervolume())),
    ],
)
def test_gradients_are_those_of_the_values(goal: acquisition.Acquisition) -> None:
    there = RNG.random((6, 3))
    values, gradient = goal.gradient(there)
    np.testing.assert_allclose(values, goal.value(there), rtol=1e-9)
    for axis in range(3):
        step = 1e-5 * np.eye(3)[axis]
        slope = (goal.value(there + step) - goal.value(there - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, axis], slope, rtol=1e-4, atol=1e-6)


def test_the_hypervolume_grows_as_samples_say() -> None:
    there = POINTS[[0, 5, 9, 13]] + 0.1
    value = np.exp(_hypervolume().value(there))
    for index, point in enumerate(there):
        drawn = [
            mean + deviation * RNG.standard_normal(400_000)
            for mean, deviation in (model.predict(point[None]) for model in (MODEL, OTHER))
        ]
        # The reference is (1, 1), and (-0.5, 0.2) is known.
        dominated = np.maximum(1 - drawn[0], 0) * np.maximum(1 - drawn[1], 0)
        known = np.maximum(1 - np.maximum(drawn[0], -0.5), 0) * np.maximum(
            0.8 - np.maximum(drawn[1] - 0.2, 0), 0
        )
        assert value[index] == pytest.approx((dominated - known).mean(), rel=0.01, abs=1e-4)
    assert value.max() > 0.01


# Scales.


def test_scales_keep_the_order_and_know_their_slopes() -> None:
    losses = np.exp(np.linspace(0, 4, 4001))
    spread = np.median(losses) - np.quantile(losses, 0.1)
    for scaled in scales.of_losses(losses):
        assert (np.diff(scaled.values) > 0).all()
        assert (scaled.values.mean(), scaled.values.std()) == pytest.approx((0, 1), abs=1e-9)
        slopes = spread * np.gradient(scaled.values, losses)
        np.testing.assert_allclose(np.exp(scaled.log_slopes)[1:-1], slopes[1:-1], rtol=1e-2)


def test_a_scale_without_outliers_beats_one_with() -> None:
    losses = np.exp(12 * RNG.random(40))
    plain, tail, power = (scaled.log_slopes.sum() for scaled in scales.of_losses(losses))
    assert max(tail, power) > plain


@pytest.mark.parametrize("losses", [np.zeros(4), np.full(3, 7.5), np.array([1e300, -1e300, 0.0])])
def test_losses_that_tell_little_have_a_scale(losses: Array) -> None:
    for scaled in scales.of_losses(losses):
        assert np.isfinite(scaled.values).all()


def test_a_violation_that_was_not_measured_hides_no_other() -> None:
    values, bound = scales.of_violations(np.array([-0.2, 0.1, 1e100, 1e100, 1e100]))
    assert values[0] < bound - 0.3 < bound + 0.1 < values[1] < values[2]


# Cubes.


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_points_of_the_cube_are_points_of_the_space(space: Space) -> None:
    cube, encoding = cube_of(space), Encoding(space)
    drawn = cube.spread(np.random.default_rng(0).random((8, cube.dimension)))
    np.testing.assert_allclose(cube.canonical(drawn), drawn, atol=1e-9)
    for row in drawn:
        values = cube.decode(row)
        space.check(encoding.point(values))
        again = cube.decode(cube.encode([values])[0])
        assert again.keys() == values.keys()
        for name, value in values.items():
            is_real = isinstance(value, float)
            assert again[name] == (pytest.approx(value, rel=1e-9) if is_real else value)


def test_trials_show_what_decides_that_a_parameter_exists() -> None:
    optimizer = CategoricalDistribution(["sgd", "adam"])
    trials = [
        ended([0], distributions={"o": optimizer, "x": UNIT, "m": UNIT}, o="sgd", x=0.2, m=0.3),
        ended([1], distributions={"o": optimizer, "x": UNIT}, o="adam", x=0.4),
        ended([2], distributions={"o": optimizer, "x": UNIT, "m": UNIT}, o="sgd", x=0.6, m=0.9),
        # One that will be asked for `m` yet, and one that failed before it was.
        ended(None, TrialState.RUNNING, distributions={"o": optimizer}, o="sgd"),
        ended(None, TrialState.FAIL, distributions={"o": optimizer}, o="sgd"),
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    cube = inferred(trials)
    child = cube.axes[cube.names.index("m")]
    assert (child.parent, child.when) == (cube.names.index("o"), (0.0,))
    assert cube.axes[cube.names.index("x")].parent is None
    assert "m" not in cube.decode(cube.encode([trials[1].params])[0])


# Problems.


def test_a_stopped_trial_counts_as_it_might_have_ended() -> None:
    complete = [
        ended([end], x=0.1, y=0.1, curve={1: end + 5, 2: end + 2, 3: end}) for end in (1.0, 2, 4)
    ]
    stopped = [
        ended([7.0], TrialState.PRUNED, x=0.5, y=0.5, curve={1: 7.0}),
        ended([6.0], TrialState.PRUNED, x=0.5, y=0.6, curve={1: 10.0, 2: 6.0}),
        ended([9.0], TrialState.PRUNED, x=0.5, y=0.7, curve={2: 9.0}),
    ]
    assert problem([*complete, *stopped]).losses[3:, 0] == pytest.approx([2, 4, 7])
    assert problem([complete[0], *stopped]).losses[1:, 0] == pytest.approx([2, 4, 7])
    # While none is complete, by the one that came furthest.
    assert problem(stopped).losses[:, 0] == pytest.approx([6, 6, 9])


def test_a_running_trial_counts_as_far_as_it_came() -> None:
    complete = ended([1.0], x=0.1, y=0.1, curve={1: 6.0, 9: 1.0})
    running = ended(None, TrialState.RUNNING, x=0.5, y=0.5, curve={1: 5.0, 3: 2.0})
    waiting = ended(None, TrialState.RUNNING, x=0.5, y=0.7)
    read = problem([complete, running, waiting])
    assert read.losses[:, 0] == pytest.approx([1, 1])
    assert read.progress == pytest.approx([1, math.log(4) / math.log(10)])
    assert read.pending.tolist() == [[0.5, 0.7]]
    alone = problem([running])
    assert alone.losses[0, 0] == pytest.approx(2.0)
    assert alone.progress[0] < 1


def test_what_a_running_trial_measures_of_constraints_is_not_known() -> None:
    complete = ended([1.0], x=0.1, y=0.1, curve={1: 6.0, 9: 1.0}, constraints={"ms": -1.0})
    running = ended(None, TrialState.RUNNING, x=0.5, y=0.5, curve={1: 5.0, 3: 2.0})
    read = problem([complete, running])
    assert len(read.points) == 1
    assert read.pending.tolist() == [[0.5, 0.5]]


def test_values_on_the_way_say_less_than_those_at_the_end() -> None:
    """The more so, the less they agree with these."""
    bends = np.linspace(0, 1, 12)
    complete = [
        ended([bowl(x, 0.5)], x=x, y=0.5, curve={1: bowl(x, 0.5), 50: bowl(x, 0.5)}) for x in bends
    ]
    trial = ended(None, TrialState.PRUNED, x=0.4, y=0.9, curve={1: 0.0})
    trusted = ended([0.0], x=0.4, y=0.9, curve={1: 0.0, 50: 0.0})
    here = SQUARE.embed(np.array([[0.4, 0.9]]))
    stopped = problem([*complete, trial])
    model = models.objective(stopped, stopped.losses[:, 0])
    read = problem([*complete, trusted])
    _, sure = models.objective(read, read.losses[:, 0]).predict(here)
    mean, deviation = model.predict(here)
    assert deviation > 2 * sure
    # But another trial there would mostly be stopped as well: half of it is taken as known.
    believed, left = models.believing(model, stopped).predict(here)
    assert left == pytest.approx(deviation / math.sqrt(2), rel=1e-3)
    assert believed == pytest.approx(mean, abs=1e-3)


def test_what_ended_without_a_value_is_kept_away_from() -> None:
    trials = [
        *seen(3),
        ended([math.inf], x=0.9, y=0.9),
        ended(None, TrialState.FAIL, x=0.1, y=0.2),
        ended(None, TrialState.PRUNED, x=0.1, y=0.3),
        ended(None, TrialState.RUNNING, x=0.5, y=0.5),
    ]
    read = problem(trials)
    assert read.losses[3, 0] == read.losses[:3, 0].max()
    assert read.failed.tolist() == [[0.1, 0.2], [0.1, 0.3]]
    assert read.pending.tolist() == [[0.5, 0.5]]


def test_goals_point_the_other_way() -> None:
    read = problem_of(SQUARE, seen(3), [StudyDirection.MAXIMIZE], (0,))
    np.testing.assert_allclose(read.losses, -problem(seen(3)).losses)


# Proposals.


def test_a_proposal_is_good() -> None:
    x, y = propose(problem(seen(20)))
    assert bowl(x, y) < 0.005


def test_a_proposal_depends_on_the_problem_alone() -> None:
    asked = problem(seen(12))
    here = propose(asked)
    np.testing.assert_array_equal(propose(problem(seen(12))), here)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(propose, asked).result(timeout=60)
    np.testing.assert_array_equal(there, here)


def test_proposals_at_once_are_those_of_each_alone() -> None:
    asked = [problem(seen(count)) for count in (8, 60, 30)]
    before = threadpool_info()
    alone = [propose(each).tolist() for each in asked]
    with ThreadPoolExecutor(3) as threads:
        assert [point.tolist() for point in threads.map(propose, asked)] == alone
    assert threadpool_info() == before


def test_very_many_choices_are_not_all_looked_at() -> None:
    choices = CategoricalDistribution([str(number) for number in range(500)])
    cube = Cube(("x", "a", "b"), (Axis(UNIT), Axis(choices), Axis(choices)))
    trials = [
        ended([x], distributions={"x": UNIT, "a": choices, "b": choices}, x=x, a=str(n), b="7")
        for n, x in enumerate(np.linspace(0, 1, 8).tolist())
    ]
    asked = problem(trials, cube)
    model = models.objective(asked, asked.losses[:, 0])
    goal = Counting(acquisition.LogImprovement(model, -1.0))
    found = ascent.maximize(goal, cube, asked.points, np.random.default_rng(0))
    assert goal.most <= 2000 and len(found) > len(asked.points)


class Counting:
    """An acquisition that notes how many points it is asked for at once."""

    def __init__(self, acquisition: acquisition.Acquisition) -> None:
        self._acquisition = acquisition
        self.most = 0

    def value(self, points: Array) -> Array:
        self.most = max(self.most, len(points))
        return self._acquisition.value(points)

    def gradient(self, points: Array) -> tuple[Array, Array]:
        return self._acquisition.gradient(points)


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAIL])
def test_a_proposal_keeps_away_from_where_others_are(state: TrialState) -> None:
    trials = seen(8)
    x, y = (float(v) for v in propose(problem(trials)))
    there = ended(None, state, x=x, y=y)
    assert np.abs(propose(problem([*trials, there])) - (x, y)).max() > 0.02


def test_a_proposal_keeps_to_the_constraints() -> None:
    def violation(x: float, y: float) -> float:
        return 0.5 - x

    trials = [
        ended(t.values, constraints={"c": violation(**t.params)}, **t.params) for t in seen(25)
    ]
    x, y = propose(problem(trials))
    assert violation(x, y) < 0.02
    assert bowl(x, y) < bowl(0.5, 0.6) + 0.02


def test_without_a_feasible_trial_one_is_sought() -> None:
    trials = [ended(t.values, constraints={"c": 2 - t.params["x"]}, **t.params) for t in seen(12)]
    assert propose(problem(trials))[0] > 0.9


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_proposals_lie_between_the_best_of_each_objective(objectives: int) -> None:
    def losses(x: float, y: float) -> list[float]:
        return [(x - i / (objectives - 1)) ** 2 + (y - 0.5) ** 2 for i in range(objectives)]

    trials = [ended(losses(**t.params), **t.params) for t in seen(15)]
    for _ in range(6):
        x, y = (float(v) for v in propose(problem(trials, objectives=objectives)))
        trials.append(ended(losses(x, y), x=x, y=y))
    assert np.mean([abs(t.params["y"] - 0.5) for t in trials[-4:]]) < 0.15


def test_choices_and_whole_numbers_are_found() -> None:
    axes = {
        "c": CategoricalDistribution(list("abcdefg")),
        "n": IntDistribution(1, 40),
        "few": IntDistribution(0, 3),
        "x": FloatDistribution(1e-4, 1, log=True),
    }

    def loss(c: str, n: int, few: int, x: float) -> float:
        return (c != "e") + abs(n - 23) / 10 + abs(few - 2) + (math.log10(x) + 2) ** 2

    cube = Cube(tuple(axes), tuple(Axis(distribution) for distribution in axes.values()))
    rng = np.random.default_rng(3)
    trials: list[FrozenTrial] = []
    for number in range(45):
        read = problem_of(cube, trials, [MINIMIZE], (number,))
        point = propose(read) if number > 7 else cube.spread(rng.random((1, 4)))[0]
        values = cube.decode(point)
        trials.append(ended([loss(**values)], distributions=axes, **values))
    best = min(trials, key=lambda t: t.values[0]).params
    assert (best["c"], best["few"]) == ("e", 2)
    assert abs(best["n"] - 23) <= 1


def test_a_neglected_choice_is_tried_where_it_does_better_than_before() -> None:
    """Not in corners, for the little chance that it beats what the other one came to."""
    cube = Cube(
        ("x", "y", "c"), (Axis(UNIT), Axis(UNIT), Axis(CategoricalDistribution(["a", "b"])))
    )
    distributions = dict(zip(cube.names, (axis.distribution for axis in cube.axes), strict=True))
    near = np.random.default_rng(1).normal((0.3, 0.6), 0.02, (20, 2)).clip(0, 1)
    spread = np.random.default_rng(2).random((8, 2))
    trials = [
        ended([bowl(x, y)], distributions=distributions, x=x, y=y, c="a")
        for x, y in [*spread.tolist(), *near.tolist()]
    ]
    trials += [
        ended([bowl(x, y) + 0.1], distributions=distributions, x=x, y=y, c="b")
        for x, y in ((0.9, 0.9), (0.1, 0.1))
    ]
    asked = [problem_of(cube, trials, [MINIMIZE], (seed,)) for seed in range(20)]
    proposed = [cube.decode(propose(one)) for one in asked]
    with_b = [bowl(values["x"], values["y"]) for values in proposed if values["c"] == "b"]
    assert with_b
    assert max(with_b) < 0.01


def test_a_finite_space_is_not_repeated_while_there_is_another_point() -> None:
    whole = IntDistribution(0, 4)
    cube = Cube(("a",), (Axis(whole),))
    trials: list[FrozenTrial] = []
    for number in range(5):
        if number:
            drawn = cube.decode(propose(problem(trials, cube)))
        else:
            drawn = {"a": 2}
        trials.append(ended([abs(drawn["a"] - 3.0)], distributions={"a": whole}, **drawn))
    assert {t.params["a"] for t in trials} == set(range(5))


def test_long_histories_are_cut_to_what_a_posterior_takes() -> None:
    x, y = propose(problem(seen(900)))
    assert bowl(x, y) < 0.002


@pytest.mark.parametrize("name", ["gp", "auto"])
def test_the_engine_hands_over_to_tpe_only_when_told_to_choose(name: str) -> None:
    engine = StudyEngine("s", spec(Space.of({"a": Int(0, 400), "b": Float(0, 1)}), name))
    run(engine, lambda p: float(p["b"]), range(4))
    assert (
        engine.algorithm_in_use
        == {
            "gp": "gp (after 5 spread points)",
            "auto": "qmc (auto: spread points until 5 trials have ended with a value)",
        }[name]
    )


# In plain Optuna.


def test_optuna_finds_the_way_through_a_conditional_space() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return 1 + trial.suggest_float("x", 0, 1)
        return (trial.suggest_float("y", 1e-3, 1, log=True) - 0.1) ** 2

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=GPSampler(seed=3))
    study.optimize(objective, n_trials=25)
    assert study.best_value < 1e-4
    again = optuna.create_study(sampler=GPSampler(seed=3))
    again.optimize(objective, n_trials=25)
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


@pytest.mark.parametrize("objectives", [1, 2])
def test_trials_that_run_at_once_look_in_different_places(objectives: int) -> None:
    def measured(x: float, y: float) -> list[float]:
        return [bowl(x, y), bowl(1 - x, 1 - y)][:objectives]

    points = np.random.default_rng(0).random((15, 2)).tolist()
    trials = [ended(measured(x, y), x=x, y=y) for x, y in points]
    found: list[Array] = []
    for _ in range(4):
        found.append(propose(problem(trials, objectives=objectives)))
        x, y = found[-1].tolist()
        trials.append(ended(None, TrialState.RUNNING, x=x, y=y))
    gaps = [np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]]
    assert min(gaps) > 0.01


@pytest.mark.parametrize("penalty", [1e13, sys.float_info.max])
def test_a_penalty_hides_nothing(penalty: float) -> None:
    """What trials without one differ by is learned, however large it is."""
    losses = np.append(np.linspace(0, 1, 12), [penalty, penalty])
    values = [scaled.values for scaled in scales.of_losses(losses)]
    assert any(np.ptp(each[:12]) > 0.3 for each in values)
    assert all(np.isfinite(each).all() for each in values)


def test_where_nothing_has_a_value_any_point_is_proposed() -> None:
    curve = {1: 0.5, 2: math.nan}
    stopped = [ended(None, TrialState.PRUNED, curve=curve, x=i / 9, y=0.5) for i in range(9)]
    point = propose(problem(stopped))
    assert point.shape == (2,) and (point >= 0).all() and (point <= 1).all()


def test_a_value_beyond_a_range_that_shrank_lies_at_its_end() -> None:
    wide = {"x": FloatDistribution(-5, 1e6), "y": UNIT}
    trials = [ended([x], x=x, y=0.5, distributions=wide) for x in (-2.0, 0.5, 7e5)]
    assert SQUARE.encode([t.params for t in trials])[:, 0].tolist() == [0.0, 0.5, 1.0]


def test_many_stopped_and_failed_trials_cost_no_more_than_some() -> None:
    curves = [
        {step: 1.0 / (1 + step + i % 7) for step in range(1, 3 + i % 40)} for i in range(900)
    ]
    xs = np.random.default_rng(1).random((900, 2)).tolist()
    stopped = [
        ended(None, TrialState.PRUNED, curve=curve, x=x, y=y)
        for curve, (x, y) in zip(curves, xs, strict=True)
    ]
    failed = [ended(None, TrialState.FAIL, x=x, y=y) for x, y in xs]
    whole = problem([*seen(5), *stopped, *failed])
    assert len(whole.points) == 400 and len(whole.failed) == 100
    assert propose(whole).shape == (2,)
