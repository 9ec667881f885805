"""A slot runs a study's trials one after another: leased, trained on a gang, completed."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuner import convert
from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.client.heartbeat import Heartbeat
from tuner.errors import LeaseLostError, NotFoundError, TunerError, UnavailableError
from tuner.runner import own
from tuner.runner.gang import Gang
from tuner.runner.places import folder_of, inside
from tuner.runner.pool import Pool
from tuner.runner.shape import Shape
from tuner.runner.worker import Assignment, Context, Outcome
from tuner.study import Measurement, Study, StudyState, Trial, TrialState
from tuner.v1 import study_service_pb2 as pb
from tuner.v1 import trial_pb2
from tuner_trainers.context import CHECKPOINTS, Result, TrialTask
from tuner_trainers.storage import Storage

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)

#: The states in which a runner works on a study.
WORKED_ON = (StudyState.PREPARING, StudyState.ACTIVE)

T = TypeVar("T")

#: How long a gang whose lease is lost may take to notice by itself, before it is killed.
_LOST_SECONDS = 20.0
_CALL_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_PREPARING_SECONDS = 0.1
_RELEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all slots of a runner share."""

    connection: Connection
    #: How processes elsewhere reach the server.
    access: Access
    heartbeat: Heartbeat
    pool: Pool[Gang]
    artifacts: Path
    #: For rows, where a trial's workers run.
    storage: Storage
    #: Set when the runner stops.
    stopping: threading.Event


class Flight:
    """A trial in flight: its lease is kept by the heartbeat until it lands."""

    def __init__(self, tools: Tools, trial: Trial) -> None:
        self._tools = tools
        self._trial = trial
        self._lost_time: float | None = None

    def beat(self, timeout_seconds: float) -> datetime:
        """Renews the lease; returns when it ends."""
        request = pb.ReportTrialRequest(name=self._trial.name, lease_token=token_of(self._trial))
        try:
            answer = self._tools.connection.call(
                lambda stub: stub.ReportTrial,
                request,
                timeout_seconds=timeout_seconds,
                patience_seconds=0.0,
            )
        except NotFoundError as error:
            raise LeaseLostError(error.message) from error
        return convert.time_from_proto(answer.expire_time)

    def lose(self) -> None:
        """Takes notice that the lease is lost."""
        self._lost_time = time.monotonic()

    def cancelled(self) -> bool:
        """Whether the gang should be killed: nobody waits for its result."""
        lost = self._lost_time
        overdue = lost is not None and time.monotonic() - lost > _LOST_SECONDS
        return overdue or self._tools.stopping.is_set()


