"""What becomes of a trial when an attempt at it ends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tuner.errors import InvalidArgumentError
from tuner.study import Cause, Failure, Measurement, Metric, Trial, TrialState
from tuner_storage.rows import score

#: How often a trial is tried again after each cause; None: as often as it happens.
RETRIES: Mapping[Cause, int | None] = {
    # Lost is nobody's fault, but parameters that kill their worker would be tried for ever.
    Cause.LOST: 10,
    Cause.PREEMPTED: None,
    Cause.USER_ERROR: 1,
    Cause.OUT_OF_MEMORY: 1,
    Cause.INFEASIBLE: 0,
    Cause.TIMED_OUT: 0,
}


def best_of(metric: Metric, measurements: Iterable[Measurement]) -> Measurement | None:
    """The best measurement by the metric, the first one among equals.

    Where no value is finite it is the last one: kept, but it never wins.
    """
    best: Measurement | None = None
    best_score: float | None = None
    for measurement in measurements:
        reached = score(metric, measurement)
        if best_score is None or (reached is not None and reached > best_score):
            best, best_score = measurement, reached
    return best


def check_metric(metric: Metric, measurement: Measurement) -> None:
    """Raises InvalidArgumentError unless the metric was measured."""
    if metric.name not in measurement.metrics:
        names = ", ".join(sorted(measurement.metrics)) or "nothing"
        raise InvalidArgumentError(
            f"the study's metric is {metric.name!r}, but this was reported: {names}."
        )


def succeeded(trial: Trial, final: Measurement | None, metric: Metric, now: datetime) -> Trial:
    """The trial with its result: PRUNED if it had been told to stop.

    Raises:
        InvalidArgumentError: there is no result.
    """
    result = final or trial.final_measurement
    if result is None:
        raise InvalidArgumentError(
            f"trial {trial.number} reported nothing; send a final measurement, or a failure."
        )
    if final is not None:
        check_metric(metric, final)
    return _ended(
        trial,
        TrialState.PRUNED if trial.stop_requested else TrialState.SUCCEEDED,
        result,
        trial.state_reason if trial.stop_requested else "",
        now,
    )


def failed(trial: Trial, failure: Failure, earlier: Sequence[Cause], now: datetime) -> Trial:
    """The trial after an attempt without a result: due again, or ended.

    Args:
        earlier: Why earlier attempts ended.
    """
    reason = failure.message or f"the attempt ended: {failure.cause.value}"
    if failure.cause is Cause.INFEASIBLE:
        return _ended(trial, TrialState.INFEASIBLE, None, reason, now)
    if trial.stop_requested and failure.cause in (Cause.LOST, Cause.PREEMPTED):
        return _stopped_without_word(trial, now)
    if trial.stop_requested or not _is_due_again(failure.cause, earlier):
        return _ended(trial, TrialState.FAILED, None, reason, now)
    return replace(
        trial, state=TrialState.QUEUED, lease=None, final_measurement=None, state_reason=reason
    )


def _is_due_again(cause: Cause, earlier: Collection[Cause]) -> bool:
    retries = RETRIES[cause]
    return retries is None or list(earlier).count(cause) < retries


def _stopped_without_word(trial: Trial, now: datetime) -> Trial:
    """A trial that was to stop, and whose worker went before it said so: not due again."""
    result = trial.final_measurement
    state = TrialState.FAILED if result is None else TrialState.PRUNED
    return _ended(trial, state, result, trial.state_reason, now)


def _ended(
    trial: Trial, state: TrialState, result: Measurement | None, reason: str, now: datetime
) -> Trial:
    return replace(
        trial,
        state=state,
        lease=None,
        final_measurement=result,
        state_reason=reason,
        end_time=now,
    )
