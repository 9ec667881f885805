"""The methods of StudyService: each reads a request, applies one verb, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tuner import convert
from tuner.errors import InvalidArgumentError
from tuner.service import lifecycle, pages, validate, watch
from tuner.service.events import Event, Reported
from tuner.service.exchange import (
    Asking,
    Directive,
    Exchanged,
    NewTrial,
    Report,
    Result,
    Suggested,
)
from tuner.service.lifecycle import Changes, Prepared
from tuner.service.reply import Reply
from tuner.service.studies import Studies
from tuner.study import (
    Decision,
    Study,
    StudyState,
    Trial,
    check_study_id,
    parse_study_name,
    parse_trial_name,
)
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceServicer
from tuner_storage import TrialPage

R = TypeVar("R")
M = TypeVar("M", bound=Message)

Context = grpc.ServicerContext

#: A message of events is sent once it is so long.
_EVENT_BYTES = 2**18


class StudyServicer(StudyServiceServicer):
    """Answers calls on the studies. Thread-safe."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies

    # --- studies ---

    def CreateStudy(self, request: pb.CreateStudyRequest, context: Context) -> study_pb2.Study:
        study_id = check_study_id(request.study_id)
        validate.size("a study", request.study.ByteSize())
        spec = validate.spec(convert.spec_from_proto(request.study))
        reply = _study("CreateStudy", study_id, request.request_id)
        return self._studies.create(study_id, spec, reply)

    def GetStudy(self, request: pb.GetStudyRequest, context: Context) -> study_pb2.Study:
        return convert.study_to_proto(self._studies.get(parse_study_name(request.name)))

    def ListStudies(
        self, request: pb.ListStudiesRequest, context: Context
    ) -> pb.ListStudiesResponse:
        limit = validate.page_size(request.page_size)
        found = self._studies.list_studies(
            states=pages.study_states(request.states),
            managed_only=request.managed_only,
            before=pages.study_key(request.page_token),
            limit=limit,
        )
        messages = (convert.study_to_proto(study) for _, study in found)
        shown, token = pages.shown(found, messages, limit, lambda last: str(last[0]))
        return pb.ListStudiesResponse(studies=shown, next_page_token=token)

    def UpdateStudy(self, request: pb.UpdateStudyRequest, context: Context) -> study_pb2.Study:
        study_id, changes = parse_study_name(request.study.name), _changes(request)
        reply = _study("UpdateStudy", study_id, request.request_id)
        return self._studies.do(
            study_id, lambda live: lifecycle.update(live.record, changes, reply)
        )

    def DeleteStudy(self, request: pb.DeleteStudyRequest, context: Context) -> Empty:
        study_id = parse_study_name(request.name)
        reply = _empty("DeleteStudy", f"studies/{study_id}", request.request_id)
        return self._studies.delete(study_id, force=request.force, reply=reply)

    def PrepareStudy(self, request: pb.PrepareStudyRequest, context: Context) -> study_pb2.Study:
        study_id = parse_study_name(request.name)
        if request.WhichOneof("outcome") == "progress":
            doing = _doing(request.progress)
            # What happens every other second is neither repeated nor audited.
            told = _reply(convert.study_to_proto, study_pb2.Study, "PrepareStudy")
            return self._studies.do(
                study_id, lambda live: lifecycle.preparing(live.record, doing, told)
            )
        outcome, reply = _outcome(request), _study("PrepareStudy", study_id, request.request_id)
        return self._studies.do(
            study_id, lambda live: lifecycle.prepare(live.record, outcome, reply)
        )

    def StopStudy(self, request: pb.StopStudyRequest, context: Context) -> study_pb2.Study:
        study_id, reason = parse_study_name(request.name), validate.reason(request.reason)
        reply = _study("StopStudy", study_id, request.request_id)
        return self._studies.do(study_id, lambda live: lifecycle.stop(live.record, reason, reply))

    def PauseStudy(self, request: pb.PauseStudyRequest, context: Context) -> study_pb2.Study:
        study_id = parse_study_name(request.name)
        reply = _study("PauseStudy", study_id, request.request_id)
        return self._studies.do(study_id, lambda live: lifecycle.pause(live.record, reply))

    def ResumeStudy(self, request: pb.ResumeStudyRequest, context: Context) -> study_pb2.Study:
        study_id = parse_study_name(request.name)
        reply = _study("ResumeStudy", study_id, request.request_id)
        return self._studies.do(study_id, lambda live: lifecycle.resume(live.record, reply))

    def GetImportance(self, request: pb.GetImportanceRequest, context: Context) -> pb.Importance:
        found = self._studies.importance(parse_study_name(request.name))
        return pb.Importance(
            parameters=dict(found.parameters), groups=dict(found.groups), trials=found.trials
        )

    # --- trials, for workers ---

    def SuggestTrials(
        self, request: pb.SuggestTrialsRequest, context: Context
    ) -> pb.SuggestTrialsResponse:
        asking = _asking(request.worker_id, request.count, request.host)
        reply = _reply(_suggested, pb.SuggestTrialsResponse, "SuggestTrials", request.request_id)
        return self._studies.do(
            parse_study_name(request.parent), lambda live: live.suggest(asking, reply)
        )

    def ReportTrial(
        self, request: pb.ReportTrialRequest, context: Context
    ) -> pb.ReportTrialResponse:
        study_id, number = parse_trial_name(request.name)
        report, reply = _report(request), _reply(_directive, pb.ReportTrialResponse, "ReportTrial")
        return self._studies.do(
            study_id, lambda live: live.report(number, request.lease_token, report, reply)
        )

    def CompleteTrial(self, request: pb.CompleteTrialRequest, context: Context) -> trial_pb2.Trial:
        study_id, number = parse_trial_name(request.name)
        result = _result(request)
        reply = _trial("CompleteTrial", "", request.request_id, about=number)
        return self._studies.do(
            study_id, lambda live: live.complete(number, request.lease_token, result, reply)
        )

    def ExchangeTrial(
        self, request: pb.ExchangeTrialRequest, context: Context
    ) -> pb.ExchangeTrialResponse:
        study_id, number = parse_trial_name(request.name)
        result, asking = _result(request), _asking(request.worker_id, 1, request.host)
        reply = _reply(
            _exchanged,
            pb.ExchangeTrialResponse,
            "ExchangeTrial",
            request.request_id,
            about=str(number),
        )
        return self._studies.do(
            study_id,
            lambda live: live.exchange(number, request.lease_token, result, asking, reply),
        )

    def ReleaseTrial(self, request: pb.ReleaseTrialRequest, context: Context) -> trial_pb2.Trial:
        study_id, number = parse_trial_name(request.name)
        reason = validate.reason(request.reason)
        reply = _trial("ReleaseTrial", "", request.request_id, about=number)
        return self._studies.do(
            study_id, lambda live: live.release(number, request.lease_token, reason, reply)
        )

    # --- trials, for people ---

    def StopTrial(self, request: pb.StopTrialRequest, context: Context) -> trial_pb2.Trial:
        study_id, number = parse_trial_name(request.name)
        reply = _trial("StopTrial", request.name, request.request_id, about=number)
        return self._studies.do(study_id, lambda live: live.stop(number, reply))

    def RetryTrials(
        self, request: pb.RetryTrialsRequest, context: Context
    ) -> pb.RetryTrialsResponse:
        study_id = parse_study_name(request.parent)
        numbers = pages.trial_numbers(study_id, request.names)
        reply = _reply(
            _retried, pb.RetryTrialsResponse, "RetryTrials", request.request_id, request.parent
        )
        return self._studies.do(
            study_id, lambda live: lifecycle.retry(live.record, numbers, reply)
        )

    def AddTrials(self, request: pb.AddTrialsRequest, context: Context) -> pb.AddTrialsResponse:
        study_id = parse_study_name(request.parent)
        new = validate.new_trials([_new_trial(trial) for trial in request.trials])
        reply = _reply(
            _added, pb.AddTrialsResponse, "AddTrials", request.request_id, request.parent
        )
        return self._studies.do(study_id, lambda live: live.add(new, reply))

    def UpdateTrial(self, request: pb.UpdateTrialRequest, context: Context) -> trial_pb2.Trial:
        study_id, number = parse_trial_name(request.trial.name)
        if list(request.update_mask.paths) != ["labels"]:
            raise InvalidArgumentError("`update_mask` names what to change: labels.")
        labels = validate.labels(_words(request.trial.labels))
        reply = _trial("UpdateTrial", request.trial.name, request.request_id, about=number)
        return self._studies.do(study_id, lambda live: live.label(number, labels, reply))

    def GetTrial(self, request: pb.GetTrialRequest, context: Context) -> trial_pb2.Trial:
        study_id, number = parse_trial_name(request.name)
        full = request.view != pb.BASIC
        return convert.trial_to_proto(self._studies.get_trial(study_id, number, full=full))

    def ListTrials(self, request: pb.ListTrialsRequest, context: Context) -> pb.ListTrialsResponse:
        study_id, page = parse_study_name(request.parent), pages.trial_page(request)
        found = self._studies.list_trials(study_id, self._only(study_id, page, request.optimal))
        messages = (convert.trial_to_proto(trial) for trial, _ in found)
        shown, token = pages.shown(
            found,
            messages,
            page.limit,
            lambda last: pages.next_trials(page, last[0].number, last[1]),
        )
        return pb.ListTrialsResponse(trials=shown, next_page_token=token)

    # --- streams ---

    def StreamTrials(
        self, request: pb.ListTrialsRequest, context: Context
    ) -> Iterator[trial_pb2.Trial]:
        study_id, page = parse_study_name(request.parent), pages.longest(pages.trial_page(request))
        page = self._only(study_id, page, request.optimal)
        while context.is_active() and not self._studies.stopping.is_set():
            found = self._studies.list_trials(study_id, page)
            for trial, _ in found:
                yield convert.trial_to_proto(trial)
            if len(found) < page.limit:
                return
            last, key = found[-1]
            page = replace(page, after_number=last.number, after_key=key)

    def _only(self, study_id: str, page: TrialPage, optimal: bool) -> TrialPage:
        if not optimal:
            return page
        return replace(page, numbers=tuple(self._studies.optimal(study_id)))

    def WatchStudy(  # type: ignore[override]  # bytes are sent as they are
        self, request: pb.WatchStudyRequest, context: Context
    ) -> Iterator[bytes]:
        study_id = parse_study_name(request.name)
        happened = watch.watch(self._studies, study_id, request.resume_token, context.is_active)
        for events in happened:
            yield from _packed(events)

    def WriteTrialLog(self, request: pb.WriteTrialLogRequest, context: Context) -> Empty:
        study_id, number = parse_trial_name(request.name)
        text = validate.log_text(request.text, request.offset)
        return self._studies.do(
            study_id,
            lambda live: live.write_log(
                number, request.lease_token, request.offset, text, _empty("WriteTrialLog")
            ),
        )

    def ReadTrialLog(
        self, request: pb.ReadTrialLogRequest, context: Context
    ) -> Iterator[pb.TrialLogChunk]:
        study_id, number = parse_trial_name(request.name)
        self._studies.live(study_id).is_over(number)
        for piece in watch.read_log(
            self._studies, study_id, number, follow=request.follow, is_wanted=context.is_active
        ):
            yield pb.TrialLogChunk(attempt=piece.attempt, text=piece.text)


