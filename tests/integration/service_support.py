"""What the tests of the study server share: a server, and a worker's words in short."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tuner.config import Settings
from tuner.service import StudyServer
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

Trial = trial_pb2.Trial
Study = study_pb2.Study
NewTrial = pb.AddTrialsRequest.NewTrial

_SECONDS = 30


class Watched:
    """The events of a stream, one after the other."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._events: Iterator[pb.StudyEvent] = (
            event for message in stream for event in message.events
        )

    def __iter__(self) -> Iterator[pb.StudyEvent]:
        return self._events

    def __next__(self) -> pb.StudyEvent:
        return next(self._events)

    def cancel(self) -> None:
        self._stream.cancel()


class Caller:
    """Calls a server in the words of a worker and of a user."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = StudyServiceStub(channel)

    def create(self, study_id: str = "s", request_id: str = "", **fields: Any) -> Study:
        study = study_of(**fields)
        request = pb.CreateStudyRequest(study=study, study_id=study_id, request_id=request_id)
        return self.stub.CreateStudy(request, timeout=_SECONDS)

    def study(self, study_id: str = "s") -> Study:
        return self.stub.GetStudy(pb.GetStudyRequest(name=f"studies/{study_id}"), timeout=_SECONDS)

    def suggest(
        self, worker: str = "ann", count: int = 0, study_id: str = "s", request_id: str = ""
    ) -> pb.SuggestTrialsResponse:
        request = pb.SuggestTrialsRequest(
            parent=f"studies/{study_id}",
            worker_id=worker,
            count=count,
            host="box",
            request_id=request_id,
        )
        return self.stub.SuggestTrials(request, timeout=_SECONDS)

    def one(self, worker: str = "ann", study_id: str = "s") -> Trial:
        response = self.suggest(worker, study_id=study_id)
        assert len(response.trials) == 1, response
        return response.trials[0]

    def report(
        self, trial: Trial, step: int | None = None, **metrics: float
    ) -> pb.ReportTrialResponse:
        request = pb.ReportTrialRequest(name=trial.name, lease_token=trial.lease.token)
        if step is not None:
            request.measurement.step = step
            request.measurement.metrics.update(metrics)
        return self.stub.ReportTrial(request, timeout=_SECONDS)

    def checkpoint(self, trial: Trial, uri: str, step: int) -> pb.ReportTrialResponse:
        request = pb.ReportTrialRequest(
            name=trial.name,
            lease_token=trial.lease.token,
            checkpoint=trial_pb2.Checkpoint(uri=uri, step=step),
        )
        return self.stub.ReportTrial(request, timeout=_SECONDS)

    def complete(self, trial: Trial, auc: float | None = None, request_id: str = "") -> Trial:
        request = pb.CompleteTrialRequest(
            name=trial.name, lease_token=trial.lease.token, request_id=request_id
        )
        if auc is not None:
            request.final_measurement.metrics["auc"] = auc
        return self.stub.CompleteTrial(request, timeout=_SECONDS)

    def fail(self, trial: Trial, cause: str = "USER_ERROR", message: str = "boom") -> Trial:
        failure = trial_pb2.Failure(cause=trial_pb2.Failure.Cause.Value(cause), message=message)
        request = pb.CompleteTrialRequest(
            name=trial.name, lease_token=trial.lease.token, failure=failure
        )
        return self.stub.CompleteTrial(request, timeout=_SECONDS)

    def release(self, trial: Trial, reason: str = "", request_id: str = "") -> Trial:
        request = pb.ReleaseTrialRequest(
            name=trial.name, lease_token=trial.lease.token, reason=reason, request_id=request_id
        )
        return self.stub.ReleaseTrial(request, timeout=_SECONDS)

    def add(self, *trials: NewTrial, study_id: str = "s", request_id: str = "") -> list[str]:
        request = pb.AddTrialsRequest(
            parent=f"studies/{study_id}", trials=trials, request_id=request_id
        )
        return list(self.stub.AddTrials(request, timeout=_SECONDS).names)

    def label_trial(self, number: int, labels: Mapping[str, str], request_id: str = "") -> Trial:
        request = pb.UpdateTrialRequest(
            trial=Trial(name=f"studies/s/trials/{number}", labels=labels), request_id=request_id
        )
        request.update_mask.paths.append("labels")
        return self.stub.UpdateTrial(request, timeout=_SECONDS)

    def trial(self, number: int = 0, study_id: str = "s") -> Trial:
        name = f"studies/{study_id}/trials/{number}"
        return self.stub.GetTrial(pb.GetTrialRequest(name=name), timeout=_SECONDS)

    def trials(self, study_id: str = "s", **fields: Any) -> list[Trial]:
        request = pb.ListTrialsRequest(parent=f"studies/{study_id}", **fields)
        found: list[Trial] = []
        while True:
            response = self.stub.ListTrials(request, timeout=_SECONDS)
            found += response.trials
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def stream(self, study_id: str = "s", **fields: Any) -> list[Trial]:
        request = pb.ListTrialsRequest(parent=f"studies/{study_id}", **fields)
        return list(self.stub.StreamTrials(request, timeout=_SECONDS))

    def update(self, study: Study, *paths: str, request_id: str = "") -> Study:
        request = pb.UpdateStudyRequest(study=study, request_id=request_id)
        request.study.name = request.study.name or "studies/s"
        request.update_mask.paths.extend(paths)
        return self.stub.UpdateStudy(request, timeout=_SECONDS)

    def delete(self, *, force: bool = False, study_id: str = "s", request_id: str = "") -> None:
        request = pb.DeleteStudyRequest(
            name=f"studies/{study_id}", force=force, request_id=request_id
        )
        self.stub.DeleteStudy(request, timeout=_SECONDS)

    def stop(self, reason: str = "", study_id: str = "s") -> Study:
        request = pb.StopStudyRequest(name=f"studies/{study_id}", reason=reason)
        return self.stub.StopStudy(request, timeout=_SECONDS)

    def stop_trial(self, number: int = 0) -> Trial:
        request = pb.StopTrialRequest(name=f"studies/s/trials/{number}")
        return self.stub.StopTrial(request, timeout=_SECONDS)

    def pause(self) -> Study:
        return self.stub.PauseStudy(pb.PauseStudyRequest(name="studies/s"), timeout=_SECONDS)

    def resume(self) -> Study:
        return self.stub.ResumeStudy(pb.ResumeStudyRequest(name="studies/s"), timeout=_SECONDS)

    def retry(self, *numbers: int, request_id: str = "") -> list[str]:
        names = [f"studies/s/trials/{number}" for number in numbers]
        request = pb.RetryTrialsRequest(parent="studies/s", names=names, request_id=request_id)
        return list(self.stub.RetryTrials(request, timeout=_SECONDS).names)

    def watch(self, token: str = "", study_id: str = "s") -> Any:
        request = pb.WatchStudyRequest(name=f"studies/{study_id}", resume_token=token)
        return Watched(self.stub.WatchStudy(request, timeout=_SECONDS))

    def write_log(self, trial: Trial, text: str, offset: int = 0) -> None:
        request = pb.WriteTrialLogRequest(
            name=trial.name, lease_token=trial.lease.token, text=text, offset=offset
        )
        self.stub.WriteTrialLog(request, timeout=_SECONDS)

    def read_log(self, trial: Trial, *, follow: bool = False) -> Any:
        request = pb.ReadTrialLogRequest(name=trial.name, follow=follow)
        return self.stub.ReadTrialLog(request, timeout=_SECONDS)


def new_trial(x: float, auc: float | None = None, **labels: str) -> NewTrial:
    """A trial of a user's own of the usual study, a past one if it has a result."""
    made = NewTrial(labels=labels)
    made.parameters["x"].double_value = x
    if auc is not None:
        made.final_measurement.metrics["auc"] = auc
    return made


