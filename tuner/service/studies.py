"""Every study of the server: those that it owns in memory, the others in the database."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message

from tuner.engine import Importance, StudyEngine, check_search
from tuner.errors import AlreadyExistsError, NotFoundError, TunerError, UnavailableError
from tuner.fits import Fits
from tuner.service import call, lifecycle, roles
from tuner.service.allowed import Allowed, check_locations
from tuner.service.fleet import ElsewhereError, Fleet
from tuner.service.live import LiveStudy
from tuner.service.loading import Loading
from tuner.service.meter import Meter
from tuner.service.proposals import Proposer
from tuner.service.record import Record, utc_now
from tuner.service.reply import Reply
from tuner.study import Study, StudySpec, StudyState, Trial
from tuner_storage import (
    LogPiece,
    Ownership,
    Request,
    StaleError,
    Store,
    StoredStudy,
    TrialPage,
)

R = TypeVar("R")
M = TypeVar("M", bound=Message)

logger = logging.getLogger(__name__)

_TRIES = 4
#: How many studies of a dead server are loaded at once, besides those that are called: each takes
#: memory for what it reads, and the processor from the others.
_TAKEN_AT_ONCE = 4
_IDLE = timedelta(minutes=10)
_REQUESTS_KEPT = timedelta(days=1)
#: After how long to try again to load a study that cannot be loaded.
_UNLOADABLE_WAIT = timedelta(minutes=1)


class Studies:
    """The server's studies. Thread-safe.

    A study is claimed and loaded when it is first asked for; one that is to be worked on and that
    nobody owns, at the next tick.

    Args:
        store: Where studies are kept.
        fleet: Who owns which.
        lease: How long a silent worker keeps a trial.
        fits: Fits models. It is not closed with the studies.
        fit_seconds: How long a suggestion waits for its model.
        meter: Is told what happens.
        allowed: What studies may name.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        lease: timedelta,
        fits: Fits,
        fit_seconds: float,
        meter: Meter | None = None,
        allowed: Allowed = Allowed(),  # noqa: B008  # it is frozen
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._lease = lease
        self._fits = fits
        self._fit_seconds = fit_seconds
        self._meter = meter
        self._allowed = allowed
        self._live: dict[str, LiveStudy] = {}
        self._loading = Loading()
        #: Studies that cannot be loaded, and when to try again.
        self._unloadable: dict[str, datetime] = {}
        #: Set when the server stops: streams end then.
        self.stopping = threading.Event()

    # --- access ---

    def live(self, study_id: str) -> LiveStudy:
        """The study in memory, claimed and loaded if it is not.

        Who asks first loads it, the others wait for that.

        Raises:
            NotFoundError: there is no such study.
            ElsewhereError: another server owns it.
            UnavailableError: it takes long to be loaded.
        """
        if self._fleet.may_have_lost:
            # What memory says, refusals above all, may be the past by now.
            self.check_owned()
        found = self._live.get(study_id)
        if found is not None and not found.record.closed:
            return found
        with self._loading.turn(study_id):
            found = self._live.get(study_id)
            if found is None or found.record.closed:
                if found is not None:
                    # A claim of its study would undo what it is still writing.
                    found.record.drain()
                self._live.pop(study_id, None)
                with self._loading.uncollected():
                    found = self._live[study_id] = self._load(study_id)
            return found

    def _load(self, study_id: str) -> LiveStudy:
        # Claimed first: from then on nobody else writes, so what is read stays so.
        epoch = self._fleet.claim(study_id)
        stored = self._find(study_id)
        ownership = Ownership(key=stored.key, server=self._fleet.server, epoch=epoch)
        loaded = self._store.load_trials(stored)
        record = Record(
            self._store,
            ownership,
            stored,
            loaded,
            earlier=self._earlier(stored.study),
            meter=self._meter,
        )
        proposer = Proposer(self._fits, self._fit_seconds)
        return LiveStudy(record, self._lease, loaded.causes, loaded.furthest, proposer)

    def _find(self, study_id: str) -> StoredStudy:
        stored = self._store.find_study(study_id)
        if stored is None:
            raise NotFoundError(f"no study is called {study_id!r}; `tuner studies` lists them.")
        return stored

    def _earlier(self, study: Study) -> list[tuple[StudySpec, Sequence[Trial]]]:
        """What the study starts from: the results that its earlier studies had at its creation."""
        found = list[tuple[StudySpec, Sequence[Trial]]]()
        for study_id in study.spec.warm_start:
            earlier = self._store.find_study(study_id)
            if earlier is None:
                logger.warning("%s starts from %r, which is gone", study.name, study_id)
            else:
                trials = self._store.finished_trials(earlier, study.create_time)
                found.append((earlier.study.spec, trials))
        return found

    def do(self, study_id: str, verb: Callable[[LiveStudy], R]) -> R:
        """Applies a verb to a study; once more if memory turns out to be stale."""
        for _ in range(_TRIES):
            try:
                return verb(self.live(study_id))
            except StaleError:
                continue
        raise UnavailableError(f"study {study_id!r} is being loaded again; try again.")

    def _forget(self, study_id: str) -> None:
        found = self._live.pop(study_id, None)
        if found is not None:
            found.record.close()

    # --- studies ---

    def create(self, study_id: str, spec: StudySpec, reply: Reply[Study, M]) -> M:
        """Creates a study. One of that id is answered with, or extended if only that is asked.

        Raises:
            AlreadyExistsError: the study differs in what cannot change; the message says in what.
            InvalidArgumentError: it cannot be searched.
            NotFoundError: an earlier study that it starts from does not exist.
            PermissionDeniedError: it names data or a trainer that studies may not.
        """
        check_locations(spec, self._allowed)
        check_search(spec)
        for _ in range(_TRIES):
            existing = self._store.find_study(study_id)
            try:
                if existing is None or _is_replaceable(existing.study):
                    if existing is not None:
                        # It is deleted to make room.
                        study = existing.study
                        roles.check_delete(call.current(), study.study_id, study.creator)
                    for earlier in spec.warm_start:
                        self._find(earlier)
                    return self._create(study_id, spec, reply, existing)
                return self._resubmit(existing, spec, reply)
            except (StaleError, _TakenError):
                continue
        raise UnavailableError(f"study {study_id!r} is being created elsewhere; try again.")

    def _create(
        self, study_id: str, spec: StudySpec, reply: Reply[Study, M], old: StoredStudy | None
    ) -> M:
        now, made = utc_now(), call.current()
        study = Study(
            study_id=study_id,
            spec=spec,
            state=StudyState.PREPARING if spec.is_managed else StudyState.ACTIVE,
            space_version=0 if spec.is_managed else 1,
            creator=made.caller,
            create_time=now,
            update_time=now,
            etag="1",
        )
        if not spec.is_managed:
            engine = StudyEngine(study_id, spec, earlier=self._earlier(study))
            study = replace(study, algorithm_in_use=engine.algorithm_in_use)
        message = reply.build(study)
        request = Request(
            request_id=reply.request_id,
            method=reply.method,
            answer=message.SerializeToString(),
            caller=made.caller,
            request=made.request,
        )
        replaces = None if old is None else old.key
        try:
            self._store.create_study(study, request=request, replaces=replaces)
        except AlreadyExistsError as error:
            raise _TakenError(error.message) from error
        self._forget(study_id)
        return message

    def _resubmit(self, existing: StoredStudy, spec: StudySpec, reply: Reply[Study, M]) -> M:
        study = existing.study
        if reply.request_id:
            body = self._store.find_answer(existing.key, reply.request_id, reply.method)
            if body is not None:
                return reply.parse(body)
        if spec in (existing.submitted, study.spec):
            return reply.build(self.get(study.study_id))
        return self.do(study.study_id, lambda live: lifecycle.extend(live.record, spec, reply))

    def get(self, study_id: str) -> Study:
        """Returns a study; raises NotFoundError."""
        if study_id not in self._live:
            stored = self._find(study_id).study
            if stored.state.is_finished and not stored.trial_counts.running:
                # Nobody works on it: its rows say all, and it is not loaded to be looked at.
                return stored
        return self.do(study_id, lambda live: live.record.read(lambda now: live.record.summary()))

    def list_studies(
        self, *, states: list[StudyState], managed_only: bool, before: int | None, limit: int
    ) -> list[tuple[int, Study]]:
        """Studies with their keys, newest first; `before` is the key of the last one seen."""
        found = self._store.list_studies(
            states=states, managed_only=managed_only, before=before, limit=limit
        )
        return [(stored.key, self._newest(stored)) for stored in found]

    def _newest(self, stored: StoredStudy) -> Study:
        """Only the server that works on a study knows its algorithm at any time."""
        live = self._live.get(stored.study.study_id)
        if live is None or live.record.key != stored.key:
            return stored.study
        return replace(stored.study, algorithm_in_use=live.record.algorithm_in_use)

    def delete(self, study_id: str, *, force: bool, reply: Reply[None, M]) -> M:
        """Deletes a study; raises FailedPreconditionError while trials run, unless forced."""
        if (answered := self._deleted(reply)) is not None:
            return answered
        try:
            message = self.do(
                study_id, lambda live: lifecycle.delete(live.record, force=force, reply=reply)
            )
        except NotFoundError:
            # The same request may have arrived twice, and the other one was faster.
            if (answered := self._deleted(reply)) is not None:
                return answered
            raise
        self._forget(study_id)
        return message

    def _deleted(self, reply: Reply[None, M]) -> M | None:
        if not reply.request_id:
            return None
        body = self._store.find_answer(0, reply.request_id, reply.method)
        return None if body is None else reply.parse(body)

    def importance(self, study_id: str) -> Importance:
        """How much parameters mattered; nothing before the space is complete."""
        return self.do(study_id, _importance)

    # --- trials: any server may read ---

    def get_trial(self, study_id: str, number: int, *, full: bool) -> Trial:
        """Returns a trial; raises NotFoundError."""
        return self._store.get_trial(self._key(study_id), study_id, number, full=full)

    def list_trials(self, study_id: str, page: TrialPage) -> list[tuple[Trial, float | None]]:
        """A page of a study's trials, each with what it is ordered by; raises NotFoundError."""
        return self._store.list_trials(self._key(study_id), study_id, page)

    def optimal(self, study_id: str) -> list[int]:
        """The numbers of the trials that no other one beats in every metric."""
        return self.do(study_id, lambda live: live.record.read(lambda now: live.optimal()))

    def read_log(self, study_id: str, number: int, after: tuple[int, int]) -> list[LogPiece]:
        """What follows in a trial's log; raises NotFoundError if there is no such study."""
        return self._store.read_log(self._key(study_id), number, after=after)

    def _key(self, study_id: str) -> int:
        live = self._live.get(study_id)
        if live is not None and not live.record.closed:
            return live.record.key
        key = self._store.find_key(study_id)
        if key is None:
            raise NotFoundError(f"no study is called {study_id!r}; `tuner studies` lists them.")
        return key

    # --- time ---

    def tick(self) -> None:
        """Takes trials from silent workers, ends studies whose time is over, forgets idle ones.

        Raises:
            UnavailableError: the database does not answer; the other studies have to wait, too.
        """
        self._fits.close_idle()
        for study_id, live in list(self._live.items()):
            try:
                if live.record.closed:
                    self.live(study_id)
                elif not live.is_at_rest:
                    self.do(study_id, LiveStudy.tick)
            except (NotFoundError, ElsewhereError):
                self._forget(study_id)
            idle = utc_now() - live.last_use > _IDLE
            if idle and live.is_at_rest:
                self._forget(study_id)

    def check_owned(self) -> None:
        """Lets go of studies that another server has claimed, or that are gone.

        A write would notice; who only reads or watches would be shown the past.
        """
        # Looked at first: what is claimed after the list was read is not on it.
        mine = self.owned
        epochs = self._fleet.list_owned()
        for live in mine:
            ownership = live.record.ownership
            if epochs.get(ownership.key) != ownership.epoch:
                live.record.close()

    def take_over(self) -> None:
        """Claims and loads studies to be worked on that nobody owns: a fair share of them.

        Small ones first, several at a time; one that is called is loaded by its caller meanwhile.
        What is left is for the other servers; who is asked for one of them claims it at once.
        """
        orphans = self._store.list_orphans(self._fleet.server)
        mine = [orphan for orphan in orphans if orphan.given]
        free = [orphan for orphan in orphans if not orphan.given]
        others = self._fleet.others() if free else []
        total = len(mine) + len(free) + sum(entry.studies for entry in others)
        share = math.ceil(total / (1 + len(others)))
        taken = sorted(
            (*mine, *free[: max(0, share - len(mine))]), key=lambda orphan: orphan.trials
        )
        now = utc_now()
        wanted = [
            orphan.study_id
            for orphan in taken
            if orphan.study_id not in self._live
            and self._unloadable.get(orphan.study_id, now) <= now
        ]
        if wanted:
            with ThreadPoolExecutor(_TAKEN_AT_ONCE, thread_name_prefix="take-over") as pool:
                list(pool.map(self._take, wanted))

    def _take(self, study_id: str) -> None:
        """Loads a study; one that cannot be loaded must not keep the others from it."""
        try:
            self.live(study_id)
            logger.info("works on study %s", study_id)
        except (NotFoundError, ElsewhereError):
            return
        except UnavailableError:
            raise
        except Exception:
            logger.exception("study %s cannot be loaded", study_id)
            self._unloadable[study_id] = utc_now() + _UNLOADABLE_WAIT

    def hand_over(self) -> None:
        """Gives one study to a server that has at least two fewer."""
        owned = self.owned
        others = self._fleet.others() if len(owned) > 1 else []
        heir = min(others, key=lambda entry: entry.studies, default=None)
        if heir is None or len(owned) - heir.studies < 2:
            return
        live = min(owned, key=lambda live: live.last_use)
        live.record.close()
        self._store.hand_over_study(live.record.ownership, heir.server)
        self._forget(live.record.study.study_id)
        logger.info("hands study %s over to %s", live.record.study.study_id, heir.address)

    def forget_requests(self) -> None:
        """Forgets answers that nobody asks for any more."""
        before = utc_now() - _REQUESTS_KEPT
        self._store.forget_requests(before)
        for live in self.owned:
            live.record.forget_answers(before)

    @property
    def owned(self) -> list[LiveStudy]:
        """The studies in memory."""
        return [live for live in list(self._live.values()) if not live.record.closed]

    def end_streams(self) -> None:
        """Ends what is streamed, so that the server can stop."""
        self.stopping.set()
        for live in list(self._live.values()):
            live.record.events.close()

    def close(self) -> None:
        """Lets go of every study, and of those who watch them."""
        for study_id in list(self._live):
            self._forget(study_id)


class _TakenError(TunerError):
    """Another study took the id in the meantime."""


def _importance(live: LiveStudy) -> Importance:
    record = live.record
    if record.study.space_version == 0:
        return Importance()
    return record.read(lambda now: record.engine.importance_later())()


def _is_replaceable(study: Study) -> bool:
    return study.state is StudyState.STOPPED and study.trial_counts.total == 0
