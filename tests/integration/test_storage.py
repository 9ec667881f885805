"""The store against a real PostgreSQL: what it keeps, and what the database refuses by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tuner.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    LeaseLostError,
    NotFoundError,
    UnavailableError,
)
from tuner.space import Categorical, Float, Int, Space
from tuner.study import (
    Cause,
    Failure,
    Goal,
    Lease,
    Measurement,
    Metric,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialState,
)
from tuner_storage import (
    Answer,
    Database,
    LogPiece,
    RepeatedRequestError,
    StaleError,
    Store,
    TrialPage,
)

NO_ANSWER = Answer()
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
METRIC = Metric(name="loss", goal=Goal.MINIMIZE)
SPEC = StudySpec(
    metrics=(METRIC,),
    space=Space.of({"rate": Float(1e-5, 1.0, log=True), "layers": Int(1, 3)}),
    settings={"on": True, "big": 1e22, "whole": 2.0},
    labels={"who": "me"},
)
STUDY = Study(
    study_id="mine",
    spec=SPEC,
    state=StudyState.ACTIVE,
    space_version=1,
    create_time=NOW,
    update_time=NOW,
    etag="1",
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, connections=4) as database:
        yield database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def key(store: Store) -> int:
    return store.create_study(STUDY)


def trial(number: int, **changes: object) -> Trial:
    made = Trial(
        study_id="mine",
        number=number,
        state=TrialState.RUNNING,
        parameters={"rate": 0.5, "layers": 2},
        attempt=1,
        lease=Lease(worker_id="ann", expire_time=NOW + timedelta(seconds=30)),
        create_time=NOW,
        start_time=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def lease(store: Store, key: int, *numbers: int) -> None:
    store.lease_trials(key, due=(), proposed=[trial(n) for n in numbers], host="box")


def loss(value: float, step: int = 0) -> Measurement:
    elapsed = timedelta(seconds=step, microseconds=5)
    return Measurement(step=step, metrics={"loss": value}, elapsed=elapsed)


def report(store: Store, key: int, number: int, measured: Measurement, attempt: int = 1) -> None:
    store.report(
        key,
        trial(number, attempt=attempt, final_measurement=measured),
        measurement=measured,
        stop_reason=None,
        metric=METRIC,
        now=NOW,
    )


def end(
    store: Store,
    key: int,
    number: int,
    state: TrialState = TrialState.SUCCEEDED,
    *,
    final: Measurement | None = None,
    failure: Failure | None = None,
    attempt: int = 1,
    answer: Answer = NO_ANSWER,
    expired_by: datetime | None = None,
) -> None:
    ended = trial(
        number,
        state=state,
        attempt=attempt,
        lease=None,
        final_measurement=final,
        end_time=NOW + timedelta(seconds=9) if state.is_finished else None,
    )
    store.end_attempt(
        key,
        ended,
        failure=failure,
        metric=METRIC,
        now=NOW + timedelta(seconds=9),
        answer=answer,
        expired_by=expired_by,
    )


def get(store: Store, key: int, number: int) -> Trial:
    return store.get_trial(key, "mine", number, full=True)


# --- studies ---


def test_a_study_comes_back_equal(store: Store, key: int) -> None:
    found = store.find_study("mine")
    assert found is not None
    assert (found.key, found.study, found.submitted) == (key, STUDY, SPEC)
    assert [type(v) for v in found.study.spec.settings.values()] == [float, bool, float]
    assert store.find_study("other") is None


def test_an_id_is_taken_once(store: Store, key: int) -> None:
    with pytest.raises(AlreadyExistsError):
        store.create_study(STUDY)


def test_a_study_is_saved_only_over_the_version_that_was_read(store: Store, key: int) -> None:
    statistics = StatisticsRef(fingerprint="f", uri="u", rows=3)
    changed = replace(
        STUDY, state=StudyState.PAUSED, state_reason="why", statistics=statistics, etag="2"
    )
    store.save_study(key, changed)
    found = store.find_study("mine")
    assert found is not None and found.study == changed
    with pytest.raises(StaleError):
        store.save_study(key, replace(STUDY, etag="2"))
    again = store.find_study("mine")
    assert again is not None and again.study == changed


def test_studies_are_listed_newest_first_by_page(store: Store) -> None:
    for name in "abcd":
        spec = replace(SPEC, trainer="tabular") if name in "bd" else SPEC
        store.create_study(replace(STUDY, study_id=name, spec=spec))
    first = store.list_studies(limit=3)
    assert [s.study.study_id for s in first] == ["d", "c", "b"]
    rest = store.list_studies(limit=3, before=first[-1].key)
    assert [s.study.study_id for s in rest] == ["a"]
    managed = store.list_studies(managed_only=True, states=[StudyState.ACTIVE])
    assert [s.study.study_id for s in managed] == ["d", "b"]
    assert store.list_studies(states=[StudyState.PAUSED]) == []


def test_a_late_write_to_a_deleted_study_does_not_reach_its_successor(
    store: Store, key: int
) -> None:
    lease(store, key, 0)
    report(store, key, 0, loss(1.0))
    store.write_log(key, 0, LogPiece(attempt=1, offset=0, text="hello"))
    store.delete_study(key)
    successor = store.create_study(STUDY)
    assert successor != key
    with pytest.raises(LeaseLostError):
        report(store, key, 0, loss(2.0))
    with pytest.raises(NotFoundError):
        lease(store, key, 1)
    assert store.list_trials(successor, "mine", TrialPage()) == []


def test_a_study_that_stopped_without_a_trial_makes_room(store: Store, key: int) -> None:
    with pytest.raises(AlreadyExistsError):
        store.create_study(STUDY, replaces=key)
    stopped = replace(STUDY, state=StudyState.STOPPED, end_time=NOW, etag="2")
    store.save_study(key, stopped)
    assert store.create_study(STUDY, replaces=key) != key


@pytest.mark.parametrize(
    ("before", "after"),
    [(StudyState.ACTIVE, StudyState.PREPARING), (StudyState.PAUSED, StudyState.PREPARING)],
)
def test_the_database_refuses_illegal_moves_of_a_study(
    store: Store, key: int, before: StudyState, after: StudyState
) -> None:
    etag = "1"
    if before is not StudyState.ACTIVE:
        store.save_study(key, replace(STUDY, state=before, etag="2"))
        etag = "2"
    with pytest.raises(FailedPreconditionError, match=f"{before} of studies cannot become"):
        store.save_study(key, replace(STUDY, state=after, etag=str(int(etag) + 1)))


# --- leases ---


def test_a_leased_trial_comes_back_equal(store: Store, key: int) -> None:
    values = {"rate": 1e-05, "layers": 2, "kind": "a\u2028b", "on": False, "whole": 3.0}
    proposed = trial(0, parameters=values)
    store.lease_trials(key, due=(), proposed=[proposed], host="box")
    found = get(store, key, 0)
    assert replace(found, attempts=()) == proposed
    assert [type(v) for v in found.parameters.values()] == [float, int, str, bool, float]
    assert [(a.number, a.worker_id, a.host, a.start_time) for a in found.attempts] == [
        (1, "ann", "box", NOW)
    ]


def test_a_number_is_proposed_once(store: Store, key: int) -> None:
    lease(store, key, 0)
    with pytest.raises(StaleError):
        lease(store, key, 0)
    with pytest.raises(StaleError):
        lease(store, key, 1, 0)
    assert len(store.list_trials(key, "mine", TrialPage())) == 1


def test_only_a_queued_trial_is_leased_again_and_all_or_none(store: Store, key: int) -> None:
    lease(store, key, 0, 1)
    failure = Failure(cause=Cause.PREEMPTED)
    end(store, key, 0, TrialState.QUEUED, failure=failure)
    due = [trial(0, attempt=2), trial(1, attempt=2)]
    with pytest.raises(StaleError):
        store.lease_trials(key, due=due, proposed=[trial(2)], host="")
    assert [t.state for t in store.list_trials(key, "mine", TrialPage())] == [
        TrialState.QUEUED,
        TrialState.RUNNING,
    ]
    with pytest.raises(StaleError):
        store.lease_trials(key, due=[trial(0, attempt=3)], proposed=(), host="")
    store.lease_trials(key, due=[trial(0, attempt=2)], proposed=[trial(2)], host="new")
    found = get(store, key, 0)
    assert (found.state, found.attempt) == (TrialState.RUNNING, 2)
    assert [a.failure for a in found.attempts] == [failure, None]


def test_the_fencing_token_guards_every_write(store: Store, key: int) -> None:
    lease(store, key, 0)
    end(store, key, 0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    store.lease_trials(key, due=[trial(0, attempt=2)], proposed=(), host="")
    with pytest.raises(LeaseLostError):
        report(store, key, 0, loss(1.0), attempt=1)
    with pytest.raises(LeaseLostError):
        end(store, key, 0, final=loss(1.0), attempt=1)
    with pytest.raises(StaleError):
        store.request_stop(key, trial(0, attempt=1))
    assert get(store, key, 0).measurements == ()
    report(store, key, 0, loss(1.0), attempt=2)
    end(store, key, 0, final=loss(1.0), attempt=2)
    with pytest.raises(LeaseLostError):
        end(store, key, 0, final=loss(0.5), attempt=2)
    found = get(store, key, 0).final_measurement
    assert found is not None and found.metrics == {"loss": 1.0}


def test_a_lease_is_taken_only_after_it_expired(store: Store, key: int) -> None:
    lease(store, key, 0)
    lost = Failure(cause=Cause.LOST)
    with pytest.raises(LeaseLostError):
        end(store, key, 0, TrialState.QUEUED, failure=lost, expired_by=NOW)
    later = NOW + timedelta(seconds=30)
    end(store, key, 0, TrialState.QUEUED, failure=lost, expired_by=later)
    assert get(store, key, 0).state is TrialState.QUEUED


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.FAILED])
def test_the_database_refuses_illegal_moves_of_a_trial(
    database: Database, store: Store, key: int, state: TrialState
) -> None:
    """By hand, past every WHERE clause: the trigger is the last guard."""
    lease(store, key, 0)
    end(store, key, 0, final=loss(1.0))
    if state is TrialState.SUCCEEDED:
        return
    statement = b"UPDATE tuner.trials SET state = %s WHERE study = %s"
    with pytest.raises(FailedPreconditionError, match="cannot become"):
        with database.connection() as connection:
            connection.execute(statement, (state.value, key))


# --- measurements ---


def test_values_that_are_not_numbers_are_kept_and_never_win(store: Store, key: int) -> None:
    lease(store, key, 0, 1, 2, 3)
    for number, value in enumerate((math.nan, -math.inf, 0.5, 0.25)):
        report(store, key, number, loss(value))
        end(store, key, number, final=loss(value))
    kept = get(store, key, 0).measurements[0].metrics["loss"]
    assert math.isnan(kept)
    assert get(store, key, 1).measurements[0].metrics["loss"] == -math.inf
    found = store.find_study("mine")
    assert found is not None and found.study.best_trial == 3
    best = store.list_trials(key, "mine", TrialPage(order="best"))
    assert [t.number for t in best] == [3, 2, 0, 1]


def test_a_step_reported_again_is_replaced(store: Store, key: int) -> None:
    lease(store, key, 0)
    for value in (3.0, 2.0):
        report(store, key, 0, loss(value, step=4))
    report(store, key, 0, loss(1.0, step=1))
    assert get(store, key, 0).measurements == (loss(1.0, step=1), loss(2.0, step=4))


def test_only_the_current_attempts_measurements_are_shown(store: Store, key: int) -> None:
    lease(store, key, 0)
    report(store, key, 0, loss(3.0, step=7))
    end(store, key, 0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    store.lease_trials(key, due=[trial(0, attempt=2)], proposed=(), host="")
    loaded = store.find_study("mine")
    assert loaded is not None
    assert store.load_trials(loaded).trials[0].measurements == ()


def test_pages_of_the_best_reach_every_trial_once(store: Store, key: int) -> None:
    values = [0.3, 0.1, None, 0.1, math.nan, 0.2]
    lease(store, key, *range(len(values)))
    for number, value in enumerate(values):
        if value is not None:
            end(store, key, number, final=loss(value))
    seen: list[int] = []
    page = TrialPage(order="best", limit=2)
    while trials := store.list_trials(key, "mine", page):
        seen += [t.number for t in trials]
        last = trials[-1].final_measurement
        value = None if last is None else last.metrics["loss"]
        score = None if value is None or math.isnan(value) else -value
        page = replace(page, after_number=trials[-1].number, after_score=score)
    assert seen == [1, 3, 5, 0, 2, 4]


def test_history_is_loaded_with_causes_and_time(store: Store, key: int) -> None:
    lease(store, key, 0, 1)
    end(store, key, 0, TrialState.QUEUED, failure=Failure(cause=Cause.USER_ERROR, message="x"))
    report(store, key, 1, loss(0.5))
    end(store, key, 1, final=loss(0.5))
    stored = store.find_study("mine")
    assert stored is not None
    loaded = store.load_trials(stored)
    assert loaded.causes == {0: (Cause.USER_ERROR,)}
    assert loaded.attempt_time == timedelta(seconds=18)
    assert [len(t.measurements) for t in loaded.trials] == [0, 1]


def test_failures_keep_their_words(store: Store, key: int) -> None:
    lease(store, key, 0)
    failure = Failure(
        cause=Cause.OUT_OF_MEMORY, message="no room", stack="line\nline", log_tail="…tail 🎈"
    )
    end(store, key, 0, TrialState.FAILED, failure=failure)
    assert get(store, key, 0).attempts[0].failure == failure


# --- logs ---


def test_a_log_is_kept_once_whatever_is_sent_twice(store: Store, key: int) -> None:
    lease(store, key, 0)
    text = "".join(chr(0x1F600 + i) for i in range(40))
    pieces = [(0, 10), (0, 10), (10, 20), (5, 25), (0, 24), (30, 40), (25, 30), (0, 40)]
    for start, end_ in pieces:
        store.write_log(key, 0, LogPiece(attempt=1, offset=start, text=text[start:end_]))
    kept = store.read_log(key, 0)
    assert "".join(piece.text for piece in kept) == text
    assert [piece.offset for piece in kept] == [0, 10, 20, 25, 30]
    assert store.read_log(key, 0, after=(1, 25)) == kept[4:]


def test_a_log_needs_its_attempt(store: Store, key: int) -> None:
    lease(store, key, 0)
    with pytest.raises(NotFoundError):
        store.write_log(key, 0, LogPiece(attempt=2, offset=0, text="x"))


# --- repeated requests ---


def test_an_answer_is_kept_with_its_change_and_not_without(store: Store, key: int) -> None:
    answer = Answer(request_id="r", method="CompleteTrial", body=b"\x00\xff")
    lease(store, key, 0, 1)
    end(store, key, 0, final=loss(1.0), answer=answer)
    assert store.find_answer(key, answer) == b"\x00\xff"
    with pytest.raises(RepeatedRequestError):
        end(store, key, 1, final=loss(1.0), answer=answer)
    assert get(store, key, 1).state is TrialState.RUNNING
    refused = replace(answer, request_id="other")
    with pytest.raises(LeaseLostError):
        end(store, key, 0, final=loss(1.0), answer=refused)
    assert store.find_answer(key, refused) is None
    assert store.find_answer(key, replace(answer, method="ReleaseTrial")) is None
    store.forget_requests(NOW + timedelta(days=1))
    assert store.find_answer(key, answer) is None


def test_retries_are_all_or_none(store: Store, key: int) -> None:
    lease(store, key, 0, 1)
    end(store, key, 0, TrialState.FAILED, failure=Failure(cause=Cause.USER_ERROR))
    with pytest.raises(StaleError):
        store.retry_trials(key, [0, 1], study=None, now=NOW)
    assert get(store, key, 0).state is TrialState.FAILED
    store.retry_trials(key, [0], study=None, now=NOW)
    assert get(store, key, 0).state is TrialState.QUEUED
    store.cancel_trials(key, [0], "given up", NOW)
    assert get(store, key, 0).state_reason == "given up"


# --- the connection ---


def test_a_database_that_goes_away_is_unavailable_and_comes_back(
    database_url: str, store: Store, key: int
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    for _ in range(10):
        try:
            found = store.find_study("mine")
        except UnavailableError as error:
            assert "\n" not in error.message
        else:
            assert found is not None
            return
    pytest.fail("the pool did not recover")


def test_choices_of_every_type_survive(store: Store) -> None:
    space = Space.of({"c": Categorical([1, 1.5, "1", True])})
    store.create_study(replace(STUDY, study_id="types", spec=replace(SPEC, space=space)))
    found = store.find_study("types")
    assert found is not None
    assert found.study.spec.space == space
