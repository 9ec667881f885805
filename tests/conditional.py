"""A search in a tree: parameters like those of networks, some of which exist only under others."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

import numpy as np

from tests.integration.service_support import Caller, Trial
from tuner import convert
from tuner.space import Categorical, Child, Discrete, Float, Int, Parameter, Space, Value
from tuner.v1 import study_pb2

#: Of `loss`, without noise.
OPTIMUM = -0.1

_BEST_RATE = {"sgd": -1.7, "adam": -2.9, "rmsprop": -2.7}
_OPTIMIZER = {"sgd": 0.1, "adam": 0.0, "rmsprop": 0.06}
_PREPARATION = {"bucket": 0.0, "hash": 0.05, "embed": -0.05}
_POOLING = {"mean": 0.0, "attention": -0.05}
_NOISE = 0.02

#: A parameter, one that exists under some of its values, and one that exists under some of those.
SPACE = Space(
    (
        Parameter(name="rate", domain=Float(1e-5, 1, log=True)),
        Parameter(name="batch", domain=Discrete((16, 32, 64, 128, 256, 512))),
        Parameter(name="units", domain=Int(8, 1024, log=True)),
        Parameter(name="layers", domain=Int(1, 8)),
        Parameter(
            name="optimizer",
            domain=Categorical(("sgd", "adam", "rmsprop")),
            children=(Child(("sgd",), Parameter(name="momentum", domain=Float(0, 0.99))),),
        ),
        Parameter(
            name="preparation",
            domain=Categorical(("bucket", "hash", "embed")),
            children=(
                Child(("embed",), Parameter(name="dimension", domain=Int(2, 256, log=True))),
                Child(
                    ("embed",),
                    Parameter(
                        name="pooling",
                        domain=Categorical(("mean", "attention")),
                        children=(
                            Child(("attention",), Parameter(name="heads", domain=Int(1, 16))),
                        ),
                    ),
                ),
                Child(("bucket",), Parameter(name="buckets", domain=Int(2, 1024, log=True))),
            ),
        ),
        Parameter(name="dropout", domain=Float(0, 0.8)),
        Parameter(name="decay", domain=Float(1e-7, 1e-1, log=True)),
    )
)


def loss(values: Mapping[str, Value], noise: np.random.Generator | None = None) -> float:
    """What a trial reports, with some noise, or what it is worth, without."""
    made = {name: value for name, value in values.items() if isinstance(value, str)}
    number = {name: float(v) for name, v in values.items() if not isinstance(v, str)}
    batch, best = math.log2(number["batch"]), _BEST_RATE[made["optimizer"]]
    found = 0.5 * (math.log10(number["rate"]) - best - 0.15 * (batch - 5)) ** 2
    found += 0.02 * (batch - 5.5) ** 2 - 0.005
    found += 0.045 * (math.log2(number["units"]) - 7.5) ** 2 + 0.08 * (number["layers"] - 3) ** 2
    found += 0.2 * (number["dropout"] - 0.3) ** 2
    found += 0.02 * (math.log10(number["decay"]) + 4) ** 2
    found += _OPTIMIZER[made["optimizer"]] + _PREPARATION[made["preparation"]]
    found += 0.3 * (number.get("momentum", 0.9) - 0.9) ** 2
    if made["preparation"] == "embed":
        found += 0.02 * (math.log2(number["dimension"]) - 4) ** 2 + _POOLING[made["pooling"]]
        found += 0.01 * (math.log2(number.get("heads", 4)) - 2) ** 2
    if made["preparation"] == "bucket":
        found += 0.03 * (math.log2(number["buckets"]) - 6) ** 2
    return found if noise is None else found + _NOISE * float(noise.standard_normal())


def regret(caller: Caller, seed: int, *, trials: int = 100, workers: int = 4) -> float:
    """How much worse than the optimum the best trial of a study of a server is, without noise.

    Workers are at different trials at any time and end them in any order, but in the same one
    for the same seed: so the same is found each time.
    """
    study_id = f"conditional-{seed}"
    metric = study_pb2.Metric(name="loss", goal=study_pb2.Metric.Goal.Value("MINIMIZE"))
    search = study_pb2.Search(algorithm="auto", early_stopping="none", seed=seed)
    space = convert.space_to_proto(SPACE)
    caller.create(study_id, metrics=[metric], space=space, search=search, trials=trials)
    rng = np.random.default_rng(seed)
    running: list[tuple[float, str, Trial]] = []
    seen: list[tuple[float, float]] = []
    now, free = 0.0, [f"worker-{number}" for number in range(workers)]
    for _ in range(trials):
        trial = caller.one(free[-1], study_id)
        heapq.heappush(running, (now + rng.uniform(0.5, 1.5), free.pop(), trial))
        if not free or len(seen) + len(running) == trials:
            now = _end(caller, running, seen, free, rng)
    while running:
        _end(caller, running, seen, free, rng)
    return min(seen)[1] - OPTIMUM


def _end(
    caller: Caller,
    running: list[tuple[float, str, Trial]],
    seen: list[tuple[float, float]],
    free: list[str],
    rng: np.random.Generator,
) -> float:
    now, worker, trial = heapq.heappop(running)
    values = convert.values_from_proto(trial.parameters)
    measured = loss(values, rng)
    caller.report(trial, 1, loss=measured)
    caller.complete(trial)
    seen.append((measured, loss(values)))
    free.append(worker)
    return now
