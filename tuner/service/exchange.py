"""What workers ask and say, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tuner.study import Decision, Failure, Measurement, StudyState, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who asks for how many trials."""

    worker_id: str
    count: int = 1
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why there is no trial now, and when to ask again."""

    reason: str
    retry_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested:
    """The trials that a worker now holds; or a wait; or neither, once the study has ended."""

    state: StudyState
    trials: tuple[Trial, ...] = ()
    wait: Wait | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What a worker should do, and until when it holds its trial."""

    decision: Decision
    reason: str
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a worker says at the end of an attempt: a measurement, or a failure, or neither."""

    final: Measurement | None = None
    failure: Failure | None = None
    artifact_uri: str = ""
