"""Ray Tune's own scripts with a study as their search algorithm and their early stopping."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import tune

import tuner
from tuner.client import Client, Study
from tuner.config import Settings
from tuner.errors import InvalidArgumentError
from tuner.integrations.ray_tune import StudyScheduler, StudySearch
from tuner.runner.cluster import Cluster
from tuner.service import StudyServer
from tuner.space import Domain
from tuner.study import Cause, Cost, StudyState, TrialState

pytestmark = [
    pytest.mark.timeout(300),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]

SPACE: Mapping[str, Domain] = {
    "x": tuner.Float(0.0, 1.0),
    "kind": tuner.Categorical(["good", "bad"]),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), server_port=0)
    with StudyServer(settings) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def ray_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with Cluster(Settings(data_dir=tmp_path_factory.mktemp("ray"), cpus=2)):
        yield


def study_of(client: Client, name: str, trials: int) -> Study:
    return client.create_study(
        name, SPACE, maximize="score", trials=trials, search="random", early_stopping="none"
    )


def measure(config: Mapping[str, Any]) -> None:
    """Three reports; `bad` points cannot be measured."""
    if config["kind"] == "bad":
        raise ValueError("nobody can measure this")
    for step in range(3):
        tune.report({"score": config["x"] + step, "seen": config["constant"]})


def for_ever(config: Mapping[str, Any]) -> None:
    """Reports until somebody stops it."""
    for step in range(10_000):
        tune.report({"score": float(step)})
        time.sleep(0.01)


def run(study: Study, folder: Path, trainable: Any, *callbacks: tune.Callback) -> tune.ResultGrid:
    search = StudySearch(study)
    return tune.Tuner(
        trainable,
        param_space={"constant": 7},
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=StudyScheduler(search),
            num_samples=-1,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[*callbacks]),
    ).fit()


def test_tune_works_on_a_study_until_it_ends(
    ray_runs: None, client: Client, tmp_path: Path
) -> None:
    study = study_of(client, "tuned", trials=4)
    study.add_trials([{"x": 0.25, "kind": "good"}, {"x": 0.5, "kind": "bad"}])
    study.add_trials([{"x": 0.75, "kind": "good"}, {"x": 1.0, "kind": "good"}])
    results = run(study, tmp_path, measure)
    assert study.state is StudyState.COMPLETED
    trials = list(study.trials(full=True))
    good = [trial for trial in trials if trial.parameters["kind"] == "good"]
    assert [trial.state for trial in good] == [TrialState.SUCCEEDED] * 3
    for trial in good:
        x = trial.parameters["x"]
        assert isinstance(x, float)
        assert {m.step: m.metrics for m in trial.measurements} == {
            1 + step: {"score": x + step, "seen": 7.0} for step in range(3)
        }
    assert study.best().parameters == {"x": 1.0, "kind": "good"}
    (bad,) = (trial for trial in trials if trial.parameters["kind"] == "bad")
    assert bad.state is TrialState.FAILED
    for attempt in bad.record.attempts:
        assert attempt.failure is not None and attempt.failure.cause is Cause.USER_ERROR
        assert "nobody can measure this" in attempt.failure.message
        assert "in measure" in attempt.failure.stack
    assert len(results) == 3 + len(bad.record.attempts) == 5, "a failed trial is tried again"
    assert results.num_errors == 2
    assert study.record.cost == Cost.sum(trial.record.cost for trial in trials)


class StopsStudy(tune.Callback):
    """Stops a study after a few results."""

    def __init__(self, study: Study) -> None:
        self._address, self._study_id = study.address, study.study_id
        self._results = 0

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        self._results += 1
        if self._results == 5:
            with Client(self._address) as client:
                client.get_study(self._study_id).stop("enough")


def test_tune_stops_what_the_study_stops(ray_runs: None, client: Client, tmp_path: Path) -> None:
    study = study_of(client, "stopped", trials=50)
    run(study, tmp_path, for_ever, StopsStudy(study))
    trials = list(study.trials(full=True))
    assert study.state is StudyState.STOPPED
    assert 1 <= len(trials) <= 3
    assert {trial.state for trial in trials} <= {TrialState.PRUNED, TrialState.QUEUED}
    assert sum(len(trial.measurements) for trial in trials) < 1000


def test_a_saved_search_goes_on_with_its_trials(client: Client, tmp_path: Path) -> None:
    study = study_of(client, "saved", trials=1)
    search = StudySearch(study)
    config = search.suggest("a")
    assert isinstance(config, dict) and search.suggest("b") is None
    search.on_trial_result("a", {"training_iteration": 1, "score": 0.5, "pid": 3, "done": False})
    search.save(str(tmp_path / "state"))
    again = copy.deepcopy(search)
    again.restore(str(tmp_path / "state"))
    assert again.report("a", {"training_iteration": 2, "score": 0.25})
    again.on_trial_complete("a", {"training_iteration": 2, "score": 0.25, "done": True})
    trial = study.trial(0)
    assert trial.state is TrialState.SUCCEEDED and trial.value == 0.5
    assert [(m.step, m.metrics) for m in trial.measurements] == [
        (1, {"score": 0.5}),
        (2, {"score": 0.25}),
    ]
    for each in (again, search):
        assert str(each.suggest("c")) == StudySearch.FINISHED
    assert not search.report("a", {"training_iteration": 3, "score": 1.0}), "its lease is over"


def test_what_does_not_fit_the_study_is_said(client: Client) -> None:
    search = StudySearch(study_of(client, "strict", trials=2))
    assert search.set_search_properties(None, None, {}) is False
    assert search.set_search_properties("score", "max", {}) is False
    with pytest.raises(InvalidArgumentError, match=r"has 'score' \(max\), but Ray Tune was told"):
        search.set_search_properties("loss", "max", {})
    search.suggest("a")
    assert not search.report("a", {"training_iteration": 1, "loss": 0.5})
    search.on_trial_complete("a", {"training_iteration": 1, "loss": 0.5})
    failed = search._study.trial(0)
    assert failed.state is TrialState.FAILED and "'score'" in failed.record.state_reason
