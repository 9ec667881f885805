"""Streams of a study and of a trial's log: whom nothing is lost for, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.service_support import until
from tests.integration.storage_support import NOW, STUDY
from tuner.errors import UnavailableError
from tuner.fits import Fits
from tuner.service import watch
from tuner.service.exchange import Asking, NewTrial, Result
from tuner.service.fleet import Fleet
from tuner.service.reply import silent
from tuner.service.studies import Studies
from tuner.space import Float, Space
from tuner.study import Limits, Measurement, Study, StudyState, Trial
from tuner_storage import Database, LogPiece, Store

FINAL = Measurement(step=0, metrics={"loss": 0.75})


class Counted(Store):
    """A store that counts the looks at logs."""

    looks = 0

    def read_log(
        self, key: int, number: int, *, after: tuple[int, int] = (0, -1), limit: int = 64
    ) -> list[LogPiece]:
        self.looks += 1
        return super().read_log(key, number, after=after, limit=limit)


@pytest.fixture
def store(database_url: str) -> Iterator[Counted]:
    with Database(database_url) as opened:
        yield Counted(opened)


@pytest.fixture
def studies(store: Counted, tmp_path: Path) -> Studies:
    """A server's studies, with one of one trial."""
    fleet = Fleet(store, tmp_path)
    store.enter_server(fleet.server, "here:1", timedelta(hours=1))
    spec = replace(STUDY.spec, space=Space.of({"x": Float(0.0, 1.0)}), limits=Limits(trials=1))
    store.create_study(replace(STUDY, spec=spec, create_time=NOW))
    return Studies(store, fleet, timedelta(minutes=5), Fits(), 10.0)


def leased(studies: Studies) -> tuple[Trial, str]:
    """The study's one trial, and its token."""
    live = studies.live("mine")
    live.suggest(Asking(worker_id="ann", count=1, host="box"), silent())
    (trial,) = live.record.board.held_by("ann")
    assert trial.lease is not None
    return trial, trial.lease.token


def test_a_watcher_that_fell_behind_is_told_of_the_end(studies: Studies) -> None:
    trial, token = leased(studies)
    live = studies.live("mine")
    stream = watch.watch(studies, "mine", "", lambda: True)
    next(stream)
    past = [NewTrial(parameters={"x": 0.5}, measurements=(FINAL,))] * 1000
    for _ in range(5):  # more events than are kept
        live.add(past, silent())
    live.complete(trial.number, token, Result(final=FINAL), silent())
    told = [event.what for events in stream for event in events]
    states = [what.state for what in told if isinstance(what, Study)]
    assert states[-1] is StudyState.COMPLETED
    assert trial.number in [what.number for what in told if isinstance(what, Trial)]


def test_who_follows_a_log_asks_the_database_for_what_was_written_alone(
    studies: Studies, store: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_TICK_SECONDS", 0.01)
    trial, token = leased(studies)
    live = studies.live("mine")
    text = list[str]()

    def follow() -> None:
        pieces = watch.read_log(studies, "mine", 0, follow=True, is_wanted=lambda: True)
        text.extend(piece.text for piece in pieces)

    follower = threading.Thread(target=follow)
    follower.start()
    live.write_log(0, token, 0, "one ", silent())
    until(lambda: text == ["one "])
    until(lambda: store.looks >= 2)
    time.sleep(0.1)
    looks = store.looks
    time.sleep(0.5)
    assert store.looks == looks
    live.write_log(0, token, 4, "two", silent())
    live.complete(trial.number, token, Result(final=FINAL), silent())
    follower.join(60)
    assert text == ["one ", "two"]


def test_a_server_that_ends_does_not_say_that_a_log_has_ended(studies: Studies) -> None:
    _, token = leased(studies)
    studies.live("mine").write_log(0, token, 0, "one", silent())
    log = watch.read_log(studies, "mine", 0, follow=True, is_wanted=lambda: True)
    assert next(log).text == "one"
    studies.end_streams()
    with pytest.raises(UnavailableError, match="ends"):
        next(log)
