"""What a study found, said at its end."""

from __future__ import annotations

from tuner.cli.session import Session
from tuner.client import Study, tables
from tuner.errors import TunerError
from tuner.study import TrialState

_TOP = 5
_MATTERED = 6


def print_summary(session: Session, study: Study) -> None:
    """Prints the best trials, what mattered, and what to do with the winner."""
    record = study.refresh()
    best = [t for t in study.trials(order_by="best", limit=_TOP) if t.value is not None]
    if not best:
        session.say(f"{study.study_id}: no trial has a result")
        return
    session.say(f"\nbest trials of {study.study_id}")
    width = session.out.width
    session.out.print(tables.trials(best, record.spec, width=width, best=record.best_trial))
    shares = study.importance()
    if shares.parameters:
        session.say(f"what mattered: {tables.groups(shares)}")
        session.out.print(tables.importance(shares, most=_MATTERED))
    if record.exported_model_uri:
        session.say(f"exported to {record.exported_model_uri}")
    elif record.spec.is_managed:
        session.say(f"take the winner with: tuner export {study.study_id} --to DIR")


def failure_of(study: Study) -> TunerError:
    """Why a study ended without any result."""
    failed = next(study.trials(states=[TrialState.FAILED], limit=1), None)
    if failed is None:
        reason = study.record.state_reason or "it was stopped"
        return TunerError(f"{study.study_id} ended without a result: {reason}.")
    return TunerError(
        f"every trial of {study.study_id} failed: {failed.record.state_reason}; "
        f"see `tuner logs {study.study_id}/{failed.number}`."
    )
