"""Studies, trials and random spaces for the tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from hypothesis import strategies as st

from tuner.engine import StudyEngine
from tuner.space import Categorical, Child, Discrete, Domain, Float, Int, Parameter, Space, Value
from tuner.study import Goal, Measurement, Metric, Search, StudySpec, Trial, TrialState

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def spec(
    space: Space,
    algorithm: str = "random",
    *,
    stopping: str = "none",
    goal: Goal = Goal.MINIMIZE,
    seed: int = 0,
) -> StudySpec:
    return StudySpec(
        metrics=(Metric(name="loss", goal=goal),),
        space=space,
        search=Search(algorithm=algorithm, early_stopping=stopping, seed=seed),
    )


def at(step: int, value: float) -> Measurement:
    return Measurement(step=step, metrics={"loss": value})


def trial(
    number: int,
    parameters: Mapping[str, Value],
    state: TrialState = TrialState.RUNNING,
    value: float | None = None,
    measurements: tuple[Measurement, ...] = (),
) -> Trial:
    return Trial(
        study_id="s",
        number=number,
        state=state,
        parameters=parameters,
        final_measurement=None if value is None else at(1, value),
        measurements=measurements,
        create_time=NOW,
    )


def succeeded(number: int, parameters: Mapping[str, Value], value: float) -> Trial:
    return trial(number, parameters, TrialState.SUCCEEDED, value)


def run(
    engine: StudyEngine,
    objective: Callable[[Mapping[str, Value]], float],
    numbers: range,
) -> list[Trial]:
    """Suggests and finishes one trial after another, until the space is exhausted."""
    trials: list[Trial] = []
    for number in numbers:
        parameters = engine.suggest(number)
        if parameters is None:
            break
        engine.add(trial(number, parameters))
        trials.append(succeeded(number, parameters, objective(parameters)))
        engine.finish(trials[-1])
    return trials


def _float(draw: st.DrawFn, *, finite: bool) -> Float:
    kind = "step" if finite else draw(st.sampled_from(["linear", "log", "step"]))
    low = draw(st.floats(1e-6, 1e3)) if kind == "log" else draw(st.floats(-1e3, 1e3))
    if kind == "step":
        step = draw(st.sampled_from([0.1, 0.25, 1.0, 3.0]))
        return Float(round(low, 3), round(low, 3) + step * draw(st.floats(0, 3.5)), step=step)
    return Float(low, low + draw(st.floats(0, 1e4)), log=kind == "log")


def _int(draw: st.DrawFn, *, finite: bool) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -20, 20))
    high = low + draw(st.integers(0, 4 if finite else 1000))
    return Int(low, high, log=log, step=1 if log else draw(st.integers(1, 3)))


_CHOICES = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, 0.1, -2.5]),
    st.sampled_from(["relu", "tanh", "1", "True", ""]),
)


def _domain(draw: st.DrawFn, *, finite: bool) -> Domain:
    match draw(st.sampled_from(["float", "int", "discrete", "categorical"])):
        case "float":
            return _float(draw, finite=finite)
        case "int":
            return _int(draw, finite=finite)
        case "discrete":
            values = draw(st.lists(st.integers(-50, 50), min_size=1, max_size=4, unique=True))
            return Discrete([value / 4 for value in sorted(values)])
        case _:
            choices = draw(
                st.lists(
                    _CHOICES, min_size=1, max_size=4, unique_by=lambda c: (type(c).__name__, c)
                )
            )
            return Categorical(choices)


def _parent_values(draw: st.DrawFn, domain: Domain) -> tuple[Value, ...]:
    match domain:
        case Categorical():
            return tuple(draw(st.lists(st.sampled_from(domain.choices), min_size=1, max_size=2)))
        case Discrete():
            return tuple(draw(st.lists(st.sampled_from(domain.values), min_size=1, max_size=2)))
        case Int():
            return (domain.low,)
        case Float():
            return (domain.low,)


@st.composite
def spaces(draw: st.DrawFn, *, finite: bool = False, depth: int = 3) -> Space:
    """Trees of every kind of domain, children under children."""
    names = (f"p{i}" for i in range(1000))

    def parameter(depth: int) -> Parameter:
        domain = _domain(draw, finite=finite)
        children = tuple(
            Child(_parent_values(draw, domain), parameter(depth - 1))
            for _ in range(draw(st.integers(0, 2)) if depth > 1 else 0)
        )
        return Parameter(name=next(names), domain=domain, children=children)

    roots = draw(st.integers(1, 2 if finite else 3))
    return Space(tuple(parameter(depth) for _ in range(roots)))
