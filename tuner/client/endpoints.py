"""Endpoints, for scripts and pages: which versions of a model answer, and how they do."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tuner import convert, convert_endpoint
from tuner import endpoint as values
from tuner.client.channel import Connection
from tuner.client.predictions import ANSWER_SECONDS, Predictions
from tuner.endpoint import (
    Canary,
    Deployment,
    Gateway,
    Recording,
    Report,
    Scaling,
    check_endpoint_id,
)
from tuner.errors import InvalidArgumentError
from tuner.model import LATEST, ModelVersion, parse_reference
from tuner.v1 import endpoint_pb2
from tuner.v1 import endpoint_service_pb2 as pb

_PAGE = 500
#: How many results go out in one request.
_RECORDED = 5000


class Endpoint:
    """An endpoint of a study server, whether there is one of the name yet or not.

    Every method raises TunerError. Where a `version` is taken, it is `model`, `model@alias`,
    `model@version` or `model/version`, or what publishing returned.
    """

    def __init__(
        self, connection: Connection, name: str, record: values.Endpoint | None = None
    ) -> None:
        self._connection = connection
        self.endpoint_id = check_endpoint_id(name)
        self._record = record

    def __repr__(self) -> str:
        return f"Endpoint({self.endpoint_id!r})"

    @property
    def name(self) -> str:
        """The resource name."""
        return f"endpoints/{self.endpoint_id}"

    @property
    def record(self) -> values.Endpoint:
        """The endpoint as it was when it was last read; raises NotFoundError."""
        return self._record or self.refresh()

    def refresh(self) -> values.Endpoint:
        """Reads the endpoint; raises NotFoundError."""
        request = pb.GetEndpointRequest(name=self.name)
        return self._keep(self._connection.call(lambda stub: stub.GetEndpoint, request))

    def create(self, model: str, *, description: str = "") -> values.Endpoint:
        """Creates it without versions; deploying one creates it, too.

        Args:
            model: the model whose versions it serves.
            description: what it is for.
        """
        request = pb.CreateEndpointRequest(
            endpoint=endpoint_pb2.Endpoint(model=f"models/{model}", description=description),
            endpoint_id=self.endpoint_id,
            request_id=str(uuid.uuid4()),
        )
        return self._keep(self._connection.call(lambda stub: stub.CreateEndpoint, request))

    def deploy(
        self,
        version: str | ModelVersion,
        percent: int = 100,
        *,
        shadow_percent: int = 0,
        canary: Canary | Sequence[int] | None = None,
        scaling: Scaling | None = None,
        recording: Recording | None = None,
    ) -> values.Endpoint:
        """Gives a version a part of the traffic; the others keep their proportions.

        The endpoint is created if there is none, and its first version gets all.

        Args:
            version: which.
            percent: how much of the traffic it gets, 0 to 100; not read with a canary.
            shadow_percent: how much of the traffic that others answer it is asked, too.
            canary: the percents that it gets one after the other, as long as it does no worse
                than the others; a Canary also says for how long each.
            scaling: how many replicas each version has; as it was if left out.
            recording: which predictions are recorded; as it was if left out.
        """
        request = pb.DeployVersionRequest(
            name=self.name,
            version=_version_name(version),
            percent=percent,
            shadow_percent=shadow_percent,
            request_id=str(uuid.uuid4()),
        )
        if canary is not None:
            asked = canary if isinstance(canary, Canary) else Canary(steps=tuple(canary))
            request.canary.CopyFrom(convert_endpoint.canary_to_proto(asked))
        if scaling is not None:
            request.scaling.CopyFrom(convert_endpoint.scaling_to_proto(scaling))
        if recording is not None:
            request.recording.CopyFrom(convert_endpoint.recording_to_proto(recording))
        return self._keep(self._connection.call(lambda stub: stub.DeployVersion, request))

    def undeploy(self, version: int) -> values.Endpoint:
        """Takes a version away; the others get its traffic, in their proportions."""
        request = pb.UndeployVersionRequest(
            name=self.name, version=version, request_id=str(uuid.uuid4())
        )
        return self._keep(self._connection.call(lambda stub: stub.UndeployVersion, request))

    def split(self, percents: Mapping[int, int], *, etag: str = "") -> values.Endpoint:
        """Splits the traffic otherwise; versions that are not named get none of it.

        Args:
            percents: by version; they sum to 100. Only versions that are deployed.
            etag: of the endpoint that the split was made for; left out: as it is now.
        """
        record = self.refresh()
        unknown = sorted(set(percents) - set(record.percents))
        if unknown:
            raise InvalidArgumentError(
                f"endpoint {self.endpoint_id!r} does not serve version {unknown[0]}; deploy it: "
                f"tuner deploy {record.model_id}@{unknown[0]} --endpoint {self.endpoint_id}."
            )
        deployments = [
            Deployment(
                version=each.version,
                percent=percents.get(each.version, 0),
                shadow_percent=each.shadow_percent,
            )
            for each in record.deployments
        ]
        return self.update(deployments=deployments, etag=etag or record.etag)

    def update(
        self,
        *,
        description: str | None = None,
        deployments: Iterable[Deployment] | None = None,
        scaling: Scaling | None = None,
        timeout: timedelta | None = None,
        recording: Recording | None = None,
        etag: str = "",
    ) -> values.Endpoint:
        """Changes what is given; with an etag only if nobody else has changed it since."""
        message = endpoint_pb2.Endpoint(name=self.name, etag=etag)
        paths = list[str]()
        if description is not None:
            message.description = description
            paths.append("description")
        if deployments is not None:
            message.deployments.extend(map(convert_endpoint.deployment_to_proto, deployments))
            paths.append("deployments")
        if scaling is not None:
            message.scaling.CopyFrom(convert_endpoint.scaling_to_proto(scaling))
            paths.append("scaling")
        if timeout is not None:
            message.timeout.FromTimedelta(timeout)
            paths.append("timeout")
        if recording is not None:
            message.recording.CopyFrom(convert_endpoint.recording_to_proto(recording))
            paths.append("recording")
        request = pb.UpdateEndpointRequest(
            endpoint=message, update_mask=FieldMask(paths=paths), request_id=str(uuid.uuid4())
        )
        return self._keep(self._connection.call(lambda stub: stub.UpdateEndpoint, request))

    def roll_back(self, reason: str = "") -> values.Endpoint:
        """Ends the canary that runs: the others get the traffic again."""
        request = pb.RollBackEndpointRequest(
            name=self.name, reason=reason, request_id=str(uuid.uuid4())
        )
        return self._keep(self._connection.call(lambda stub: stub.RollBackEndpoint, request))

    def delete(self) -> None:
        """Deletes it, with what was recorded of it; the versions stay."""
        request = pb.DeleteEndpointRequest(name=self.name, request_id=str(uuid.uuid4()))
        self._connection.call(lambda stub: stub.DeleteEndpoint, request)
        self._record = None

    def report(self, window: timedelta = timedelta(hours=1)) -> Report:
        """What is known of its traffic in the last time, and of what became of predictions."""
        request = pb.GetEndpointReportRequest(
            name=self.name, window=convert.duration_to_proto(window)
        )
        answer = self._connection.call(lambda stub: stub.GetEndpointReport, request)
        return convert_endpoint.report_from_proto(answer)

    def results(
        self,
        results: Mapping[str, str | float] | Iterable[tuple[str, int, str | float]],
        *,
        name: str = "",
    ) -> list[str]:
        """Tells what became of predictions; a second result of the same replaces the first.

        Args:
            results: by the id of the request, as the gateway answered it in `X-Request-Id`: a
                word is what was true, and is compared with what was predicted; a number is how
                good it was. Of requests with several rows: (id, row, result).
            name: what such a number is called; `reward` if left out.

        Returns:
            The ids of requests of which no prediction is recorded, or whose labels cannot be
            compared; at most 100 for each 5,000 results.
        """
        rows = (
            ((request, 0, result) for request, result in results.items())
            if isinstance(results, Mapping)
            else results
        )
        told, unknown = [_result(*row, name=name) for row in rows], list[str]()
        for first in range(0, len(told), _RECORDED):
            request = pb.RecordResultsRequest(
                name=self.name, results=told[first : first + _RECORDED]
            )
            unknown += self._connection.call(lambda stub: stub.RecordResults, request).unknown
        return unknown

    def predict(
        self,
        rows: Sequence[Any],
        *,
        version: int | None = None,
        key: str = "",
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> list[Any]:
        """Has rows predicted by a gateway that reports to the study server.

        Args:
            rows: each with all inputs of the model, by name; or values of its only input.
            version: which version answers; left out: as the traffic is split.
            key: calls with the same key go to the same version.
            timeout_seconds: how long an answer is awaited.

        Returns:
            A prediction for each row.

        Raises:
            TunerError: no gateway answers, or what one said.
        """
        with self.predictions() as predictions:
            answer = predictions.predict(
                self.endpoint_id, rows, version=version, key=key, timeout_seconds=timeout_seconds
            )
        return list(answer.checked()["predictions"])

    def predictions(self) -> Predictions:
        """A connection to the gateways, for many calls; use it in `with`."""
        addresses = [gateway.rest_address for gateway in list_gateways(self._connection)]
        return Predictions(self._connection.access, addresses)

    def _keep(self, message: endpoint_pb2.Endpoint) -> values.Endpoint:
        self._record = convert_endpoint.endpoint_from_proto(message)
        return self._record


def list_endpoints(connection: Connection) -> Iterator[Endpoint]:
    """Yields the endpoints of a study server by name."""
    token = ""
    while True:
        request = pb.ListEndpointsRequest(page_size=_PAGE, page_token=token)
        page = connection.call(lambda stub: stub.ListEndpoints, request)
        for record in map(convert_endpoint.endpoint_from_proto, page.endpoints):
            yield Endpoint(connection, record.endpoint_id, record)
        token = page.next_page_token
        if not token:
            return


def list_gateways(connection: Connection) -> list[Gateway]:
    """Returns the gateways that report to a study server."""
    answer = connection.call(lambda stub: stub.ListGateways, pb.ListGatewaysRequest())
    return [*map(convert_endpoint.gateway_from_proto, answer.gateways)]


def _version_name(version: str | ModelVersion) -> str:
    if isinstance(version, ModelVersion):
        return version.name
    model, word = parse_reference(version)
    return f"models/{model}/versions/{word or LATEST}"


def _result(
    request: str, row: int, result: str | float, *, name: str
) -> pb.RecordResultsRequest.Result:
    if isinstance(result, str):
        return pb.RecordResultsRequest.Result(request=request, row=row, label=result)
    return pb.RecordResultsRequest.Result(request=request, row=row, reward=result, name=name)