# --- conversions of requests and answers ---


def _reply(
    build: Callable[[R], M],
    kind: type[M],
    method: str,
    request_id: str = "",
    audited: str = "",
    about: str = "",
) -> Reply[R, M]:
    return Reply(
        build=build,
        parse=kind.FromString,
        method=method,
        request_id=validate.request_id(request_id),
        about=about,
        audited=audited,
    )


def _study(method: str, study_id: str, request_id: str) -> Reply[Study, study_pb2.Study]:
    name = f"studies/{study_id}"
    return _reply(convert.study_to_proto, study_pb2.Study, method, request_id, name)


def _trial(
    method: str, audited: str, request_id: str, *, about: int
) -> Reply[Trial, trial_pb2.Trial]:
    return _reply(convert.trial_to_proto, trial_pb2.Trial, method, request_id, audited, str(about))


def _empty(method: str, audited: str = "", request_id: str = "") -> Reply[None, Empty]:
    return _reply(lambda _: Empty(), Empty, method, request_id, audited)


def _state(state: StudyState) -> Any:
    return study_pb2.Study.State.Value(state.value)


def _suggested(suggested: Suggested) -> pb.SuggestTrialsResponse:
    response = pb.SuggestTrialsResponse(
        trials=[convert.trial_to_proto(trial) for trial in suggested.trials],
        study_state=_state(suggested.state),
    )
    if suggested.wait is not None:
        response.wait.reason = suggested.wait.reason
        after = Duration()
        after.FromTimedelta(suggested.wait.retry_after)
        response.wait.retry_after.CopyFrom(after)
    return response


