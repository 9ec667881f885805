"""What a study found, said at its end."""

from __future__ import annotations

from tuner.cli.session import Session
from tuner.client import Study, Trial, tables
from tuner.errors import TunerError
from tuner.study import TrialState

_TOP = 5
_MATTERED = 6


def print_summary(session: Session, study: Study) -> None:
    """Prints the best trials, what mattered, and what to do with the winner."""
    record = study.refresh()
    best = best_trials(study)
    if not best:
        why = "keeps to the constraints" if _has_results(study) else "has a result"
        session.say(f"{study.study_id}: no trial {why}")
        return
    spec, width = record.spec, session.out.width
    by = f" by {spec.metric.name}" if len(spec.metrics) > 1 else ""
    session.say(f"\nbest trials of {study.study_id}{by}")
    session.out.print(tables.trials(best, spec, width=width, best=record.best_trial))
    if by:
        front = ", ".join(str(trial.number) for trial in study.optimal())
        session.say(f"no other trial beats these in every metric: {front}")
        session.say(f"tuner trials {study.study_id} --optimal\n")
    shares = study.importance()
    if shares.parameters:
        what = f" for {spec.metric.name}" if by else ""
        session.say(f"what mattered{what}: {tables.groups(shares)}")
        session.out.print(tables.importance(shares, most=_MATTERED))
    if record.exported_model_uri:
        session.say(f"exported to {record.exported_model_uri}")
    elif record.spec.data is not None:
        session.say(f"take the winner with: tuner export {study.study_id} --to DIR")
    elif record.spec.is_managed and best[0].record.artifact_uri:
        session.say(f"the winner left what it wrote in {best[0].record.artifact_uri}")


def best_trials(study: Study) -> list[Trial]:
    """The best trials that have a result within the constraints."""
    found = study.trials(order_by="best", limit=_TOP)
    return [t for t in found if t.value is not None and t.record.within_constraints is not False]


def _has_results(study: Study) -> bool:
    return any(trial.value is not None for trial in study.trials(order_by="best", limit=1))


def failure_of(study: Study) -> TunerError:
    """Why a study ended without any result."""
    if _has_results(study):
        return TunerError(
            f"no trial of {study.study_id} keeps to its constraints; "
            f"see `tuner trials {study.study_id}`."
        )
    failed = next(study.trials(states=[TrialState.FAILED], limit=1), None)
    if failed is None:
        reason = study.record.state_reason or "it was stopped"
        return TunerError(f"{study.study_id} ended without a result: {reason}.")
    return TunerError(
        f"every trial of {study.study_id} failed: {failed.record.state_reason}; "
        f"see `tuner logs {study.study_id}/{failed.number}`."
    )
