"""A trial in the hands of a script: its parameters in, its measurements out."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from tuner import convert
from tuner.client.channel import Connection
from tuner.errors import (
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
    TunerError,
    UnavailableError,
)
from tuner.space import Value
from tuner.study import Cause, Checkpoint, Failure, Measurement, Metric, Trial
from tuner.v1 import study_service_pb2 as pb
from tuner.v1 import trial_pb2

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("tuner")

_ids: dict[int, str] = {}
_local = threading.local()


def hostname() -> str:
    """The machine's name, for people."""
    return socket.gethostname()[:80]


def worker_id() -> str:
    """Names the calling thread of this process to the server, the same each time."""
    process = _ids.setdefault(os.getpid(), f"{hostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    if threading.current_thread() is threading.main_thread():
        return process
    if getattr(_local, "process", None) != process:
        _local.process, _local.suffix = process, uuid.uuid4().hex[:8]
    return f"{process}-{_local.suffix}"


class RunningTrial:
    """A leased trial. As a context manager it gives the parameters and ends the attempt.

    An exception in the block fails the attempt with its stack and goes no further; Ctrl-C gives
    the trial back and goes on. A trial whose lease was lost ends quietly, and one whose server
    was away for too long is given back.
    """

    def __init__(self, connection: Connection, trial: Trial, metric: Metric) -> None:
        self._connection = connection
        self._trial = trial
        self._metric = metric
        #: Whether the attempt ends by asking for the next trial, in the same call.
        self.exchanges = False
        #: What was answered to that.
        self.following: pb.SuggestTrialsResponse | None = None
        self._started = time.monotonic()
        self._next_step = 0 if trial.checkpoint is None else trial.checkpoint.step + 1
        self._reported = False
        self._stop = trial.stop_requested
        self._open = True
        self._lost = False

    def __repr__(self) -> str:
        return f"RunningTrial({self._trial.name!r}, {dict(self.parameters)!r})"

    @property
    def record(self) -> Trial:
        """The trial as it was leased."""
        return self._trial

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0."""
        return self._trial.number

    @property
    def name(self) -> str:
        """The resource name."""
        return self._trial.name

    @property
    def attempt(self) -> int:
        """Which try at the trial this is, from 1."""
        return self._trial.attempt

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where an earlier attempt left off: go on from it; None to start at the beginning."""
        return self._trial.checkpoint

    @property
    def _lease_token(self) -> str:
        return "" if self._trial.lease is None else self._trial.lease.token

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The value of every active parameter."""
        return MappingProxyType(dict(self._trial.parameters))

    @property
    def stop(self) -> bool:
        """Whether the attempt should end now: stopped early, or its lease is lost."""
        return self._stop or not self._open

    @property
    def is_open(self) -> bool:
        """Whether the attempt has not ended."""
        return self._open

    @property
    def lost(self) -> bool:
        """Whether the lease is lost: what this attempt did is nobody's any more."""
        return self._lost

    # --- what a script reports -------------------------------------------------------------

    def report(
        self,
        metrics: float | Mapping[str, float],
        *,
        step: int | None = None,
        checkpoint: str | None = None,
    ) -> bool:
        """Records metrics at a step.

        Args:
            metrics: the values by name; a number is the study's metric.
            step: counts on from the last one if left out; after a checkpoint, from its step.
            checkpoint: where what is needed to go on from this step was written, whole; another
                attempt finds it as `trial.checkpoint`.

        Returns:
            Whether to go on; False if the attempt should end now.
        """
        if not self._open:
            return False
        measurement = self._measured(metrics, self._next_step if step is None else step)
        try:
            self._send_report(
                convert.measurement_to_proto(measurement),
                trial_pb2.Checkpoint(uri=checkpoint, step=measurement.step)
                if checkpoint
                else None,
            )
        except (LeaseLostError, NotFoundError):
            # A study that was deleted is nobody's to report to.
            self.lose()
            return False
        self._reported = True
        self._next_step = measurement.step + 1
        return not self.stop

    def complete(self, result: float | Mapping[str, float] | None = None) -> None:
        """Ends the attempt with a result; without one, the best reported measurement is it.

        Of one that has ended already, nothing is said any more.
        """
        if not self._open:
            return
        if result is None and not self._reported:
            if self._stop:
                return self.release("stopped before it reported")
            raise InvalidArgumentError(
                f"trial {self.number} has no result: report one, or complete it with a value."
            )
        if result is None:
            return self._end()
        step = max(self._next_step - 1, 0)
        self._end(result=convert.measurement_to_proto(self._measured(result, step)))

    def infeasible(self, reason: str) -> None:
        """Ends the attempt: the parameters cannot be trained, and the search should know."""
        self.fail(Failure(cause=Cause.INFEASIBLE, message=reason))

    def fail(self, failure: Failure) -> None:
        """Ends the attempt without a result."""
        self._end(failure=convert.failure_to_proto(failure))

    def release(self, reason: str) -> None:
        """Gives the trial back, unharmed, for any worker."""
        if not self._open:
            return
        self._open = False
        request = pb.ReleaseTrialRequest(
            name=self.name,
            lease_token=self._lease_token,
            reason=reason,
            request_id=str(uuid.uuid4()),
        )
        try:
            self._connection.call(
                lambda stub: stub.ReleaseTrial, request, timeout_seconds=5.0, patience_seconds=2.0
            )
        except TunerError as error:
            # Whoever leaves must not be held up; the lease ends by itself.
            logger.debug("%s was not given back: %s", self.name, error)

    def keras_callback(self) -> keras.callbacks.Callback:
        """A Keras callback that reports each epoch and ends the training when it is stopped."""
        from tuner.client.keras_callback import ReportEpochs  # Keras costs seconds

        return ReportEpochs(self)

    # --- the with-block --------------------------------------------------------------------

    def __enter__(self) -> Mapping[str, Value]:
        return self.parameters

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self.finish()
            return False
        if isinstance(error, LeaseLostError):
            self.lose()
            return True
        if not isinstance(error, Exception):
            self.release(f"interrupted by {type(error).__name__}")
            return False
        if isinstance(error, UnavailableError):
            # Neither the parameters nor the script are at fault; who asks next waits once more.
            self.release("its worker could not reach the study server")
            return True
        self._fail_with(error)
        return True

    def finish(self) -> None:
        """Ends the attempt if it is open: with what was reported, else as failed."""
        if not self._open:
            return
        if self._reported or self._stop:
            try:
                self.complete()
            except InvalidArgumentError as error:
                # It never reported one of the study's metrics: the server has it as failed.
                logger.warning("trial %d failed: %s", self.number, error.message)
                self._open = False
            return
        message = "ended without a result: call trial.report(...) or trial.complete(...)"
        logger.warning("trial %d %s", self.number, message)
        self.fail(Failure(cause=Cause.USER_ERROR, message=message))

    def _fail_with(self, error: Exception) -> None:
        told = str(error).strip().splitlines()
        summary = f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
        stack = "".join(traceback.format_exception(error))
        logger.warning("trial %d failed: %s", self.number, summary)
        self.fail(Failure(cause=_cause(error), message=summary[:2000], stack=stack[-20_000:]))

    # --- the lease -------------------------------------------------------------------------

    def beat(self, timeout_seconds: float) -> datetime:
        """Renews the lease; returns when it ends. For the heartbeat thread.

        Raises:
            LeaseLostError: it is lost, or the attempt has ended.
        """
        if not self._open:
            raise LeaseLostError("the attempt has ended.")
        return self._send_report(None, timeout_seconds=timeout_seconds, patience_seconds=0.0)

    def lose(self) -> None:
        """Takes notice that the trial is somebody else's: nothing more is reported."""
        if self._open:
            logger.info("the lease of trial %d is lost; its attempt ends here", self.number)
            self._lost = True
        self._open = False

    def _send_report(
        self,
        measurement: trial_pb2.Measurement | None,
        checkpoint: trial_pb2.Checkpoint | None = None,
        **limits: float,
    ) -> datetime:
        request = pb.ReportTrialRequest(
            name=self.name,
            lease_token=self._lease_token,
            measurement=measurement,
            checkpoint=checkpoint,
        )
        answer = self._connection.call(lambda stub: stub.ReportTrial, request, **limits)
        if answer.decision == pb.ReportTrialResponse.STOP:
            self._stop = True
            logger.info("trial %d should end: %s", self.number, answer.reason)
        return convert.time_from_proto(answer.expire_time)

    def _measured(self, metrics: float | Mapping[str, float], step: int) -> Measurement:
        values = metrics if isinstance(metrics, Mapping) else {self._metric.name: metrics}
        return Measurement(
            step=int(step),
            metrics={str(name): float(value) for name, value in values.items()},
            elapsed=timedelta(seconds=time.monotonic() - self._started),
        )

    def _end(
        self,
        *,
        result: trial_pb2.Measurement | None = None,
        failure: trial_pb2.Failure | None = None,
    ) -> None:
        if not self._open:
            return
        said: dict[str, Any] = {
            "name": self.name,
            "lease_token": self._lease_token,
            "final_measurement": result,
            "failure": failure,
            "request_id": str(uuid.uuid4()),
        }
        try:
            if self.exchanges:
                exchange = pb.ExchangeTrialRequest(**said, worker_id=worker_id(), host=hostname())
                answer = self._connection.call(lambda stub: stub.ExchangeTrial, exchange)
                self.following = answer.next
            else:
                end = pb.CompleteTrialRequest(**said)
                self._connection.call(lambda stub: stub.CompleteTrial, end)
        except (LeaseLostError, NotFoundError):
            self.lose()
        self._open = False


def _cause(error: Exception) -> Cause:
    # TensorFlow's ResourceExhaustedError is known by name: importing it would cost seconds.
    exhausted = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return Cause.OUT_OF_MEMORY if exhausted else Cause.USER_ERROR