class Slot:
    """One place in which a study's trials run. Its thread is its owner's."""

    def __init__(
        self, tools: Tools, study: Callable[[], Study], shape: Shape, number: int
    ) -> None:
        self._tools = tools
        self._study = study
        self._shape = shape
        self._number = number
        self._host = socket.gethostname()
        self._worker_id = f"{self._host[:64]}-{uuid.uuid4().hex[:12]}-{number}"

    def run(self) -> None:
        """Runs trials until none is left that could start, or the runner stops."""
        stopping = self._tools.stopping
        gang = self._tools.pool.acquire(self._shape, stopping)
        try:
            while gang is not None and self._is_wanted() and self._step(gang):
                gang = self._tools.pool.exchange(gang, stopping)
        except TunerError as error:
            logger.warning("%s: slot %d ends: %s", self._study().name, self._number, error.message)
        finally:
            if gang is not None:
                self._tools.pool.release(gang)

    def _is_wanted(self) -> bool:
        """Whether the study goes on, and its limits leave room for this slot; both may change."""
        study = self._study()
        return study.state in WORKED_ON and self._number < parallel(study)

    def _step(self, gang: Gang) -> bool:
        """Runs one trial after the other, or waits for one; returns whether there may be more."""
        stopping = self._tools.stopping
        if self._study().state is StudyState.PREPARING:
            return not stopping.wait(_PREPARING_SECONDS)
        if not gang.answers():
            return True
        answer = self._persist(self._suggest)
        if answer is None:
            return False
        while answer.trials:
            following = self._run_trial(gang, convert.trial_from_proto(answer.trials[0]))
            if following is None:
                return not stopping.is_set()
            answer = following
        # What is left may run elsewhere: others can have the gang.
        if not answer.HasField("wait") or not due(self._study()):
            return False
        return not stopping.wait(answer.wait.retry_after.ToTimedelta().total_seconds())

    def _suggest(self) -> pb.SuggestTrialsResponse:
        request = pb.SuggestTrialsRequest(
            parent=self._study().name,
            worker_id=self._worker_id,
            count=1,
            request_id=str(uuid.uuid4()),
            host=self._host,
        )
        return self._tools.connection.call(
            lambda stub: stub.SuggestTrials, request, patience_seconds=_CALL_PATIENCE_SECONDS
        )

    def _run_trial(self, gang: Gang, trial: Trial) -> pb.SuggestTrialsResponse | None:
        """Runs a trial; returns what came for it in exchange, None if it was not exchanged."""
        flight = Flight(self._tools, trial)
        end = datetime.now(UTC) if trial.lease is None else trial.lease.expire_time
        self._tools.heartbeat.add(flight, end)
        try:
            assignment = self._assign(trial)
            outcome = gang.train(assignment, flight.cancelled)
            return self._land(trial, assignment, outcome, exchanges=self._goes_on(gang))
        finally:
            self._tools.heartbeat.remove(flight)

    def _goes_on(self, gang: Gang) -> bool:
        """Whether the gang takes the study's next trial: then it need not be asked for."""
        stopping = self._tools.stopping.is_set()
        return not stopping and self._is_wanted() and self._tools.pool.is_spared(gang)

    def _assign(self, trial: Trial) -> Assignment:
        study = self._study()
        if study.spec.data is None:  # a trainer of the user's own reads its own
            return own.assignment(study, trial, self._tools.artifacts)
        folder = folder_of(self._tools.artifacts, trial.study_id, trial.number)
        # Each worker may be on the machine of all the others.
        storage = replace(self._tools.storage, workers=parallel(study) * self._shape.trainers)
        return Assignment(
            trial=trial.name,
            lease_token=token_of(trial),
            artifact_dir=str(folder / str(trial.attempt)),
            train=partial(train, task_of(study, trial, self._tools.artifacts), storage),
            checkpoint=_checkpoint_of(trial, folder),
        )

    def _land(
        self, trial: Trial, assignment: Assignment, outcome: Outcome | None, *, exchanges: bool
    ) -> pb.SuggestTrialsResponse | None:
        if outcome is None:
            self._release(trial)
        elif outcome.lease_lost or not (outcome.failure or outcome.result):
            logger.info(
                "%s: its lease was lost, and with it attempt %d", trial.name, trial.attempt
            )
        else:
            artifacts = "" if outcome.failure else assignment.artifact_dir
            ended = self._ended(trial, outcome, artifacts)
            if exchanges:
                return self._exchange(trial, ended)
            self._complete(trial, ended)
        return None

    def _ended(self, trial: Trial, outcome: Outcome, artifact_uri: str) -> dict[str, Any]:
        """What the server is told of an attempt's end."""
        told: dict[str, Any] = {
            "name": trial.name,
            "lease_token": token_of(trial),
            "artifact_uri": artifact_uri,
            "request_id": str(uuid.uuid4()),
        }
        result, failure = outcome.result, outcome.failure
        if failure is not None:
            logger.warning("%s: attempt %d: %s", trial.name, trial.attempt, failure.message)
            told["failure"] = convert.failure_to_proto(failure)
        # Without metrics: the server chooses the result among what was reported.
        elif result is not None and result.metrics:
            final = Measurement(step=result.step, metrics=result.metrics)
            told["final_measurement"] = convert.measurement_to_proto(final)
        return told

    def _complete(self, trial: Trial, ended: dict[str, Any]) -> None:
        request = pb.CompleteTrialRequest(**ended)
        answer = self._persist(
            lambda: self._tools.connection.call(
                lambda stub: stub.CompleteTrial, request, patience_seconds=_CALL_PATIENCE_SECONDS
            )
        )
        if answer is not None:
            self._clear(trial, answer.state)

    def _exchange(self, trial: Trial, ended: dict[str, Any]) -> pb.SuggestTrialsResponse | None:
        request = pb.ExchangeTrialRequest(**ended, worker_id=self._worker_id, host=self._host)
        answer = self._persist(
            lambda: self._tools.connection.call(
                lambda stub: stub.ExchangeTrial, request, patience_seconds=_CALL_PATIENCE_SECONDS
            )
        )
        if answer is None:
            return None
        self._clear(trial, answer.ended_state)
        return answer.next

    def _clear(self, trial: Trial, state: trial_pb2.Trial.State.ValueType) -> None:
        if TrialState(trial_pb2.Trial.State.Name(state)).is_finished:
            remove_checkpoints(folder_of(self._tools.artifacts, trial.study_id, trial.number))

    def _release(self, trial: Trial) -> None:
        request = pb.ReleaseTrialRequest(
            name=trial.name,
            lease_token=token_of(trial),
            reason="the runner stopped",
            request_id=str(uuid.uuid4()),
        )
        try:
            self._tools.connection.call(
                lambda stub: stub.ReleaseTrial,
                request,
                timeout_seconds=_RELEASE_SECONDS,
                patience_seconds=0.0,
            )
        except TunerError as error:
            logger.info("%s: not given back, its lease will expire: %s", trial.name, error.message)

    def _persist(self, call: Callable[[], T]) -> T | None:
        """Calls until the server answers; None if the runner stops or there is nothing to call."""
        while True:
            try:
                return call()
            except (LeaseLostError, NotFoundError) as error:
                logger.info("%s: %s", self._study().name, error.message)
                return None
            except UnavailableError as error:
                logger.warning("%s", error.message)
                if self._tools.stopping.wait(_RETRY_SECONDS):
                    return None


