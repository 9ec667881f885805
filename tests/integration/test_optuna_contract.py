"""Optuna's own suites over our storage and sampler, and Optuna's tools over our studies."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.testing.pytest_storages import StorageTestCase

from tests.unit.engine_support import at, spec, trial
from tuner.engine import StudyEngine
from tuner.engine.encoding import Encoding
from tuner.engine.mirror import Mirror
from tuner.engine.tpe import TreeTPESampler
from tuner.space import Categorical, Child, Discrete, Float, Parameter, Space
from tuner.study import TrialState


class TestMirrorIsAStorage(StorageTestCase):
    @pytest.fixture
    def storage(self) -> BaseStorage:
        return Mirror()


class TestOurTpeIsASampler(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: TreeTPESampler(startup=0)


class TestOurTpeStartsAtRandom(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return TreeTPESampler


SPACE = Space(
    (
        Parameter(name="lr", domain=Float(1e-5, 1, log=True)),
        Parameter(name="batch", domain=Discrete([16, 64, 512])),
        Parameter(
            name="optimizer",
            domain=Categorical(["sgd", True, 1]),
            children=(Child(("sgd",), Parameter(name="momentum", domain=Float(0, 0.9))),),
        ),
    )
)


@pytest.fixture
def engine() -> StudyEngine:
    engine = StudyEngine("s", spec(SPACE, "random", stopping="asha"))
    for number in range(30):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
        value = float(parameters["lr"])
        curve = (at(1, value + 1), at(2, value))
        stops = [engine.report(number, measurement) for measurement in curve]
        state = TrialState.PRUNED if stops[-1] else TrialState.SUCCEEDED
        engine.finish(trial(number, parameters, state, value, curve))
    return engine


@pytest.mark.parametrize(
    "make",
    [
        lambda: optuna.samplers.RandomSampler(seed=1),
        lambda: optuna.samplers.TPESampler(seed=1),
        lambda: optuna.samplers.QMCSampler(seed=1, warn_independent_sampling=False),
        lambda: optuna.samplers.NSGAIISampler(seed=1),
        lambda: TreeTPESampler(SPACE, startup=10, seed=1),
    ],
    ids=["random", "tpe", "qmc", "nsga2", "ours"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_samplers_read_our_studies(
    engine: StudyEngine, make: Callable[[], optuna.samplers.BaseSampler]
) -> None:
    study = engine.optuna_study()
    study.sampler = make()
    encoding = Encoding(SPACE)
    for _ in range(12):
        asked = study.ask()
        SPACE.check(encoding.suggest(asked))
        study.tell(asked, 1.0)
    assert [t.number for t in study.trials] == list(range(42))


def test_optunas_pruners_read_our_studies(engine: StudyEngine) -> None:
    study = engine.optuna_study()
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    asked = study.ask()
    asked.report(1e6, 1)
    assert asked.should_prune()


def test_optunas_importance_reads_our_studies(engine: StudyEngine) -> None:
    study = engine.optuna_study()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert max(shares, key=lambda name: shares[name]) == "lr"


@pytest.mark.parametrize(
    "plot",
    [
        optuna.visualization.plot_optimization_history,
        optuna.visualization.plot_parallel_coordinate,
        optuna.visualization.plot_slice,
        optuna.visualization.plot_contour,
        optuna.visualization.plot_intermediate_values,
        optuna.visualization.plot_edf,
        optuna.visualization.plot_rank,
        optuna.visualization.plot_timeline,
    ],
    ids=lambda plot: plot.__name__,
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_plots_show_our_studies(
    engine: StudyEngine, plot: Callable[[optuna.Study], Any]
) -> None:
    assert plot(engine.optuna_study()).data


def test_the_best_trial_is_ours(engine: StudyEngine) -> None:
    study = engine.optuna_study()
    assert study.best_trial.number == study.best_trial._trial_id
    values = [t.value for t in study.trials if t.value is not None and t.state.name == "COMPLETE"]
    assert study.best_value == min(values)


def test_choices_may_be_added_and_not_reordered() -> None:
    mirror = Mirror()
    study_id = mirror.create_new_study([optuna.study.StudyDirection.MINIMIZE])
    first, second, third = (mirror.create_new_trial(study_id) for _ in range(3))
    mirror.set_trial_param(first, "c", 1, CategoricalDistribution(["a", "b"]))
    mirror.set_trial_param(second, "c", 2, CategoricalDistribution(["a", "b", "c"]))
    assert mirror.get_trial_params(second) == {"c": "c"}
    with pytest.raises(ValueError, match="dynamic value space"):
        mirror.set_trial_param(third, "c", 0, CategoricalDistribution(["b", "a"]))


def test_our_tpe_serves_plain_optuna() -> None:
    study = optuna.create_study(sampler=TreeTPESampler(SPACE, startup=10, seed=3))
    encoding = Encoding(SPACE)
    for _ in range(40):
        asked = study.ask()
        point = encoding.suggest(asked)
        SPACE.check(point)
        study.tell(asked, abs(float(point["lr"]) - 0.01) + float(point.get("momentum", 1)))
    assert study.best_value < 0.3


def rings(trial: optuna.Trial) -> float:
    """Parameters that appear for some values of others only."""
    x = trial.suggest_float("x", -5, 5)
    kind = trial.suggest_categorical("kind", ["round", "square", None])
    if kind is None:
        return 30.0
    steps = trial.suggest_int("steps", 1, 64, log=True)
    if kind == "square":
        x += trial.suggest_float("shift", 0, 1, step=0.25)
    return x * x + abs(steps - 8)


def seeded(trials: int) -> optuna.Study:
    study = optuna.create_study(sampler=TreeTPESampler(seed=5))
    study.optimize(rings, n_trials=trials)
    return study


def test_our_tpe_finds_its_space_in_the_trials() -> None:
    study = seeded(80)
    assert [t.params for t in study.trials] == [t.params for t in seeded(80).trials]
    assert study.best_value < 1
    late = [t.params["kind"] for t in study.trials[50:]]
    assert late.count(None) < len(late) / 3


def test_our_tpe_goes_on_in_another_process_as_it_would_have_here() -> None:
    study = seeded(30)
    # A copy learns all from the trials again.
    study.sampler = copy.deepcopy(study.sampler)
    study.optimize(rings, n_trials=10)
    assert [t.params for t in study.trials] == [t.params for t in seeded(40).trials]


def test_our_tpe_keeps_parallel_trials_apart() -> None:
    def both(trial: optuna.Trial) -> float:
        return abs(trial.suggest_float("x", 0, 1) - 0.5) + abs(trial.suggest_float("y", 0, 1))

    def together(state: optuna.trial.TrialState) -> float:
        study = optuna.create_study(sampler=TreeTPESampler(seed=1))
        study.optimize(both, n_trials=40)
        drawn = []
        for _ in range(12):
            asked = study.ask()
            asked.suggest_float("x", 0, 1)
            # The objective has not asked for y yet, but others know already what it will be.
            left = study.trials[-1].system_attrs["tpe:relative_params:0"]
            drawn.append(float(json.loads(left)["y"]))
            if state is optuna.trial.TrialState.FAIL:
                study.tell(asked, state=state)
        return max(drawn) - min(drawn)

    assert together(optuna.trial.TrialState.FAIL) < together(optuna.trial.TrialState.RUNNING)


def test_one_sampler_may_serve_one_study_after_another() -> None:
    sampler = TreeTPESampler(seed=5)
    for _ in range(2):
        study = optuna.create_study(sampler=sampler)
        study.optimize(rings, n_trials=25)
        assert [t.params for t in study.trials] == [t.params for t in seeded(25).trials]


def test_our_tpe_serves_threads() -> None:
    study = optuna.create_study(sampler=TreeTPESampler(seed=5))
    study.optimize(rings, n_trials=60, n_jobs=4)
    assert len({tuple(t.params.items()) for t in study.trials}) == 60
