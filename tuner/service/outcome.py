"""What a trial's result is, and what becomes of the trial when an attempt at it ends."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tuner.errors import InvalidArgumentError
from tuner.study import (
    Cause,
    Failure,
    Measurement,
    Selection,
    StudySpec,
    Trial,
    TrialState,
)

#: How often a trial is tried again after each cause.
RETRIES: Mapping[Cause, int] = {
    # Lost is nobody's fault, but parameters that no worker survives would be tried for ever.
    Cause.LOST: 10,
    # Once may be chance; what dies at the same place three times does so by itself.
    Cause.CRASHED: 2,
    # So often it is given back only by a worker that never does anything else.
    Cause.PREEMPTED: 50,
    Cause.USER_ERROR: 1,
    Cause.OUT_OF_MEMORY: 1,
    Cause.INFEASIBLE: 0,
    Cause.TIMED_OUT: 0,
}
#: Why a worker goes before it could say how a trial ended that it was told to stop.
_WITHOUT_WORD = (Cause.LOST, Cause.PREEMPTED, Cause.CRASHED)


def result_of(spec: StudySpec, measurements: Iterable[Measurement]) -> Measurement | None:
    """Which measurement is the result; only those count that hold every metric of the study."""
    found: Measurement | None = None
    for measurement in measurements:
        found = better_of(spec, found, measurement)
    return found


def better_of(
    spec: StudySpec, current: Measurement | None, new: Measurement
) -> Measurement | None:
    """Which of two measurements is the result so far; the first one among equals.

    Where no value is finite it is the last one: kept, but it never wins.
    """
    if any(name not in new.metrics for name in spec.metric_names):
        return current
    if current is None:
        return new
    if spec.selection is Selection.LAST:
        return new if new.step >= current.step else current
    before, after = spec.rank(current), spec.rank(new)
    return new if after > before or not math.isfinite(before[1]) else current


def with_result(spec: StudySpec, trial: Trial, result: Measurement | None) -> Trial:
    """The trial with its result, so far or for good."""
    within = None if result is None else spec.within_constraints(result)
    return replace(trial, final_measurement=result, within_constraints=within)


def check_first(spec: StudySpec, measurement: Measurement) -> None:
    """Raises InvalidArgumentError if a first report has none of the metrics that are compared."""
    wanted = [metric.name for metric in spec.metrics]
    if not any(name in measurement.metrics for name in wanted):
        raise _unmeasured(wanted, [measurement])


def check_result(spec: StudySpec, result: Measurement) -> None:
    """Raises InvalidArgumentError if a result lacks a metric."""
    missing = [name for name in spec.metric_names if name not in result.metrics]
    if missing:
        raise _unmeasured(missing, [result])


def _unmeasured(
    wanted: Sequence[str], measurements: Iterable[Measurement]
) -> InvalidArgumentError:
    names = sorted({name for measurement in measurements for name in measurement.metrics})
    what = "metric is" if len(wanted) == 1 else "metrics are"
    return InvalidArgumentError(
        f"the study's {what} {', '.join(map(repr, wanted))}, but this was reported: "
        f"{', '.join(names) or 'nothing'}."
    )


def succeeded(
    trial: Trial,
    final: Measurement | None,
    spec: StudySpec,
    reported: Iterable[Measurement],
    now: datetime,
) -> Trial:
    """The trial with its result: PRUNED if it had been told to stop.

    Raises:
        InvalidArgumentError: there is no result.
    """
    result = final or trial.final_measurement
    if final is not None:
        check_result(spec, final)
    if result is None:
        reported = list(reported)
        if reported:
            raise _unmeasured(spec.metric_names, reported)
        raise InvalidArgumentError(
            f"trial {trial.number} reported nothing; send a final measurement, or a failure."
        )
    return _ended(
        with_result(spec, trial, result),
        TrialState.PRUNED if trial.stop_requested else TrialState.SUCCEEDED,
        trial.state_reason if trial.stop_requested else "",
        now,
    )


def judged(failure: Failure, *, further: bool) -> Failure:
    """The failure as it counts: what crashed is only lost if another attempt will come further.

    Args:
        failure: What a worker told.
        further: Whether the attempt had come further than those before it.
    """
    if further and failure.cause is Cause.CRASHED:
        return replace(failure, cause=Cause.LOST)
    return failure


def failed(
    trial: Trial, failure: Failure, earlier: Sequence[Cause], now: datetime, *, final: bool = False
) -> Trial:
    """The trial after an attempt without a result: due again, or ended.

    Args:
        earlier: Why earlier attempts ended.
        final: Whether another attempt could only end the same way.
    """
    reason = failure.message or f"the attempt ended: {failure.cause.value}"
    if failure.cause is Cause.INFEASIBLE:
        return _ended(_without_result(trial), TrialState.INFEASIBLE, reason, now)
    if trial.stop_requested and failure.cause in _WITHOUT_WORD:
        return _stopped_without_word(trial, now)
    if failure.cause is Cause.CRASHED:
        times = list(earlier).count(Cause.CRASHED) + 1
        reason = f"crashed {times} times without coming further: {reason}" if times > 1 else reason
    if final or trial.stop_requested or not _is_due_again(failure.cause, earlier):
        return _ended(_without_result(trial), TrialState.FAILED, reason, now)
    return replace(
        _without_result(trial), state=TrialState.QUEUED, lease=None, state_reason=reason
    )


def _is_due_again(cause: Cause, earlier: Collection[Cause]) -> bool:
    return list(earlier).count(cause) < RETRIES[cause]


def _stopped_without_word(trial: Trial, now: datetime) -> Trial:
    """A trial that was to stop, and whose worker went before it said so: not due again."""
    state = TrialState.FAILED if trial.final_measurement is None else TrialState.PRUNED
    return _ended(trial, state, trial.state_reason, now)


def _without_result(trial: Trial) -> Trial:
    return replace(trial, final_measurement=None, within_constraints=None)


def _ended(trial: Trial, state: TrialState, reason: str, now: datetime) -> Trial:
    return replace(trial, state=state, lease=None, state_reason=reason, end_time=now)
