"""What the pages know of a study follows what happens to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.unit.web_source import SHARES, MemorySource, a_study, some_trials
from tuner.errors import NotFoundError, UnavailableError
from tuner.study import Measurement, StudyState, TrialState
from tuner.web import feeds as feeds_module
from tuner.web import history as history_module
from tuner.web.feeds import Feeds
from tuner.web.history import History
from tuner.web.logs import TAIL_CHARACTERS, LogTail

TRIALS = some_trials(12)
RUNNING = TRIALS[-1]


@pytest.fixture
def source() -> Iterator[MemorySource]:
    source = MemorySource([a_study(trials=TRIALS)], TRIALS)
    yield source
    source.close()


@pytest.fixture
def history(source: MemorySource) -> Iterator[History]:
    history = History(source, source.get_study("adult-income"))
    history.start()
    history.ready()
    yield history
    history.close()


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_it_has_every_trial_at_once(history: History) -> None:
    assert [t.number for t in history.trials()] == list(range(12))


def test_a_change_arrives_and_marks_the_page(source: MemorySource, history: History) -> None:
    before = history.mark()
    assert history.mark() == before
    source.put(replace(RUNNING, state=TrialState.SUCCEEDED, end_time=RUNNING.create_time))
    assert eventually(lambda: history.trials()[-1].state is TrialState.SUCCEEDED)
    assert history.mark() != before


def test_a_running_trial_has_its_latest_measurement_as_its_value(
    source: MemorySource, history: History
) -> None:
    source.report(RUNNING, Measurement(step=9, metrics={"val_auc": 0.777}))
    assert eventually(lambda: _value(history, RUNNING.number) == 0.777)


def test_what_ran_before_anybody_looked_has_a_value_too(
    source: MemorySource, history: History
) -> None:
    source.calls.clear()
    history.value_running(history.trials())
    last = RUNNING.measurements[-1].metrics["val_auc"]
    assert _value(history, RUNNING.number) == last
    history.value_running(history.trials())
    assert source.calls.count("get_trial") == 2


def _value(history: History, number: int) -> float | None:
    measured = history.trials()[number].final_measurement
    return None if measured is None else measured.metrics["val_auc"]


def test_a_curve_is_asked_for_once_and_then_grows(source: MemorySource, history: History) -> None:
    known = len(history.curves([RUNNING.number])[RUNNING.number])
    assert known == len(RUNNING.measurements)
    source.calls.clear()
    source.report(RUNNING, Measurement(step=9, metrics={"val_auc": 0.9}))
    source.report(RUNNING, Measurement(step=9, metrics={"val_auc": 0.91}))
    assert eventually(lambda: len(history.curves([RUNNING.number])[RUNNING.number]) == known + 1)
    assert eventually(
        lambda: history.curves([RUNNING.number])[RUNNING.number][-1].metrics["val_auc"] == 0.91
    )
    assert "get_trial" not in source.calls


def test_curves_nobody_looks_at_are_dropped(source: MemorySource, history: History) -> None:
    assert set(history.curves([0, 1])) == {0, 1}
    assert set(history.curves([1])) == {1}
    source.calls.clear()
    history.curves([0, 1])
    assert source.calls.count("get_trial") == 1


def test_a_new_attempt_starts_its_curve_anew(source: MemorySource, history: History) -> None:
    history.curves([RUNNING.number])
    source.put(replace(RUNNING, attempt=RUNNING.attempt + 1, measurements=()))
    assert eventually(lambda: history.curves([RUNNING.number])[RUNNING.number] == [])


def test_it_notices_that_an_ended_study_goes_on(
    source: MemorySource, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "STUDY_SECONDS", 0.0)
    study = source.get_study("adult-income")
    source.put(replace(study, state=StudyState.COMPLETED))
    assert eventually(lambda: history._done)
    source.put(study)
    source.put(replace(RUNNING, state_reason="again"))
    history.study()
    assert eventually(lambda: history.trials()[-1].state_reason == "again")


def test_importance_is_not_computed_anew_while_no_trial_ends(
    source: MemorySource, history: History
) -> None:
    source.shares = SHARES
    assert history.importance() is history.importance()
    assert source.calls.count("importance") == 1


def test_a_study_that_is_gone_is_said_to_be(
    source: MemorySource, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "STUDY_SECONDS", 0.0)
    source._studies.clear()
    with pytest.raises(NotFoundError):
        history.study()


def test_a_server_that_does_not_answer_is_said_to_be_so(source: MemorySource) -> None:
    study = source.get_study("adult-income")
    source.reachable = False
    history = History(source, study)
    history.start()
    with pytest.raises(UnavailableError):
        history.ready()
    source.reachable = True
    assert eventually(lambda: len(history.trials()) == 12)
    history.ready()


def test_a_feed_nobody_asks_for_is_closed(
    source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "IDLE_SECONDS", 0.2)
    feeds = Feeds()
    study = source.get_study("adult-income")
    first = feeds.get("a", lambda: History(source, study))
    assert feeds.get("a", lambda: History(source, study)) is first
    assert eventually(first._closed.is_set)
    assert feeds.get("a", lambda: History(source, study)) is not first
    feeds.close()


def test_the_longest_unused_feed_makes_room(
    source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "MOST_FEEDS", 2)
    feeds = Feeds()
    study = source.get_study("adult-income")
    opened = [feeds.get(n, lambda: History(source, study)) for n in (0, 1, 0, 2)]
    assert [feed._closed.is_set() for feed in opened] == [False, True, False, False]
    feeds.close()
    assert all(feed._closed.is_set() for feed in opened)


def test_a_log_is_shown_from_its_end(source: MemorySource) -> None:
    source.log_text = "x" * (3 * TAIL_CHARACTERS) + "the end"
    log = LogTail(source, "adult-income", 0)
    log.start()
    text, cut = log.tail(wait_seconds=5)
    assert cut and len(text) == TAIL_CHARACTERS and text.endswith("the end")
    log.close()
