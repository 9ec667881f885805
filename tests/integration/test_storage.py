"""The store against a real PostgreSQL: what it keeps, and what the database refuses by itself."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.storage_support import (
    COST,
    LATER,
    LEASE,
    METRIC,
    NOW,
    SPEC,
    STUDY,
    Held,
    entered,
    flat,
    given,
    loss,
    past,
)
from tuner.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    LeaseLostError,
    NotFoundError,
    UnavailableError,
)
from tuner.space import Categorical, Float, Space
from tuner.study import (
    Cause,
    Checkpoint,
    Constraint,
    Cost,
    Failure,
    Measurement,
    Metric,
    Origin,
    StatisticsRef,
    StudyState,
    TrialState,
)
from tuner_storage import (
    Database,
    Orphan,
    Ownership,
    Request,
    StaleError,
    Store,
    TrialPage,
    writes,
)
from tuner_storage.queries import QUERIES


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, connections=4) as database:
        yield database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def server(store: Store) -> UUID:
    return entered(store)


@pytest.fixture
def held(store: Store, server: UUID) -> Held:
    return Held(store, server)


# --- studies ---


def test_a_study_comes_back_equal(held: Held) -> None:
    found = held.stored()
    assert (found.key, found.study, found.submitted) == (held.key, STUDY, SPEC)
    assert [type(v) for v in found.study.spec.settings.values()] == [float, bool, float]
    assert held.store.find_study("other") is None
    assert (held.store.find_key("mine"), held.store.find_key("other")) == (held.key, None)


def test_all_that_a_study_may_ask_for_comes_back_equal(store: Store) -> None:
    spec = replace(
        SPEC,
        metrics=(METRIC, Metric(name="auc")),
        constraints=(
            Constraint(metric="size", at_most=0.0),
            Constraint(metric="auc", at_least=-1e300),
        ),
        warm_start=("earlier", "other"),
        labels={"b": "2", "a": ""},
    )
    study = replace(STUDY, spec=spec, creator="ann")
    store.create_study(study)
    found = store.find_study("mine")
    assert found is not None
    assert (found.study, found.submitted) == (study, spec)


def test_an_id_is_taken_once(held: Held) -> None:
    with pytest.raises(AlreadyExistsError):
        held.store.create_study(STUDY)


def test_a_study_is_saved_only_over_the_version_that_was_read(held: Held) -> None:
    statistics = StatisticsRef(fingerprint="f", uri="u", rows=3)
    changed = replace(
        STUDY, state=StudyState.PAUSED, state_reason="why", statistics=statistics, etag="2"
    )
    held.commit(writes.save_study(changed))
    assert held.stored().study == changed
    with pytest.raises(StaleError):
        held.commit(writes.save_study(replace(STUDY, etag="2")))
    assert held.stored().study == changed


def test_a_study_that_is_submitted_again_keeps_what_was_submitted(held: Held) -> None:
    submitted = replace(SPEC, labels={"who": "you"})
    wider = replace(SPEC, space=Space.of({"rate": Float(1e-6, 1.0, log=True)}))
    extended = replace(STUDY, spec=wider, space_version=2, etag="2")
    held.commit(writes.resubmit_study(extended, submitted))
    found = held.stored()
    assert (found.study, found.submitted) == (extended, submitted)
    held.commit(writes.save_study(replace(extended, etag="3")))
    assert held.stored().submitted == submitted


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
    held: Held, server: UUID
) -> None:
    held.lease(0)
    held.report(0, loss(1.0))
    held.commit(
        writes.write_log(0, 1, 0, "hello"),
        writes.record_answer("r", "StopTrial", b"", NOW),
    )
    held.commit(writes.delete_study())
    successor = Held(held.store, server)
    assert successor.key != held.key
    for change in (held.reported(0, loss(2.0)), writes.delete_study()):
        with pytest.raises(StaleError):
            held.commit(change)
    with pytest.raises(StaleError):
        held.lease(1)
    assert successor.list() == []
    assert held.store.find_answer(held.key, "r", "StopTrial") is None


def test_a_study_that_stopped_without_a_trial_makes_room(held: Held) -> None:
    store = held.store
    with pytest.raises(AlreadyExistsError):
        store.create_study(STUDY, replaces=held.key)
    held.commit(
        writes.save_study(replace(STUDY, state=StudyState.STOPPED, end_time=NOW, etag="2"))
    )
    assert store.create_study(STUDY, replaces=held.key) != held.key
    with pytest.raises(StaleError):
        held.lease(0)


def test_a_study_that_had_a_trial_makes_no_room(held: Held) -> None:
    held.lease(0)
    held.commit(
        writes.save_study(replace(STUDY, state=StudyState.STOPPED, end_time=NOW, etag="2"))
    )
    with pytest.raises(AlreadyExistsError):
        held.store.create_study(STUDY, replaces=held.key)
    assert len(held.list()) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [(StudyState.ACTIVE, StudyState.PREPARING), (StudyState.PAUSED, StudyState.PREPARING)],
)
def test_the_database_refuses_illegal_moves_of_a_study(
    held: Held, before: StudyState, after: StudyState
) -> None:
    etag = "1"
    if before is not StudyState.ACTIVE:
        held.commit(writes.save_study(replace(STUDY, state=before, etag="2")))
        etag = "2"
    changed = replace(STUDY, state=after, etag=str(int(etag) + 1))
    with pytest.raises(FailedPreconditionError, match=f"{before} of studies cannot become"):
        held.commit(writes.save_study(changed))


# --- a commit: all of it, by the owner, or nothing ---


def test_a_commit_is_one_transaction(held: Held) -> None:
    held.lease(0)
    before = (held.stored(), held.list(), held.get(0))
    with pytest.raises(StaleError):
        held.commit(
            held.reported(0, loss(1.0)),
            writes.label_trial(held.trial(0, labels={"a": "b"})),
            writes.record_answer("r", "X", b"", NOW),
            writes.retry_trials([0]),
            writes.write_log(0, 1, 0, "never"),
        )
    assert (held.stored(), held.list(), held.get(0)) == before
    assert held.store.find_answer(held.key, "r", "X") is None
    assert held.store.read_log(held.key, 0) == []
    # The connection went back to the pool in order.
    held.report(0, loss(0.5))
    assert held.get(0).final_measurement == loss(0.5)


def test_a_commit_that_failed_harms_no_later_one(database_url: str) -> None:
    """PostgreSQL never sees what stands behind the statement that failed, prepared or not."""
    with Database(database_url, connections=1) as database:
        held = Held(Store(database), entered(Store(database)))
        held.lease(0)
        label = writes.label_trial(held.trial(0, labels={"a": "b"}))
        with pytest.raises(StaleError):
            held.commit(writes.retry_trials([0]), label)
        held.commit(label)
        assert held.get(0).labels == {"a": "b"}


def test_other_transactions_harm_no_commit(database_url: str) -> None:
    """Of one connection: those that are undone, and many of one kind."""
    with Database(database_url, connections=1) as database:
        store = Store(database)
        held = Held(store, entered(store))
        label = writes.label_trial(held.trial(0, labels={"a": "b"}))
        held.lease(0)
        held.commit(label)
        for _ in range(8):
            assert store.find_key(held.study_id) == held.key
            with pytest.raises(AlreadyExistsError):
                store.create_study(STUDY)
        held.commit(label)


def test_a_large_commit_passes_a_narrow_line(held: Held) -> None:
    """More than any buffer holds: PostgreSQL answers before it has read all."""
    text = "log " * 4000
    held.lease(0)
    pieces = [writes.write_log(0, 1, n * len(text), text) for n in range(600)]
    held.commit(pieces)
    assert sum(len(piece.text) for piece in held.store.read_log(held.key, 0, limit=1000)) == (
        600 * len(text)
    )


def test_changes_of_one_commit_follow_each_other(held: Held) -> None:
    lost = Failure(cause=Cause.PREEMPTED)
    queued = held.trial(0, state=TrialState.QUEUED, lease=None)
    held.commit(
        writes.lease_trials(due=(), proposed=[held.trial(0)], host="a"),
        held.reported(0, loss(1.0)),
        writes.end_attempt(SPEC, queued, failure=lost, cost=COST, now=LATER),
        writes.lease_trials(due=[held.trial(0, attempt=2)], proposed=(), host="b"),
        held.reported(0, loss(0.25), attempt=2),
    )
    found = held.get(0)
    assert (found.attempt, found.measurements) == (2, (loss(0.25),))
    assert [a.host for a in found.attempts] == ["a", "b"]


def test_only_the_owner_writes_and_only_with_its_last_claim(held: Held, server: UUID) -> None:
    stale, stranger = held.ownership, replace(held.ownership, server=entered(held.store))
    held.ownership = held.claim(server)
    assert held.ownership.epoch > stale.epoch
    held.lease(0)
    before = held.list()
    for ownership in (
        stale,
        stranger,
        replace(held.ownership, epoch=held.ownership.epoch + 1),
        replace(held.ownership, key=held.key + 1),
    ):
        for change in (
            writes.lease_trials(due=(), proposed=[held.trial(1)], host=""),
            held.reported(0, loss(1.0)),
            writes.save_study(replace(STUDY, etag="2")),
            writes.write_log(0, 1, 0, "x"),
            writes.record_deletion("r", "DeleteStudy", NOW),
            writes.delete_study(),
        ):
            with pytest.raises(StaleError):
                held.store.commit(ownership, flat([change]))
    assert held.list() == before and held.stored().study.etag == "1"
    assert held.store.read_log(held.key, 0) == []
    assert held.store.find_answer(0, "r", "DeleteStudy") is None


def test_a_claim_waits_for_the_commit_under_way(
    database_url: str, held: Held, server: UUID
) -> None:
    """Else the new owner could read what the old one has not written yet."""
    with psycopg.connect(database_url) as slow:
        slow.execute(
            "SELECT FROM tuner.studies WHERE study = %s FOR SHARE", (held.key,)
        )  # as check_owner does
        claimed: list[Ownership] = []
        thread = threading.Thread(target=lambda: claimed.append(held.claim(server)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and claimed == []
        slow.commit()
        thread.join(60)
        assert len(claimed) == 1


# --- several servers ---


def test_a_study_has_one_owner_at_a_time(held: Held, server: UUID) -> None:
    store, other = held.store, entered(held.store, "other:1")
    assert store.claim_study(other, "mine") is None
    assert store.find_owner("mine") == f"{server}:80"
    assert store.claim_study(other, "unknown") is None
    assert store.find_owner("unknown") is None
    store.leave_server(server)
    assert store.find_owner("mine") == ""
    with pytest.raises(StaleError):
        held.lease(0)
    assert store.claim_study(other, "mine") == held.ownership.epoch + 1
    assert store.find_owner("mine") == "other:1"
    assert store.claim_study(server, "mine") is None


def test_what_a_dead_server_owned_is_anybodys(store: Store) -> None:
    dead = entered(store, "dead:1", timedelta(milliseconds=-1))
    held = Held(store, dead)
    # Nobody else wanted it yet, so what the owner writes still counts.
    held.lease(0)
    other = entered(store, "other:1")
    assert store.find_owner("mine") == ""
    assert store.claim_study(other, "mine") is not None
    with pytest.raises(StaleError):
        held.report(0, loss(1.0))
    assert [(e.server, e.address, e.studies) for e in store.list_servers()] == [
        (other, "other:1", 1)
    ]


def test_a_registration_is_renewed(store: Store) -> None:
    server = entered(store, "a:1", timedelta(milliseconds=-1))
    assert store.list_servers() == []
    store.enter_server(server, "a:1", LEASE)
    (entry,) = store.list_servers()
    assert (entry.server, entry.studies) == (server, 0)
    assert entry.start_time < entry.expire_time


def test_a_server_that_is_long_dead_is_forgotten(store: Store, database_url: str) -> None:
    held = Held(store, entered(store, "a:1", -LEASE))
    entered(store, "old:1", timedelta(hours=-2))
    living = entered(store, "b:1")
    store.forget_servers()
    assert [entry.server for entry in store.list_servers()] == [living]
    with psycopg.connect(database_url) as connection:
        known = connection.execute("SELECT address FROM tuner.servers ORDER BY 1").fetchall()
    assert known == [("a:1",), ("b:1",)]
    assert store.find_owner("mine") == ""
    assert store.claim_study(living, "mine") == held.ownership.epoch + 1


def test_a_server_that_starts_again_has_its_studies_still(held: Held, server: UUID) -> None:
    store = held.store
    store.enter_server(server, "elsewhere:2", LEASE)
    assert store.find_owner("mine") == "elsewhere:2"
    assert store.list_orphans(server) == [Orphan(study_id="mine", given=True, trials=0)]
    assert held.claim(server).epoch == held.ownership.epoch + 1


def test_a_study_is_handed_over_to_a_living_server(held: Held) -> None:
    store, heir = held.store, entered(held.store, "heir:1")
    gone = entered(store, "gone:1", timedelta(milliseconds=-1))
    store.hand_over_study(held.ownership, gone)
    held.lease(0)
    store.hand_over_study(replace(held.ownership, server=gone), heir)
    held.report(0, loss(1.0))
    store.hand_over_study(held.ownership, heir)
    assert store.find_owner("mine") == "heir:1"
    with pytest.raises(StaleError):
        held.report(0, loss(0.5))
    assert store.list_orphans(heir) == [Orphan(study_id="mine", given=True, trials=1)]
    assert held.claim(heir).epoch > held.ownership.epoch + 1


def test_orphans_are_the_studies_to_be_worked_on_that_nobody_owns(store: Store) -> None:
    dead = entered(store, "dead:1", timedelta(milliseconds=-1))
    me, other = entered(store, "me:1"), entered(store, "other:1")
    for name in ("free", "dead", "mine", "others", "ended", "ending"):
        held = Held(store, dead, replace(STUDY, study_id=name))
        if name == "ending":
            held.lease(0)
        if name in ("ended", "ending"):
            stopped = replace(
                STUDY, study_id=name, state=StudyState.STOPPED, end_time=NOW, etag="2"
            )
            held.commit(writes.save_study(stopped))
        if name in ("mine", "others"):
            held.claim({"mine": me, "others": other}[name])
        if name == "free":
            store.leave_server(dead)
            dead = entered(store, "dead:1", timedelta(milliseconds=-1))
    assert store.list_orphans(me) == [
        Orphan(study_id=name, given=name == "mine", trials=int(name == "ending"))
        for name in ("free", "dead", "mine", "ending")
    ]


# --- leases ---


def test_a_leased_trial_comes_back_equal(held: Held) -> None:
    values = {"rate": 1e-05, "layers": 2, "kind": "a\u2028b", "on": False, "whole": 3.0}
    proposed = held.trial(0, parameters=values)
    held.commit(writes.lease_trials(due=(), proposed=[proposed], host="box"))
    found = held.get(0)
    assert replace(found, attempts=()) == proposed
    assert [type(v) for v in found.parameters.values()] == [float, int, str, bool, float]
    assert [(a.number, a.worker_id, a.host, a.start_time) for a in found.attempts] == [
        (1, "ann", "box", NOW)
    ]


def test_a_number_is_proposed_once(held: Held) -> None:
    held.lease(0)
    with pytest.raises(StaleError):
        held.lease(0)
    with pytest.raises(StaleError):
        held.lease(1, 0)
    assert len(held.list()) == 1


def test_only_a_queued_trial_is_leased_again_and_all_or_none(held: Held) -> None:
    held.lease(0, 1)
    failure = Failure(cause=Cause.PREEMPTED)
    held.end(0, TrialState.QUEUED, failure=failure)
    with pytest.raises(StaleError):
        held.lease(2, due=[held.trial(0, attempt=2), held.trial(1, attempt=2)])
    assert [t.state for t in held.list()] == [TrialState.QUEUED, TrialState.RUNNING]
    with pytest.raises(StaleError):
        held.lease(due=[held.trial(0, attempt=3)])
    held.lease(2, due=[held.trial(0, attempt=2)], host="new")
    found = held.get(0)
    assert (found.state, found.attempt) == (TrialState.RUNNING, 2)
    assert [a.failure for a in found.attempts] == [failure, None]


def test_leases_are_renewed_for_the_attempts_that_hold_them(held: Held) -> None:
    held.lease(0, 1)
    held.end(1, final=loss(1.0))
    later = NOW + timedelta(minutes=5)
    trials = [held.trial(0), held.trial(1), held.trial(0, attempt=2)]
    held.commit(writes.renew_leases(trials, later))
    found = held.get(0).lease
    assert found is not None and found.expire_time == later
    assert held.get(1).lease is None


def test_the_attempt_guards_every_write_of_a_worker(held: Held) -> None:
    held.lease(0)
    held.end(0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    held.lease(due=[held.trial(0, attempt=2)])
    with pytest.raises(LeaseLostError):
        held.report(0, loss(1.0), attempt=1)
    with pytest.raises(LeaseLostError):
        held.end(0, final=loss(1.0), attempt=1)
    with pytest.raises(StaleError):
        held.commit(writes.request_stop(held.trial(0, attempt=1)))
    assert held.get(0).measurements == ()
    held.report(0, loss(1.0), attempt=2)
    held.end(0, final=loss(1.0), attempt=2)
    with pytest.raises(LeaseLostError):
        held.end(0, final=loss(0.5), attempt=2)
    found = held.get(0).final_measurement
    assert found is not None and found.metrics == {"loss": 1.0}


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.SUCCEEDED])
def test_the_database_refuses_illegal_moves_of_a_trial(
    database: Database, held: Held, state: TrialState
) -> None:
    """By hand, past every WHERE clause: the trigger is the last guard."""
    held.lease(0)
    held.end(0, final=loss(1.0))
    statement = b"UPDATE tuner.trials SET state = %s WHERE study = %s"
    with pytest.raises(FailedPreconditionError, match="cannot become"):
        with database.connection() as connection:
            connection.execute(statement, (state.value, held.key))


# --- measurements ---


def test_values_that_are_not_numbers_are_kept_and_never_win(held: Held) -> None:
    held.lease(0, 1, 2, 3)
    for number, value in enumerate((math.nan, -math.inf, 0.5, 0.25)):
        held.report(number, loss(value))
        held.end(number, final=loss(value))
    assert math.isnan(held.get(0).measurements[0].metrics["loss"])
    assert held.get(1).measurements[0].metrics["loss"] == -math.inf
    assert held.stored().study.best_trial == 3
    assert [t.number for t in held.list(TrialPage(order="best"))] == [3, 2, 0, 1]


def test_a_result_beyond_the_constraints_is_kept_and_never_wins(held: Held) -> None:
    spec = replace(SPEC, constraints=(Constraint(metric="loss", at_least=0.3),))
    held.lease(0, 1)
    for number, value in enumerate((0.1, 0.5)):
        within = value >= 0.3
        ended = held.trial(
            number,
            state=TrialState.SUCCEEDED,
            lease=None,
            final_measurement=loss(value),
            within_constraints=within,
            end_time=LATER,
        )
        held.commit(writes.end_attempt(spec, ended, failure=None, cost=COST, now=LATER))
        assert replace(held.get(number), attempts=()) == replace(ended, cost=COST)
    assert held.stored().study.best_trial == 1


def test_a_step_reported_again_is_replaced(held: Held) -> None:
    held.lease(0)
    for value in (3.0, 2.0):
        held.report(0, loss(value, step=4))
    held.report(0, loss(1.0, step=1))
    assert held.get(0).measurements == (loss(1.0, step=1), loss(2.0, step=4))


def test_only_the_current_attempts_measurements_are_shown(held: Held) -> None:
    held.lease(0)
    held.report(0, loss(3.0, step=7))
    held.end(0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    held.lease(due=[held.trial(0, attempt=2)])
    assert held.store.load_trials(held.stored()).trials[0].measurements == ()


def test_checkpoints_outlive_attempts(held: Held) -> None:
    held.lease(0)
    checkpoint = Checkpoint(uri="/a/1", step=2**40)
    trial = held.trial(0, checkpoint=checkpoint)
    held.commit(writes.report(SPEC, trial, measurement=None, stop_reason=None, now=NOW))
    assert held.get(0).checkpoint == checkpoint
    assert held.get(0).measurements == ()
    held.end(0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    held.lease(due=[held.trial(0, attempt=2)])
    assert held.get(0).checkpoint == checkpoint
    assert held.store.load_trials(held.stored()).trials[0].checkpoint == checkpoint


def test_labels_are_changed(held: Held) -> None:
    held.lease(0)
    held.commit(writes.label_trial(held.trial(0, labels={"a": "\u2028", "": "x"})))
    assert held.get(0).labels == {"a": "\u2028", "": "x"}
    held.commit(writes.label_trial(held.trial(0, labels={})))
    assert held.get(0).labels == {}
    with pytest.raises(StaleError):
        held.commit(writes.label_trial(held.trial(1, labels={"a": "b"})))


def test_a_stop_is_asked_for_once_and_kept(held: Held) -> None:
    held.lease(0)
    held.commit(writes.request_stop(held.trial(0, state_reason="why", stop_requested=True)))
    held.report(0, loss(1.0))
    found = held.get(0)
    assert (found.stop_requested, found.state_reason) == (True, "why")
    stopped = held.trial(0, state_reason="other")
    held.commit(writes.report(SPEC, stopped, measurement=None, stop_reason="other", now=NOW))
    assert held.get(0).state_reason == "other"


def test_history_is_loaded_with_causes_and_costs(held: Held) -> None:
    held.lease(0, 1)
    held.report(0, loss(0.7, step=3))
    held.end(0, TrialState.QUEUED, failure=Failure(cause=Cause.USER_ERROR, message="x"))
    held.report(1, loss(0.5))
    answer = writes.record_answer("r", "CompleteTrial", b"", NOW)
    held.end(1, TrialState.SUCCEEDED, answer, final=loss(0.5))
    loaded = held.store.load_trials(held.stored())
    assert loaded.causes == {0: (Cause.USER_ERROR,)}
    assert loaded.furthest == {0: 3}
    assert [t.cost for t in loaded.trials] == [COST, COST]
    assert [len(t.measurements) for t in loaded.trials] == [1, 1]
    assert loaded.answered == {("r", "CompleteTrial")}


def test_costs_add_up_over_attempts_and_trials(held: Held) -> None:
    held.lease(0, 1)
    held.end(0, TrialState.QUEUED, failure=Failure(cause=Cause.LOST))
    assert held.get(0).cost == held.get(0).attempts[0].cost == COST
    held.lease(due=[held.trial(0, attempt=2)])
    assert [a.cost for a in held.get(0).attempts] == [COST, Cost()]
    held.end(0, attempt=2, final=loss(0.5))
    held.end(1, final=loss(0.5))
    assert [t.cost for t in held.list()] == [COST + COST, COST]
    assert held.stored().study.cost == COST + COST + COST


def test_an_earlier_study_brings_the_results_that_it_had(held: Held) -> None:
    held.lease(0, 1, 2, 3)
    held.end(0, final=loss(0.5))
    held.end(1, TrialState.PRUNED, final=loss(0.7))
    held.end(2, TrialState.FAILED, failure=Failure(cause=Cause.TIMED_OUT))
    stored = held.stored()
    assert held.store.finished_trials(stored, NOW) == []
    found = held.store.finished_trials(stored, LATER)
    assert [(t.number, t.final_measurement) for t in found] == [(0, loss(0.5)), (1, loss(0.7))]


def test_failures_keep_their_words(held: Held) -> None:
    held.lease(0)
    failure = Failure(
        cause=Cause.OUT_OF_MEMORY, message="no room", stack="line\nline", log_tail="…tail 🎈"
    )
    held.end(0, TrialState.FAILED, failure=failure)
    assert held.get(0).attempts[0].failure == failure


# --- a user's own trials ---


def test_a_users_own_trials_come_back_equal(held: Held) -> None:
    """Of different lengths everywhere: metrics, measurements, labels."""
    measured = [
        Measurement(step=0, metrics={"loss": 0.5}),
        Measurement(step=3, metrics={"a": math.inf, "loss": -math.inf, "z": 2.5}),
        Measurement(step=2**40, metrics={"loss": 0.25, "z": 1.0}, elapsed=timedelta(hours=30)),
    ]
    added = [
        given(held, 0, parameters={"rate": 0.25, "layers": 1}, labels={"why": "I say"}),
        past(held, 1, *measured),
        past(held, 2, measured[0], measurements=(), labels={"a": "1", "b": "2"}),
        given(held, 3),
        past(held, 4, measured[1], within_constraints=False, measurements=(measured[0],)),
        past(held, 5, measured[2]),
    ]
    held.commit(writes.add_trials(SPEC, added))
    assert [replace(held.get(n), attempts=()) for n in range(6)] == added
    assert [len(held.get(n).attempts) for n in range(6)] == [0, 1, 1, 0, 1, 1]
    study = held.stored().study
    assert (study.trial_counts.past, study.trial_counts.queued) == (4, 2)
    assert study.best_trial == 1
    loaded = held.store.load_trials(held.stored())
    assert list(loaded.trials) == added
    assert study.cost == Cost()


def test_what_was_not_a_number_elsewhere_is_none_here(held: Held) -> None:
    strange = Measurement(step=1, metrics={"loss": math.nan, "other": 1.0})
    held.commit(*writes.add_trials(SPEC, [past(held, 0, strange), past(held, 1, loss(2.0))]))
    found = held.get(0)
    assert found.final_measurement is not None
    for measured in (found.final_measurement, *found.measurements):
        assert math.isnan(measured.metrics["loss"]) and measured.metrics["other"] == 1.0
    assert held.stored().study.best_trial == 1


def test_past_results_may_have_no_result(held: Held) -> None:
    """Of one whose measurements all lack a metric the columns stay empty."""
    other = Measurement(step=0, metrics={"other": 1.0})
    trial = past(held, 0, other, final_measurement=None, within_constraints=None)
    held.commit(*writes.add_trials(SPEC, [trial, past(held, 1, loss(1.0))]))
    assert replace(held.get(0), attempts=()) == trial


def test_given_trials_are_leased_like_those_that_are_due(held: Held) -> None:
    held.commit(*writes.add_trials(SPEC, [given(held, 0), given(held, 1)]))
    held.lease(2, due=[held.trial(0, attempt=1)])
    assert [t.state for t in held.list()] == [
        TrialState.RUNNING,
        TrialState.QUEUED,
        TrialState.RUNNING,
    ]
    found = held.get(0)
    assert (found.origin, found.attempt, len(found.attempts)) == (Origin.GIVEN, 1, 1)
    held.commit(writes.cancel_trials([1], "given up", NOW))
    assert held.get(1).state is TrialState.FAILED
    held.commit(writes.retry_trials([1]))
    assert held.get(1).attempt == 0


def test_numbers_of_added_trials_are_taken_once(held: Held) -> None:
    held.lease(0)
    with pytest.raises(StaleError):
        held.commit(*writes.add_trials(SPEC, [given(held, 1), given(held, 0)]))
    assert len(held.list()) == 1


# --- lists ---


@pytest.fixture
def listed(held: Held) -> Held:
    """Eight trials of which some have no result, no metric, no start, or no such parameter."""
    values = [0.3, 0.1, None, 0.1, math.nan, 0.2, math.inf, -math.inf]
    trials = []
    for number, value in enumerate(values):
        metrics = {} if value is None else {"loss": value, "a.b": -value}
        if number % 3 == 0:
            metrics |= {"extra": float(number)}
        parameters = {"rate": number / 8, "layers": "wide" if number == 1 else number % 3}
        if number == 5:
            del parameters["rate"]
        changes = {"parameters": parameters, "labels": {"team": "ab"[number % 2]}}
        if value is None:
            trials.append(given(held, number, **changes))
        else:
            result = Measurement(step=0, metrics=metrics)
            trials.append(past(held, number, result, measurements=(), **changes))
    held.commit(*writes.add_trials(SPEC, trials))
    return held


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("number", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("number desc", [7, 6, 5, 4, 3, 2, 1, 0]),
        ("best", [1, 3, 5, 0, 2, 4, 6, 7]),
        ("metrics.loss", [7, 1, 3, 5, 0, 6, 2, 4]),
        ("metrics.loss desc", [6, 0, 5, 1, 3, 7, 2, 4]),
        ("metrics.a.b", [6, 0, 5, 1, 3, 7, 2, 4]),
        ("metrics.extra desc", [6, 3, 0, 1, 2, 4, 5, 7]),
        ("metrics.none", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("parameters.rate desc", [7, 6, 4, 3, 2, 1, 0, 5]),
        ("parameters.layers", [0, 3, 6, 4, 7, 2, 5, 1]),
        ("start_time", [0, 1, 3, 4, 5, 6, 7, 2]),
        ("end_time desc", [0, 1, 3, 4, 5, 6, 7, 2]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 8, 9])
def test_pages_of_every_order_reach_every_trial_once(
    listed: Held, order: str, numbers: list[int], limit: int
) -> None:
    seen: list[int] = []
    page = TrialPage(order=order, limit=limit)
    while found := listed.store.list_trials(listed.key, "mine", page):
        assert len(found) <= limit
        seen += [trial.number for trial, _ in found]
        last, key = found[-1]
        page = replace(page, after_number=last.number, after_key=key)
    assert seen == numbers


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("list_trials_by_number", {"number": 999}),
        ("list_trials_by_number_desc", {"number": 1000}),
        ("list_trials_by_score", {"rank": -0.5, "number": 999}),
        ("list_trials_by_score", {"rank": math.inf, "number": 1800}),
    ],
)
def test_a_page_reads_no_trials_but_its_own(
    held: Held, database_url: str, query: str, place: dict[str, float]
) -> None:
    """Not even among a thousand that are equal."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tuner.trials (study, number, state, parameters, space_version, attempt,"
            " score, create_time, end_time) SELECT %s, number, 'SUCCEEDED', '{}', 1, 1,"
            " CASE WHEN number < 1500 THEN 0.5 END, now(), now()"
            " FROM generate_series(0, 1999) AS number",
            (held.key,),
        )
        connection.execute("VACUUM ANALYZE tuner.trials")
        nothing = dict.fromkeys(("states", "numbers", "filter"))
        row = connection.execute(
            b"EXPLAIN (ANALYZE, FORMAT JSON) " + QUERIES[query],
            {"study": held.key, "limit": 10, **nothing, **place},
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == 10
    (scan,) = plan["Plans"]
    assert scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) == 10, scan


