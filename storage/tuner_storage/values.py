"""What the store is asked for and gives, beside studies and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tuner.study import Cause, Study, StudySpec, Trial, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a repeated request is answered with; without an id it is not kept."""

    request_id: str = ""
    method: str = ""
    body: bytes = b""

    def columns(self) -> dict[str, Any]:
        """The parameters of a statement that keeps it."""
        return {"request_id": self.request_id, "method": self.method, "answer": self.body}


#: The answer of a request that is not repeatable.
NO_ANSWER = Answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study with what only the database and its server know."""

    #: Names the row for ever, even after another study took the id.
    key: int
    study: Study
    submitted: StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTrials:
    """A study's history, as a server needs it to go on with the study."""

    #: With the measurements of their current attempts, without attempts.
    trials: tuple[Trial, ...]
    #: Why earlier attempts ended of trials that may be tried again, by trial.
    causes: Mapping[int, tuple[Cause, ...]]
    #: The time of all attempts that have ended.
    attempt_time: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPage:
    """Which trials to list, after which one; `order` is `number`, `number desc` or `best`."""

    order: str = "number"
    states: tuple[TrialState, ...] = ()
    limit: int = 100
    after_number: int | None = None
    after_score: float | None = None
    #: With measurements and attempts.
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """A piece of a trial's log."""

    attempt: int
    offset: int
    text: str
