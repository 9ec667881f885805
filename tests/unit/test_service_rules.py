"""The pure rules of the study server: limits, outcomes, the board, events, checks, pages."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tuner.errors import InvalidArgumentError
from tuner.service import limits, outcome, pages, validate
from tuner.service.board import Board
from tuner.service.events import EventLog, Reported
from tuner.service.exchange import NewTrial
from tuner.service.limits import Progress
from tuner.space import Categorical, Float, Space
from tuner.study import (
    Cause,
    Checkpoint,
    Constraint,
    Cost,
    DataSource,
    Failure,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    Origin,
    OwnTrainer,
    Resources,
    Selection,
    StudySpec,
    Trial,
    TrialCounts,
    TrialState,
    lease_token,
    parse_lease_token,
)
from tuner.v1 import study_service_pb2 as pb

NOW = datetime(2026, 3, 1, tzinfo=UTC)
METRIC = Metric(name="auc")
SPEC = StudySpec(metrics=(METRIC,), space=Space.of({"x": Float(0.0, 1.0)}))


def held_until(time: datetime, number: int = 0) -> Lease:
    return Lease(worker_id="w", expire_time=time, token=lease_token(1, number, 1))


def trial(number: int, state: TrialState = TrialState.RUNNING, **changes: object) -> Trial:
    made = Trial(
        study_id="s",
        number=number,
        state=state,
        parameters={"x": 0.5},
        attempt=1,
        lease=held_until(NOW, number) if state is TrialState.RUNNING else None,
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
    ("trainer", "resources", "hours"),
    [
        (None, Resources(), (1, 0, 0)),
        ("tabular", Resources(), (1, 1, 0)),
        ("tabular", Resources(workers=3, cpus_per_worker=0.5, gpus_per_worker=2.0), (3, 1.5, 6)),
        ("tabular", Resources(strategy="single", workers=3, gpus_per_worker=1.0), (1, 1, 1)),
        ("program", Resources(workers=2, parameter_servers=1, gpus_per_worker=1.0), (3, 3, 3)),
    ],
)
def test_a_cost_is_time_times_what_is_held(
    trainer: str | None, resources: Resources, hours: tuple[float, float, float]
) -> None:
    spec = StudySpec(metrics=(Metric(name="auc"),), trainer=trainer, resources=resources)
    worker, cpu, gpu = (timedelta(hours=amount) for amount in hours)
    expected = Cost(worker_time=worker, cpu_time=cpu, gpu_time=gpu)
    assert spec.cost(timedelta(hours=1)) == expected
    assert Cost.sum([expected, expected]) == expected + expected


@pytest.mark.parametrize(
    ("set_limits", "counts", "is_reached"),
    [
        (Limits(), TrialCounts(failed=5), True),
        (Limits(), TrialCounts(failed=4), False),
        (Limits(), TrialCounts(failed=5, pruned=1), False),
        (Limits(), TrialCounts(failed=9, succeeded=1), False),
        (Limits(), TrialCounts(failed=5, succeeded=3, past=3), True),
        (Limits(), TrialCounts(succeeded=3, past=3), False),
        (Limits(failed_trials=6), TrialCounts(failed=5), False),
    ],
)
def test_a_study_whose_first_trials_all_fail_ends(
    set_limits: Limits, counts: TrialCounts, is_reached: bool
) -> None:
    assert (limits.reached(set_limits, progress(counts=counts)) is not None) == is_reached


# --- outcomes ---


def spec(**changes: object) -> StudySpec:
    return replace(SPEC, **changes)  # type: ignore[arg-type]


def test_the_best_measurement_is_the_first_among_equals_and_never_nan() -> None:
    measured = [auc(math.nan, 0), auc(0.5, 1), auc(0.7, 2), auc(0.7, 3), auc(math.inf, 4)]
    assert outcome.result_of(SPEC, measured) == measured[2]
    lower = spec(metrics=(Metric(name="auc", goal=Goal.MINIMIZE),))
    assert outcome.result_of(lower, measured) == measured[1]
    assert outcome.result_of(SPEC, []) is None
    strange = [auc(math.inf, 0), auc(math.nan, 1)]
    assert outcome.result_of(SPEC, strange) == strange[1]


def test_the_result_may_be_the_one_of_the_highest_step() -> None:
    last = spec(measurement_selection=Selection.LAST)
    measured = [auc(0.9, 3), auc(0.2, 7), auc(0.5, 4), auc(math.nan, 7), auc(0.1, 6)]
    assert outcome.result_of(last, measured) == measured[3]


@pytest.mark.parametrize(
    ("metrics", "asked", "chosen"),
    [
        ((METRIC,), None, Selection.BEST),
        ((METRIC, Metric(name="loss")), None, Selection.LAST),
        ((METRIC, Metric(name="loss")), Selection.BEST, Selection.BEST),
    ],
)
def test_the_selection_goes_by_the_number_of_metrics(
    metrics: tuple[Metric, ...], asked: Selection | None, chosen: Selection
) -> None:
    assert spec(metrics=metrics, measurement_selection=asked).selection is chosen


def test_a_measurement_within_the_constraints_goes_before_a_better_one() -> None:
    small = spec(constraints=(Constraint(metric="size", at_most=10.0),))

    def sized(value: float, size: float, step: int) -> Measurement:
        return Measurement(step=step, metrics={"auc": value, "size": size})

    measured = [sized(0.9, 11, 0), sized(0.5, 10, 1), sized(0.6, 9, 2), sized(0.8, math.nan, 3)]
    assert outcome.result_of(small, measured) == measured[2]
    assert outcome.result_of(small, [measured[0], measured[3]]) == measured[0]
    incomplete = auc(0.99, 9)
    assert outcome.result_of(small, [*measured, incomplete]) == measured[2]
    assert outcome.result_of(small, [incomplete]) is None
    assert outcome.with_result(small, trial(0), measured[0]).within_constraints is False
    assert outcome.with_result(small, trial(0), measured[1]).within_constraints is True
    assert outcome.with_result(small, trial(0), None).within_constraints is None


def test_a_result_succeeds_and_a_stopped_trial_is_pruned() -> None:
    ended = outcome.succeeded(trial(0), auc(0.5), SPEC, [], NOW)
    assert (ended.state, ended.final_measurement, ended.lease) == (
        TrialState.SUCCEEDED,
        auc(0.5),
        None,
    )
    told = trial(0, stop_requested=True, state_reason="hopeless", final_measurement=auc(0.1))
    ended = outcome.succeeded(told, None, SPEC, [auc(0.1)], NOW)
    assert (ended.state, ended.state_reason) == (TrialState.PRUNED, "hopeless")
    assert ended.final_measurement == auc(0.1)


def test_a_result_needs_a_measurement_of_every_metric() -> None:
    with pytest.raises(InvalidArgumentError, match="reported nothing"):
        outcome.succeeded(trial(0), None, SPEC, [], NOW)
    other = Measurement(step=0, metrics={"loss": 1.0, "acc": 0.5})
    said = r"metric is 'auc', but this was reported: acc, loss\."
    with pytest.raises(InvalidArgumentError, match=said):
        outcome.succeeded(trial(0), other, SPEC, [], NOW)
    with pytest.raises(InvalidArgumentError, match=said):
        outcome.succeeded(trial(0), None, SPEC, [other], NOW)
    both = spec(constraints=(Constraint(metric="size", at_least=1.0),))
    with pytest.raises(InvalidArgumentError, match="'size', but this was reported: auc"):
        outcome.succeeded(trial(0), auc(0.5), both, [], NOW)


def test_a_first_report_needs_one_of_the_metrics() -> None:
    two = spec(metrics=(METRIC, Metric(name="loss")))
    outcome.check_first(two, Measurement(step=0, metrics={"loss": 1.0}))
    with pytest.raises(InvalidArgumentError, match="metrics are 'auc', 'loss', but this"):
        outcome.check_first(two, Measurement(step=0, metrics={"acc": 1.0}))


@pytest.mark.parametrize(
    ("cause", "earlier", "state"),
    [
        (Cause.LOST, [Cause.LOST] * 9, TrialState.QUEUED),
        (Cause.LOST, [Cause.LOST] * 10, TrialState.FAILED),
        (Cause.PREEMPTED, [Cause.PREEMPTED] * 49, TrialState.QUEUED),
        (Cause.PREEMPTED, [Cause.PREEMPTED] * 50, TrialState.FAILED),
        (Cause.USER_ERROR, [], TrialState.QUEUED),
        (Cause.USER_ERROR, [Cause.LOST, Cause.OUT_OF_MEMORY], TrialState.QUEUED),
        (Cause.USER_ERROR, [Cause.USER_ERROR], TrialState.FAILED),
        (Cause.OUT_OF_MEMORY, [], TrialState.QUEUED),
        (Cause.OUT_OF_MEMORY, [Cause.OUT_OF_MEMORY], TrialState.FAILED),
        (Cause.TIMED_OUT, [], TrialState.FAILED),
        (Cause.CRASHED, [Cause.LOST] * 5, TrialState.QUEUED),
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
    board = Board(SPEC)
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
    lived = Board(SPEC)
    for ended in in_time:
        lived.put(trial(ended.number))
        lived.put(ended)
    made = Board(SPEC, ends)
    assert (made.best, made.since_best) == (lived.best, lived.since_best) == (0, 3)
    assert made.counts == lived.counts


def test_the_best_is_the_first_by_number_among_equals() -> None:
    """As the database says, which knows scores and numbers alone."""
    board = Board(SPEC)
    board.put(done(3, 0.9))
    board.put(done(1, 0.9))
    board.put(done(2, 0.9))
    assert (board.best, board.since_best) == (1, 2)


def test_a_result_beyond_the_constraints_is_never_the_best() -> None:
    board = Board(spec(constraints=(Constraint(metric="auc", at_most=0.8),)))
    for number, value in enumerate((0.9, 0.5, 0.8)):
        board.put(done(number, value))
    assert (board.best, board.since_best) == (2, 0)


def test_with_several_metrics_whatever_no_other_one_beats_is_an_improvement() -> None:
    board = Board(spec(metrics=(METRIC, Metric(name="loss", goal=Goal.MINIMIZE))))
    for number, (value, loss, since) in enumerate(
        [(0.5, 0.5, 0), (0.4, 0.4, 0), (0.4, 0.6, 1), (0.5, 0.5, 2), (0.5, 0.4, 0)]
    ):
        result = Measurement(step=0, metrics={"auc": value, "loss": loss})
        board.put(trial(number, TrialState.SUCCEEDED, final_measurement=result))
        assert board.since_best == since, number
    assert board.best == 0


def test_a_worker_holds_what_was_leased_to_it() -> None:
    board = Board(SPEC, [trial(2), trial(0), done(1, 0.5)])
    assert [t.number for t in board.held_by("w")] == [0, 2]
    board.put(done(0, 0.1))
    assert [t.number for t in board.held_by("w")] == [2]
    assert board.held_by("nobody") == []


def test_past_trials_are_counted_apart() -> None:
    past = [replace(done(number, 0.1), origin=Origin.PAST) for number in range(3)]
    board = Board(SPEC, [*past, trial(3)])
    assert (board.past, board.counts.past, board.counts.succeeded, board.total) == (3, 3, 3, 4)
    # The first one brought something better, and for the others nobody waited.
    assert board.since_best == 0
    assert limits.reached(Limits(trials=2), progress(counts=board.counts)) is None
    board.put(trial(4))
    assert limits.reached(Limits(trials=2), progress(counts=board.counts)) is not None


def test_a_failed_trial_that_is_due_again_did_not_end() -> None:
    board = Board(SPEC, [done(0, 0.5), trial(1, TrialState.FAILED)])
    assert board.since_best == 1
    board.put(trial(1, TrialState.QUEUED, end_time=None))
    assert (board.since_best, board.open) == (0, 1)


def test_a_trial_that_failed_before_the_best_does_not_count_when_it_is_due_again() -> None:
    board = Board(SPEC, [trial(0, TrialState.FAILED), done(1, 0.5), trial(2, TrialState.FAILED)])
    board.put(trial(0, TrialState.QUEUED, end_time=None))
    assert board.since_best == 1


# --- events ---


def reported(number: int) -> Reported:
    return Reported(trial=f"studies/s/trials/{number}", measurement=auc(0.1))


def test_a_watcher_resumes_after_the_last_event_it_saw() -> None:
    log = EventLog(capacity=3)
    start = log.position
    for number in range(3):
        log.publish([reported(number)], NOW)
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
        log.publish([reported(number)], NOW)
    assert log.after(start, 0) is None
    assert log.find(token) is None


@pytest.mark.parametrize("token", ["", "x", "x.1", "-1", "9999999999999.0"])
def test_foreign_tokens_are_unknown(token: str) -> None:
    log = EventLog()
    log.publish([reported(0)], NOW)
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
        ({"labels": {str(i): "x" for i in range(65)}}, "at most 64 labels"),
        ({"constraints": (Constraint(metric="a\n", at_most=1.0),)}, "constraint's metric"),
        ({"warm_start": tuple("abcdef")}, "at most 5 studies"),
        ({"warm_start": ("a", "a")}, "earlier study 'a' appears twice"),
        ({"trainer": "tabular"}, "needs `data`"),
        ({"trainer": "program"}, "goes with the trainer `program`"),
        ({"trainer": "a:B", "own": OwnTrainer(command=("x",))}, "goes with the trainer `program`"),
        ({"trainer": "a:B", "own": OwnTrainer(environment={"A": "1"})}, "`trainer.environment`"),
        ({"trainer": "a:B", "own": OwnTrainer(code="../x")}, "64 of 0-9"),
        ({"trainer": "program", "own": OwnTrainer(command=("x\0",))}, "none of them NUL"),
        ({"trainer": "program", "own": OwnTrainer(command=("x",) * 1001)}, "at most 1000 words"),
        (
            {"trainer": "program", "own": OwnTrainer(command=("x",), environment={"A=": "1"})},
            "cannot be the name of a variable",
        ),
        (
            {
                "trainer": "program",
                "own": OwnTrainer(command=("x",)),
                "data": DataSource(train_uri="a.csv", label="y"),
            },
            "reads its data by itself",
        ),
        ({"trainer": "a:B", "export_model": "m"}, "`export` knows the models"),
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


def test_trials_to_add_are_checked() -> None:
    good = NewTrial(parameters={"x": 0.5}, measurements=(auc(0.1, 0), auc(0.2, 1)))
    assert validate.new_trials([good]) == [good]
    for bad, said in (
        ([], "at least one"),
        ([good] * 1001, "at most 1000 trials"),
        ([replace(good, parameters={"x": math.nan})], "must be finite"),
        ([replace(good, labels={"a\n": "x"})], "label's name"),
        ([replace(good, measurements=(auc(0.1, 0), auc(0.2, 0)))], "step '0' appears twice"),
        ([replace(good, final=auc(0.5, -1))], "counts from 0"),
        ([replace(good, final=Measurement(step=0, metrics={}))], "at least one metric"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            validate.new_trials(bad)


def test_lease_tokens_round_trip_and_foreign_ones_are_refused() -> None:
    assert parse_lease_token(lease_token(10**17, 999_999_999, 7)) == (10**17, 999_999_999, 7)
    for token in ("", "1", "1.2", "1.2.3.4", "a.b.c", "-1.0.1", "1.0.1\n", "١.0.1", "1" * 30):
        with pytest.raises(InvalidArgumentError, match="lease_token"):
            parse_lease_token(token)


def test_small_checks() -> None:
    assert (validate.count(0), validate.count(100)) == (1, 100)
    assert (validate.page_size(0), validate.page_size(5000)) == (100, 1000)
    for call in (
        lambda: validate.count(101),
        lambda: validate.count(-1),
        lambda: validate.page_size(-1),
        lambda: validate.worker_id(""),
        lambda: validate.worker_id("w" * 129),
        lambda: validate.worker_id("a\nb"),
        lambda: validate.measurement(Measurement(step=-1, metrics={"a": 1.0})),
        lambda: validate.measurement(Measurement(step=0, metrics={})),
        lambda: validate.checkpoint(Checkpoint(uri="", step=0)),
        lambda: validate.checkpoint(Checkpoint(uri="a", step=-1)),
        lambda: validate.request_id("a\n"),
        lambda: validate.uri("a place", "a\0"),
        lambda: validate.log_text("x" * 65_537, 0),
        lambda: validate.log_text("x", -1),
        lambda: validate.log_text("x", 16 * 2**20),
    ):
        with pytest.raises(InvalidArgumentError):
            call()
    assert validate.request_id("") == ""


# --- pages ---


def test_page_tokens_round_trip() -> None:
    orders = ("number", "number desc", "best", "end_time desc", "metrics.a:b desc", "parameters.x")
    keys = (None, 1 / 3, -0.0, math.inf, -math.inf, 1e-320)
    for order, key in itertools.product(orders, keys):
        page = pages.trial_page(pb.ListTrialsRequest(order_by=order, page_size=2))
        token = pages.next_trials(page, 4, key)
        after = pages.trial_page(pb.ListTrialsRequest(order_by=order, page_token=token))
        assert (after.order, after.after_number, after.after_key) == (order, 4, key)
        other = "best" if order != "best" else "number"
        with pytest.raises(InvalidArgumentError, match="page_token"):
            pages.trial_page(pb.ListTrialsRequest(order_by=other, page_token=token))


@pytest.mark.parametrize(
    "order",
    ["luck", "best desc", "number asc", "metrics.", "metrics", "x.y", "state", " number", "\n"],
)
def test_unknown_orders_are_refused(order: str) -> None:
    with pytest.raises(InvalidArgumentError, match="order_by"):
        pages.trial_page(pb.ListTrialsRequest(order_by=order))


def test_full_pages_are_short_enough_for_a_message() -> None:
    assert pages.trial_page(pb.ListTrialsRequest(page_size=1000)).limit == 1000
    assert pages.trial_page(pb.ListTrialsRequest(page_size=1000, view=pb.FULL)).limit == 100


@pytest.mark.parametrize(
    "token",
    ["1::best", "x::number", "-1::number", "1:x:number", "1", ":", "2147483648::number", "1:nan"],
)
def test_foreign_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="page_token"):
        pages.trial_page(pb.ListTrialsRequest(order_by="number", page_token=token))
    with pytest.raises(InvalidArgumentError, match="page_token"):
        pages.study_key("-1")
