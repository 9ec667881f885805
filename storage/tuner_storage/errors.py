"""What the database says no with, as errors of the domain; psycopg's are wrapped here, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import psycopg_pool

from tuner.errors import (
    AlreadyExistsError,
    DataDirectoryError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    TunerError,
    UnavailableError,
    first_line,
)


class StaleError(UnavailableError):
    """What the server held in memory is not what the database holds; trying again helps."""

    reason = "STALE"


#: SQLSTATEs that the schema raises: `tuner.must` and `tuner.refuse_move`.
MUST = "TN001"
REFUSED_MOVE = "TN002"

_BY_CONSTRAINT: Mapping[str, TunerError] = {
    "studies_study_id_key": AlreadyExistsError("another study has this id; choose another one."),
    "requests_pkey": StaleError("this request was answered before; try again."),
    "trials_pkey": StaleError("another server proposed this trial; try again."),
    "models_pkey": AlreadyExistsError("another model has this name; choose another one."),
    "endpoints_pkey": AlreadyExistsError("another endpoint has this name; choose another one."),
    "endpoints_model_fkey": FailedPreconditionError(
        "an endpoint serves this model; `tuner endpoints` lists them: delete it first."
    ),
    "trials_space_fkey": NotFoundError("the study was deleted."),
    "attempts_trial_fkey": NotFoundError("the trial was deleted."),
    "measurements_attempt_fkey": NotFoundError("the trial was deleted."),
    "trial_logs_attempt_fkey": NotFoundError("the trial has no such attempt."),
}

_BY_REASON: Mapping[str, str] = {
    "LEASE_LOST": "the trial was given to another worker, or has ended; drop it.",
    "STALE": "another server changed the study; try again.",
}


@contextmanager
def wrapped() -> Iterator[None]:
    """Turns what psycopg raises into what the domain knows."""
    try:
        yield
    except (psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed) as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: Exception) -> TunerError | None:
    """None for what only a mistake in this package can cause."""
    if isinstance(error, psycopg.Error):
        known = _BY_CONSTRAINT.get(error.diag.constraint_name or "")
        if known is not None:
            return type(known)(known.message)
        primary = error.diag.message_primary or ""
        if error.sqlstate == MUST:
            return TunerError.of(primary, _BY_REASON.get(primary, primary))
        if error.sqlstate == REFUSED_MOVE:
            return FailedPreconditionError(f"{primary}.")
    said = first_line(error)[:300]
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        return DataDirectoryError("the database lost tuner's tables; restore it from a backup.")
    if isinstance(error, psycopg.DataError):
        return InvalidArgumentError(f"the database cannot hold this value: {said}.")
    if isinstance(error, psycopg.ProgrammingError | psycopg.IntegrityError):
        return None
    return UnavailableError(f"the database does not answer ({said}); try again.")