@pytest.mark.parametrize("order", ["number", "number desc", "best", "metrics.extra"])
def test_every_order_can_be_narrowed(listed: Held, order: str) -> None:
    def numbers(**changes: object) -> set[int]:
        page = replace(TrialPage(order=order), **changes)  # type: ignore[arg-type]
        return {trial.number for trial in listed.list(page)}

    assert numbers(states=(TrialState.QUEUED,)) == {2}
    assert numbers(states=(TrialState.QUEUED, TrialState.RUNNING)) == {2}
    assert numbers(numbers=(1, 5, 99)) == {1, 5}
    assert numbers(numbers=()) == set()
    assert numbers(filter='$.labels."team" == "b"') == {1, 3, 5, 7}
    assert numbers(filter='$.labels."team" == "b"', numbers=(2, 3)) == {3}
    assert numbers(filter='$.metrics."loss" < 0.25', states=(TrialState.SUCCEEDED,)) == {1, 3, 5}


def test_a_list_shows_as_much_as_is_asked_for(held: Held) -> None:
    held.lease(0, 1)
    held.report(1, loss(1.0))
    assert [(t.measurements, t.attempts) for t in held.list()] == [((), ())] * 2
    full = held.list(TrialPage(full=True))
    assert [(len(t.measurements), len(t.attempts)) for t in full] == [(0, 1), (1, 1)]


