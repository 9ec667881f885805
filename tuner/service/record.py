"""A study in memory, written through: what is changed here is on disk before anyone sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from tuner.engine import StudyEngine
from tuner.errors import FailedPreconditionError
from tuner.service import limits
from tuner.service.board import Board
from tuner.service.events import EventLog
from tuner.service.limits import Progress, Reached
from tuner.service.reply import Reply, silent
from tuner.study import Study, StudyState, Trial, TrialState
from tuner_storage import LoadedTrials, StaleError, Store, StoredStudy

M = TypeVar("M", bound=Message)

_EXHAUSTED = Reached(reason="every point of the space was tried", gives_up=False)


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Record:
    """One study with its trials, its engine and its watchers.

    `lock` guards all of it; whoever changes the study holds it until the change is committed. A
    change that fails half way closes the record: the study is then loaded from the database again.

    Args:
        store: Where the study is kept.
        stored: The study.
        loaded: Its trials.
    """

    def __init__(self, store: Store, stored: StoredStudy, loaded: LoadedTrials) -> None:
        self.lock = threading.RLock()
        self.store = store
        self.key = stored.key
        self.events = EventLog()
        self.board = Board(stored.study.spec.metric, map(_light, loaded.trials))
        #: The time of the attempts that have ended.
        self.attempt_time = loaded.attempt_time
        self.exhausted = False
        self._study = stored.study
        self._engine: StudyEngine | None = None
        self._closed = False
        if stored.study.space_version > 0:
            self.build_engine(stored.study, loaded.trials)

    # --- reading ---

    @contextmanager
    def open(self) -> Iterator[datetime]:
        """Holds the lock, gives the time; raises StaleError if the study is to be loaded again."""
        with self.lock:
            if self._closed:
                raise StaleError("the study is being loaded again; try again.")
            yield utc_now()

    @property
    def study(self) -> Study:
        """The study as its row says, without what follows from its trials."""
        return self._study

    @property
    def engine(self) -> StudyEngine:
        """What proposes; raises FailedPreconditionError before the space is complete."""
        if self._engine is None:
            raise FailedPreconditionError("the study's space is not complete yet.")
        return self._engine

    @property
    def closed(self) -> bool:
        """Whether the study has to be loaded again."""
        return self._closed

    def summary(self, study: Study | None = None) -> Study:
        """The study with what follows from its trials."""
        return replace(
            study or self._study,
            trial_counts=self.board.counts,
            best_trial=self.board.best,
            algorithm_in_use="" if self._engine is None else self._engine.algorithm_in_use,
        )

    def reached(self, now: datetime) -> Reached | None:
        """The limit that allows no more trials, or None."""
        progress = Progress(
            counts=self.board.counts,
            since_best=self.board.since_best,
            worker_time=self._worker_time(now),
            age=now - self._study.create_time,
        )
        found = limits.reached(self._study.spec.limits, progress)
        return found or (_EXHAUSTED if self.exhausted else None)

    def _worker_time(self, now: datetime) -> timedelta:
        running = self.board.of(TrialState.RUNNING)
        current = sum((now - (t.start_time or now) for t in running), timedelta(0))
        return (self.attempt_time + current) * max(1, self._study.spec.resources.workers)

    # --- changing ---

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Closes the record if a change fails: memory and database may be apart."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def build_engine(self, study: Study, trials: tuple[Trial, ...]) -> None:
        """Builds what proposes, from a study's spec and history."""
        self._engine = StudyEngine(study.study_id, study.spec, trials)

    def save(self, changed: Study, now: datetime, reply: Reply[Study, M]) -> M:
        """Writes a changed study and says so; returns the answer. The caller holds the lock."""
        changed = self._next(changed, now)
        message = reply.build(self.summary(changed))
        with self.changing():
            self.store.save_study(self.key, changed, answer=reply.keep(message))
        self._study = changed
        self.publish_study(now)
        return message

    def _next(self, changed: Study, now: datetime) -> Study:
        return replace(changed, etag=str(int(self._study.etag) + 1), update_time=now)

    def move(self, state: StudyState, reason: str, now: datetime, reply: Reply[Study, M]) -> M:
        """Takes the study into a state, for a reason."""
        if state is StudyState.ACTIVE:
            return self.save(self._active(), now, reply)
        end_time = now if state.is_finished else None
        changed = replace(self._study, state=state, state_reason=reason, end_time=end_time)
        return self.save(changed, now, reply)

    def _active(self) -> Study:
        """The study taken up again: what it exported may not be the winner any more."""
        return replace(
            self._study,
            state=StudyState.ACTIVE,
            state_reason="",
            end_time=None,
            exported_model_uri="",
        )

    def settle(self, now: datetime) -> None:
        """Ends the study if a limit was reached and nothing is left. The caller holds the lock."""
        if self._study.state not in (StudyState.ACTIVE, StudyState.PAUSED):
            return
        found = self.reached(now)
        if found is None:
            return
        if found.gives_up:
            self.give_up(self.board.of(TrialState.QUEUED), f"the study ended: {found.reason}", now)
        if self.board.open == 0:
            self.move(StudyState.COMPLETED, found.reason, now, silent())

    def give_up(self, queued: list[Trial], reason: str, now: datetime) -> None:
        """Ends trials that are due again and will not run. The caller holds the lock."""
        if not queued:
            return
        with self.changing():
            self.store.cancel_trials(self.key, [trial.number for trial in queued], reason, now)
            for trial in queued:
                ended = replace(trial, state=TrialState.FAILED, state_reason=reason, end_time=now)
                self.board.put(ended)
                self.engine.finish(ended)
                self.events.publish(ended, now)

    def taken_up(self, now: datetime) -> Study:
        """The study as it is once it is ACTIVE again."""
        return self._next(self._active(), now)

    def retried(self, queued: Sequence[Trial], study: Study | None, now: datetime) -> None:
        """Takes over committed trials that are due again, and the study if that changed."""
        self._study = study or self._study
        for trial in queued:
            self.engine.restart(trial.number)
            self.events.publish(trial, now)
        self.publish_study(now)

    def publish_study(self, now: datetime) -> None:
        """Tells watchers how the study is now."""
        self.events.publish(self.summary(), now)

    def kept(self, reply: Reply[Any, M]) -> M | None:
        """The answer that a repeated request got before, if it is one."""
        body = self.store.find_answer(self.key, reply.question)
        return None if body is None else reply.parse(body)

    def close(self) -> None:
        """Lets go of the study; watchers start over."""
        self._closed = True
        self.events.close()


def _light(trial: Trial) -> Trial:
    """What memory keeps: the measurements of a trial that does not run are the engine's alone."""
    return trial if trial.state is TrialState.RUNNING else replace(trial, measurements=())
