"""One member of a gang: a process with TensorFlow imported, that trains trial after trial."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from tuner import convert
from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.errors import (
    InfeasibleError,
    LeaseLostError,
    NotFoundError,
    TunerError,
    UnavailableError,
)
from tuner.runner import capture, memory, offspring, places
from tuner.runner.capture import Capture
from tuner.runner.isolation import Isolation
from tuner.runner.memory import UNKNOWN, Memory
from tuner.runner.shape import Shape
from tuner.runner.strategies import Member
from tuner.study import Cause, Failure, Measurement
from tuner.v1 import study_service_pb2
from tuner_trainers.context import ENVIRONMENT, Result

if TYPE_CHECKING:
    import tensorflow as tf

#: How long a report is repeated while the study server does not answer.
REPORT_PATIENCE_SECONDS = 600.0
#: The same of a checkpoint: the next one takes its place.
CHECKPOINT_PATIENCE_SECONDS = 10.0
#: How long sending a part of the log may take.
LOG_SECONDS = 5.0
#: What a failure keeps, in characters.
MESSAGE_CHARACTERS, STACK_CHARACTERS = 2_000, 20_000

#: TensorFlow's errors that mean: another worker of the gang is gone.
_LOST_ERRORS = frozenset({"UnavailableError", "AbortedError", "CancelledError"})
_MEMORY_ERRORS = frozenset({"MemoryError", "ResourceExhaustedError"})


#: Trains one trial; called in every worker of a gang with its context and the gang's strategy.
Train = Callable[["Context", "tf.distribute.Strategy | None"], Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A trial for a gang."""

    trial: str
    lease_token: str
    artifact_dir: str
    train: Train
    #: Whether `artifact_dir` is the attempt's own, or that of all attempts at the trial.
    fresh: bool = True
    #: Where an earlier attempt left off; empty: at the beginning.
    checkpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended in one worker: a result, a failure, or its lease lost."""

    result: Result | None = None
    failure: Failure | None = None
    lease_lost: bool = False
    #: Of the worker, once it had ended.
    memory: Memory = UNKNOWN
    #: What of the trial is left in the worker's process; empty if nothing is.
    leftovers: str = ""


class Context:
    """What a trainer is handed in one worker; rank 0's reports go to the study server."""

    def __init__(
        self, assignment: Assignment, rank: int, workers: int, connection: Connection
    ) -> None:
        self.rank = rank
        self.workers = workers
        self.artifact_dir = Path(assignment.artifact_dir)
        self.checkpoint = Path(assignment.checkpoint) if assignment.checkpoint else None
        self.lease_lost = False
        self._assignment = assignment
        self._connection = connection
        self._start_time = time.monotonic()

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Sends the metrics of a step; returns whether to go on."""
        elapsed = timedelta(seconds=time.monotonic() - self._start_time)
        measurement = Measurement(step=step, metrics=metrics, elapsed=elapsed)
        try:
            answer = self._connection.call(
                lambda stub: stub.ReportTrial,
                study_service_pb2.ReportTrialRequest(
                    name=self._assignment.trial,
                    lease_token=self._assignment.lease_token,
                    measurement=convert.measurement_to_proto(measurement),
                ),
                patience_seconds=REPORT_PATIENCE_SECONDS,
            )
        except (LeaseLostError, NotFoundError):
            self.lease_lost = True
            return False
        return answer.decision != study_service_pb2.ReportTrialResponse.STOP

    def keep(self, step: int, checkpoint: Path) -> bool:
        """Tells the study server of a checkpoint; returns whether it knows it for sure."""
        request = study_service_pb2.ReportTrialRequest(
            name=self._assignment.trial, lease_token=self._assignment.lease_token
        )
        request.checkpoint.uri, request.checkpoint.step = str(checkpoint), step
        try:
            self._connection.call(
                lambda stub: stub.ReportTrial,
                request,
                patience_seconds=CHECKPOINT_PATIENCE_SECONDS,
            )
        except TunerError:  # the next checkpoint, or the next report, will tell
            return False
        return True

    def log(self, text: str, offset: int) -> bool:
        """Sends a part of the log; returns whether it need not be sent again."""
        try:
            self._connection.call(
                lambda stub: stub.WriteTrialLog,
                study_service_pb2.WriteTrialLogRequest(
                    name=self._assignment.trial,
                    lease_token=self._assignment.lease_token,
                    text=text,
                    offset=offset,
                ),
                timeout_seconds=LOG_SECONDS,
                patience_seconds=0.0,
            )
        except UnavailableError:
            return False
        except TunerError:  # a log that nobody takes does not stop the trial
            return True
        return True

    def prepare_artifacts(self) -> None:
        """Makes the folder; one of the attempt's own is empty, though an earlier study left it.

        Raises:
            InvalidArgumentError: nothing can be written there.
        """
        if self._assignment.fresh:
            shutil.rmtree(self.artifact_dir, ignore_errors=True)
        places.check_writable(self.artifact_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a worker is."""

    pid: int
    node_id: str


