"""What a suggestion of the Gaussian process costs beside Optuna's, on the same trials, in one run.

    python tests/benchmarks/search_gp.py [--json]

CPU time of one thread per suggestion, the median of several, in a study of so many finished
trials of six parameters. Optuna's GPSampler needs torch, and is left out where there is none.
With --json, standard output is one JSON object: `ratios` of ours to Optuna's by name, and the
milliseconds of both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

if not __package__:
    # Run by its path: once more as a module, so that it finds `tests`; and with one thread.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.search_gp", *sys.argv[1:]])

import optuna

from tests.benchmarks.bench import SPACE, drawn, score
from tuner.engine import StudyEngine
from tuner.engine.encoding import Encoding
from tuner.space import Space
from tuner.study import Measurement, Metric, Search, StudySpec, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)

_HISTORIES = (100, 200)
_TURNS = 9


def ours(trials: int) -> float:
    """Milliseconds of CPU per suggestion of the engine, as the study server uses it."""
    spec = StudySpec(
        metrics=(Metric(name="score"),),
        space=Space.of(SPACE),
        search=Search(algorithm="gp", early_stopping="none"),
    )
    past = [
        _trial(number, score(point), dict(point)) for number, point in enumerate(drawn(trials))
    ]
    engine = StudyEngine("benchmark", spec, past)
    engine.suggest(trials)
    spent = []
    for number in range(trials, trials + _TURNS):
        start = time.process_time()
        point = engine.suggest(number)
        spent.append(time.process_time() - start)
        if point is None:
            raise RuntimeError("the space has no point left; it should be infinite.")
        engine.add(_trial(number, score(point), dict(point)))
    return 1000 * statistics.median(spent)


def optunas(trials: int) -> float:
    """The same of Optuna's sampler, in memory."""
    encoding = Encoding(Space.of(SPACE))
    space = dict(encoding.distributions)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GPSampler(seed=0))
    for point in drawn(trials):
        params = encoding.encode(point)
        study.add_trial(
            optuna.create_trial(params=params, distributions=space, value=score(point))
        )
    study.ask(space)
    spent = []
    for _ in range(_TURNS):
        start = time.process_time()
        trial = study.ask(space)
        spent.append(time.process_time() - start)
        study.tell(trial, score(trial.params))
    return 1000 * statistics.median(spent)


def _trial(number: int, value: float, point: dict[str, float | int | str | bool]) -> Trial:
    return Trial(
        study_id="benchmark",
        number=number,
        state=TrialState.SUCCEEDED,
        parameters=point,
        final_measurement=Measurement(step=1, metrics={"score": value}),
        create_time=datetime(2025, 1, 1, tzinfo=UTC),
    )


def main() -> int:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    has_peer = importlib.util.find_spec("torch") is not None
    if not has_peer:
        print("Optuna's GPSampler is left out: install torch to compare.", file=sys.stderr)
    ratios, milliseconds = dict[str, float](), dict[str, dict[str, float]]()
    for trials in _HISTORIES:
        name = f"gp_{trials}"
        own = ours(trials)
        milliseconds[name] = {"ours": round(own, 2)}
        row = f"{name:>8} ours {own:>9.1f} ms"
        if has_peer:
            peer = optunas(trials)
            milliseconds[name]["optuna"] = round(peer, 2)
            ratios[name] = round(own / peer, 4)
            row += f"   Optuna {peer:>9.1f} ms   ratio {own / peer:.3f}"
        print(row, file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps({"ratios": ratios, "milliseconds": milliseconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
