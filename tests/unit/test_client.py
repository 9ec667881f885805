"""The client's parts that need no server: errors, heartbeats, the live view, formats."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from rich.console import Console

from tuner import convert, errors
from tuner import study as values
from tuner.client import Trial, live, tables
from tuner.client.channel import rebuilt
from tuner.client.heartbeat import Heartbeat
from tuner.client.trial import worker_id
from tuner.space import Float, Group, Int, Parameter, Space
from tuner.study import Goal, Measurement, Metric, StudySpec, StudyState, TrialState
from tuner.v1 import study_service_pb2 as pb

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = StudySpec(
    metrics=(Metric(name="val_auc", goal=Goal.MAXIMIZE),),
    space=Space(
        (
            Parameter(name="units", domain=Int(1, 99)),
            Parameter(name="learning_rate", domain=Float(0, 1), group=Group.TRAINING),
        )
    ),
)


def study(state: StudyState = StudyState.ACTIVE) -> values.Study:
    return values.Study(study_id="mine", spec=SPEC, state=state, create_time=NOW, update_time=NOW)


def trial(
    number: int, state: TrialState = TrialState.SUCCEEDED, value: float | None = None
) -> values.Trial:
    return values.Trial(
        study_id="mine",
        number=number,
        state=state,
        parameters={"learning_rate": 0.123456, "units": 7},
        final_measurement=None
        if value is None
        else Measurement(step=3, metrics={"val_auc": value}),
        create_time=NOW,
        start_time=NOW,
        end_time=NOW + timedelta(seconds=12) if state.is_finished else None,
    )


# --- errors ----------------------------------------------------------------------------------


class Refusal(grpc.RpcError, grpc.Call):
    """What a call raises, as gRPC builds it."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "") -> None:
        self._code, self._message, self._reason = code, message, reason

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]
        if not self._reason:
            return ()
        packed = AnyMessage()
        packed.Pack(error_details_pb2.ErrorInfo(reason=self._reason, domain="tuner"))
        status = status_pb2.Status(message=self._message, details=[packed])
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.ABORTED, "LEASE_LOST", errors.LeaseLostError),
        (grpc.StatusCode.FAILED_PRECONDITION, "DATA", errors.DataError),
        (grpc.StatusCode.NOT_FOUND, "", errors.NotFoundError),
        (grpc.StatusCode.INTERNAL, "", errors.InternalError),
        (grpc.StatusCode.UNKNOWN, "UNHEARD_OF", errors.TunerError),
    ],
)
def test_the_servers_error_is_raised_again(
    code: grpc.StatusCode, reason: str, kind: type[errors.TunerError]
) -> None:
    error = rebuilt(Refusal(code, "cause; remedy", reason), "host:1")
    assert type(error) is kind
    assert error.message == "cause; remedy"


def test_a_server_that_is_not_there_says_what_to_do() -> None:
    error = rebuilt(Refusal(grpc.StatusCode.UNAVAILABLE, "connection refused"), "host:1")
    assert type(error) is errors.UnavailableError
    assert error.message == (
        "no study server at host:1: start one with `tuner up`, or set TUNER_SERVER."
    )


def test_a_server_that_ends_is_told_from_a_channel_that_was_closed() -> None:
    ends = rebuilt(Refusal(grpc.StatusCode.CANCELLED, "CANCELLED"), "host:1")
    assert type(ends) is errors.UnavailableError
    closed = rebuilt(Refusal(grpc.StatusCode.CANCELLED, "Channel closed!"), "host:1")
    assert type(closed) is errors.TunerError


def test_something_else_at_the_address_is_told_apart() -> None:
    error = rebuilt(Refusal(grpc.StatusCode.UNIMPLEMENTED, "unknown service"), "host:1")
    assert "check the address" in error.message


# --- workers and heartbeats ------------------------------------------------------------------