class Worker:
    """The Ray actor: a process with TensorFlow imported that becomes a member of one gang.

    The strategy is built once and serves trial after trial; a second one would hang.
    """

    def __init__(self, access: Access, *, tensorflow: bool = True) -> None:
        self._rank, self._workers = 0, 1
        self._connection = Connection(access)
        self._member: Member | None = None
        #: Without it, programs are run, which bring their own.
        self._tensorflow = tensorflow
        offspring.bind()
        capture.sweep()
        if tensorflow:
            _warm_up()

    def home(self) -> Home:
        """Returns where this worker is."""
        return Home(pid=os.getpid(), node_id=str(ray.get_runtime_context().get_node_id()))

    def memory(self) -> Memory:
        """Returns what this process and its node hold."""
        return memory.measure()

    def endpoint(self) -> str:
        """Returns host:port where this worker's TensorFlow will listen."""
        with socket.socket() as free:
            free.bind(("", 0))
            host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return f"{host}:{free.getsockname()[1]}"

    def join(self, rank: int, endpoints: Sequence[str], shape: Shape) -> None:
        """Takes a place in a gang; all of its members must be called at the same time.

        Args:
            rank: the place.
            endpoints: of all members, by rank.
            shape: of the gang.
        """
        self._rank, self._workers = rank, shape.trainers
        if self._tensorflow:
            self._member = Member(shape, rank, endpoints)

    def count(self) -> int:
        """Returns how many replicas there are, added up over all of them by the strategy."""
        return 1 if self._member is None else self._member.count()

    def train(self, assignment: Assignment) -> Outcome:
        """Trains one attempt of a trial; every error of the trainer is part of the outcome."""
        context = Context(assignment, self._rank, self._workers, self._connection)
        with Isolation() as isolation:
            outcome = self._train(assignment, context)
        return replace(
            outcome,
            lease_lost=context.lease_lost,
            memory=memory.measure(),
            leftovers=isolation.leftovers,
        )

    def _train(self, assignment: Assignment, context: Context) -> Outcome:
        with Capture(context.log if self._rank == 0 else None) as captured:
            try:
                if self._rank == 0:
                    context.prepare_artifacts()
                strategy = None if self._member is None else self._member.strategy
                return Outcome(result=assignment.train(context, strategy))
            except BaseException as error:  # a trainer may raise anything, SystemExit included
                return Outcome(failure=failure_of(error, captured.tail()))


def failure_of(error: BaseException, log_tail: str = "") -> Failure:
    """Describes what a trainer raised."""
    stack = "".join(traceback.format_exception(error))
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, InfeasibleError):
        cause = Cause.INFEASIBLE
    elif names & _MEMORY_ERRORS:
        cause = Cause.OUT_OF_MEMORY
    elif names & _LOST_ERRORS:
        cause = Cause.LOST
    else:
        cause = Cause.USER_ERROR
    message = _message(error)
    if cause is Cause.OUT_OF_MEMORY:
        message = f"{message[: MESSAGE_CHARACTERS - 200]} ({memory.measure()})"
    return Failure(
        cause=cause,
        message=message,
        stack=stack[-STACK_CHARACTERS:],
        log_tail=log_tail[-STACK_CHARACTERS:],
    )


def _message(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, TunerError):
        return line[:MESSAGE_CHARACTERS]
    name = type(error).__name__
    return (f"{name}: {line}" if line else name)[:MESSAGE_CHARACTERS]


def _warm_up() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    importlib.import_module("tuner_trainers.training")
    logging.getLogger("tuner_trainers").setLevel(logging.INFO)
