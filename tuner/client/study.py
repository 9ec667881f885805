"""A study on a server: what it found, and the trials a script works on."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from google.protobuf.field_mask_pb2 import FieldMask

from tuner import convert
from tuner import study as values
from tuner.client.channel import Connection
from tuner.client.endpoints import Endpoint
from tuner.client.heartbeat import Heartbeat
from tuner.client.models import PATIENCE_SECONDS, Models
from tuner.client.trial import RunningTrial, hostname, worker_id
from tuner.endpoint import Canary
from tuner.errors import DataError, FailedPreconditionError, NotFoundError, UnavailableError
from tuner.model import ModelVersion
from tuner.space import Value
from tuner.study import Measurement, StudyState, TrialState
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

logger = logging.getLogger("tuner")

_PAGE = 500
#: How many trials are added by one call.
_ADDED = 500
_POLL_SECONDS = 0.5
_LONGEST_POLL_SECONDS = 2.0
#: However long the server says to wait: a study may end meanwhile.
_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as the server knows it, read through the eyes of its study's metric."""

    record: values.Trial
    metric: values.Metric
    #: To its study's server; None of a trial that was read by nobody's client.
    connection: Connection | None = field(default=None, repr=False, compare=False)
    #: The model that its study exports to; empty: none.
    export_model: str = field(default="", repr=False, compare=False)

    def publish(
        self,
        model: str,
        *,
        wait: bool = True,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> ModelVersion:
        """Makes the trial the next version of a model; a runner exports and checks it.

        A trial that is published already is answered with its version.

        Args:
            model: the model's name; letters, digits, `.`, `_` and `-`.
            wait: return when it is published.
            timeout_seconds: how long to wait.

        Raises:
            ModelRejectedError: it does not predict what training recorded, or left no model.
            UnavailableError: no runner has published it in time.
        """
        models = Models(self._connected())
        return models.publish(model, self.record.name, wait=wait, timeout_seconds=timeout_seconds)

    def deploy(
        self,
        endpoint: str,
        *,
        traffic: int = 100,
        canary: Canary | Sequence[int] | None = None,
        model: str = "",
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> Endpoint:
        """Publishes the trial and gives it a part of an endpoint's traffic.

        The endpoint is created if there is none, and its first version gets all.

        Args:
            endpoint: the endpoint's name; letters, digits, `.`, `_` and `-`.
            traffic: how much of the traffic it gets, 0 to 100; not read with a canary.
            canary: the percents that it gets one after the other, as long as it does no worse
                than the others; a `Canary` also says for how long each.
            model: the model whose next version it becomes; left out: the endpoint's, else the one
                that the study exports to, else one of the endpoint's name.
            timeout_seconds: how long to wait until it is published.

        Raises:
            ModelRejectedError: it does not predict what training recorded, or left no model.
            UnavailableError: no runner has published it in time.
        """
        to = Endpoint(self._connected(), endpoint)
        with suppress(NotFoundError):
            model = model or to.record.model_id
        version = self.publish(
            model or self.export_model or endpoint, timeout_seconds=timeout_seconds
        )
        to.deploy(version, traffic, canary=canary)
        return to

    def _connected(self) -> Connection:
        if self.connection is None:
            raise FailedPreconditionError("read the trial by a client: study.trial(number).")
        return self.connection

    @property
    def number(self) -> int:
        """The number, from 0."""
        return self.record.number

    @property
    def state(self) -> TrialState:
        """The state."""
        return self.record.state

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The value of every active parameter."""
        return self.record.parameters

    @property
    def metrics(self) -> Mapping[str, float]:
        """The result: everything measured at the best step; empty without a result."""
        measurement = self.record.final_measurement
        return {} if measurement is None else measurement.metrics

    @property
    def value(self) -> float | None:
        """The study's metric; None without a result."""
        return self.metrics.get(self.metric.name)

    @property
    def labels(self) -> Mapping[str, str]:
        """Words of your own."""
        return self.record.labels

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Everything reported, by step; only of trials read in full."""
        return self.record.measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much parameters mattered; shares sum to 1. Empty below 4 finished trials."""

    parameters: Mapping[str, float]
    groups: Mapping[str, float]
    trials: int


class Study:
    """A handle on a study. Iterating over it leases trials until the study ends."""

    def __init__(self, connection: Connection, heartbeat: Heartbeat, record: values.Study) -> None:
        self._connection = connection
        self._heartbeat = heartbeat
        self._record = record

    def __repr__(self) -> str:
        return f"Study({self._record.study_id!r} at {self._connection.address})"

    @property
    def study_id(self) -> str:
        """The name people use."""
        return self._record.study_id

    @property
    def name(self) -> str:
        """The resource name."""
        return self._record.name

    @property
    def address(self) -> str:
        """The address of the study server in use."""
        return self._connection.address

    @property
    def metric(self) -> values.Metric:
        """What trials are compared by."""
        return self._record.spec.metric

    @property
    def record(self) -> values.Study:
        """The study as it was when it was last read."""
        return self._record

    @property
    def state(self) -> StudyState:
        """The state now."""
        return self.refresh().state

    def refresh(self) -> values.Study:
        """Reads the study again and returns it."""
        request = pb.GetStudyRequest(name=self.name)
        return self._keep(self._connection.call(lambda stub: stub.GetStudy, request))

    def _keep(self, message: study_pb2.Study) -> values.Study:
        self._record = convert.study_from_proto(message)
        return self._record

    # --- what it found ---------------------------------------------------------------------

    def trials(
        self,
        *,
        states: Iterable[TrialState] = (),
        filter: str = "",
        order_by: str = "number",
        optimal: bool = False,
        full: bool = False,
        limit: int | None = None,
    ) -> Iterator[Trial]:
        """Yields the trials, page by page.

        Args:
            states: only those in one of these; empty for all.
            filter: only those for which it holds, as in
                `metrics.auc > 0.9 AND parameters.units >= 64`.
            order_by: `number`, `best`, `start_time`, `end_time`, `metrics.NAME` or
                `parameters.NAME`; ` desc` behind all but `best` turns it around.
            optimal: only those that no other one beats in every metric.
            full: with measurements and attempts.
            limit: at most so many.
        """
        left, token = limit, ""
        while left is None or left > 0:
            request = pb.ListTrialsRequest(
                parent=self.name,
                page_size=_PAGE if left is None else min(_PAGE, left),
                page_token=token,
                states=[trial_pb2.Trial.State.Value(state) for state in states],
                order_by=order_by,
                view=pb.FULL if full else pb.BASIC,
                filter=filter,
                optimal=optimal,
            )
            page = self._connection.call(lambda stub: stub.ListTrials, request)
            yield from map(self._seen, page.trials)
            left = None if left is None else left - len(page.trials)
            token = page.next_page_token
            if not token:
                return

    def trial(self, number: int) -> Trial:
        """Returns one trial in full; raises NotFoundError."""
        request = pb.GetTrialRequest(name=f"{self.name}/trials/{number}", view=pb.FULL)
        return self._seen(self._connection.call(lambda stub: stub.GetTrial, request))

    def best(self) -> Trial:
        """Returns the best trial so far, by the first metric; one that is within the constraints.

        Raises:
            NotFoundError: none has such a result yet.
        """
        for trial in self.trials(order_by="best", limit=1):
            within = trial.record.within_constraints is not False
            if within and trial.value is not None and math.isfinite(trial.value):
                return trial
        within_words = " within the constraints" if self.record.spec.constraints else ""
        raise NotFoundError(
            f"no trial of {self.study_id!r} has a result{within_words} yet; try again later."
        )

    def deploy(
        self,
        endpoint: str,
        *,
        traffic: int = 100,
        canary: Canary | Sequence[int] | None = None,
        model: str = "",
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> Endpoint:
        """Publishes the best trial and gives it a part of an endpoint's traffic.

        Its arguments are those of a trial's `deploy`.
        """
        return self.best().deploy(
            endpoint, traffic=traffic, canary=canary, model=model, timeout_seconds=timeout_seconds
        )

    def optimal(self) -> list[Trial]:
        """Returns the Pareto front: the trials that no other one beats in every metric."""
        return list(self.trials(optimal=True))

    def importance(self) -> Importance:
        """Returns how much each parameter and each group of them mattered."""
        request = pb.GetImportanceRequest(name=self.name)
        answer = self._connection.call(lambda stub: stub.GetImportance, request)
        return Importance(
            parameters=_by_share(answer.parameters),
            groups=_by_share(answer.groups),
            trials=answer.trials,
        )

    def log(self, number: int, *, follow: bool = False) -> Iterator[tuple[int, str]]:
        """Yields (attempt, text) of a trial's log; with `follow` until the trial ends.

        A server that restarts while a log is followed is waited for.
        """
        request = pb.ReadTrialLogRequest(name=f"{self.name}/trials/{number}", follow=follow)
        seen, ended = 0, False
        while not ended:
            # Taken up again it begins anew; what was seen of it, in characters, is passed over.
            passed = 0
            stream = self._connection.stream(lambda stub: stub.ReadTrialLog, request)
            try:
                while True:
                    chunk = next(stream)
                    fresh = chunk.text[max(0, seen - passed) :]
                    passed += len(chunk.text)
                    if fresh:
                        seen = passed
                        yield chunk.attempt, fresh
            except StopIteration as stop:
                ended = stop.value
            except UnavailableError:
                if not follow:
                    raise
                self.refresh()  # waits for the server, or gives up
                time.sleep(_POLL_SECONDS)

    def _seen(self, message: trial_pb2.Trial) -> Trial:
        model = self._record.spec.export_model or ""
        return Trial(convert.trial_from_proto(message), self.metric, self._connection, model)

    # --- what happens to it ----------------------------------------------------------------

    def events(self) -> Iterator[pb.StudyEvent]:
        """Yields the study and its trials as they are, then every change, until the study ends.

        A server that restarts meanwhile is waited for.
        """
        token, ended = "", False
        while not ended:
            # Asked first: a stream that begins after the end tells all that led there.
            ended = self.refresh().state.is_finished
            request = pb.WatchStudyRequest(name=self.name, resume_token=token)
            try:
                for message in self._connection.stream(lambda stub: stub.WatchStudy, request):
                    for event in message.events:
                        token = event.resume_token or token
                        yield event
            except UnavailableError:
                ended = False  # the next call waits for the server, or gives up
                time.sleep(_POLL_SECONDS)

    def watch(self) -> None:
        """Shows the study until it ends; Ctrl-C detaches and ends nothing."""
        from tuner.client import live  # rich is not needed to report trials

        live.watch(self)

    def wait(self, timeout_seconds: float | None = None) -> StudyState:
        """Waits until the study ends; returns its state then, or at the timeout."""
        return self._wait_while(lambda state: not state.is_finished, timeout_seconds)

    def wait_prepared(self, timeout_seconds: float | None = None) -> StudyState:
        """Waits while a runner reads the data; returns the state then, or at the timeout.

        Raises:
            DataError: the data or the trainer cannot be used.
        """
        state = self._wait_while(lambda state: state is StudyState.PREPARING, timeout_seconds)
        if state is StudyState.STOPPED and not self._record.trial_counts.total:
            raise DataError(self._record.state_reason or f"{self.study_id!r} was stopped.")
        return state

    def _wait_while(
        self, waiting: Callable[[StudyState], bool], timeout_seconds: float | None
    ) -> StudyState:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = _POLL_SECONDS / 4
        while waiting(state := self.refresh().state):
            left = pause if end is None else min(pause, end - time.monotonic())
            if left <= 0:
                break
            time.sleep(left)
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
        return state

    # --- verbs -----------------------------------------------------------------------------

    def stop(self, reason: str = "") -> None:
        """Ends the study; running trials are told to stop."""
        request = pb.StopStudyRequest(name=self.name, reason=reason, request_id=str(uuid.uuid4()))
        self._keep(self._connection.call(lambda stub: stub.StopStudy, request))

    def pause(self) -> None:
        """Proposes no more trials until resumed."""
        request = pb.PauseStudyRequest(name=self.name, request_id=str(uuid.uuid4()))
        self._keep(self._connection.call(lambda stub: stub.PauseStudy, request))

    def resume(self) -> None:
        """Takes a paused study up again, or an ended one whose limits allow more."""
        request = pb.ResumeStudyRequest(name=self.name, request_id=str(uuid.uuid4()))
        self._keep(self._connection.call(lambda stub: stub.ResumeStudy, request))

    def delete(self, *, force: bool = False) -> None:
        """Deletes the study with its trials; `force` even while trials run."""
        request = pb.DeleteStudyRequest(name=self.name, force=force, request_id=str(uuid.uuid4()))
        self._connection.call(lambda stub: stub.DeleteStudy, request)

    def retry(self, numbers: Iterable[int] = ()) -> list[int]:
        """Makes failed trials due again, all of them if none is named; returns their numbers."""
        request = pb.RetryTrialsRequest(
            parent=self.name,
            names=[f"{self.name}/trials/{number}" for number in numbers],
            request_id=str(uuid.uuid4()),
        )
        answer = self._connection.call(lambda stub: stub.RetryTrials, request)
        return [values.parse_trial_name(name)[1] for name in answer.names]

    def add_trials(
        self, trials: Iterable[Mapping[str, Value]], *, labels: Mapping[str, str] | None = None
    ) -> list[int]:
        """Adds points to be tried before anything is proposed; returns their numbers.

        Raises:
            InvalidArgumentError: one is no point of the space.
            FailedPreconditionError: the study's limit of trials leaves no room.
        """
        return self._add(
            pb.AddTrialsRequest.NewTrial(
                parameters=convert.values_to_proto(parameters), labels=labels
            )
            for parameters in trials
        )

    def add_results(
        self,
        results: Iterable[tuple[Mapping[str, Value], float | Mapping[str, float]]],
        *,
        labels: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Adds what was measured elsewhere; returns the trials' numbers.

        Args:
            results: parameters with their metrics by name; a number is the study's metric. They
                teach the search, and may be the best, but do not count towards the limits.
            labels: words of your own.
        """
        return self._add(
            pb.AddTrialsRequest.NewTrial(
                parameters=convert.values_to_proto(parameters),
                final_measurement=trial_pb2.Measurement(
                    metrics=metrics
                    if isinstance(metrics, Mapping)
                    else {self.metric.name: float(metrics)}
                ),
                labels=labels,
            )
            for parameters, metrics in results
        )

    def _add(self, trials: Iterable[pb.AddTrialsRequest.NewTrial]) -> list[int]:
        pending, names = list(trials), list[str]()
        for first in range(0, len(pending), _ADDED):
            request = pb.AddTrialsRequest(
                parent=self.name,
                trials=pending[first : first + _ADDED],
                request_id=str(uuid.uuid4()),
            )
            names += self._connection.call(lambda stub: stub.AddTrials, request).names
        return [values.parse_trial_name(name)[1] for name in names]

    def label(self, labels: Mapping[str, str], *, trial: int | None = None) -> None:
        """Replaces the words of your own that the study has, or one of its trials."""
        mask = FieldMask(paths=["labels"])
        if trial is None:
            study = study_pb2.Study(name=self.name, labels=labels)
            change = pb.UpdateStudyRequest(
                study=study, update_mask=mask, request_id=str(uuid.uuid4())
            )
            self._keep(self._connection.call(lambda stub: stub.UpdateStudy, change))
        else:
            message = trial_pb2.Trial(name=f"{self.name}/trials/{trial}", labels=labels)
            request = pb.UpdateTrialRequest(
                trial=message, update_mask=mask, request_id=str(uuid.uuid4())
            )
            self._connection.call(lambda stub: stub.UpdateTrial, request)

    # --- the script as the worker ----------------------------------------------------------

    def __iter__(self) -> Iterator[RunningTrial]:
        """Leases one trial after the other until the study ends."""
        answer: pb.SuggestTrialsResponse | None = None
        while True:
            if answer is None:
                answer = self._suggest()
            if answer.trials:
                answer = yield from self._lend(convert.trial_from_proto(answer.trials[0]))
                continue
            if StudyState(study_pb2.Study.State.Name(answer.study_state)).is_finished:
                return
            logger.debug("no trial now: %s", answer.wait.reason)
            seconds = answer.wait.retry_after.ToTimedelta().total_seconds()
            time.sleep(min(max(seconds, 0.05), _LONGEST_WAIT_SECONDS))
            answer = None

    def optimize(
        self,
        objective: Callable[[RunningTrial], float | Mapping[str, float] | None],
        *,
        trials: int | None = None,
    ) -> None:
        """Works on trials until the study ends.

        From one trial to the next it takes one call of the server, where a loop over the study
        takes two: nothing of yours can come between them.

        Args:
            objective: is called with each trial and returns its result, as `complete` takes it;
                None where it has reported. Its exceptions fail the attempt with their stack, and
                Ctrl-C gives the trial back.
            trials: how many to work on at most.
        """
        if trials is not None and trials < 1:
            return
        for count, trial in enumerate(self, start=1):
            trial.exchanges = count != trials
            with trial:
                trial.complete(objective(trial))
            if count == trials:
                return

    def ask(self, *, worker: str = "") -> RunningTrial | None:
        """Leases a trial without waiting for one.

        Its owner reports and ends it, in any order with others; meanwhile its lease is renewed.

        Args:
            worker: who asks; asking again while the trial is open, it gets the same one. This
                thread if left out.

        Returns:
            The trial; None if there is none now, or no more: `record.state` is the study's then.
        """
        answer = self._suggest(worker)
        if answer.trials:
            return self.take_up(convert.trial_from_proto(answer.trials[0]))
        state = StudyState(study_pb2.Study.State.Name(answer.study_state))
        self._record = replace(self._record, state=state)
        return None

    def take_up(self, record: values.Trial) -> RunningTrial:
        """Goes on with a trial that is leased, as after `ask`; its lease may be lost by now."""
        trial = RunningTrial(self._connection, record, self.metric)
        if record.lease is not None:
            self._heartbeat.add(trial, record.lease.expire_time)
        return trial

    def _suggest(self, worker: str = "") -> pb.SuggestTrialsResponse:
        request = pb.SuggestTrialsRequest(
            parent=self.name,
            worker_id=worker or worker_id(),
            count=1,
            request_id=str(uuid.uuid4()),
            host=hostname(),
        )
        return self._connection.call(lambda stub: stub.SuggestTrials, request)

    def _lend(
        self, record: values.Trial
    ) -> Generator[RunningTrial, None, pb.SuggestTrialsResponse | None]:
        """Lends a trial; returns what was answered if its end was an exchange."""
        trial = self.take_up(record)
        try:
            yield trial
            # Whoever comes back for another trial without having ended this one.
            trial.exchanges = True
            trial.finish()
            return trial.following
        except GeneratorExit:
            trial.release("the loop was left")
            raise
        finally:
            self._heartbeat.remove(trial)


def _by_share(shares: Mapping[str, float]) -> Mapping[str, float]:
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
