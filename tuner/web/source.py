"""What the pages ask of a study server, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from tuner import convert, convert_endpoint, convert_model
from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.client.endpoints import Endpoint as ClientEndpoint
from tuner.client.predictions import Predictions
from tuner.client.study import Importance
from tuner.endpoint import Endpoint, Gateway, Report
from tuner.model import Model, ModelVersion
from tuner.study import Measurement, Study, Trial, parse_trial_name
from tuner.v1 import endpoint_service_pb2 as endpoints_pb
from tuner.v1 import model_service_pb2 as models_pb
from tuner.v1 import study_service_pb2 as pb

#: A page that waits longer than this for an answer says that there is none.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A trial reported a measurement."""

    number: int
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a study; `resume_token` continues a stream after it."""

    resume_token: str
    what: Study | Trial | Reported | None


class StudySource:
    """A connection to one study server; threads may share it. A stream needs one of its own.

    Every method raises TunerError: what the server said, or UnavailableError.
    """

    def __init__(self, access: Access | str) -> None:
        self._access = access
        self._connection = Connection(access)

    def close(self) -> None:
        """Closes the connection and ends its streams."""
        self._connection.close()

    def another(self) -> StudySource:
        """A connection of its own to the same server."""
        return StudySource(self._access)

    def list_studies(
        self, page_token: str = "", page_size: int = 100
    ) -> tuple[tuple[Study, ...], str]:
        """A page of the studies, newest first, and the token of the next page."""
        request = pb.ListStudiesRequest(page_size=page_size, page_token=page_token)
        answer = self._connection.call(lambda s: s.ListStudies, request, **_ONCE)
        return tuple(map(convert.study_from_proto, answer.studies)), answer.next_page_token

    def get_study(self, study_id: str) -> Study:
        """The study as it is now."""
        request = pb.GetStudyRequest(name=f"studies/{study_id}")
        return convert.study_from_proto(
            self._connection.call(lambda s: s.GetStudy, request, **_ONCE)
        )

    def list_trials(
        self, study_id: str, *, page_token: str = "", page_size: int = 100, order_by: str = ""
    ) -> tuple[tuple[Trial, ...], str]:
        """A page of the trials without measurements, and the token of the next page."""
        request = pb.ListTrialsRequest(
            parent=f"studies/{study_id}",
            page_token=page_token,
            page_size=page_size,
            order_by=order_by,
        )
        answer = self._connection.call(lambda s: s.ListTrials, request, **_ONCE)
        return tuple(map(convert.trial_from_proto, answer.trials)), answer.next_page_token

    def get_trial(self, study_id: str, number: int) -> Trial:
        """The trial with everything about it."""
        request = pb.GetTrialRequest(name=f"studies/{study_id}/trials/{number}", view=pb.FULL)
        return convert.trial_from_proto(
            self._connection.call(lambda s: s.GetTrial, request, **_ONCE)
        )

    def importance(self, study_id: str) -> Importance:
        """How much each parameter mattered so far."""
        request = pb.GetImportanceRequest(name=f"studies/{study_id}")
        answer = self._connection.call(lambda s: s.GetImportance, request, **_ONCE)
        return Importance(
            parameters=dict(answer.parameters), groups=dict(answer.groups), trials=answer.trials
        )

    def list_models(self, page_token: str = "") -> tuple[tuple[Model, ...], str]:
        """A page of the models by name, and the token of the next page."""
        request = models_pb.ListModelsRequest(page_token=page_token)
        answer = self._connection.call(lambda s: s.ListModels, request, **_ONCE)
        models = tuple(map(convert_model.model_from_proto, answer.models))
        return models, answer.next_page_token

    def get_model(self, model_id: str) -> Model:
        """The model as it is now."""
        request = models_pb.GetModelRequest(name=f"models/{model_id}")
        answer = self._connection.call(lambda s: s.GetModel, request, **_ONCE)
        return convert_model.model_from_proto(answer)

    def list_versions(
        self, model_id: str, page_token: str = ""
    ) -> tuple[tuple[ModelVersion, ...], str]:
        """A page of a model's versions, newest first, and the token of the next page."""
        request = models_pb.ListModelVersionsRequest(
            parent=f"models/{model_id}", page_token=page_token
        )
        answer = self._connection.call(lambda s: s.ListModelVersions, request, **_ONCE)
        versions = tuple(map(convert_model.version_from_proto, answer.versions))
        return versions, answer.next_page_token

    def get_version(self, model_id: str, version: str) -> ModelVersion:
        """A version with its card, by its number or an alias."""
        name = f"models/{model_id}/versions/{version}"
        request = models_pb.GetModelVersionRequest(name=name)
        answer = self._connection.call(lambda s: s.GetModelVersion, request, **_ONCE)
        return convert_model.version_from_proto(answer)

    def list_endpoints(self, page_token: str = "") -> tuple[tuple[Endpoint, ...], str]:
        """A page of the endpoints by name, and the token of the next page."""
        request = endpoints_pb.ListEndpointsRequest(page_token=page_token)
        answer = self._connection.call(lambda s: s.ListEndpoints, request, **_ONCE)
        endpoints = tuple(map(convert_endpoint.endpoint_from_proto, answer.endpoints))
        return endpoints, answer.next_page_token

    def get_endpoint(self, endpoint_id: str) -> Endpoint:
        """The endpoint as it is now."""
        request = endpoints_pb.GetEndpointRequest(name=f"endpoints/{endpoint_id}")
        answer = self._connection.call(lambda s: s.GetEndpoint, request, **_ONCE)
        return convert_endpoint.endpoint_from_proto(answer)

    def endpoint_report(self, endpoint_id: str, window: timedelta) -> Report:
        """What is known of an endpoint's traffic in the last time, and of results."""
        request = endpoints_pb.GetEndpointReportRequest(
            name=f"endpoints/{endpoint_id}", window=convert.duration_to_proto(window)
        )
        answer = self._connection.call(lambda s: s.GetEndpointReport, request, **_ONCE)
        return convert_endpoint.report_from_proto(answer)

    def list_gateways(self) -> tuple[Gateway, ...]:
        """The gateways that report."""
        request = endpoints_pb.ListGatewaysRequest()
        answer = self._connection.call(lambda s: s.ListGateways, request, **_ONCE)
        return tuple(map(convert_endpoint.gateway_from_proto, answer.gateways))

    def split(self, endpoint_id: str, percents: Mapping[int, int], etag: str) -> None:
        """Splits an endpoint's traffic otherwise, unless it has changed since it had this etag."""
        ClientEndpoint(self._connection, endpoint_id).split(percents, etag=etag)

    def predictions(self) -> Predictions:
        """A connection to the gateways."""
        addresses = [gateway.rest_address for gateway in self.list_gateways()]
        return Predictions(self._connection.access, addresses)

    def watch(self, study_id: str, resume_token: str = "") -> Iterator[Event]:
        """What happens to the study; without a token, first everything as it is."""
        request = pb.WatchStudyRequest(name=f"studies/{study_id}", resume_token=resume_token)
        for message in self._connection.stream(lambda s: s.WatchStudy, request):
            for event in message.events:
                yield Event(resume_token=event.resume_token, what=_what(event))

    def log(self, study_id: str, number: int) -> Iterator[tuple[int, str]]:
        """The parts of the trial's log with the attempt that wrote each, until the trial ends."""
        request = pb.ReadTrialLogRequest(name=f"studies/{study_id}/trials/{number}", follow=True)
        for chunk in self._connection.stream(lambda s: s.ReadTrialLog, request):
            yield chunk.attempt, chunk.text


# A page asks again by itself, so that a call need not wait for a server to come back.
_ONCE: dict[str, float] = {"timeout_seconds": ANSWER_SECONDS, "patience_seconds": 0.0}


def _what(message: pb.StudyEvent) -> Study | Trial | Reported | None:
    match message.WhichOneof("event"):
        case "study":
            return convert.study_from_proto(message.study)
        case "trial":
            return convert.trial_from_proto(message.trial)
        case "reported":
            return Reported(
                number=parse_trial_name(message.reported.trial)[1],
                measurement=convert.measurement_from_proto(message.reported.measurement),
            )
        case _:
            return None
