"""Early stopping over gRPC, with workers that run at once; and the rules in plain Optuna."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from typing import Literal

import optuna
import pytest

import tuner
from tuner.client import Client
from tuner.config import Settings
from tuner.early_stopping import Progress, Stopping
from tuner.engine.gp import GPSampler
from tuner.engine.stopping import RULES, StoppingPruner
from tuner.errors import InvalidArgumentError
from tuner.service.server import StudyServer
from tuner.study import StudyState, TrialState

WORKERS, TRIALS, EPOCHS = 4, 40, 18


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), server_port=0)
    with StudyServer(settings) as server, tuner.connect(server.address) as client:
        yield client


def score(x: float, epoch: int) -> float:
    """What is worse from the start is worse at the end."""
    return (1 - (x - 0.3) ** 2) * (1 - math.exp(-epoch / 5))


# --- over gRPC -------------------------------------------------------------------------------


def test_four_workers_stop_what_lags_behind(client: Client) -> None:
    study = client.create_study(
        "four-workers",
        {"x": tuner.Float(0.0, 1.0)},
        maximize="score",
        trials=TRIALS,
        early_stopping={"rule": "asha", "eta": 2},
        seed=1,
    )
    together, failures = threading.Barrier(WORKERS, timeout=60), list[BaseException]()
    epochs = list[int]()

    def work() -> None:
        try:
            together.wait()
            for trial in client.get_study("four-workers"):
                with trial as p:
                    epoch = 0
                    # Uneven steps: some report each epoch, some every other.
                    for epoch in range(1, EPOCHS + 1, 1 + trial.number % 2):
                        if not trial.report({"score": score(float(p["x"]), epoch)}, step=epoch):
                            break
                    epochs.append(epoch)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert study.refresh().state is StudyState.COMPLETED
    trials = list(study.trials())
    stopped = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert {trial.state for trial in trials} == {TrialState.PRUNED, TrialState.SUCCEEDED}
    assert len(trials) == TRIALS
    assert len(stopped) > TRIALS / 4
    assert sum(epochs) < 0.8 * TRIALS * EPOCHS
    for trial in stopped:
        assert trial.record.state_reason.startswith("stopped by asha at step ")
        assert "is not among the best half of" in trial.record.state_reason
    best = study.best()
    assert best.state is TrialState.SUCCEEDED
    assert abs(float(best.parameters["x"]) - 0.3) < 0.1


def test_parameters_of_a_rule_are_kept(client: Client) -> None:
    study = client.create_study(
        "kept",
        {"x": tuner.Float(0.0, 1.0)},
        minimize="loss",
        early_stopping={"rule": "no-progress", "by": "seconds", "first": 5, "patience": 2.5},
    )
    search = client.get_study("kept").refresh().spec.search
    assert (search.early_stopping, search.stopping) == (
        "no-progress",
        Stopping(by=Progress.SECONDS, first=5, patience=2.5),
    )
    assert study.state is StudyState.ACTIVE


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"rule": "asha", "patience": 3}, "`asha` takes no `patience`; it takes first, eta"),
        ({"rule": "asha", "eta": 1}, "`eta` must be a number from 1.5 to 10, but got 1"),
        ({"rule": "asha", "by": "seconds"}, "by seconds `asha` needs `first`"),
        ({"rule": "asha", "by": "epochs"}, "must be one of steps, seconds"),
        ({"rule": "halving"}, "must be one of none, asha"),
        ({"rule": "threshold"}, "needs a bound"),
        ({"rule": "threshold", "at_least": 2, "at_most": 1}, "no value is at least 2 and at most"),
        ({"rule": "hyperband", "brackets": 2.5}, "`brackets` of `early_stopping` must be a whole"),
        ({"eta": 3}, "is a rule such as 'asha'"),
        ({"rule": "asha", "grace": 3}, "is a rule such as 'asha'"),
    ],
)
def test_what_a_rule_does_not_take_is_refused(
    client: Client, asked: dict[str, str | float], told: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.create_study(
            "refused", {"x": tuner.Float(0, 1)}, minimize="loss", early_stopping=asked
        )
    assert told in str(caught.value)


# --- in plain Optuna -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_rules_prune_in_plain_optuna(
    rule: str, direction: Literal["minimize", "maximize"]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sign = 1 if direction == "maximize" else -1
    parameters = {
        "no-progress": {"patience": 1, "min_change": 0.05},
        "threshold": {"at_least": -0.9, "at_most": 0.9},
    }.get(rule, {})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        for step in range(1, EPOCHS + 1):
            trial.report(sign * score(x, step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * score(x, EPOCHS)

    study = optuna.create_study(
        direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=StoppingPruner(rule, **parameters),
    )
    study.optimize(objective, n_trials=20)
    # A copy, as another process has it, goes on; and so do threads.
    study.pruner = copy.deepcopy(study.pruner)
    study.optimize(objective, n_trials=20, n_jobs=4)
    pruned = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.PRUNED]
    assert len(study.trials) == 40
    assert (len(pruned) > 5) == (rule != "none")
    if rule != "threshold":
        best = max(
            study.trials, key=lambda t: max(sign * v for v in t.intermediate_values.values())
        )
        assert best.state is optuna.trial.TrialState.COMPLETE


def test_our_sampler_and_pruner_work_together_in_plain_optuna() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=GPSampler(seed=1), pruner=StoppingPruner("asha", first=1)
    )
    epochs = 0
    for _ in range(25):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        for step in range(1, EPOCHS + 1):
            epochs += 1
            trial.report(score(trial.params["x"], step), step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, score(trial.params["x"], EPOCHS))
    assert abs(study.best_params["x"] - 0.3) < 0.02
    assert epochs < 25 * EPOCHS * 0.8


def test_a_pruner_refuses_what_its_rule_does_not_take() -> None:
    with pytest.raises(InvalidArgumentError, match="takes no `patience`"):
        StoppingPruner("asha", patience=3)
    with pytest.raises(InvalidArgumentError, match="must be one of"):
        StoppingPruner("halving")
