"""Early stopping: how good the best value is after a budget of 5, 10 and 20 full trainings.

    python tests/benchmarks/stopping.py [--workers 1 4] [--seeds 3] [--only auto/asha ...] [--json]

Our searches with our rules beside Optuna's samplers with its pruners, on the same tasks in one
run, with one worker and with several that run at once by a simulated clock. Epochs are counted,
whoever spends them. Tasks are learning curves: of formulas, where curves cross, and of real small
networks trained on generated data. The regret is 0 at the best value that is known of a task and 1
at the median of random trials; the table has its mean.

With `--tasks FILE` the tasks come from the function `tasks()` of a Python file: tuples of a name,
a `tuner.Space`, a function from parameters to losses by epoch, and the best and the median value.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import runpy
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Protocol

if not __package__:
    # Run by its path: once more as a module, so that it finds `tests`; and with one thread.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.stopping", *sys.argv[1:]])

import numpy as np
import optuna
from optuna import pruners, samplers

from tuner.engine import StudyEngine, points
from tuner.engine.encoding import Encoding
from tuner.space import Float, Int, Space, Value
from tuner.study import Goal, Measurement, Metric, Search, StudySpec, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)

BUDGETS = (5, 10, 20)
EPOCHS = 27
_NOW = datetime(2025, 1, 1, tzinfo=UTC)
_MOST_TRIALS = 400
_REFERENCES = 100

Point = Mapping[str, Value]
Curve = Callable[[Point], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Task:
    """Learning curves over a space, and the values that are known of them."""

    name: str
    space: Space
    curve: Curve
    best: float
    median: float


# --- tasks -----------------------------------------------------------------------------------


def formulas(seed: int) -> Task:
    """A power law towards an end: slow curves end better, so they cross; with noise."""
    space = Space.of(
        {
            "rate": Float(1e-4, 1e-1, log=True),
            "momentum": Float(0.1, 0.99),
            "units": Int(16, 1024, log=True),
            "decay": Float(0, 0.1),
            "dropout": Float(0, 0.8),
        }
    )
    source = random.Random(seed)
    centre = [source.uniform(0.2, 0.8) for _ in range(5)]
    weights = [source.uniform(0.1, 1.0) for _ in range(5)]

    def curve(point: Point) -> list[float]:
        rate = math.log10(float(point["rate"])) / 3 + 4 / 3
        at = [
            rate,
            float(point["momentum"]),
            math.log2(float(point["units"]) / 16) / 6,
            10 * float(point["decay"]),
            float(point["dropout"]) / 0.8,
        ]
        away = sum(w * (a - c) ** 2 for w, a, c in zip(weights, at, centre, strict=True))
        end, speed = 0.1 + away, 0.3 + 1.2 * at[0] + 0.5 * at[1]
        noise = random.Random(f"{seed} {sorted(point.items())}")
        return [
            end + (0.6 + away) * epoch**-speed + noise.gauss(0, 0.01)
            for epoch in range(1, EPOCHS + 1)
        ]

    return _referenced(f"formula {seed}", space, curve)


def networks(seed: int) -> Task:
    """A network with one hidden layer that learns what another one says, by SGD in NumPy."""
    space = Space.of(
        {
            "rate": Float(1e-3, 3.0, log=True),
            "momentum": Float(0, 0.99),
            "units": Int(2, 64, log=True),
            "batch": Int(8, 256, log=True),
            "decay": Float(1e-6, 1e-1, log=True),
            "scale": Float(0.05, 5.0, log=True),
        }
    )
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((600, 6))
    hidden = np.tanh(inputs @ rng.standard_normal((6, 8)))
    labels = (hidden @ rng.standard_normal(8) + 0.3 * rng.standard_normal(600) > 0).astype(float)

    def curve(point: Point) -> list[float]:
        with np.errstate(over="ignore", invalid="ignore"):
            return _trained(point, inputs, labels, seed)

    return _referenced(f"network {seed}", space, curve)


def _trained(point: Point, inputs: np.ndarray, labels: np.ndarray, seed: int) -> list[float]:
    """The share of errors on the last third, by epoch."""
    rng, size = np.random.default_rng(seed), int(point["batch"])
    units, scale = int(point["units"]), float(point["scale"])
    first = scale * rng.standard_normal((inputs.shape[1] + 1, units)) / 2.5
    second = scale * rng.standard_normal(units + 1) / math.sqrt(units)
    moving = [np.zeros_like(first), np.zeros_like(second)]
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    train = 2 * len(inputs) // 3

    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner = np.column_stack([np.tanh(x @ first), np.ones(len(x))])
        return inner, 1 / (1 + np.exp(-inner @ second))

    errors = []
    for _ in range(EPOCHS):
        order = rng.permutation(train)
        for start in range(0, train, size):
            rows = order[start : start + size]
            inner, said = forward(inputs[rows])
            wrong = (said - labels[rows]) / len(rows)
            back = np.outer(wrong, second[:-1]) * (1 - inner[:, :-1] ** 2)
            slopes = (inputs[rows].T @ back, inner.T @ wrong)
            for weights, slope, speed in zip((first, second), slopes, moving, strict=True):
                speed *= float(point["momentum"])
                speed -= float(point["rate"]) * (slope + float(point["decay"]) * weights)
                weights += speed
        _, said = forward(inputs[train:])
        losses = np.clip(np.abs(said - labels[train:]), 0, 1) ** 2
        errors.append(float(np.nan_to_num(losses, nan=1.0).mean()))
    return errors


def _referenced(name: str, space: Space, curve: Curve) -> Task:
    cube, source = points.UnitCube(space), random.Random(0)
    drawn = [cube.point([source.random() for _ in range(cube.sides)]) for _ in range(_REFERENCES)]
    values = [min(curve(point)) for point in drawn]
    return Task(name, space, curve, min(values), statistics.median(values))


# --- contestants -----------------------------------------------------------------------------


class Contestant(Protocol):
    """A search with its early stopping, on one task; less is better."""

    def start(self) -> tuple[int, Point]:
        """The next trial."""
        ...

    def report(self, number: int, epoch: int, seconds: float, loss: float) -> bool:
        """Whether to stop the trial."""
        ...

    def finish(self, number: int, stopped: bool) -> None:
        """The trial has ended."""
        ...


class Ours:
    """The engine as the study server uses it."""

    def __init__(self, space: Space, seed: int, algorithm: str, rule: str) -> None:
        spec = StudySpec(
            metrics=(Metric(name="loss", goal=Goal.MINIMIZE),),
            space=space,
            search=Search(algorithm=algorithm, early_stopping=rule, seed=seed),
        )
        self._engine = StudyEngine("benchmark", spec)
        self._points: list[Point] = []
        self._measured: dict[int, list[Measurement]] = {}

    def start(self) -> tuple[int, Point]:
        """Suggests and adds a trial."""
        number = len(self._points)
        point = self._engine.suggest(number)
        if point is None:
            raise RuntimeError("the space has no point left; it should be infinite.")
        self._points.append(point)
        self._measured[number] = []
        self._engine.add(self._trial(number, TrialState.RUNNING))
        return number, point

    def report(self, number: int, epoch: int, seconds: float, loss: float) -> bool:
        """As the engine answers."""
        elapsed = timedelta(seconds=seconds)
        measurement = Measurement(step=epoch, metrics={"loss": loss}, elapsed=elapsed)
        self._measured[number].append(measurement)
        return self._engine.report(number, measurement) is not None

    def finish(self, number: int, stopped: bool) -> None:
        """The best measurement is the result."""
        state = TrialState.PRUNED if stopped else TrialState.SUCCEEDED
        self._engine.finish(self._trial(number, state))
        del self._measured[number]

    def _trial(self, number: int, state: TrialState) -> Trial:
        measured = tuple(self._measured[number])
        return Trial(
            study_id="benchmark",
            number=number,
            state=state,
            parameters=self._points[number],
            measurements=measured,
            final_measurement=min(measured, key=lambda m: m.metrics["loss"], default=None),
            create_time=_NOW,
            end_time=_NOW if state.is_finished else None,
        )


class Optunas:
    """A sampler and a pruner of Optuna in memory."""

    def __init__(
        self, space: Space, seed: int, sampler: samplers.BaseSampler, pruner: pruners.BasePruner
    ) -> None:
        self._encoding = Encoding(space)
        name = f"benchmark-{seed}"
        self._study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=name)
        self._open: dict[int, optuna.Trial] = {}
        self._last: dict[int, float] = {}

    def start(self) -> tuple[int, Point]:
        """Asks."""
        trial = self._study.ask(dict(self._encoding.distributions))
        self._open[trial.number] = trial
        return trial.number, self._encoding.point(trial.params)

    def report(self, number: int, epoch: int, seconds: float, loss: float) -> bool:
        """As the pruner answers."""
        self._open[number].report(loss, epoch)
        self._last[number] = loss
        return self._open[number].should_prune()

    def finish(self, number: int, stopped: bool) -> None:
        """The last value is the result, as a script would have it."""
        trial = self._open.pop(number)
        if stopped:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, self._last[number])


def _ours(algorithm: str, rule: str) -> Callable[[Space, int], Contestant]:
    return lambda space, seed: Ours(space, seed, algorithm, rule)


def _optunas(
    sampler: Callable[[int], samplers.BaseSampler], pruner: Callable[[], pruners.BasePruner]
) -> Callable[[Space, int], Contestant]:
    return lambda space, seed: Optunas(space, seed, sampler(seed), pruner())


_SAMPLERS: Mapping[str, Callable[[int], samplers.BaseSampler]] = {
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: samplers.TPESampler(seed=seed, multivariate=True),
}
_PRUNERS: Mapping[str, Callable[[], pruners.BasePruner]] = {
    "none": pruners.NopPruner,
    "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    "percentile": lambda: pruners.PercentilePruner(25, n_startup_trials=5, n_warmup_steps=2),
    "halving2": lambda: pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
    "halving3": lambda: pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
    "hyperband": lambda: pruners.HyperbandPruner(
        min_resource=2, max_resource=EPOCHS, reduction_factor=3
    ),
}
#: By name: `auto/asha` is what a study gets that asks for nothing.
CONTESTANTS: Mapping[str, Callable[[Space, int], Contestant]] = {
    **{
        f"{algorithm}/{rule}": _ours(algorithm, rule)
        for algorithm, rule in (
            ("auto", "asha"),
            ("auto", "hyperband"),
            ("auto", "median"),
            ("auto", "none"),
            ("random", "asha"),
        )
    },
    **{
        f"optuna {sampler}/{pruner}": _optunas(_SAMPLERS[sampler], _PRUNERS[pruner])
        for sampler in _SAMPLERS
        for pruner in _PRUNERS
    },
}


# --- runs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run."""

    #: The best value so far after each epoch of any worker.
    best: Sequence[float]
    trials: int
    #: Epochs of a trial that runs to its end.
    epochs: int


