"""What a suggestion costs: our searches beside Optuna's samplers, on the same trials, in one run.

    python tests/benchmarks/search.py [--only tpe gp] [--json] [--optuna PYTHON]

CPU time of one thread per suggestion, the median of many, in a study of so many finished trials.
With --json, standard output is one JSON object: `ratios` of ours to Optuna's by name, and the
milliseconds of both.

Optuna's GPSampler needs torch, which this project's environment must not have. It runs in one of
its own, whose Python is given by --optuna, or by OPTUNA_PYTHON:

    python3 -m venv /somewhere/optuna && /somewhere/optuna/bin/pip install optuna scipy torch

Without one, the ratios of the Gaussian process are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

if not __package__:
    # Run by its path: once more as a module, so that it finds `tests`; and with one thread.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.search", *sys.argv[1:]])

import optuna
from optuna.distributions import distribution_to_json

from tuner.engine import StudyEngine, points
from tuner.engine.encoding import Encoding
from tuner.space import Categorical, Float, Int, Space, Value
from tuner.study import Goal, Measurement, Metric, Search, StudySpec, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = Space.of(
    {
        "rate": Float(1e-5, 1e-1, log=True),
        "momentum": Float(0, 1),
        "units": Int(8, 512, log=True),
        "layers": Int(1, 8),
        "dropout": Float(0, 0.5, step=0.05),
        "optimizer": Categorical(("sgd", "adam", "rmsprop")),
    }
)
_NOW = datetime(2025, 1, 1, tzinfo=UTC)
_ROUNDS = 4

#: Makes one suggestion and gives it a result; returns the CPU seconds of the suggestion.
Turn = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """One of our searches and its peer."""

    #: The group that `--only` asks for.
    group: str
    #: How many finished trials there are before the first suggestion.
    trials: int
    ours: Callable[[int], Turn]
    #: None where it runs in an environment of its own.
    peer: Callable[[int], Turn] | None
    #: How many suggestions to measure of each.
    our_turns: int
    peer_turns: int

    @property
    def name(self) -> str:
        """The ratio's name."""
        return f"{self.group}_{self.trials}"


def past(trials: int) -> list[Mapping[str, Value]]:
    """Points spread at random, the same ones each time."""
    source, cube = random.Random(0), points.UnitCube(SPACE)
    return [cube.point([source.random() for _ in range(cube.sides)]) for _ in range(trials)]


def loss(values: Mapping[str, Value]) -> float:
    """A result that depends on every parameter, with some noise."""
    return (
        (math.log10(float(values["rate"])) + 3) ** 2
        + abs(float(values["momentum"]) - 0.9)
        + abs(math.log2(float(values["units"])) - 6) / 4
        + abs(float(values["layers"]) - 3) / 8
        + abs(float(values["dropout"]) - 0.2)
        + (values["optimizer"] != "adam") / 4
        + random.Random(repr(values)).gauss(0, 0.1)
    )


def ours(algorithm: str) -> Callable[[int], Turn]:
    """The engine as the study server uses it."""

    def prepare(trials: int) -> Turn:
        spec = StudySpec(
            metrics=(Metric(name="loss", goal=Goal.MINIMIZE),),
            space=SPACE,
            search=Search(algorithm=algorithm, early_stopping="none", seed=0),
        )
        history = [_trial(n, point, loss(point)) for n, point in enumerate(past(trials))]
        engine = StudyEngine("benchmark", spec, history)
        number = trials

        def turn() -> float:
            nonlocal number
            start = time.process_time()
            point = engine.suggest(number)
            spent = time.process_time() - start
            if point is None:
                raise RuntimeError("the space has no point left; it should be infinite.")
            engine.add(_trial(number, point))
            engine.finish(_trial(number, point, loss(point)))
            number += 1
            return spent

        return turn

    return prepare


def optunas(sampler: Callable[[], optuna.samplers.BaseSampler]) -> Callable[[int], Turn]:
    """Optuna in memory."""

    def prepare(trials: int) -> Turn:
        encoding = Encoding(SPACE)
        space = dict(encoding.distributions)
        study = optuna.create_study(sampler=sampler())
        for point in past(trials):
            params = encoding.encode(point)
            study.add_trial(
                optuna.create_trial(params=params, distributions=space, value=loss(point))
            )

        def turn() -> float:
            start = time.process_time()
            trial = study.ask(space)
            spent = time.process_time() - start
            study.tell(trial, loss(trial.params))
            return spent

        return turn

    return prepare


