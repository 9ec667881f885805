"""A study in memory, written through: what is decided here is on disk before anyone is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from google.protobuf.message import Message

from tuner.engine import StudyEngine
from tuner.errors import FailedPreconditionError, TunerError
from tuner.service import call, limits
from tuner.service.board import Board
from tuner.service.events import EventLog, Reported
from tuner.service.journal import Change, Journal
from tuner.service.limits import Progress, Reached
from tuner.service.meter import Meter, Unmetered
from tuner.service.reply import Reply
from tuner.study import Cost, Study, StudySpec, StudyState, Trial, TrialState
from tuner_storage import LoadedTrials, Ownership, StaleError, Store, StoredStudy, Write, writes

M = TypeVar("M", bound=Message)
R = TypeVar("R")

logger = logging.getLogger(__name__)

_EXHAUSTED = Reached(reason="every point of the space was tried", gives_up=False)


class Postponed(Exception):
    """Raised by a verb that needs something first; it has noted and changed nothing yet."""


@dataclass(frozen=True, slots=True)
class Decided(Generic[M]):
    """What a verb came to. It has happened in memory, and nobody may be told yet."""

    #: None where it refused, or where the request is a repeated one.
    message: M | None
    refusal: TunerError | None
    #: How far the journal has to be on disk.
    position: int


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Record:
    """One study with its trials, its engine and its watchers, in the hands of its one owner.

    A verb decides under the lock, in memory, and notes what is to be written; the answer waits
    until that is on disk, outside the lock, so that the commits of many verbs are one. The order
    in which verbs decide is the order in which they are written.

    What goes wrong on the way to the disk closes the record: the study is then loaded again, and
    whatever was decided and not written never happened.

    Args:
        store: Where the study is kept.
        ownership: The right to write to it.
        stored: The study.
        loaded: Its trials.
        earlier: The studies that its search starts from, with their results.
        meter: Is told what happens.
    """

    def __init__(
        self,
        store: Store,
        ownership: Ownership,
        stored: StoredStudy,
        loaded: LoadedTrials,
        *,
        earlier: Sequence[tuple[StudySpec, Sequence[Trial]]] = (),
        meter: Meter | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._store = store
        self.meter: Meter = meter or Unmetered()
        self._journal = Journal(store, ownership, self.meter)
        self.key = stored.key
        self.events = EventLog()
        self.board = Board(stored.study.spec, map(_light, loaded.trials))
        #: Of the attempts that have ended.
        self.cost = Cost.sum(trial.cost for trial in loaded.trials)
        self.exhausted = False
        self.submitted = stored.submitted
        self._study = stored.study
        #: The requests that were answered, and when; of those before this load, at the latest.
        self._answered = dict.fromkeys(loaded.answered, utc_now())
        self._draft: list[Write] = []
        self._news: list[Study | Trial | Reported] = []
        self._engine: StudyEngine | None = None
        self._earlier = earlier
        self._closed = False
        if stored.study.space_version > 0:
            self.build_engine(stored.study, loaded.trials)

    # --- verbs ---

    def run(self, reply: Reply[R, M], verb: Callable[[datetime], R]) -> M:
        """Applies a verb: decides, writes, answers. A repeated request gets its first answer.

        Args:
            reply: How to answer.
            verb: Decides at a given time, and notes what is to be written and told. It may raise
                before or after it has; what it noted is written either way.

        Raises:
            StaleError: the study has to be loaded again, and the verb applied again.
            TunerError: what the verb raised, or UnavailableError.
        """
        return self.answer(reply, self.decide(reply, verb))

    def decide(self, reply: Reply[R, M], verb: Callable[[datetime], R]) -> Decided[M]:
        """The first half of `run`: decides. `answer` has to follow.

        Raises:
            StaleError: as `run` does.
            Postponed: the verb did.
        """
        refusal: TunerError | None = None
        message: M | None = None
        with self._lock:
            self._check_open()
            repeated = bool(reply.request_id) and reply.key in self._answered
            if not repeated:
                now = utc_now()
                try:
                    message = reply.build(verb(now))
                except TunerError as error:
                    refusal = error
                except Postponed:
                    raise
                except BaseException:
                    self.close()
                    raise
                self._append(reply, message, now)
            return Decided(message, refusal, self._journal.position)

    def answer(self, reply: Reply[R, M], decided: Decided[M]) -> M:
        """The second half of `run`: waits for the disk, and answers; raises as `run` does."""
        self._sync(decided.position)
        if decided.refusal is not None:
            raise decided.refusal
        return decided.message if decided.message is not None else self._repeat(reply)

    def read(self, look: Callable[[datetime], R]) -> R:
        """Looks at the study; what is seen is on disk when this returns. Raises StaleError."""
        with self._lock:
            self._check_open()
            seen, position = look(utc_now()), self._journal.position
        self._sync(position)
        return seen

    def write(self, *changes: Write) -> None:
        """Notes what a verb changes; the caller is that verb."""
        self._draft.extend(changes)

    def besides(self, verb: Callable[[], R]) -> R | None:
        """What a verb does besides; the caller is that verb.

        None if it went wrong in a way that nobody foresaw: the verb itself is written, what was
        done besides never happened, and the study is loaded again.
        """
        drafted, told = len(self._draft), len(self._news)
        try:
            return verb()
        except TunerError:
            raise
        except Exception:
            logger.exception("what %s did besides went wrong", self._study.name)
            del self._draft[drafted:], self._news[told:]
            self.retire()
            return None

    def tell(self, *news: Study | Trial | Reported) -> None:
        """Notes what watchers are told once it is on disk; the caller is a verb."""
        self._news.extend(news)

    def _append(self, reply: Reply[R, M], message: M | None, now: datetime) -> None:
        draft, news = self._draft, self._news
        self._draft, self._news = [], []
        if not draft:
            return
        if reply.request_id and message is not None:
            body = message.SerializeToString()
            draft.append(writes.record_answer(*reply.key, body, now))
            self._answered[reply.key] = now
        if reply.audited:
            made = call.current()
            draft.append(
                writes.record_change(
                    caller=made.caller,
                    method=reply.method,
                    resource=reply.audited,
                    request=made.request,
                    now=now,
                )
            )
        self._journal.append(Change(draft, partial(self.events.publish, news, now)))

    def _sync(self, position: int) -> None:
        try:
            self._journal.sync(position)
        except BaseException:
            if self._journal.failed:
                self.close()
            raise

    def _repeat(self, reply: Reply[R, M]) -> M:
        body = self._store.find_answer(self.key, *reply.key)
        if body is None:
            # Answers are forgotten after a day; asked anew, it is another request.
            self._answered.pop(reply.key, None)
            raise StaleError("the answer to this request was forgotten; ask anew.")
        return reply.parse(body)

    def _check_open(self) -> None:
        if self._closed:
            raise StaleError("the study is being loaded again; try again.")

    # --- reading ---

    @property
    def ownership(self) -> Ownership:
        """The right to write to the study."""
        return self._journal.ownership

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
    def algorithm_in_use(self) -> str:
        """What proposes trials at present; empty before the space is complete."""
        return "" if self._engine is None else self._engine.algorithm_in_use

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
            cost=self.cost,
            algorithm_in_use=self.algorithm_in_use,
        )

    def reached(self, now: datetime, retried: Collection[int] = ()) -> Reached | None:
        """The limit that allows no more trials, or None; as if some failed ones were due again."""
        allowed = self._study.spec.limits
        counts, since_best = self.board.if_due(retried)
        progress = Progress(
            counts=counts,
            since_best=since_best,
            worker_time=timedelta(0) if allowed.worker_time is None else self._worker_time(now),
            age=now - self._study.create_time,
        )
        found = limits.reached(allowed, progress)
        return found or (_EXHAUSTED if self.exhausted else None)

    def _worker_time(self, now: datetime) -> timedelta:
        running = self.board.of(TrialState.RUNNING)
        current = sum((now - (t.start_time or now) for t in running), timedelta(0))
        return self.cost.worker_time + self._study.spec.cost(current).worker_time

    # --- changing: all of it within a verb ---

    def build_engine(self, study: Study, trials: Sequence[Trial]) -> None:
        """Builds what proposes, from a study's spec and history."""
        self._engine = StudyEngine(study.study_id, study.spec, trials, self._earlier)

    def save(self, changed: Study, now: datetime, submitted: StudySpec | None = None) -> Study:
        """Changes the study; `submitted` if it was submitted anew. Returns its summary."""
        changed = replace(
            changed,
            etag=str(int(self._study.etag) + 1),
            update_time=now,
            algorithm_in_use=self.algorithm_in_use,
        )
        if submitted is None:
            self.write(writes.save_study(changed))
        else:
            self.write(writes.resubmit_study(changed, submitted))
            self.submitted = submitted
        self._study = changed
        return self.tell_study()

    def move(self, state: StudyState, reason: str, now: datetime) -> Study:
        """Takes the study into a state, for a reason; returns its summary."""
        if state is StudyState.ACTIVE:
            return self.save(taken_up(self._study), now)
        end_time = now if state.is_finished else None
        changed = replace(self._study, state=state, state_reason=reason, end_time=end_time)
        return self.save(changed, now)

    def settle(self, now: datetime) -> None:
        """Ends the study if a limit was reached and nothing is left."""
        if self._study.state not in (StudyState.ACTIVE, StudyState.PAUSED):
            return
        found = self.reached(now)
        if found is None:
            return
        if found.gives_up:
            self.give_up(self.board.of(TrialState.QUEUED), f"the study ended: {found.reason}", now)
        if self.board.open == 0:
            self.move(StudyState.COMPLETED, found.reason, now)

    def give_up(self, queued: Sequence[Trial], reason: str, now: datetime) -> None:
        """Ends trials that are due and will not run."""
        if not queued:
            return
        self.write(writes.cancel_trials([trial.number for trial in queued], reason, now))
        for trial in queued:
            ended = replace(trial, state=TrialState.FAILED, state_reason=reason, end_time=now)
            self.board.put(ended)
            self.engine.finish(ended)
            self.tell(ended)

    def tell_study(self) -> Study:
        """Tells watchers how the study is now, and returns it."""
        summary = self.summary()
        self.tell(summary)
        return summary

    def retire(self) -> None:
        """Takes no other verb after this one, which still is written; the caller is that verb."""
        self._closed = True

    def forget_answers(self, before: datetime) -> None:
        """Forgets that requests before a time were answered."""
        with self._lock:
            self._answered = {key: at for key, at in self._answered.items() if at >= before}

    def drain(self) -> None:
        """Waits until all that was decided is written, or never will be."""
        with suppress(TunerError):
            self._journal.sync(self._journal.position)

    def close(self) -> None:
        """Lets go of the study; watchers start over."""
        self._closed = True
        self.events.close()


def taken_up(study: Study) -> Study:
    """The study taken up again: what it exported may not be the winner any more."""
    return replace(
        study, state=StudyState.ACTIVE, state_reason="", end_time=None, exported_model_uri=""
    )


def _light(trial: Trial) -> Trial:
    """What memory keeps: the measurements of a trial that does not run are the engine's alone."""
    if trial.state is TrialState.RUNNING or not trial.measurements:
        return trial
    return replace(trial, measurements=())