def _exchanged(exchanged: Exchanged) -> pb.ExchangeTrialResponse:
    return pb.ExchangeTrialResponse(
        ended_state=trial_pb2.Trial.State.Value(exchanged.ended.state.value),
        next=_suggested(exchanged.next),
    )


def _retried(names: list[str]) -> pb.RetryTrialsResponse:
    return pb.RetryTrialsResponse(names=names)


def _added(names: list[str]) -> pb.AddTrialsResponse:
    return pb.AddTrialsResponse(names=names)


def _directive(told: Directive) -> pb.ReportTrialResponse:
    stop = told.decision is Decision.STOP
    return pb.ReportTrialResponse(
        decision=pb.ReportTrialResponse.STOP if stop else pb.ReportTrialResponse.CONTINUE,
        reason=told.reason,
        expire_time=convert.time_to_proto(told.expire_time),
    )


def _asking(worker_id: str, count: int, host: str) -> Asking:
    return Asking(
        worker_id=validate.worker_id(worker_id),
        count=validate.count(count),
        host=validate.reason(host),
    )


def _report(request: pb.ReportTrialRequest) -> Report:
    measurement = checkpoint = None
    if request.HasField("measurement"):
        measurement = validate.measurement(convert.measurement_from_proto(request.measurement))
    if request.HasField("checkpoint"):
        checkpoint = validate.checkpoint(convert.checkpoint_from_proto(request.checkpoint))
    return Report(measurement=measurement, checkpoint=checkpoint)


