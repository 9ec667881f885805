"""CMA-ES and NSGA-II: they get better, keep no state of their own, and heed what else is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.unit.engine_support import NOW, run, spec, succeeded, trial
from tuner.engine import StudyEngine, optimal_numbers
from tuner.space import Categorical, Child, Discrete, Float, Int, Parameter, Space, Value
from tuner.study import (
    Constraint,
    Goal,
    Measurement,
    Metric,
    StudySpec,
    Trial,
    TrialState,
)

NUMBERS = Space.of(
    {
        "rate": Float(1e-5, 1e-1, log=True),
        "momentum": Float(0, 1),
        "units": Int(8, 512, log=True),
        "layers": Int(1, 8),
        "dropout": Float(0, 0.5, step=0.05),
        "batch": Discrete((16, 32, 64, 128)),
        "fixed": Int(3, 3),
    }
)
TREE = Space(
    (
        Parameter(
            name="kind",
            domain=Categorical(["a", "b"]),
            children=(
                Child(
                    ("a",),
                    Parameter(
                        name="depth",
                        domain=Int(1, 9),
                        children=(Child((7, 8, 9), Parameter(name="skip", domain=Float(0, 1))),),
                    ),
                ),
            ),
        ),
        Parameter(name="x", domain=Float(-1, 1)),
    )
)


def loss(p: Mapping[str, Value]) -> float:
    return float(
        (math.log10(float(p["rate"])) + 3) ** 2
        + 5 * (float(p["momentum"]) - 0.9) ** 2
        + abs(math.log2(float(p["units"])) - 6) / 4
        + abs(float(p["layers"]) - 3) / 8
        + abs(float(p["dropout"]) - 0.2)
        + abs(math.log2(float(p["batch"])) - 6) / 3
    )


def tree_loss(p: Mapping[str, Value]) -> float:
    inner = 3 - float(p.get("skip", 0)) if p["kind"] == "a" else 4.0
    return float(inner + float(p["x"]) ** 2)


def best(
    space: Space, algorithm: str, f: Callable[[Mapping[str, Value]], float], n: int, seed: int
) -> float:
    return min(
        f(t.parameters)
        for t in run(StudyEngine("s", spec(space, algorithm, seed=seed)), f, range(n))
    )


@pytest.mark.parametrize(("algorithm", "within"), [("cma-es", 0.01), ("nsga-ii", 0.2)])
def test_generations_get_better_than_chance(algorithm: str, within: float) -> None:
    for seed in range(2):
        found = best(NUMBERS, algorithm, loss, 300, seed)
        assert found < within < best(NUMBERS, "random", loss, 300, seed)


def test_the_goal_may_be_to_maximize() -> None:
    asked = spec(NUMBERS, "cma-es", goal=Goal.MAXIMIZE)
    trials = run(StudyEngine("s", asked), lambda p: -loss(p), range(300))
    assert loss(trials[-1].parameters) < 0.05


@pytest.mark.parametrize("algorithm", ["cma-es", "nsga-ii"])
def test_workers_at_once_see_the_same_after_a_restart(algorithm: str) -> None:
    """Four trials run at any time, and end in another order than they began."""
    asked = spec(NUMBERS, algorithm, seed=3)
    engine, rng = StudyEngine("s", asked), np.random.default_rng(0)
    known: dict[int, Trial] = {}
    running: list[int] = []
    for number in range(130):
        while len(running) >= 4:
            ended = running.pop(int(rng.integers(4)))
            value = loss(known[ended].parameters)
            done = succeeded(ended, known[ended].parameters, value)
            if ended % 7 == 3:
                done = trial(ended, done.parameters, TrialState.FAILED)
            known[ended] = replace(done, end_time=NOW + timedelta(seconds=number))
            engine.finish(known[ended])
        if number % 10 == 0:
            again = StudyEngine("s", asked, [known[n] for n in range(number)])
            assert again.suggest(number) == engine.suggest(number)
        parameters = engine.suggest(number)
        assert parameters is not None
        known[number] = trial(number, parameters)
        engine.add(known[number])
        running.append(number)
    generations = [t for t in known.values() if t.state is TrialState.SUCCEEDED]
    assert len(generations) > 90


def test_cma_es_takes_what_lies_far_off_and_starts_again_where_it_is_done() -> None:
    space = Space.of({"x": Float(0, 1), "y": Float(0, 1)})

    def bowl(p: Mapping[str, Value]) -> float:
        return (float(p["x"]) - 0.3) ** 2 + (float(p["y"]) - 0.6) ** 2

    engine = StudyEngine("s", spec(space, "cma-es"))
    trials = run(engine, bowl, range(400))
    # A user's own, at the other end, in the middle of a distribution that is tiny by now.
    for number in range(400, 412):
        engine.add(succeeded(number, {"x": 1.0, "y": 0.0}, bowl({"x": 1.0, "y": 0.0})))
    later = run(engine, bowl, range(412, 1200))
    assert min(bowl(t.parameters) for t in trials) < 1e-6
    assert max(bowl(t.parameters) for t in later) > 0.01
    assert min(bowl(t.parameters) for t in later) < 1e-6


def test_cma_es_searches_a_single_parameter_and_none() -> None:
    one = Space.of({"x": Float(-5, 5)})
    assert best(one, "cma-es", lambda p: (float(p["x"]) - 2) ** 2, 60, 0) < 1e-2
    none = StudyEngine("s", spec(Space.of({"fixed": Int(3, 3)}), "cma-es"))
    assert none.suggest(0) == {"fixed": 3}


def test_cma_es_keeps_to_constraints() -> None:
    space = Space.of({"x": Float(0, 1), "y": Float(0, 1)})
    asked = replace(spec(space, "cma-es"), constraints=(Constraint(metric="size", at_most=0.5),))
    engine = StudyEngine("s", asked)
    last: list[float] = []
    for number in range(200):
        parameters = engine.suggest(number)
        assert parameters is not None
        x, y = float(parameters["x"]), float(parameters["y"])
        engine.add(trial(number, parameters))
        measured = Measurement(step=1, metrics={"loss": -x - y, "size": x})
        done = replace(trial(number, parameters, TrialState.SUCCEEDED), final_measurement=measured)
        engine.finish(done)
        last.append(x)
    assert np.mean(np.array(last[-50:]) <= 0.5) > 0.6
    assert max(x for x in last[-50:] if x <= 0.5) > 0.45


def two_metrics() -> StudySpec:
    asked = spec(Space.of({"x": Float(0, 1), "y": Float(0, 1), "z": Float(0, 1)}), "nsga-ii")
    return replace(asked, metrics=tuple(Metric(name=n, goal=Goal.MINIMIZE) for n in "fg"))


def test_nsga_ii_finds_a_front() -> None:
    """ZDT1: the front is where y and z are 0."""

    def measured(p: Mapping[str, Value]) -> Mapping[str, float]:
        g = 1 + 4.5 * (float(p["y"]) + float(p["z"]))
        return {"f": float(p["x"]), "g": g * (1 - math.sqrt(float(p["x"]) / g))}

    def front(algorithm: str) -> Sequence[Trial]:
        asked = two_metrics()
        asked = replace(asked, search=replace(asked.search, algorithm=algorithm))
        engine, trials = StudyEngine("s", asked), list[Trial]()
        for number in range(400):
            parameters = engine.suggest(number)
            assert parameters is not None
            engine.add(trial(number, parameters))
            result = Measurement(step=1, metrics=measured(parameters))
            done = trial(number, parameters, TrialState.SUCCEEDED)
            trials.append(replace(done, final_measurement=result))
            engine.finish(trials[-1])
        return [trials[number] for number in optimal_numbers(asked, trials)]

    def distance(trials: Sequence[Trial]) -> float:
        return float(
            np.mean([float(t.parameters["y"]) + float(t.parameters["z"]) for t in trials])
        )

    bred, drawn = front("nsga-ii"), front("random")
    assert len(bred) > 2 * len(drawn)
    assert distance(bred) < distance(drawn) / 3
    assert np.ptp([float(t.parameters["x"]) for t in bred]) > 0.6


def test_nsga_ii_breeds_in_a_tree() -> None:
    engine = StudyEngine("s", spec(TREE, "nsga-ii"))
    trials = run(engine, tree_loss, range(300))
    for done in trials:
        TREE.check(done.parameters)
    late = trials[-60:]
    assert sum("skip" in t.parameters for t in late) > 40
    assert min(tree_loss(t.parameters) for t in trials) < 2.05


def test_a_result_taken_back_is_forgotten() -> None:
    asked = spec(NUMBERS, "cma-es")
    engine = StudyEngine("s", asked)
    trials = run(engine, loss, range(40))
    engine.suggest(40)
    engine.restart(5)
    rebuilt = StudyEngine("s", asked, [*trials[:5], trial(5, trials[5].parameters), *trials[6:]])
    assert engine.suggest(40) == rebuilt.suggest(40)