# --- logs ---


def test_a_log_is_kept_once_whatever_is_sent_twice(held: Held) -> None:
    held.lease(0)
    text = "".join(chr(0x1F600 + i) for i in range(40))
    pieces = [(0, 10), (0, 10), (10, 20), (5, 25), (0, 24), (30, 40), (25, 30), (0, 40)]
    for start, end in pieces:
        held.commit(writes.write_log(0, 1, start, text[start:end]))
    kept = held.store.read_log(held.key, 0)
    assert "".join(piece.text for piece in kept) == text
    assert [piece.offset for piece in kept] == [0, 10, 20, 25, 30]
    assert held.store.read_log(held.key, 0, after=(1, 25)) == kept[4:]
    assert held.store.read_log(held.key, 0, limit=2) == kept[:2]


def test_a_log_needs_its_attempt(held: Held) -> None:
    held.lease(0)
    with pytest.raises(NotFoundError):
        held.commit(writes.write_log(0, 2, 0, "x"))


# --- repeated requests ---


def test_an_answer_is_kept_with_its_change_and_not_without(held: Held) -> None:
    answer = writes.record_answer("r", "CompleteTrial", b"\x00\xff", NOW)
    find = held.store.find_answer
    held.lease(0, 1)
    held.end(0, TrialState.SUCCEEDED, answer, final=loss(1.0))
    assert find(held.key, "r", "CompleteTrial") == b"\x00\xff"
    with pytest.raises(StaleError):
        held.end(1, TrialState.SUCCEEDED, answer, final=loss(1.0))
    assert held.get(1).state is TrialState.RUNNING
    refused = writes.record_answer("other", "CompleteTrial", b"", NOW)
    with pytest.raises(LeaseLostError):
        held.end(0, TrialState.SUCCEEDED, refused, final=loss(1.0))
    assert find(held.key, "other", "CompleteTrial") is None
    assert find(held.key, "r", "ReleaseTrial") is None
    assert find(held.key + 1, "r", "CompleteTrial") is None
    held.store.forget_requests(NOW)
    assert find(held.key, "r", "CompleteTrial") == b"\x00\xff"
    held.store.forget_requests(NOW + timedelta(days=1))
    assert find(held.key, "r", "CompleteTrial") is None


