"""Every study of the server: those that are worked on in memory, the others in the database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from tuner import convert
from tuner.engine import Importance, StudyEngine, check_search
from tuner.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    TunerError,
    UnavailableError,
)
from tuner.service.live import LiveStudy
from tuner.service.record import Record, utc_now
from tuner.service.reply import Reply
from tuner.study import Study, StudySpec, StudyState, Trial, TrialState
from tuner_storage import LogPiece, StaleError, Store, StoredStudy, TrialPage

R = TypeVar("R")
M = TypeVar("M", bound=Message)

logger = logging.getLogger(__name__)

_TRIES = 4
_PAGE = 1000
_IDLE = timedelta(minutes=10)
_REQUESTS_KEPT = timedelta(days=1)


class Studies:
    """The server's studies. Thread-safe.

    A study is loaded when it is first asked for; one that is unfinished, at the start.

    Args:
        store: Where studies are kept.
        lease: How long a silent worker keeps a trial.
    """

    def __init__(self, store: Store, lease: timedelta) -> None:
        self._store = store
        self._lease = lease
        self._live: dict[str, LiveStudy] = {}
        self._loading = threading.Lock()
        #: Set when the server stops: streams end then.
        self.stopping = threading.Event()

    def load_open(self) -> None:
        """Loads the studies that are worked on, so that their leases run."""
        for stored in self._stored():
            running = stored.study.trial_counts.running
            if not stored.study.state.is_finished or running > 0:
                self.live(stored.study.study_id)

    def _stored(self) -> Iterator[StoredStudy]:
        before = None
        while page := self._store.list_studies(before=before, limit=_PAGE):
            yield from page
            before = page[-1].key

    # --- access ---

    def live(self, study_id: str) -> LiveStudy:
        """The study in memory; raises NotFoundError."""
        found = self._live.get(study_id)
        if found is not None and not found.record.closed:
            return found
        with self._loading:
            found = self._live.get(study_id)
            if found is None or found.record.closed:
                found = self._load(study_id)
                self._live[study_id] = found
            return found

    def _load(self, study_id: str) -> LiveStudy:
        stored = self._store.find_study(study_id)
        if stored is None:
            self._live.pop(study_id, None)
            raise NotFoundError(f"no study is called {study_id!r}; `tuner studies` lists them.")
        loaded = self._store.load_trials(stored)
        return LiveStudy(Record(self._store, stored, loaded), self._lease, loaded.causes)

    def do(self, study_id: str, verb: Callable[[LiveStudy], R]) -> R:
        """Applies a verb to a study; once more if memory turns out to be stale."""
        for _ in range(_TRIES):
            try:
                return verb(self.live(study_id))
            except StaleError:
                continue
        raise UnavailableError(f"study {study_id!r} is changed by another server; try again.")

    def _forget(self, study_id: str) -> None:
        found = self._live.pop(study_id, None)
        if found is not None:
            found.record.close()

    # --- studies ---

    def create(self, study_id: str, spec: StudySpec, reply: Reply[Study, M]) -> M:
        """Creates a study; the same one again is answered with what is there.

        Raises:
            AlreadyExistsError: another study has the id; the message says what differs.
            InvalidArgumentError: it cannot be searched.
        """
        check_search(spec)
        for _ in range(_TRIES):
            existing = self._store.find_study(study_id)
            if existing is not None and not _is_replaceable(existing.study):
                return self._attach(existing, spec, reply)
            try:
                return self._create(study_id, spec, reply, existing)
            except AlreadyExistsError:
                continue
        raise UnavailableError(f"study {study_id!r} is being created elsewhere; try again.")

    def _create(
        self, study_id: str, spec: StudySpec, reply: Reply[Study, M], old: StoredStudy | None
    ) -> M:
        now = utc_now()
        study = Study(
            study_id=study_id,
            spec=spec,
            state=StudyState.PREPARING if spec.is_managed else StudyState.ACTIVE,
            space_version=0 if spec.is_managed else 1,
            algorithm_in_use=""
            if spec.is_managed
            else StudyEngine(study_id, spec).algorithm_in_use,
            create_time=now,
            update_time=now,
            etag="1",
        )
        message = reply.build(study)
        replaces = None if old is None else old.key
        self._store.create_study(study, answer=reply.keep(message), replaces=replaces)
        self._forget(study_id)
        return message

    def _attach(self, existing: StoredStudy, spec: StudySpec, reply: Reply[Study, M]) -> M:
        body = self._store.find_answer(existing.key, reply.question)
        if body is not None:
            return reply.parse(body)
        study = existing.study
        if spec not in (existing.submitted, study.spec):
            raise AlreadyExistsError(
                f"study {study.study_id!r} exists and differs in "
                f"{difference(existing.submitted, spec)}; choose another name, or delete it first."
            )
        return reply.build(self.get(study.study_id))

    def get(self, study_id: str) -> Study:
        """Returns a study; raises NotFoundError."""
        return self.do(study_id, _summary)

    def list_studies(
        self, *, states: list[StudyState], managed_only: bool, before: int | None, limit: int
    ) -> list[tuple[int, Study]]:
        """Studies with their keys, newest first; `before` is the key of the last one seen."""
        found = self._store.list_studies(
            states=states, managed_only=managed_only, before=before, limit=limit
        )
        return [(stored.key, self._newest(stored)) for stored in found]

    def _newest(self, stored: StoredStudy) -> Study:
        """Only the server that works on a study knows its algorithm."""
        live = self._live.get(stored.study.study_id)
        if live is None or live.record.key != stored.key:
            return stored.study
        with live.record.lock:
            summary = live.record.summary()
        return replace(stored.study, algorithm_in_use=summary.algorithm_in_use)

    def delete(self, study_id: str, *, force: bool) -> None:
        """Deletes a study; raises FailedPreconditionError while trials run, unless forced."""
        self.do(study_id, lambda live: self._delete(live, force=force))
        self._forget(study_id)

    def _delete(self, live: LiveStudy, *, force: bool) -> None:
        with live.record.open():
            running = live.record.board.count(TrialState.RUNNING)
            if running and not force:
                raise FailedPreconditionError(
                    f"{running} trials of study {live.record.study.study_id!r} run; stop it and "
                    "wait, or delete it by force."
                )
            with live.record.changing():
                self._store.delete_study(live.record.key)
            live.record.close()

    def importance(self, study_id: str) -> Importance:
        """How much parameters mattered; nothing before the space is complete."""
        return self.do(study_id, _importance)

    # --- trials ---

    def get_trial(self, study_id: str, number: int, *, full: bool) -> Trial:
        """Returns a trial; raises NotFoundError."""
        key = self.live(study_id).record.key
        return self._store.get_trial(key, study_id, number, full=full)

    def list_trials(self, study_id: str, page: TrialPage) -> list[Trial]:
        """Returns a page of a study's trials; raises NotFoundError if there is no such study."""
        return self._store.list_trials(self.live(study_id).record.key, study_id, page)

    def write_log(self, study_id: str, number: int, piece: LogPiece) -> None:
        """Appends to a trial's log; raises NotFoundError if there was no such attempt."""
        self._store.write_log(self.live(study_id).record.key, number, piece)

    def read_log(self, study_id: str, number: int, after: tuple[int, int]) -> list[LogPiece]:
        """What follows in a trial's log; raises NotFoundError if there is no such study."""
        return self._store.read_log(self.live(study_id).record.key, number, after=after)

    # --- time ---

    def tick(self) -> None:
        """Takes trials from silent workers, ends studies whose time is over, forgets idle ones."""
        for study_id, live in list(self._live.items()):
            try:
                self.do(study_id, lambda live: live.tick())
            except NotFoundError:
                continue
            except TunerError as error:
                logger.warning("study %s: %s", study_id, error.message)
            idle = utc_now() - live.last_use > _IDLE
            if idle and live.is_at_rest:
                self._forget(study_id)

    def forget_requests(self) -> None:
        """Forgets answers that nobody asks for any more."""
        self._store.forget_requests(utc_now() - _REQUESTS_KEPT)

    def end_streams(self) -> None:
        """Ends what is streamed, so that the server can stop."""
        self.stopping.set()
        for live in list(self._live.values()):
            live.record.events.close()

    def close(self) -> None:
        """Lets go of every study, and of those who watch them."""
        for study_id in list(self._live):
            self._forget(study_id)


def _summary(live: LiveStudy) -> Study:
    with live.record.open() as now:
        live.last_use = now
        return live.record.summary()


def _importance(live: LiveStudy) -> Importance:
    with live.record.open() as now:
        live.last_use = now
        if live.record.study.space_version == 0:
            return Importance()
        return live.record.engine.importance()


def _is_replaceable(study: Study) -> bool:
    return study.state is StudyState.STOPPED and study.trial_counts.total == 0


def difference(old: StudySpec, new: StudySpec) -> str:
    """Where two specifications differ: up to three places with both values."""
    found = list(_differences("", convert.spec_to_json(old), convert.spec_to_json(new)))
    shown = ", ".join(found[:3])
    return shown if len(found) <= 3 else f"{shown} and {len(found) - 3} more"


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                yield from _differences(f"{path}[{index}]", before, after)
    elif isinstance(old, (dict, list)) or isinstance(new, (dict, list)):
        yield f"`{path.lstrip('.')}`"
    else:
        was = "not set" if old is None else f"{old}"
        yield f"`{path.lstrip('.')}` ({was} there, {'not set' if new is None else new} here)"
