"""The pure rules of the study server: limits, outcomes, the board, events, checks, pages."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tuner.errors import InvalidArgumentError
from tuner.service import limits, outcome, pages, validate
from tuner.service.board import Board
from tuner.service.events import EventLog, Reported
from tuner.service.limits import Progress
from tuner.service.studies import difference
from tuner.space import Categorical, Float, Space
from tuner.study import (
    Cause,
    DataSource,
    Failure,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    Search,
    StudySpec,
    Trial,
    TrialCounts,
    TrialState,
)
from tuner.v1 import study_service_pb2 as pb

NOW = datetime(2026, 3, 1, tzinfo=UTC)
METRIC = Metric(name="auc")
SPEC = StudySpec(metrics=(METRIC,), space=Space.of({"x": Float(0.0, 1.0)}))


def trial(number: int, state: TrialState = TrialState.RUNNING, **changes: object) -> Trial:
    made = Trial(
        study_id="s",
        number=number,
        state=state,
        parameters={"x": 0.5},
        attempt=1,
        lease=Lease(worker_id="w", expire_time=NOW) if state is TrialState.RUNNING else None,
        create_time=NOW,
        end_time=NOW + timedelta(seconds=number) if state.is_finished else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def auc(value: float, step: int = 0) -> Measurement:
    return Measurement(step=step, metrics={"auc": value})


def done(number: int, value: float) -> Trial:
    return trial(number, TrialState.SUCCEEDED, final_measurement=auc(value))


# --- limits ---


def progress(**changes: object) -> Progress:
    made = Progress(
        counts=TrialCounts(succeeded=3, failed=2, running=1),
        since_best=2,
        worker_time=timedelta(minutes=10),
        age=timedelta(minutes=5),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("set_limits", "is_reached", "gives_up"),
    [
        (Limits(trials=6), True, False),
        (Limits(trials=7), False, False),
        (Limits(failed_trials=2), True, True),
        (Limits(failed_trials=3), False, True),
        (Limits(no_improvement_trials=2), True, True),
        (Limits(no_improvement_trials=3), False, True),
        (Limits(duration=timedelta(minutes=5)), True, True),
        (Limits(duration=timedelta(minutes=6)), False, True),
        (Limits(worker_time=timedelta(minutes=10)), True, True),
        (Limits(worker_time=timedelta(minutes=11)), False, True),
    ],
)
def test_limits_are_exact(set_limits: Limits, is_reached: bool, gives_up: bool) -> None:
    found = limits.reached(set_limits, progress())
    assert (found is not None) == is_reached
    if found is not None:
        assert found.gives_up == gives_up


@pytest.mark.parametrize(
    ("set_limits", "counts", "is_reached"),
    [
        (Limits(), TrialCounts(failed=5), True),
        (Limits(), TrialCounts(failed=4), False),
        (Limits(), TrialCounts(failed=5, pruned=1), False),
        (Limits(), TrialCounts(failed=9, succeeded=1), False),
        (Limits(failed_trials=6), TrialCounts(failed=5), False),
    ],
)
def test_a_study_whose_first_trials_all_fail_ends(
    set_limits: Limits, counts: TrialCounts, is_reached: bool
) -> None:
    assert (limits.reached(set_limits, progress(counts=counts)) is not None) == is_reached


# --- outcomes ---


def test_the_best_measurement_is_the_first_among_equals_and_never_nan() -> None:
    measured = [auc(math.nan, 0), auc(0.5, 1), auc(0.7, 2), auc(0.7, 3), auc(math.inf, 4)]
    assert outcome.best_of(METRIC, measured) == measured[2]
    lower = Metric(name="auc", goal=Goal.MINIMIZE)
    assert outcome.best_of(lower, measured) == measured[1]
    assert outcome.best_of(METRIC, []) is None
    strange = [auc(math.inf, 0), auc(math.nan, 1)]
    assert outcome.best_of(METRIC, strange) == strange[1]


def test_a_result_succeeds_and_a_stopped_trial_is_pruned() -> None:
    ended = outcome.succeeded(trial(0), auc(0.5), METRIC, NOW)
    assert (ended.state, ended.final_measurement, ended.lease) == (
        TrialState.SUCCEEDED,
        auc(0.5),
        None,
    )
    told = trial(0, stop_requested=True, state_reason="hopeless", final_measurement=auc(0.1))
    ended = outcome.succeeded(told, None, METRIC, NOW)
    assert (ended.state, ended.state_reason) == (TrialState.PRUNED, "hopeless")
    assert ended.final_measurement == auc(0.1)


def test_a_result_needs_a_measurement_of_the_metric() -> None:
    with pytest.raises(InvalidArgumentError, match="reported nothing"):
        outcome.succeeded(trial(0), None, METRIC, NOW)
    other = Measurement(step=0, metrics={"loss": 1.0, "acc": 0.5})
    with pytest.raises(InvalidArgumentError, match=r"'auc', but this was reported: acc, loss\."):
        outcome.succeeded(trial(0), other, METRIC, NOW)


@pytest.mark.parametrize(
    ("cause", "earlier", "state"),
    [
        (Cause.LOST, [Cause.LOST] * 9, TrialState.QUEUED),
        (Cause.LOST, [Cause.LOST] * 10, TrialState.FAILED),
        (Cause.PREEMPTED, [Cause.PREEMPTED] * 50, TrialState.QUEUED),
        (Cause.USER_ERROR, [], TrialState.QUEUED),
        (Cause.USER_ERROR, [Cause.LOST, Cause.OUT_OF_MEMORY], TrialState.QUEUED),
        (Cause.USER_ERROR, [Cause.USER_ERROR], TrialState.FAILED),
        (Cause.OUT_OF_MEMORY, [], TrialState.QUEUED),
        (Cause.OUT_OF_MEMORY, [Cause.OUT_OF_MEMORY], TrialState.FAILED),
        (Cause.TIMED_OUT, [], TrialState.FAILED),
        (Cause.INFEASIBLE, [], TrialState.INFEASIBLE),
    ],
)
def test_retries_go_by_cause(cause: Cause, earlier: list[Cause], state: TrialState) -> None:
    reported = trial(0, final_measurement=auc(0.9))
    after = outcome.failed(reported, Failure(cause=cause, message="why"), earlier, NOW)
    assert (after.state, after.state_reason, after.lease) == (state, "why", None)
    assert after.final_measurement is None
    assert (after.end_time is not None) == state.is_finished


def test_a_stopped_trial_is_not_due_again() -> None:
    told = trial(0, stop_requested=True, state_reason="enough")
    lost = Failure(cause=Cause.LOST, message="silent")
    assert outcome.failed(told, lost, [], NOW).state is TrialState.FAILED
    measured = replace(told, final_measurement=auc(0.5))
    after = outcome.failed(measured, lost, [], NOW)
    assert (after.state, after.final_measurement) == (TrialState.PRUNED, auc(0.5))
    crashed = Failure(cause=Cause.USER_ERROR)
    assert outcome.failed(told, crashed, [], NOW).state is TrialState.FAILED


# --- the board ---


def test_the_board_counts_and_knows_the_best() -> None:
    board = Board(METRIC)
    for number, value in enumerate((0.5, 0.9, math.nan, 0.9, 0.7)):
        board.put(trial(number))
        board.put(done(number, value))
    assert (board.best, board.since_best, board.total, board.open) == (1, 3, 5, 0)
    board.put(trial(5))
    board.put(trial(5, TrialState.QUEUED))
    assert board.counts == TrialCounts(succeeded=5, queued=1)
    assert [t.number for t in board.of(TrialState.QUEUED)] == [5]
    assert [t.number for t in board] == list(range(6))


def test_a_board_made_of_a_history_equals_one_that_lived_it() -> None:
    ends = [done(2, 0.4), done(0, 0.8), done(1, 0.6), trial(3, TrialState.FAILED)]
    in_time = sorted(ends, key=lambda t: t.end_time or NOW)
    lived = Board(METRIC)
    for ended in in_time:
        lived.put(trial(ended.number))
        lived.put(ended)
    made = Board(METRIC, ends)
    assert (made.best, made.since_best) == (lived.best, lived.since_best) == (0, 3)
    assert made.counts == lived.counts


def test_a_failed_trial_that_is_due_again_did_not_end() -> None:
    board = Board(METRIC, [done(0, 0.5), trial(1, TrialState.FAILED)])
    assert board.since_best == 1
    board.put(trial(1, TrialState.QUEUED, end_time=None))
    assert (board.since_best, board.open) == (0, 1)


# --- events ---


def reported(number: int) -> Reported:
    return Reported(trial=f"studies/s/trials/{number}", measurement=auc(0.1))


def test_a_watcher_resumes_after_the_last_event_it_saw() -> None:
    log = EventLog(capacity=3)
    start = log.position
    for number in range(3):
        log.publish(reported(number), NOW)
    seen = log.after(start, 0)
    assert seen is not None and [e.what for e in seen] == [reported(n) for n in range(3)]
    position = log.find(seen[1].token)
    assert position is not None
    rest = log.after(position, 0)
    assert rest is not None and [e.what for e in rest] == [reported(2)]
    assert log.after(log.position, 0) == []


def test_a_watcher_that_is_too_slow_is_told_so_and_holds_nobody_up() -> None:
    log = EventLog(capacity=3)
    start, token = log.position, log.token(log.position)
    for number in range(4):
        log.publish(reported(number), NOW)
    assert log.after(start, 0) is None
    assert log.find(token) is None


@pytest.mark.parametrize("token", ["", "x", "x.1", "-1", "9999999999999.0"])
def test_foreign_tokens_are_unknown(token: str) -> None:
    log = EventLog()
    log.publish(reported(0), NOW)
    assert log.find(token) is None
    epoch = log.token(0).partition(".")[0]
    assert log.find(f"{epoch}.7") is None
    assert log.find(f"{epoch}.-1") is None


def test_a_closed_log_ends_every_wait() -> None:
    log = EventLog()
    log.close()
    assert log.after(log.position, 60) is None


# --- checks ---


def test_a_good_spec_passes() -> None:
    assert validate.spec(SPEC) == SPEC
    managed = replace(
        SPEC, trainer="tabular", data=DataSource(train_uri="a.csv", label="y"), space=Space()
    )
    assert validate.spec(managed) == managed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": (METRIC, METRIC)}, "metric 'auc' appears twice"),
        ({"metrics": (Metric(name=""),)}, "1 to 128 printable"),
        ({"settings": {"a": math.nan}}, "must be finite"),
        ({"settings": {"a": math.inf}}, "must be finite"),
        ({"settings": {"a": "x" * 1025}}, "at most 1024 characters"),
        ({"settings": {"a": "\0"}}, "no NUL"),
        ({"space": Space.of({"c": Categorical(["x" * 2000])})}, "at most 1024 characters"),
        ({"space": Space.of({f"p{i}": Float(0, 1) for i in range(1001)})}, "at most 1000"),
        ({"limits": Limits(trials=-1)}, r"`limits\.trials`"),
        ({"limits": Limits(parallel=-2)}, r"`limits\.parallel`"),
        ({"limits": Limits(duration=timedelta(0))}, r"`limits\.duration`"),
        ({"labels": {"": "x"}}, "label's name"),
        ({"trainer": "tabular"}, "needs `data`"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        validate.spec(replace(SPEC, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_uri": ""}, "train_uri"),
        ({"label": ""}, "label"),
        ({"validation_fraction": 1.0}, "above 0 and below 1"),
        ({"validation_fraction": math.nan}, "above 0 and below 1"),
        ({"task": "clustering"}, "classification or regression"),
        ({"column_types": {"a": "date"}}, "number or string"),
    ],
)
def test_bad_data_says_what_is_wrong(changes: dict[str, object], said: str) -> None:
    data = replace(DataSource(train_uri="a.csv", label="y"), **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=said):
        validate.spec(replace(SPEC, trainer="tabular", data=data))


def test_long_texts_of_failures_keep_the_end_that_tells() -> None:
    kept = validate.failure(
        Failure(
            cause=Cause.USER_ERROR, message="m" * 3000, stack="a" + "s" * 20_000, log_tail="\0end"
        )
    )
    assert (len(kept.message), kept.stack, kept.log_tail) == (2000, "s" * 20_000, "\ufffdend")


def test_small_checks() -> None:
    assert (validate.count(0), validate.count(100)) == (1, 100)
    assert (validate.page_size(0), validate.page_size(5000)) == (100, 1000)
    for call in (
        lambda: validate.count(101),
        lambda: validate.count(-1),
        lambda: validate.page_size(-1),
        lambda: validate.attempt(0),
        lambda: validate.worker_id(""),
        lambda: validate.worker_id("w" * 129),
        lambda: validate.worker_id("a\nb"),
        lambda: validate.measurement(Measurement(step=-1, metrics={"a": 1.0})),
        lambda: validate.measurement(Measurement(step=0, metrics={})),
        lambda: validate.log_text("x" * 65_537, 0),
        lambda: validate.log_text("x", -1),
    ):
        with pytest.raises(InvalidArgumentError):
            call()
    assert validate.request_id("") == ""


def test_differences_name_places_and_values() -> None:
    other = replace(SPEC, limits=Limits(trials=7), search=Search(seed=3))
    assert difference(SPEC, other) == (
        "`limits.trials` (100 there, 7 here), `search.seed` (not set there, 3 here)"
    )


# --- pages ---


def test_page_tokens_round_trip() -> None:
    for order in ("number", "number desc", "best"):
        page = pages.trial_page(pb.ListTrialsRequest(order_by=order, page_size=2))
        token = pages.next_trial(page, METRIC, [done(0, 0.1), done(4, 1 / 3)])
        after = pages.trial_page(pb.ListTrialsRequest(order_by=order, page_token=token))
        assert after.after_number == 4
        assert after.after_score == (1 / 3 if order == "best" else None)
        assert pages.next_trial(page, METRIC, [done(0, 0.1)]) == ""


def test_full_pages_are_short_enough_for_a_message() -> None:
    assert pages.trial_page(pb.ListTrialsRequest(page_size=1000)).limit == 1000
    assert pages.trial_page(pb.ListTrialsRequest(page_size=1000, view=pb.FULL)).limit == 100


@pytest.mark.parametrize("token", ["best:1:", "number:x:", "number:-1:", "number:1:x", "1", ":"])
def test_foreign_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="page_token"):
        pages.trial_page(pb.ListTrialsRequest(order_by="number", page_token=token))
    with pytest.raises(InvalidArgumentError, match="page_token"):
        pages.study_key("-1")