def number_of(trial: Trial) -> int:
    return int(trial.name.rpartition("/")[2])


def study_of(**fields: Any) -> Study:
    """A study of one parameter from 0 to 1 that maximizes `auc`, at random, with changes."""
    limits = {
        name: fields.pop(name)
        for name in ("trials", "parallel", "no_improvement_trials", "failed_trials")
        if name in fields
    }
    seconds = {name: fields.pop(name) for name in ("duration", "worker_time") if name in fields}
    values = {
        "metrics": [study_pb2.Metric(name="auc")],
        "search": study_pb2.Search(algorithm="random", early_stopping="none"),
        "limits": study_pb2.Limits(**limits),
        **fields,
    }
    study = Study(**values)
    for name, value in seconds.items():
        getattr(study.limits, name).FromMilliseconds(int(value * 1000))
    if "space" not in fields:
        study.space.parameters.add(name="x").float_domain.high = 1.0
    return study


def request_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def running(folder: Path, database_url: str = "", **changes: Any) -> Iterator[Caller]:
    """A study server in this process, and a caller of it."""
    settings = Settings(data_dir=folder, server_port=0, database_url=database_url, **changes)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        yield Caller(channel)


@contextmanager
def refused(code: str, reason: str) -> Iterator[list[str]]:
    """Expects a call to be refused with both; its message is added to the list."""
    said: list[str] = []
    try:
        yield said
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode[code], error
        metadata = {item.key: item.value for item in error.trailing_metadata()}
        status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        detail = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(detail)
        assert (detail.reason, detail.domain) == (reason, "tuner")
        assert status.message == error.details()
        assert "\n" not in status.message
        said.append(status.message)
    else:
        raise AssertionError(f"nothing was refused; expected {code}")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
