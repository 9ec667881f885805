"""The methods of EndpointService: endpoints, reports of gateways, and results of predictions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tuner import convert, convert_endpoint
from tuner.endpoint import (
    CanaryState,
    Deployment,
    Endpoint,
    Replicas,
    Traffic,
    check_endpoint_id,
    parse_endpoint_name,
)
from tuner.errors import InvalidArgumentError
from tuner.model import (
    LATEST,
    check_alias,
    check_version,
    parse_model_name,
    parse_version_name,
)
from tuner.results import LARGEST, graded
from tuner.service import asking, pages, significance, validate
from tuner.service import call as calls
from tuner.v1 import endpoint_pb2
from tuner.v1 import endpoint_service_pb2 as pb
from tuner.v1.endpoint_service_pb2_grpc import EndpointServiceServicer
from tuner_storage.endpoints import EndpointChanges, EndpointStore, Rollout
from tuner_storage.gateways import KEPT, GatewayReport, GatewayStore, Place
from tuner_storage.results import Outcome, Prediction, ResultStore

Context = grpc.ServicerContext

_CHANGEABLE = ("description", "deployments", "scaling", "timeout", "recording")
#: How many of each one request may have.
_VERSIONS, _RECORDED = 10_000, 10_000
_UNKNOWN = 100
#: In UTF-8.
_ANSWER_BYTES = 4096
_NAME = 64


class EndpointServicer(EndpointServiceServicer):
    """Answers calls on endpoints. Thread-safe; any server may answer any of them.

    Args:
        endpoints: Where endpoints are kept.
        gateways: Where what gateways say is kept.
        results: Where predictions and what became of them are kept.
        has_tokens: Whether callers must show a token, those of gateways too.
    """

    def __init__(
        self,
        endpoints: EndpointStore,
        gateways: GatewayStore,
        results: ResultStore,
        *,
        has_tokens: bool,
    ) -> None:
        self._endpoints = endpoints
        self._gateways = gateways
        self._results = results
        self._has_tokens = has_tokens

    # --- endpoints ---

    def CreateEndpoint(
        self, request: pb.CreateEndpointRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        now, endpoint_id = asking.now(), check_endpoint_id(request.endpoint_id)
        endpoint = Endpoint(
            endpoint_id=endpoint_id,
            model_id=parse_model_name(request.endpoint.model),
            **_described(request.endpoint),
            creator=calls.current().caller,
            create_time=now,
            update_time=now,
        )
        asked = asking.asked(_endpoint, endpoint.name, request.request_id, now)
        return endpoint_pb2.Endpoint.FromString(self._endpoints.create(endpoint, asked))

    def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        endpoint = self._endpoints.get(parse_endpoint_name(request.name))
        return convert_endpoint.endpoint_to_proto(endpoint)

    def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: Context
    ) -> pb.ListEndpointsResponse:
        limit = validate.page_size(request.page_size)
        after = check_endpoint_id(request.page_token) if request.page_token else ""
        found = self._endpoints.list_endpoints(after=after, limit=limit)
        messages = map(convert_endpoint.endpoint_to_proto, found)
        shown, token = pages.shown(found, messages, limit, lambda last: last.endpoint_id)
        return pb.ListEndpointsResponse(endpoints=shown, next_page_token=token)

    def UpdateEndpoint(
        self, request: pb.UpdateEndpointRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        name, paths = request.endpoint.name, set(request.update_mask.paths)
        endpoint_id = parse_endpoint_name(name)
        if not paths or not paths <= set(_CHANGEABLE):
            raise InvalidArgumentError(
                f"`update_mask` names what to change, of {', '.join(_CHANGEABLE)}; got "
                f"{', '.join(sorted(paths)) or 'nothing'}."
            )
        given = {path: v for path, v in _described(request.endpoint).items() if path in paths}
        changes = EndpointChanges(etag=request.endpoint.etag, **given)
        asked = asking.asked(_endpoint, name, request.request_id)
        body = self._endpoints.update(endpoint_id, changes, asked)
        return endpoint_pb2.Endpoint.FromString(body)

    def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: Context) -> Empty:
        endpoint_id = parse_endpoint_name(request.name)
        asked = asking.asked(_nothing, request.name, request.request_id, kind="endpoint")
        return Empty.FromString(self._endpoints.delete(endpoint_id, asked))

    # --- what they serve ---

    def DeployVersion(
        self, request: pb.DeployVersionRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        endpoint_id = parse_endpoint_name(request.name)
        asked = asking.asked(_endpoint, request.name, request.request_id)
        body = self._endpoints.deploy(endpoint_id, _rollout(request), asked)
        return endpoint_pb2.Endpoint.FromString(body)

    def UndeployVersion(
        self, request: pb.UndeployVersionRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        endpoint_id = parse_endpoint_name(request.name)
        version = check_version(request.version)
        asked = asking.asked(_endpoint, request.name, request.request_id)
        body = self._endpoints.undeploy(endpoint_id, version, asked)
        return endpoint_pb2.Endpoint.FromString(body)

    def RollBackEndpoint(
        self, request: pb.RollBackEndpointRequest, context: Context
    ) -> endpoint_pb2.Endpoint:
        endpoint_id = parse_endpoint_name(request.name)
        reason = validate.uri("`reason`", request.reason) or "somebody asked for it."
        asked = asking.asked(_endpoint, request.name, request.request_id)
        body = self._endpoints.roll_back(endpoint_id, reason, asked)
        return endpoint_pb2.Endpoint.FromString(body)

    # --- gateways ---

    def ReportGateway(
        self, request: pb.ReportGatewayRequest, context: Context
    ) -> pb.ReportGatewayResponse:
        # Servers of one database may differ in whether callers must show a token.
        prefix = "t" if self._has_tokens else "f"
        report = replace(_report(request), revision=request.revision.removeprefix(prefix))
        served = self._gateways.report(report, calls.audit_entry("", asking.now()))
        revision = prefix + served.revision
        if served.endpoints is None:
            return pb.ReportGatewayResponse(revision=revision, unchanged=True)
        callers = served.callers if self._has_tokens else ()
        return pb.ReportGatewayResponse(
            revision=revision,
            endpoints=map(convert_endpoint.endpoint_to_proto, served.endpoints),
            has_tokens=self._has_tokens,
            callers=[
                pb.ReportGatewayResponse.Caller(
                    name=each.token.token_id,
                    sha256=each.secret_hash.hex(),
                    expire_time=convert.time_to_proto(each.token.expire_time),
                )
                for each in callers
            ],
        )

    def RecordPredictions(self, request: pb.RecordPredictionsRequest, context: Context) -> Empty:
        validate.at_most(len(request.predictions), _RECORDED, "predictions in one request")
        self._results.record_predictions([*map(_prediction, request.predictions)])
        return Empty()

    def ListGateways(
        self, request: pb.ListGatewaysRequest, context: Context
    ) -> pb.ListGatewaysResponse:
        gateways = map(convert_endpoint.gateway_to_proto, self._gateways.list_gateways())
        return pb.ListGatewaysResponse(gateways=gateways)

    # --- what became of predictions ---

    def RecordResults(
        self, request: pb.RecordResultsRequest, context: Context
    ) -> pb.RecordResultsResponse:
        validate.at_most(len(request.results), _RECORDED, "results in one request")
        endpoint_id = parse_endpoint_name(request.name)
        outcomes = [*map(_outcome, request.results)]
        unknown = self._results.record_results(endpoint_id, outcomes)
        names = dict.fromkeys(each.request for each in unknown)
        return pb.RecordResultsResponse(
            recorded=len(outcomes) - len(unknown), unknown=list(names)[:_UNKNOWN]
        )

    def GetEndpointReport(
        self, request: pb.GetEndpointReportRequest, context: Context
    ) -> pb.EndpointReport:
        endpoint_id, window = parse_endpoint_name(request.name), _window(request)
        self._endpoints.get(endpoint_id)
        results = significance.compared(self._results.list_results(endpoint_id))
        minutes = self._gateways.list_traffic(endpoint_id, window)
        replicas = self._gateways.list_replicas(endpoint_id)
        return pb.EndpointReport(
            minutes=map(convert_endpoint.minute_to_proto, minutes),
            results=map(convert_endpoint.result_to_proto, results),
            replicas=map(convert_endpoint.replicas_to_proto, replicas),
        )


def _endpoint(endpoint: Endpoint) -> Message:
    return convert_endpoint.endpoint_to_proto(endpoint)


def _nothing(result: None) -> Message:
    return Empty()


def _described(message: endpoint_pb2.Endpoint) -> dict[str, Any]:
    """What people may set of an endpoint."""
    validate.at_most(len(message.deployments), 100, "versions of an endpoint")
    timeout = timedelta(seconds=30)
    if message.HasField("timeout"):
        timeout = convert.duration_from_proto(message.timeout)
    return {
        "description": validate.uri("`description`", message.description),
        "deployments": tuple(_deployment(each) for each in message.deployments),
        "scaling": convert_endpoint.scaling_from_proto(message.scaling),
        "timeout": timeout,
        "recording": convert_endpoint.recording_from_proto(message.recording),
    }


def _deployment(message: endpoint_pb2.Deployment) -> Deployment:
    return Deployment(
        version=check_version(message.version),
        percent=message.percent,
        shadow_percent=message.shadow_percent,
    )


def _rollout(request: pb.DeployVersionRequest) -> Rollout:
    model_id, word = parse_version_name(request.version)
    named = word if word == LATEST else check_version(word) if word.isdecimal() else None
    for percent in (request.percent, request.shadow_percent):
        if not 0 <= percent <= 100:
            raise InvalidArgumentError(f"percents are 0 to 100, but got {percent}.")
    canary = None
    if request.HasField("canary"):
        asked = convert_endpoint.canary_from_proto(request.canary)
        canary = replace(asked, state=CanaryState.RUNNING, step=0, reason="")
    scaling, recording = None, None
    if request.HasField("scaling"):
        scaling = convert_endpoint.scaling_from_proto(request.scaling)
    if request.HasField("recording"):
        recording = convert_endpoint.recording_from_proto(request.recording)
    return Rollout(
        model_id=model_id,
        version=named or check_alias(word),
        percent=request.percent,
        shadow_percent=request.shadow_percent,
        canary=canary,
        scaling=scaling,
        recording=recording,
    )


def _report(request: pb.ReportGatewayRequest) -> GatewayReport:
    validate.at_most(len(request.versions), _VERSIONS, "versions in one report")
    if request.sequence < 1:
        raise InvalidArgumentError(f"`sequence` counts from 1, but got {request.sequence}.")
    traffic, replicas = dict[Place, Traffic](), list[tuple[str, Replicas]]()
    for each in request.versions:
        endpoint_id = parse_endpoint_name(each.endpoint)
        version = check_version(each.version)
        for shadow, did in ((False, each.answered), (True, each.shadowed)):
            if did.requests:
                place = (endpoint_id, version, shadow)
                counted = traffic.setdefault(place, Traffic())
                counted.add(convert_endpoint.traffic_from_proto(did))
        if each.HasField("replicas"):
            replicas.append((endpoint_id, _replicas(each.replicas, version)))
    return GatewayReport(
        gateway=_gateway_id(request.gateway),
        sequence=request.sequence,
        host=validate.uri("`host`", request.host),
        rest_address=validate.uri("`rest_address`", request.rest_address),
        grpc_address=validate.uri("`grpc_address`", request.grpc_address),
        traffic=traffic,
        replicas=replicas,
        ends=request.ends,
    )


def _replicas(message: pb.ReplicaCount, version: int) -> Replicas:
    said = convert_endpoint.replicas_from_proto(message)
    return replace(said, gateway="", version=version, failure=validate.reason(said.failure))


def _gateway_id(asked: str) -> UUID:
    try:
        return UUID(asked)
    except ValueError:
        raise InvalidArgumentError(f"`gateway` is a UUID, but got {asked[:64]!r}.") from None


def _prediction(message: pb.RecordPredictionsRequest.Prediction) -> Prediction:
    if len(message.answer.encode()) > _ANSWER_BYTES:
        raise InvalidArgumentError(
            f"an `answer` has at most {_ANSWER_BYTES} bytes; leave a longer one empty."
        )
    return Prediction(
        endpoint_id=parse_endpoint_name(message.endpoint),
        request=_request_name(message.request),
        version=check_version(message.version),
        time=convert.time_from_proto(message.time),
        answer=validate.clean(message.answer),
    )


def _outcome(message: pb.RecordResultsRequest.Result) -> Outcome:
    request, row = _request_name(message.request), message.row
    if row < 0:
        raise InvalidArgumentError(f"`row` counts from 0, but got {row}.")
    match message.WhichOneof("outcome"):
        case "label":
            label = message.label
            return Outcome(request=request, row=row, grade=lambda a: graded(a, row, label))
        case "reward":
            name, reward = message.name or "reward", message.reward
            if len(name) > _NAME:
                raise InvalidArgumentError(
                    f"the `name` of a reward has at most {_NAME} characters."
                )
            if not abs(reward) <= LARGEST:
                raise InvalidArgumentError(
                    f"a `reward` is a number of at most {LARGEST:g} in size, but got {reward}."
                )
            result = (validate.word("the `name` of a reward", name), reward)
            return Outcome(request=request, row=row, grade=lambda _: result)
        case _:
            raise InvalidArgumentError("a result has a `label` or a `reward`.")


def _request_name(asked: str) -> str:
    if len(asked) > _NAME:
        raise InvalidArgumentError(f"the id of a request has at most {_NAME} characters.")
    return validate.word("the id of a request", asked)


def _window(request: pb.GetEndpointReportRequest) -> timedelta:
    if not request.HasField("window"):
        return timedelta(hours=1)
    window = convert.duration_from_proto(request.window)
    if not timedelta(0) < window <= KEPT:
        raise InvalidArgumentError(
            f"`window` is above zero and at most {KEPT.days} days, but got {window}."
        )
    return window
