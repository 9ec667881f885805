"""Points of a space: every suggestion lies in it, values survive Optuna, grids are complete."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from tests.unit.engine_support import spaces
from tuner.engine import domains, encoding, points
from tuner.engine.grid import Grid, shuffled
from tuner.space import Categorical, Child, Discrete, Domain, Float, Int, Parameter, Space, Value

unit = st.floats(0, 1, exclude_max=True)


@settings(deadline=None)
@given(spaces(), st.lists(unit, min_size=64, max_size=64))
def test_every_point_of_the_cube_lies_in_the_space(space: Space, u: list[float]) -> None:
    cube = points.UnitCube(space)
    coordinates = list(itertools.islice(itertools.cycle(u), cube.sides))
    space.check(cube.point(coordinates))


@settings(deadline=None)
@given(spaces())
def test_the_centre_lies_in_the_space(space: Space) -> None:
    space.check(points.centre(space))


def test_the_centre_is_the_default_where_there_is_one() -> None:
    space = Space(
        (
            Parameter(name="lr", domain=Float(1e-4, 1e-2, log=True)),
            Parameter(name="units", domain=Int(1, 100), default=7),
            Parameter(name="act", domain=Categorical(["relu", "tanh", "gelu"])),
        )
    )
    assert points.centre(space) == {"lr": pytest.approx(1e-3), "units": 7, "act": "relu"}


@settings(deadline=None)
@given(spaces(), st.lists(unit, min_size=64, max_size=64))
def test_values_survive_the_way_to_optuna_and_back(space: Space, u: list[float]) -> None:
    cube = points.UnitCube(space)
    point = cube.point(list(itertools.islice(itertools.cycle(u), cube.sides)))
    domain_of = {parameter.name: parameter.domain for parameter in space.walk()}
    for name, encoded in encoding.Encoding(space).encode(point).items():
        distribution = encoding.distribution_of(domain_of[name])
        internal = distribution.to_internal_repr(encoded)
        assert distribution._contains(internal)
        back = encoding.decode(domain_of[name], distribution.to_external_repr(internal))
        assert (type(back), back) == (type(point[name]), point[name])


def test_choices_that_python_calls_equal_stay_apart() -> None:
    domain = Categorical([True, 1, 1.0, "1", False, 0])
    distribution = encoding.distribution_of(domain)
    assert isinstance(distribution, CategoricalDistribution)
    words = [str(distribution.to_external_repr(i)) for i in range(6)]
    back = [encoding.decode(domain, word) for word in words]
    assert [(type(b), b) for b in back] == [(type(c), c) for c in domain.choices]


def test_children_of_true_are_not_those_of_one() -> None:
    child = Parameter(name="b", domain=Int(1, 3))
    root = Parameter(name="a", domain=Categorical([1, True]), children=(Child((True,), child),))
    assert Grid(Space((root,)), seed=0).size == 1 + 3
    assert points.centre(Space((root,))) == {"a": 1}


def test_discrete_numbers_are_an_index_to_optuna() -> None:
    domain = Discrete([16, 64, 512])
    assert encoding.distribution_of(domain) == IntDistribution(0, 2)
    assert encoding.encode(domain, 64) == 1
    assert encoding.decode(domain, 2) == 512.0


def test_steps_are_exact() -> None:
    domain = Float(0.1, 0.95, step=0.1)
    values = [domains.nth(domain, i) for i in range(domains.count(domain) or 0)]
    assert values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert domains.canonical(domain, 0.1 + 0.2) == 0.3
    assert domains.canonical(domain, 0.95) == 0.9


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (Float(0, 1), None),
        (Float(2, 2), 1),
        (Float(0, 1, step=0.3), 4),
        (Int(1, 10, step=4), 3),
        (Int(5, 5), 1),
        (Discrete([1, 2]), 2),
        (Categorical(["a", 1, True]), 3),
    ],
)
def test_count(domain: Domain, expected: int | None) -> None:
    assert domains.count(domain) == expected


def test_log_scales_give_equal_ratios_equal_shares() -> None:
    steps = [i / 1000 for i in range(1000)]
    real = [float(domains.at(Float(1e-4, 1, log=True), u)) for u in steps]
    assert sum(x < 1e-2 for x in real) == pytest.approx(500, abs=2)
    whole = [float(domains.at(Int(1, 256, log=True), u)) for u in steps]
    assert sum(x <= 16 for x in whole) == pytest.approx(1000 * math.log(33) / math.log(513), abs=2)
    assert {domains.at(Int(1, 3, log=True), u) for u in steps} == {1, 2, 3}


def test_older_trials_are_read_with_defaults_and_without_what_left_the_space() -> None:
    space = Space(
        (
            Parameter(name="old", domain=Int(1, 8)),
            Parameter(name="new", domain=Categorical(["a", "b"]), default="b"),
            Parameter(name="other", domain=Int(1, 8)),
        )
    )
    projection = points.project(space, {"old": 3, "other": 99, "gone": 1})
    assert projection.values == {"old": 3, "new": "b"}
    assert not projection.complete
    assert points.project(space, {"old": 3, "other": 8}).complete


@settings(deadline=None)
@given(st.integers(1, 300), st.integers())
def test_the_shuffle_is_a_permutation(size: int, seed: int) -> None:
    assert sorted(shuffled(i, size, seed) for i in range(size)) == list(range(size))


def test_the_shuffle_depends_on_the_seed() -> None:
    orders = {tuple(shuffled(i, 50, seed) for i in range(50)) for seed in range(5)}
    assert len(orders) == 5
    assert tuple(range(50)) not in orders


def _enumerate(parameters: tuple[Parameter, ...]) -> list[dict[str, Value]]:
    """Every point, the plain way."""
    if not parameters:
        return [{}]
    first, rest = parameters[0], parameters[1:]
    return [
        {first.name: value, **below, **others}
        for i in range(domains.count(first.domain) or 0)
        for value in [domains.nth(first.domain, i)]
        for below in _enumerate(tuple(first.active_children(value)))
        for others in _enumerate(rest)
    ]


@settings(max_examples=60, deadline=None)
@given(spaces(finite=True, depth=2))
def test_a_grid_has_every_point_once(space: Space) -> None:
    grid = Grid(space, seed=3)
    expected = Counter(map(points.key_of, _enumerate(space.parameters)))
    assert grid.size == expected.total()
    found = Counter(points.key_of(grid.point(rank)) for rank in range(grid.size))
    assert found == expected


def test_a_grid_counts_without_listing() -> None:
    child = Parameter(name="b", domain=Int(1, 10))
    root = Parameter(name="a", domain=Int(1, 10**12), children=(Child((5, 9), child),))
    grid = Grid(Space((root, Parameter(name="c", domain=Int(1, 10**9)))), seed=0)
    assert grid.size == (10**12 - 2 + 20) * 10**9
    space = Space((root, Parameter(name="c", domain=Int(1, 10**9))))
    for rank in (0, 1, grid.size - 1):
        space.check(grid.point(rank))


def test_a_grid_over_real_numbers_has_no_size() -> None:
    child = Parameter(name="b", domain=Float(0, 1))
    root = Parameter(name="a", domain=Categorical(["x", "y"]), children=(Child(("x",), child),))
    assert Grid(Space((root,)), seed=0).size is None