def run(contestant: Contestant, curve: Curve, workers: int) -> Result:
    """Works off the largest budget: workers take trial after trial, at speeds of their own."""
    values = list[float]()
    trials = 0
    # When each worker ends its next epoch, and what it works on.
    clock: list[tuple[float, int, int, float, Sequence[float], int]] = []

    def begin(worker: int, now: float) -> None:
        nonlocal trials
        number, point = contestant.start()
        trials += 1
        pace = random.Random(f"{sorted(point.items())}").uniform(0.5, 1.5)
        heapq.heappush(clock, (now + pace, worker, number, pace, curve(point), 1))

    for worker in range(workers):
        begin(worker, 0.0)
    while True:
        now, worker, number, pace, losses, epoch = heapq.heappop(clock)
        values.append(losses[epoch - 1])
        if len(values) >= BUDGETS[-1] * len(losses) or trials >= _MOST_TRIALS:
            break
        ended = epoch == len(losses)
        stop = contestant.report(number, epoch, pace * epoch, losses[epoch - 1])
        if ended or stop:
            contestant.finish(number, stopped=not ended)
            begin(worker, now)
        else:
            heapq.heappush(clock, (now + pace, worker, number, pace, losses, epoch + 1))
    best = list(accumulate(values, min))
    best += best[-1:] * (BUDGETS[-1] * len(losses) - len(best))
    return Result(best, trials, len(losses))