def test_the_answer_to_a_creation_is_kept_with_the_study(store: Store) -> None:
    request = Request(request_id="r", method="CreateStudy", answer=b"a", caller="ann")
    key = store.create_study(STUDY, request=request)
    assert store.find_answer(key, "r", "CreateStudy") == b"a"
    with pytest.raises(AlreadyExistsError):
        store.create_study(STUDY, request=replace(request, request_id="other"))
    assert store.find_answer(key, "other", "CreateStudy") is None


def test_the_answer_to_a_deletion_outlives_the_study(held: Held) -> None:
    held.commit(writes.delete_study(), writes.record_deletion("r", "DeleteStudy", NOW))
    assert held.store.find_study("mine") is None
    assert held.store.find_answer(0, "r", "DeleteStudy") == b""


def test_who_changed_what_is_kept_with_the_change(held: Held, database_url: str) -> None:
    change = writes.record_change(
        caller="ann", method="StopTrial", resource="studies/mine/trials/0", request="q", now=NOW
    )
    held.lease(0)
    held.commit(writes.request_stop(held.trial(0)), change)
    with pytest.raises(StaleError):
        held.commit(writes.retry_trials([0]), change)
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT time, caller, method, resource, request FROM tuner.audit ORDER BY entry"
        ).fetchall()
    assert [row[1:4] for row in found] == [
        ("", "", "studies/mine"),
        ("ann", "StopTrial", "studies/mine/trials/0"),
    ]


def test_retries_are_all_or_none(held: Held) -> None:
    held.lease(0, 1)
    held.end(0, TrialState.FAILED, failure=Failure(cause=Cause.USER_ERROR))
    with pytest.raises(StaleError):
        held.commit(writes.retry_trials([0, 1]))
    assert held.get(0).state is TrialState.FAILED
    held.commit(writes.retry_trials([0]))
    assert held.get(0).state is TrialState.QUEUED
    with pytest.raises(StaleError):
        held.commit(writes.cancel_trials([0, 1], "given up", NOW))
    held.commit(writes.cancel_trials([0], "given up", NOW))
    assert held.get(0).state_reason == "given up"


# --- the connection ---


def test_a_database_that_goes_away_is_unavailable_and_comes_back(
    database_url: str, held: Held
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    for _ in range(10):
        try:
            found = held.store.find_study("mine")
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