def test_a_process_keeps_its_worker_id_and_each_thread_has_its_own() -> None:
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda: seen.extend((worker_id(), worker_id()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert worker_id() == worker_id()
    assert str(os.getpid()) in worker_id()
    assert len({worker_id(), *seen}) == 3
    assert len(worker_id()) <= 128


class Lease:
    """A lease that counts its renewals; `answer` is what each of them meets."""

    def __init__(self, answer: errors.TunerError | None = None) -> None:
        self._answer = answer
        self.beats = 0
        self.renewed = threading.Event()
        self.lost = threading.Event()

    def beat(self, timeout_seconds: float) -> datetime:
        self.beats += 1
        if self.beats == 2:
            self.renewed.set()
        if self._answer is not None:
            raise self._answer
        return datetime.now(UTC) + timedelta(seconds=0.3)

    def lose(self) -> None:
        self.lost.set()


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    heartbeat = Heartbeat()
    yield heartbeat
    heartbeat.close()


def test_a_lease_is_renewed_until_it_is_given_up(heartbeat: Heartbeat) -> None:
    lease = Lease()
    heartbeat.add(lease, datetime.now(UTC) + timedelta(seconds=0.3))
    assert lease.renewed.wait(30)
    heartbeat.remove(lease)
    other = Lease()
    heartbeat.add(other, datetime.now(UTC))
    assert other.renewed.wait(30)
    assert lease.beats <= 3


def test_a_lost_lease_is_told_and_no_longer_renewed(heartbeat: Heartbeat) -> None:
    lost, kept = Lease(errors.LeaseLostError("gone")), Lease()
    heartbeat.add(lost, datetime.now(UTC))
    heartbeat.add(kept, datetime.now(UTC))
    assert lost.lost.wait(30)
    assert kept.renewed.wait(30)
    assert lost.beats == 1


def test_a_server_that_is_away_is_asked_again(heartbeat: Heartbeat) -> None:
    lease = Lease(errors.UnavailableError("away"))
    heartbeat.add(lease, datetime.now(UTC))
    assert lease.renewed.wait(30)
    assert not lease.lost.is_set()


# --- the live view ---------------------------------------------------------------------------


def events() -> Iterator[pb.StudyEvent]:
    """A study with a trial that runs, one that succeeded and one that was cut short."""
    yield pb.StudyEvent(study=convert.study_to_proto(study()))
    yield pb.StudyEvent(trial=convert.trial_to_proto(trial(0, value=0.8)))
    yield pb.StudyEvent(trial=convert.trial_to_proto(trial(1, TrialState.PRUNED, 0.95)))
    yield pb.StudyEvent(trial=convert.trial_to_proto(trial(2, TrialState.RUNNING)))
    reported = pb.StudyEvent.Reported(
        trial="studies/mine/trials/2",
        measurement=convert.measurement_to_proto(Measurement(step=5, metrics={"val_auc": 0.61})),
    )
    yield pb.StudyEvent(reported=reported)


@pytest.fixture
def progress() -> live.Progress:
    progress = live.Progress(study())
    for event in events():
        progress.apply(event)
    return progress


def test_events_add_up(progress: live.Progress) -> None:
    assert progress.finished == 2
    assert progress.count(TrialState.RUNNING) == 1
    assert progress.latest == {2: (5, 0.61)}
    assert progress.best is not None
    assert progress.best.number == 0


def test_before_its_trials_are_known_the_study_counts() -> None:
    counts = values.TrialCounts(running=1, succeeded=3, failed=2)
    progress = live.Progress(replace(study(), trial_counts=counts))
    assert (progress.finished, progress.count(TrialState.RUNNING)) == (5, 1)


def test_a_trial_ends_once(progress: live.Progress) -> None:
    event = pb.StudyEvent(trial=convert.trial_to_proto(trial(2, value=0.9)))
    ended = progress.apply(event)
    assert ended is not None and ended.number == 2
    assert progress.apply(event) is None


def test_rows_start_with_what_runs_and_go_on_with_the_best(progress: live.Progress) -> None:
    progress.apply(pb.StudyEvent(trial=convert.trial_to_proto(trial(3, value=0.85))))
    progress.apply(pb.StudyEvent(trial=convert.trial_to_proto(trial(4, value=math.nan))))
    assert [row.number for row in progress.rows(9)] == [2, 3, 0, 1, 4]
    assert [row.number for row in progress.rows(2)] == [2, 3]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_frame_fits_the_terminal(progress: live.Progress, width: int) -> None:
    text = shown(live.render(progress, width=width, height=30), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "mine  active  val_auc ↑" in text
    assert "2/100 trials · 1 running · 1 pruned" in text
    assert "best 0.8000  trial 0  units=7 learning_rate=0.1235" in text


def test_the_best_trial_keeps_to_the_constraints(progress: live.Progress) -> None:
    spec = replace(SPEC, constraints=(values.Constraint(metric="val_auc", at_most=0.85),))
    progress.study = replace(progress.study, spec=spec)
    beyond = replace(trial(3, value=0.9), within_constraints=False)
    progress.apply(pb.StudyEvent(trial=convert.trial_to_proto(beyond)))
    assert progress.best is not None and progress.best.number == 0
    assert [row.number for row in progress.rows(9)][:2] == [2, 0]
    text = shown(live.render(progress, width=100, height=30), 100)
    assert "! 0.9000" in text and "! beyond a constraint: val_auc ≤ 0.85" in text


def test_past_results_do_not_count_as_progress(progress: live.Progress) -> None:
    past = replace(trial(3, value=0.9), origin=values.Origin.PAST)
    progress.apply(pb.StudyEvent(trial=convert.trial_to_proto(past)))
    assert progress.finished == 2
    assert progress.count(TrialState.SUCCEEDED) == 2


def test_running_trials_show_what_they_reported_last(progress: live.Progress) -> None:
    lines = shown(live.render(progress, width=100, height=30), 100).splitlines()
    (row,) = (line.split() for line in lines if " running " in line and "0.6100" in line)
    assert row[:4] == ["2", "running", "0.6100", "5"]


def test_parameters_that_do_not_fit_are_counted() -> None:
    rows = [Trial(trial(0, value=0.5), SPEC.metric)]
    text = shown(tables.trials(rows, SPEC, width=60), 60)
    assert "units" in text
    assert "learning_rate" not in text
    assert "and 1 more parameter;" in text


def test_a_cost_is_shown_where_it_is_not_the_time() -> None:
    cost = values.Cost(worker_time=timedelta(minutes=3))
    one = replace(trial(0, value=0.5), cost=cost)
    assert "cost" not in shown(tables.trials([Trial(one, SPEC.metric)], SPEC, width=100), 100)
    again = replace(one, attempt=2)
    text = shown(tables.trials([Trial(again, SPEC.metric)], SPEC, width=100), 100)
    assert "cost" in text and "3 m 00 s" in text


def shown(renderable: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.91234567, "0.9123"),
        (0.0, "0.0000"),
        (123.4567, "123.4567"),
        (1234567.0, "1.235e+06"),
        (0.0000123456, "1.235e-05"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 m 00 s"),
        (65, "1 m 05 s"),
        (3720, "1 h 02 m"),
        (90_000, "25 h 00 m"),
        (7_776_000, "90 d 00 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert tables.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (3, "3"), (0.000123456, "0.0001235"), ("relu", "relu")]
)
def test_settings_are_short(value: float | int | str | bool, text: str) -> None:
    assert tables.setting(value) == text