def _new_trial(message: pb.AddTrialsRequest.NewTrial) -> NewTrial:
    final = None
    if message.HasField("final_measurement"):
        final = convert.measurement_from_proto(message.final_measurement)
    return NewTrial(
        parameters=convert.values_from_proto(message.parameters),
        final=final,
        measurements=tuple(map(convert.measurement_from_proto, message.measurements)),
        labels=_words(message.labels),
    )


def _words(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels, names sorted: maps on the wire have no order."""
    return {key: labels[key] for key in sorted(labels)}


def _result(request: pb.CompleteTrialRequest | pb.ExchangeTrialRequest) -> Result:
    final = failure = None
    if request.HasField("final_measurement"):
        final = validate.measurement(convert.measurement_from_proto(request.final_measurement))
    if request.HasField("failure"):
        failure = validate.failure(convert.failure_from_proto(request.failure))
    if final is not None and failure is not None:
        raise InvalidArgumentError("an attempt ends with a final measurement or a failure.")
    uri = validate.uri("`artifact_uri`", request.artifact_uri)
    return Result(final=final, failure=failure, artifact_uri=uri)


def _outcome(request: pb.PrepareStudyRequest) -> Prepared | str:
    match request.WhichOneof("outcome"):
        case "failure":
            return validate.reason(request.failure) or "the data cannot be used"
        case "prepared":
            return _prepared(request.prepared)
        case _:
            raise InvalidArgumentError("set `prepared`, `failure` or `progress`.")


def _doing(progress: pb.PrepareStudyRequest.Progress) -> str:
    """How far the data was read, for people."""
    if not 0.0 <= progress.fraction <= 1.0 or progress.rows < 0:
        raise InvalidArgumentError(
            "`progress` has rows from 0 on and a fraction of 0 to 1, but got "
            f"{progress.rows} and {progress.fraction}."
        )
    return f"reading the data: {progress.fraction:.0%}, {progress.rows:,} rows"


def _prepared(message: pb.PrepareStudyRequest.Prepared) -> Prepared:
    validate.size("what was prepared", message.ByteSize())
    statistics = None
    if message.HasField("statistics"):
        statistics = convert.statistics_from_proto(message.statistics)
    return Prepared(
        space=validate.space(convert.space_from_proto(message.space)),
        features=tuple(convert.feature_from_proto(feature) for feature in message.features),
        settings=validate.values("settings", convert.values_from_proto(message.settings)),
        statistics=statistics,
    )


def _changes(request: pb.UpdateStudyRequest) -> Changes:
    study, allowed = request.study, ("limits", "labels", "export", "exported_model_uri")
    paths = set(request.update_mask.paths)
    if not paths or not paths <= set(allowed):
        raise InvalidArgumentError(
            f"`update_mask` names what to change, of {', '.join(allowed)}; got "
            f"{', '.join(sorted(paths)) or 'nothing'}."
        )
    labels = _words(study.labels)
    uri = validate.uri("`exported_model_uri`", study.exported_model_uri)
    model = study.export.model
    return Changes(
        etag=study.etag,
        limits=validate.limits(convert.limits_from_proto(study.limits))
        if "limits" in paths
        else None,
        labels=validate.labels(labels) if "labels" in paths else None,
        export_model=validate.uri("`export.model`", model) if "export" in paths else None,
        exported_model_uri=uri if "exported_model_uri" in paths else None,
    )


def _packed(events: Iterable[Event]) -> Iterator[bytes]:
    """Events as WatchStudyResponses of moderate size; each event is made once for all watchers.

    Messages on the wire may be joined: a repeated field goes on where the other message begins.
    """
    parts, size = list[bytes](), 0
    for event in events:
        if not event.message:
            event.message = pb.WatchStudyResponse(events=[_made(event)]).SerializeToString()
        parts.append(event.message)
        size += len(event.message)
        if size >= _EVENT_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _made(event: Event) -> pb.StudyEvent:
    message = pb.StudyEvent(resume_token=event.token, event_time=convert.time_to_proto(event.time))
    if isinstance(event.what, Study):
        message.study.CopyFrom(convert.study_to_proto(event.what))
    elif isinstance(event.what, Reported):
        message.reported.trial = event.what.trial
        message.reported.measurement.CopyFrom(convert.measurement_to_proto(event.what.measurement))
    else:
        message.trial.CopyFrom(convert.trial_to_proto(event.what))
    return message
