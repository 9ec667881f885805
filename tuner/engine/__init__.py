"""The search engine: proposes trials and decides early stopping, as pure functions of the history.

    check_search(spec)                            raises unless the engine can search it
    engine = StudyEngine(study_id, spec, trials,  one for each live study, guarded by its owner
                         earlier)
    engine.suggest(number)                        parameters of the next trial; None: exhausted
    engine.fit(number, pending)                   the same in parts: the model to be fitted first,
    fit.solve(solver)                             to be solved apart from the engine, anywhere;
    engine.accept(point)                          the point, or one in its place if it was tried;
    engine.suggest_quickly(number)                where there is no model, or no time for it
    engine.add(trial)                             a trial was created: it counts as pending
    engine.report(number, measurement)            why to stop the trial, or None
    engine.restart(number)                        a new attempt: its measurements start over
    engine.finish(trial)                          a trial reached a final state
    engine.importance()                           shares by parameter and by group
    optimal_numbers(spec, trials)                 the trials on the Pareto front

A trial is added before the next one is suggested. `sampler`s are Optuna's kind and read the
study through `engine.optuna_study()`.
"""

from tuner.engine.check import MAX_EARLIER, check_search
from tuner.engine.earlier import Earlier
from tuner.engine.fit import Fit
from tuner.engine.importance import Importance
from tuner.engine.pareto import optimal_numbers
from tuner.engine.policies import ALGORITHMS
from tuner.engine.stopping import RULES
from tuner.engine.study_engine import StudyEngine

__all__ = [
    "ALGORITHMS",
    "MAX_EARLIER",
    "RULES",
    "Earlier",
    "Fit",
    "Importance",
    "StudyEngine",
    "check_search",
    "optimal_numbers",
]
