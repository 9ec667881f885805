"""EndpointService over gRPC: traffic splits, gateways' reports, canaries, results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.service_support import Caller, refused, request_id
from tests.integration.test_service_models import Registry
from tuner.config import Settings
from tuner.service import StudyServer
from tuner.v1 import endpoint_pb2
from tuner.v1 import endpoint_service_pb2 as pb
from tuner.v1.endpoint_service_pb2_grpc import EndpointServiceStub

Endpoint = endpoint_pb2.Endpoint
Deployment = endpoint_pb2.Deployment


class Endpoints:
    """Calls EndpointService in short, of an endpoint `live`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = EndpointServiceStub(channel)

    def call(self, method: str, **fields: Any) -> Any:
        kind = getattr(pb, f"{method}Request")
        return getattr(self.stub, method)(kind(**fields), timeout=30)

    def deploy(self, version: int | str, percent: int = 0, **fields: Any) -> Endpoint:
        values = {
            "name": "endpoints/live",
            "version": f"models/adult/versions/{version}",
            "percent": percent,
            **fields,
        }
        return self.stub.DeployVersion(pb.DeployVersionRequest(**values), timeout=30)

    def get(self, name: str = "endpoints/live") -> Endpoint:
        return self.stub.GetEndpoint(pb.GetEndpointRequest(name=name), timeout=30)


def percents(endpoint: Endpoint) -> dict[int, int]:
    split = {each.version: each.percent for each in endpoint.deployments}
    slots = list(endpoint.slots)
    assert {v: slots.count(v) for v in split} == split and len(slots) in (0, 100)
    return split


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[tuple[Endpoints, Registry, Caller]]:
    """Endpoints beside a model `adult` with three versions, of trials 0 to 2 of a study `s`."""
    settings = Settings(data_dir=tmp_path, server_port=0, database_url=database_url)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        caller, registry = Caller(channel), Registry(channel)
        caller.create()
        caller.suggest(count=4)
        for number in range(3):
            registry.ready(number)
        yield Endpoints(channel), registry, caller


def test_a_split_from_its_first_version_on(
    served: tuple[Endpoints, Registry, Caller],
) -> None:
    endpoints, registry, _ = served
    registry.call("SetModelAlias", name="models/adult", alias="champion", version=1)
    first = endpoints.deploy("champion", 10)
    assert first.name == "endpoints/live" and first.model == "models/adult"
    assert percents(first) == {1: 100}
    (deployed,) = first.deployments
    assert deployed.uri == "/models/models/adult/versions/1" and deployed.sha256 == "ab" * 32
    assert list(deployed.aliases) == ["champion"]
    again = request_id()
    second = endpoints.deploy(2, 30, request_id=again)
    assert endpoints.deploy(2, 30, request_id=again) == second == endpoints.get()
    assert percents(second) == {1: 70, 2: 30}
    third = endpoints.deploy("latest", 50, shadow_percent=20)
    assert percents(third) == {1: 35, 2: 15, 3: 50}
    assert [each.shadow_percent for each in third.deployments] == [0, 0, 20]
    assert sum(a != b for a, b in zip(second.slots, third.slots, strict=True)) == 50
    assert percents(endpoints.call("UndeployVersion", name="endpoints/live", version=3)) == {
        1: 70,
        2: 30,
    }
    with refused("NOT_FOUND", "NOT_FOUND") as said:
        endpoints.call("UndeployVersion", name="endpoints/live", version=3)
    assert "it serves 1, 2" in said[0]
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("DeleteModelVersion", name="models/adult/versions/2")
    assert "the endpoint live serves it" in said[0]