def remove_checkpoints(trial: Path) -> None:
    """Removes what no attempt will go on from, and the folders of attempts that left nothing else.

    Args:
        trial: the folder of a trial that has ended.
    """
    # Other folders are the user's own: a program's `checkpoints` in there are its result.
    for attempt in trial.glob("[0-9]*/"):
        shutil.rmtree(attempt / CHECKPOINTS, ignore_errors=True)
        with suppress(OSError):  # it holds artifacts, or another runner was faster
            attempt.rmdir()


def _checkpoint_of(trial: Trial, folder: Path) -> str:
    """Where the trial's next attempt goes on from; empty where it starts anew."""
    if trial.checkpoint is None:
        return ""
    place = inside(folder, trial.checkpoint.uri)
    if place is None:
        logger.warning(
            "%s starts anew: its checkpoint %r is none of its own, in %s",
            trial.name,
            trial.checkpoint.uri,
            folder,
        )
    return "" if place is None else str(place)


def token_of(trial: Trial) -> str:
    """The token of the lease that a trial came with."""
    return "" if trial.lease is None else trial.lease.token


def parallel(study: Study) -> int:
    """How many of a managed study's trials may run at once."""
    return study.spec.limits.parallel or 1


def due(study: Study) -> int:
    """How many trials could start now: they wait for a worker, or for being proposed."""
    counts = study.trial_counts
    new = max(0, study.spec.limits.trials - (counts.total - counts.past))
    return max(0, min(parallel(study) - counts.running, counts.queued + new))


def task_of(study: Study, trial: Trial, artifacts: Path) -> TrialTask:
    """Returns what a trainer needs to know of a trial of a prepared study with data."""
    spec = study.spec
    if spec.data is None or spec.trainer is None or study.statistics is None:
        raise UnavailableError(f"{study.name} is not prepared yet.")
    return TrialTask(
        study=study.study_id,
        trial=trial.number,
        trainer=spec.trainer,
        data=spec.data,
        features=spec.features,
        settings=spec.settings,
        parameters=trial.parameters,
        metric=spec.metric,
        seed=spec.search.seed,
        statistics_path=study.statistics.uri,
        code=spec.own.code,
        artifacts=str(artifacts),
        constraints=spec.constraints,
        selection=spec.selection,
    )


def train(
    task: TrialTask, storage: Storage, context: Context, strategy: tf.distribute.Strategy | None
) -> Result:
    """Trains a trial in a worker's process."""
    from tuner_trainers import training  # imports TensorFlow

    return training.train(task, context, strategy, storage)
