"""What workers and users ask and say of trials, and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuner.space import Value
from tuner.study import Checkpoint, Decision, Failure, Measurement, StudyState, Trial


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
class Report:
    """What a worker says on the way; with nothing in it, that it is alive."""

    measurement: Measurement | None = None
    checkpoint: Checkpoint | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """A trial that a worker ended, and what it was given in exchange."""

    ended: Trial
    next: Suggested


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrial:
    """A trial of the user's own: with anything measured it is a past one."""

    parameters: Mapping[str, Value]
    final: Measurement | None = None
    measurements: tuple[Measurement, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_past(self) -> bool:
        """Whether it has been run elsewhere."""
        return self.final is not None or bool(self.measurements)