def _trial(number: int, point: Mapping[str, Value], value: float | None = None) -> Trial:
    final = None if value is None else Measurement(step=1, metrics={"loss": value})
    return Trial(
        study_id="benchmark",
        number=number,
        state=TrialState.RUNNING if value is None else TrialState.SUCCEEDED,
        parameters=point,
        final_measurement=final,
        create_time=_NOW,
    )


def _tpe() -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=0)


@contextmanager
def elsewhere(python: str, trials: int) -> Iterator[Turn]:
    """Optuna's Gaussian process, in an environment with torch."""
    encoding, peer = Encoding(SPACE), Path(__file__).with_name("optuna_gp.py")
    with subprocess.Popen(
        [python, "-I", str(peer)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        into, out = process.stdin, process.stdout
        if into is None or out is None:
            raise RuntimeError("the process has no pipes.")

        def say(what: object) -> None:
            into.write(json.dumps(what) + "\n")
            into.flush()

        def turn() -> float:
            say("ask")
            line = out.readline()
            if not line:
                raise RuntimeError(f"{python} ended; does it have optuna, scipy and torch?")
            spent, params = json.loads(line)
            say(loss(params))
            return float(spent)

        space = {n: distribution_to_json(d) for n, d in encoding.distributions.items()}
        say([space, [[encoding.encode(point), loss(point)] for point in past(trials)]])
        try:
            yield turn
        finally:
            # It ends with its input; in the middle of a fit it is not waited for.
            process.kill()


#: Whatever is compared; each ratio is named by its group and number of trials.
DUELS = [
    Duel(
        group="tpe",
        trials=trials,
        ours=ours("tpe"),
        peer=optunas(_tpe),
        our_turns=our_turns,
        peer_turns=peer_turns,
    )
    for trials, our_turns, peer_turns in ((1000, 200, 40), (5000, 100, 20), (20_000, 60, 8))
] + [
    Duel(
        group="gp",
        trials=trials,
        ours=ours("gp"),
        peer=None,
        our_turns=20,
        peer_turns=8,
    )
    for trials in (100, 200)
]


def fight(duel: Duel, python: str) -> tuple[float, float | None]:
    """Milliseconds per suggestion of ours and the peer's; both take turns in the same minutes.

    Args:
        python: Runs a peer that needs an environment of its own; empty if there is none.
    """
    with ExitStack() as stack:
        sides = [(duel.ours(duel.trials), duel.our_turns)]
        if duel.peer is not None:
            sides.append((duel.peer(duel.trials), duel.peer_turns))
        elif python:
            peer = stack.enter_context(elsewhere(python, duel.trials))
            sides.append((peer, duel.peer_turns))
        # Nobody pays for what is done once.
        for turn, _ in sides:
            turn()
        spent: list[list[float]] = [[] for _ in sides]
        for _ in range(_ROUNDS):
            for seconds, (turn, turns) in zip(spent, sides, strict=True):
                seconds.extend(turn() for _ in range(turns // _ROUNDS))
    mine, *theirs = (1000 * statistics.median(seconds) for seconds in spent)
    return mine, theirs[0] if theirs else None


def main() -> int:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    groups = sorted({duel.group for duel in DUELS})
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--optuna",
        metavar="PYTHON",
        default=os.environ.get("OPTUNA_PYTHON", ""),
        help="the Python of an environment with optuna, scipy and torch",
    )
    asked = parser.parse_args()
    ratios, milliseconds = dict[str, float](), dict[str, dict[str, float]]()
    print(f"{'CPU per suggestion':>20} {'ours':>12} {'Optuna':>12} {'ratio':>8}", file=sys.stderr)
    for duel in DUELS:
        if duel.group not in asked.only:
            continue
        mine, theirs = fight(duel, asked.optuna)
        milliseconds[duel.name] = {"ours": round(mine, 3)}
        if theirs is None:
            print(
                f"{duel.name:>20} {mine:>9.2f} ms    (no torch: see --help)",
                file=sys.stderr,
                flush=True,
            )
            continue
        ratios[duel.name] = round(mine / theirs, 5)
        milliseconds[duel.name]["optuna"] = round(theirs, 3)
        row = f"{duel.name:>20} {mine:>9.2f} ms {theirs:>9.2f} ms {mine / theirs:>8.4f}"
        print(row, file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps({"ratios": ratios, "milliseconds": milliseconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