def compare(
    tasks: Sequence[Task], names: Sequence[str], workers: int, seeds: int
) -> dict[str, dict[str, float]]:
    """The mean regret of each contestant at each budget, and how many trials it started."""
    found: dict[str, list[tuple[list[float], int]]] = {name: [] for name in names}
    for task in tasks:
        curve = _remembered(task.curve)
        results = {
            (name, seed): run(CONTESTANTS[name](task.space, seed), curve, workers)
            for name in names
            for seed in range(seeds)
        }
        best = min(task.best, *(result.best[-1] for result in results.values()))
        for (name, _), result in results.items():
            reached = [result.best[budget * result.epochs - 1] for budget in BUDGETS]
            regrets = [min(2.0, (value - best) / (task.median - best)) for value in reached]
            found[name].append((regrets, result.trials))
    return {
        name: {
            **{
                str(budget): round(statistics.fmean(regrets[i] for regrets, _ in rows), 4)
                for i, budget in enumerate(BUDGETS)
            },
            "trials": round(statistics.fmean(trials for _, trials in rows), 1),
        }
        for name, rows in found.items()
    }


def _remembered(curve: Curve) -> Curve:
    known: dict[tuple[tuple[str, Value], ...], Sequence[float]] = {}

    def looked_up(point: Point) -> Sequence[float]:
        key = tuple(sorted(point.items()))
        if key not in known:
            known[key] = curve(point)
        return known[key]

    return looked_up


def table(workers: int, found: Mapping[str, Mapping[str, float]]) -> str:
    """The contestants by their mean regret."""
    order = sorted(found, key=lambda name: sum(found[name][str(b)] for b in BUDGETS))
    lines = [f"{workers} at once, regret after full trainings:", f"{'':22}     5      10      20"]
    for name in order:
        regrets = "  ".join(f"{found[name][str(budget)]:.4f}" for budget in BUDGETS)
        lines.append(f"{name:22}{regrets}  {found[name]['trials']:.0f} trials")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, or one JSON object: by workers, contestant and budget the regret."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.tasks is None:
        tasks = [formulas(1), formulas(2), networks(1), networks(2)]
    else:
        tasks = [Task(*given) for given in runpy.run_path(str(asked.tasks))["tasks"]()]
    report = {}
    for workers in asked.workers:
        found = compare(tasks, asked.only, workers, asked.seeds)
        report[str(workers)] = found
        print(table(workers, found), file=sys.stderr if asked.json else sys.stdout, flush=True)
    if asked.json:
        print(json.dumps({"regret": report, "tasks": [task.name for task in tasks]}))


if __name__ == "__main__":
    main()
