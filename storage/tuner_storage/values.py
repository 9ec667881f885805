"""What the store is asked for and gives, beside studies and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tuner.admin import Server
from tuner.study import Cause, Study, StudySpec, Trial, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request that a study is created by: who asked, and what a repetition is answered."""

    #: Without an id the answer is not kept.
    request_id: str = ""
    method: str = ""
    answer: bytes = b""
    caller: str = ""
    #: Its id in the servers' logs.
    request: str = ""

    def columns(self) -> dict[str, Any]:
        """The parameters of a statement that keeps it."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "answer": self.answer,
            "caller": self.caller,
            "request": self.request,
        }


NO_REQUEST = Request()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """A server's right to write to a study, until another claims the study."""

    key: int
    server: UUID
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEntry(Server):
    """A study server that shares the database, with its id."""

    server: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A study to be worked on, without another living owner."""

    study_id: str
    #: Whether it already is the server's that asked: handed over, or not loaded yet.
    given: bool
    #: How many trials it has.
    trials: int


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
    #: The highest steps that those attempts measured, where they measured anything.
    furthest: Mapping[int, int]
    #: The requests that were answered: id and method.
    answered: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPage:
    """Which trials to list, after which one.

    `order` is `number`, `number desc`, `best`, or what `tuner.trial_key` knows: `metrics.NAME`,
    `parameters.NAME`, `start_time`, `end_time`, each perhaps with ` desc`.
    """

    order: str = "number"
    states: tuple[TrialState, ...] = ()
    #: Only these.
    numbers: tuple[int, ...] | None = None
    #: Only those for which a jsonpath predicate over `tuner.trial_document` holds.
    filter: str | None = None
    limit: int = 100
    after_number: int | None = None
    after_key: float | None = None
    #: With measurements and attempts.
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """A piece of a trial's log."""

    attempt: int
    offset: int
    text: str
