"""EndpointService over gRPC: traffic splits, gateways' reports, canaries, results."""

from __future__ import annotations

import hashlib
import math
import statistics
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from scipy import stats

from tests.integration.service_support import Caller, refused, request_id, running, until
from tests.integration.test_security import admin, client, secret_of, serving
from tests.integration.test_service_models import Registry, number_of
from tuner import convert_endpoint
from tuner.admin import Role
from tuner.client import Client
from tuner.config import Settings
from tuner.endpoint import Traffic
from tuner.errors import NotFoundError, PermissionDeniedError
from tuner.service import StudyServer
from tuner.v1 import endpoint_pb2, model_pb2
from tuner.v1 import endpoint_service_pb2 as pb
from tuner.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from tuner_storage import Database
from tuner_storage.gateways import GatewayStore
from tuner_storage.results import ResultStore

Canary = endpoint_pb2.Canary
Endpoint = endpoint_pb2.Endpoint
Deployment = endpoint_pb2.Deployment
Result = pb.RecordResultsRequest.Result


class Endpoints:
    """Calls EndpointService in short, of an endpoint `live`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = EndpointServiceStub(channel)

    def call(self, method: str, **fields: Any) -> Any:
        kind = getattr(pb, f"{method}Request")
        return getattr(self.stub, method)(kind(**fields), timeout=30)

    def deploy(
        self, version: int | str, percent: int = 0, *, model: str = "adult", **fields: Any
    ) -> Endpoint:
        values = {
            "name": "endpoints/live",
            "version": f"models/{model}/versions/{version}",
            "percent": percent,
            **fields,
        }
        return self.stub.DeployVersion(pb.DeployVersionRequest(**values), timeout=30)

    def update(self, *paths: str, **fields: Any) -> Endpoint:
        endpoint = Endpoint(name="endpoints/live", **fields)
        request = pb.UpdateEndpointRequest(endpoint=endpoint)
        request.update_mask.paths.extend(paths)
        return self.stub.UpdateEndpoint(request, timeout=30)

    def predict(self, version: int, requests: Sequence[str], answer: str) -> None:
        """Records a prediction of each request."""
        predictions = []
        for request in requests:
            prediction = pb.RecordPredictionsRequest.Prediction(
                endpoint="endpoints/live", request=request, version=version, answer=answer
            )
            prediction.time.GetCurrentTime()
            predictions.append(prediction)
        self.call("RecordPredictions", predictions=predictions)

    def result(self, results: Sequence[tuple[str, str | float]]) -> pb.RecordResultsResponse:
        """Tells labels and rewards by request."""
        told = [
            Result(request=request, label=said)
            if isinstance(said, str)
            else Result(request=request, reward=said)
            for request, said in results
        ]
        request = pb.RecordResultsRequest(name="endpoints/live", results=told)
        return self.stub.RecordResults(request, timeout=30)

    def get(self, name: str = "endpoints/live") -> Endpoint:
        return self.stub.GetEndpoint(pb.GetEndpointRequest(name=name), timeout=30)


class Gateway:
    """A gateway that reports."""

    def __init__(self, endpoints: Endpoints, sequence: int = 1) -> None:
        self.id, self.sequence, self.revision = str(uuid.uuid4()), sequence, ""
        self._endpoints = endpoints

    def report(
        self,
        *did: tuple[int, int, int, float],
        shadow: bool = False,
        refused: int = 0,
        replicas: tuple[int, int] | None = None,
        ends: bool = False,
    ) -> pb.ReportGatewayResponse:
        """Reports so many requests, errors, and seconds of each, by version."""
        versions = []
        for version, requests, errors, seconds in did:
            traffic = Traffic()
            for number in range(requests):
                is_error = number < errors
                is_refusal = errors <= number < errors + refused
                traffic.count(seconds, is_error=is_error, is_refusal=is_refusal)
            each = pb.ReportGatewayRequest.Version(endpoint="endpoints/live", version=version)
            side = each.shadowed if shadow else each.answered
            side.CopyFrom(convert_endpoint.traffic_to_proto(traffic))
            if replicas is not None and replicas[0] == version:
                each.replicas.ready = replicas[1]
            versions.append(each)
        answer: pb.ReportGatewayResponse = self._endpoints.call(
            "ReportGateway",
            gateway=self.id,
            sequence=self.sequence,
            host="box:1",
            versions=versions,
            revision=self.revision,
            ends=ends,
        )
        self.sequence, self.revision = self.sequence + 1, answer.revision
        return answer


def canary(*steps: int, seconds: int = 0) -> endpoint_pb2.Canary:
    """A canary that needs 20 requests at each step."""
    made = endpoint_pb2.Canary(steps=steps, min_requests=20)
    made.step_time.seconds = seconds
    return made


def percents(endpoint: Endpoint) -> dict[int, int]:
    split = {each.version: each.percent for each in endpoint.deployments}
    slots = list(endpoint.slots)
    assert {v: slots.count(v) for v in split} == split and len(slots) in (0, 100)
    return split


Served = tuple[Endpoints, Registry, Caller]


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[Served]:
    """Endpoints beside a model `adult` with three versions, of trials 0 to 2 of a study `s`."""
    settings = Settings(data_dir=tmp_path, server_port=0, database_url=database_url)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        caller, registry = Caller(channel), Registry(channel)
        caller.create()
        caller.suggest(count=4)
        for number in range(3):
            registry.ready(number)
        yield Endpoints(channel), registry, caller


def test_a_split_from_its_first_version_on(served: Served) -> None:
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


def test_what_is_asked_is_checked(served: Served) -> None:
    endpoints, registry, _ = served
    created = endpoints.call(
        "CreateEndpoint",
        endpoint=Endpoint(model="models/adult", description="the site"),
        endpoint_id="live",
    )
    assert not created.deployments and not created.slots and created.timeout.seconds == 30
    assert created.scaling.max_replicas == 1 and created.recording.keep_time.seconds == 7 * 86400
    with refused("ALREADY_EXISTS", "ALREADY_EXISTS"):
        endpoints.call("CreateEndpoint", endpoint=created, endpoint_id="live")
    with refused("NOT_FOUND", "NOT_FOUND"):
        endpoints.call("CreateEndpoint", endpoint=Endpoint(model="models/no"), endpoint_id="x")
    assert [e.name for e in endpoints.call("ListEndpoints").endpoints] == ["endpoints/live"]
    # What there is not, or is not ready, cannot be deployed; nothing is half done.
    begun = registry.begin("studies/s/trials/3")
    for version, code in ((number_of(begun), "FAILED_PRECONDITION"), (9, "NOT_FOUND")):
        with refused(code, code):
            endpoints.deploy(version)
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        endpoints.deploy(1, 101)
    assert endpoints.get() == created
    registry.ready(3, model="other")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        endpoints.deploy(1, model="other")
    assert "--endpoint" in said[0]
    endpoints.deploy(1)
    endpoints.deploy(2, 0)
    split = [Deployment(version=1, percent=25), Deployment(version=2, percent=75)]
    told = endpoints.update("deployments", "timeout", deployments=split, timeout={"seconds": 3})
    assert percents(told) == {1: 25, 2: 75} and told.timeout.seconds == 3
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        endpoints.update("description", description="x", etag=created.etag)
    assert "read it again" in said[0]
    for wrong in ([Deployment(version=1, percent=99)], [*split, split[0]]):
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            endpoints.update("deployments", deployments=wrong)
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        endpoints.update("slots")
    endpoints.update("deployments", deployments=[Deployment(version=1, percent=100)])
    endpoints.deploy(2, 0)
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        endpoints.call("UndeployVersion", name="endpoints/live", version=1)
    assert "tuner endpoints traffic live 2=100" in said[0]
    endpoints.call("UndeployVersion", name="endpoints/live", version=2)
    assert not endpoints.call("UndeployVersion", name="endpoints/live", version=1).deployments
    registry.call("DeleteModelVersion", name="models/other/versions/1")
    registry.call("DeleteModelVersion", name="models/other/versions/1", files_removed=True)
    endpoints.call("CreateEndpoint", endpoint=Endpoint(model="models/other"), endpoint_id="o")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("DeleteModel", name="models/other")
    assert "tuner endpoints" in said[0]
    endpoints.call("DeleteEndpoint", name="endpoints/o")
    registry.call("DeleteModel", name="models/other")
    with refused("NOT_FOUND", "NOT_FOUND"):
        endpoints.get("endpoints/o")


def test_versions_that_are_served_are_kept(served: Served) -> None:
    endpoints, registry, _ = served
    endpoints.deploy(1)
    model = model_pb2.Model(name="models/adult", keep_versions=1)
    registry.call("UpdateModel", model=model, update_mask={"paths": ["keep_versions"]})
    assert registry.states() == {1: "READY", 2: "DELETING", 3: "READY"}
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        endpoints.deploy(2)
    endpoints.deploy(3, 100)
    endpoints.call("UndeployVersion", name="endpoints/live", version=1)
    assert registry.states() == {1: "READY", 2: "DELETING", 3: "READY"}
    endpoints.call("DeleteEndpoint", name="endpoints/live")
    assert registry.states() == {1: "DELETING", 2: "DELETING", 3: "READY"}


def test_many_deploy_and_delete_at_once(served: Served) -> None:
    """Whatever wins, percents sum to 100, and no version is served that is being deleted."""
    endpoints, registry, _ = served
    endpoints.deploy(1)

    def work(number: int) -> set[str]:
        refusals = set[str]()
        for turn in range(6):
            version = 1 + (number + turn) % 3
            try:
                if number == 7 and turn == 3:
                    registry.call("DeleteModelVersion", name="models/adult/versions/3")
                elif turn % 3 == 2:
                    endpoints.call("UndeployVersion", name="endpoints/live", version=version)
                else:
                    endpoints.deploy(version, 10 * number + turn)
            except grpc.RpcError as error:
                refusals.add(error.code().name)
            percents(endpoints.get())
        return refusals

    with ThreadPoolExecutor(8) as pool:
        refusals = set[str]().union(*pool.map(work, range(8)))
    assert refusals <= {"FAILED_PRECONDITION", "NOT_FOUND"}, refusals
    endpoint, states = endpoints.get(), registry.states()
    assert sum(percents(endpoint).values()) in (0, 100)
    assert all(states[each.version] == "READY" for each in endpoint.deployments)


def test_what_gateways_say_is_added_up_once(served: Served, database_url: str) -> None:
    endpoints, registry, _ = served
    endpoints.deploy(1)
    endpoints.deploy(2, 20, shadow_percent=5)
    ann, bob = Gateway(endpoints), Gateway(endpoints)
    first = ann.report()
    assert not first.unchanged and not first.has_tokens and not first.callers
    assert [e.name for e in first.endpoints] == ["endpoints/live"]
    assert first.endpoints[0].deployments[0].uri
    assert ann.report().unchanged
    bob.report()
    ann.report((1, 10, 1, 0.01), replicas=(1, 2))
    bob.report((1, 5, 0, 0.02), (2, 3, 0, 0.02))
    ann.sequence -= 1
    assert ann.report((1, 10, 1, 0.01)).unchanged
    bob.report((2, 4, 2, 0.02), shadow=True)
    report = endpoints.call("GetEndpointReport", name="endpoints/live")
    counted = Counter[tuple[int, bool, str]]()
    for minute in report.minutes:
        for what in ("requests", "errors"):
            key = (minute.version, minute.shadow, what)
            counted[key] += getattr(minute.traffic, what)
        assert sum(minute.traffic.latencies) == minute.traffic.requests - minute.traffic.errors
    assert counted == {
        (1, False, "requests"): 15,
        (1, False, "errors"): 1,
        (2, False, "requests"): 3,
        (2, False, "errors"): 0,
        (2, True, "requests"): 4,
        (2, True, "errors"): 2,
    }
    assert [(r.gateway, r.version, r.ready) for r in report.replicas] == [(ann.id, 1, 2)]
    # What is served is told again only when it changes, an alias included.
    registry.call("SetModelAlias", name="models/adult", alias="champion", version=2)
    changed = ann.report()
    assert list(changed.endpoints[0].deployments[1].aliases) == ["champion"]
    assert ann.report().unchanged
    listed = endpoints.call("ListGateways").gateways
    assert [g.gateway for g in listed] == [ann.id, bob.id] and listed[0].host == "box:1"
    bob.report((1, 1, 0, 0.01), ends=True)
    assert [g.gateway for g in endpoints.call("ListGateways").gateways] == [ann.id]
    # One that was silent for too long is dead, whatever it says.
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE tuner.gateways SET report_time = report_time - '61 s'::interval"
        )
    with refused("ABORTED", "LEASE_LOST") as said:
        ann.report((1, 1000, 0, 0.01))
    assert "begin anew" in said[0]
    with refused("ABORTED", "LEASE_LOST"):
        Gateway(endpoints, sequence=7).report()
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        endpoints.call("ReportGateway", gateway="me", sequence=1)
    assert not endpoints.call("ListGateways").gateways
    # Gateways that are gone and minutes long past are forgotten.
    with psycopg.connect(database_url) as connection, Database(database_url) as database:
        past = "UPDATE tuner.endpoint_traffic SET minute = minute - '31 days'::interval"
        connection.execute(past)
        connection.commit()
        GatewayStore(database).forget()
        for table in ("gateways", "endpoint_traffic"):
            left = connection.execute(f"SELECT count(*) FROM tuner.{table}".encode()).fetchone()
            assert left == (0,), table
    # What gateways say of endpoints that are gone is nobody's.
    endpoints.call("DeleteEndpoint", name="endpoints/live")
    late = Gateway(endpoints)
    late.report()
    late.report((1, 5, 0, 0.01))


def test_a_canary_goes_on_step_by_step(served: Served, database_url: str) -> None:
    endpoints, _, _ = served
    endpoints.deploy(1)
    gateway = Gateway(endpoints)
    gateway.report()
    begun = endpoints.deploy(2, canary=canary(10, 50, 100))
    assert percents(begun) == {1: 90, 2: 10} and begun.canary.state == Canary.RUNNING
    # What was answered before the gateway knew of the step does not count.
    gateway.report((2, 500, 0, 0.01), (1, 500, 0, 0.01))
    assert endpoints.get() == begun
    gateway.report((2, 15, 0, 0.01), (1, 100, 0, 0.01))
    assert endpoints.get().canary.step == 0
    gateway.report((2, 5, 0, 0.01))
    second = endpoints.get()
    assert percents(second) == {1: 50, 2: 50} and second.canary.step == 1
    assert second.etag != begun.etag
    gateway.report((2, 20, 0, 0.01), (1, 20, 0, 0.01))
    assert percents(endpoints.get()) == {1: 0, 2: 100}
    gateway.report((2, 20, 1, 0.01))
    done = endpoints.get()
    assert percents(done) == {1: 0, 2: 100} and done.canary.state == Canary.SUCCEEDED
    assert "1 of 20 requests failed (5.00%)" in done.canary.reason
    with psycopg.connect(database_url) as connection:
        asked = "SELECT method FROM tuner.audit WHERE resource = 'endpoints/live' ORDER BY entry"
        methods = [method for (method,) in connection.execute(asked)]
    assert methods == ["DeployVersion"] * 2 + ["ReportGateway"] * 3


def test_a_canary_that_refuses_what_others_take_is_rolled_back(served: Served) -> None:
    endpoints, _, _ = served
    endpoints.deploy(1)
    gateway = Gateway(endpoints)
    gateway.report()
    endpoints.deploy(2, canary=canary(10, 100, seconds=3600))
    gateway.report()
    # Callers make as many mistakes here as there.
    gateway.report((1, 20, 0, 0.01), (2, 20, 0, 0.01), refused=10)
    assert endpoints.get().canary.state == Canary.RUNNING
    gateway.report((1, 200, 0, 0.01))
    ended = endpoints.get()
    assert ended.canary.state == Canary.ROLLED_BACK and percents(ended) == {1: 100, 2: 0}
    assert "10 of 20 requests failed" in ended.canary.reason


def test_a_canary_that_does_worse_is_rolled_back(served: Served) -> None:
    endpoints, _, _ = served
    endpoints.deploy(1)
    endpoints.deploy(3, 40)
    gateway = Gateway(endpoints)
    gateway.report()
    endpoints.deploy(2, canary=canary(10, 100, seconds=3600))
    gateway.report()
    gateway.report((1, 300, 3, 0.01), (3, 200, 2, 0.01), (2, 30, 1, 0.01))
    assert endpoints.get().canary.state == Canary.RUNNING
    # By errors at once, long before the step is over.
    gateway.report((2, 30, 7, 0.01))
    ended = endpoints.get()
    assert percents(ended) == {1: 60, 2: 0, 3: 40} and ended.canary.state == Canary.ROLLED_BACK
    assert "8 of 60 requests failed (13.33%)" in ended.canary.reason
    assert "5 of 500" in ended.canary.reason and "p = " in ended.canary.reason
    # By latency, from its last step, where the others had no traffic any more.
    endpoints.deploy(2, canary=canary(10, 100))
    gateway.report()
    gateway.report((1, 50, 0, 0.01), (2, 20, 0, 0.015))
    assert percents(endpoints.get()) == {1: 0, 2: 100, 3: 0}
    gateway.report()
    gateway.report((1, 20, 0, 0.01), (2, 19, 0, 0.05))
    assert endpoints.get().canary.state == Canary.RUNNING
    gateway.report((2, 1, 0, 0.05))
    slow = endpoints.get()
    assert percents(slow) == {1: 60, 2: 0, 3: 40} and slow.canary.state == Canary.ROLLED_BACK
    assert "times that of the others" in slow.canary.reason
    # By somebody, and by another split.
    endpoints.deploy(2, canary=canary(50))
    asked = endpoints.call("RollBackEndpoint", name="endpoints/live", reason="it is Friday")
    assert percents(asked) == {1: 60, 2: 0, 3: 40} and asked.canary.reason == "it is Friday"
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        endpoints.call("RollBackEndpoint", name="endpoints/live")
    endpoints.deploy(2, canary=canary(50))
    other = endpoints.deploy(3, 10)
    assert other.canary.state == Canary.CANCELLED and percents(other) == {1: 34, 2: 56, 3: 10}
    endpoints.deploy(2, canary=canary(100))
    gone = endpoints.call("UndeployVersion", name="endpoints/live", version=2)
    assert gone.canary.state == Canary.CANCELLED and percents(gone) == {1: 77, 3: 23}


def test_results_are_compared_and_told_to_trials(served: Served, database_url: str) -> None:
    endpoints, _, caller = served
    caller.label_trial(1, {"mine": "kept"})
    endpoints.deploy(1, recording=endpoint_pb2.Recording(percent=100))
    endpoints.deploy(2, 50)
    scored = '{"predictions": [{"classes": ["a", "b"], "scores": [0.2, 0.8], "predicted": "b"}]}'
    for version in (1, 2):
        endpoints.predict(version, [f"{version}-{n}" for n in range(40)], scored)
    endpoints.predict(2, ["2-0"], "{}")  # told again, it stays as it was
    rewards = {
        1: [0.1 * (n % 7) for n in range(40)],
        2: [0.4 + 0.1 * (n % 5) for n in range(30)],
    }
    for version, values in rewards.items():
        endpoints.result([(f"{version}-{n}", 1e6) for n in range(len(values))])
        endpoints.result([(f"{version}-{n}", value) for n, value in enumerate(values)])
    right = [("1-0", "b"), ("1-1", "b"), ("1-2", "a"), ("2-0", "b"), ("2-0", "a"), ("2-1", "a")]
    answer = endpoints.result([*right, ("9-9", "b"), ("1-3", 0.5)])
    assert (answer.recorded, list(answer.unknown)) == (7, ["9-9"])
    found = {
        (each.result, each.version): each
        for each in endpoints.call("GetEndpointReport", name="endpoints/live").results
    }
    assert {key: each.count for key, each in found.items()} == {
        ("accuracy", 1): 3,
        ("accuracy", 2): 2,
        ("reward", 1): 40,
        ("reward", 2): 30,
    }
    rewards[1][3] = 0.5
    for version, values in rewards.items():
        each = found["reward", version]
        assert each.mean == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert each.standard_deviation == pytest.approx(statistics.stdev(values), rel=1e-9)
    expected = stats.ttest_ind(rewards[2], rewards[1], equal_var=False)
    assert found["reward", 2].p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert not found["reward", 1].HasField("p_value") and found["reward", 1].difference == 0
    assert found["accuracy", 1].mean == pytest.approx(2 / 3)
    assert found["accuracy", 2].mean == 0 and found["accuracy", 2].HasField("p_value")
    # The trials that the versions come from say so, beside what they said.
    until(lambda: "online/live/reward" in caller.trial(1).labels)
    assert dict(caller.trial(1).labels) == {
        "mine": "kept",
        "online/live/accuracy": "0 of 2",
        "online/live/reward": f"{statistics.fmean(rewards[2]):.4g} of 30",
    }
    # Results outlive the predictions that they came of, which are kept for a while.
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE tuner.predictions SET time = time - '8 days'::interval")
    with Database(database_url) as database:
        ResultStore(database).forget()
        GatewayStore(database).forget()
    assert list(endpoints.result([("1-0", 1.0)]).unknown) == ["1-0"]
    after = endpoints.call("GetEndpointReport", name="endpoints/live").results
    assert {(each.result, each.version): each for each in after} == found
    # A study that is gone is told nothing, and holds nobody up.
    endpoints.predict(1, ["late"], '{"predictions": [3.0]}')
    caller.delete(force=True)
    assert endpoints.result([("late", "4.5")]).recorded == 1
    until(lambda: not _untold(database_url))
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        endpoints.result([("late", math.nan)])
    with refused("NOT_FOUND", "NOT_FOUND"):
        endpoints.call("RecordResults", name="endpoints/no")


def _untold(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        asked = "SELECT count(*) FROM tuner.endpoint_results WHERE NOT is_told"
        row = connection.execute(asked).fetchone()
    assert row is not None
    return int(row[0])


def test_a_study_of_another_server_is_told(tmp_path: Path, database_url: str) -> None:
    """Results that one server records are told to a trial whose study another one owns."""
    folders = [tmp_path / name for name in ("a", "b")]
    with (
        running(folders[0], database_url) as ann,
        StudyServer(
            Settings(data_dir=folders[1], server_port=0, database_url=database_url)
        ) as other,
        grpc.insecure_channel(other.address) as channel,
    ):
        ann.create()
        ann.suggest(count=1)
        Registry(channel).ready(0)
        endpoints = Endpoints(channel)
        endpoints.deploy(1)
        endpoints.predict(1, ["r"], '{"outputs": [2.5]}')
        assert endpoints.result([("r", "3.0")]).recorded == 1
        until(lambda: bool(ann.trial().labels))
        assert dict(ann.trial().labels) == {"online/live/squared_error": "0.25 of 1"}


def test_roles_and_tokens(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        secrets = {
            name: secret_of(settings, role, name)
            for name, role in (("ann", Role.WRITER), ("bob", Role.WRITER), ("eve", Role.READER))
        }
        with (
            client(settings, secrets["ann"]) as ann,
            client(settings, secrets["bob"]) as bob,
            client(settings, secrets["eve"]) as eve,
        ):
            ann.models.create("adult")
            assert ann.endpoint("live").create("adult").creator == "ann"
            assert [each.record.model_id for each in eve.endpoints()] == ["adult"]
            assert eve.endpoint("live").report().minutes == () and eve.gateways() == []
            with pytest.raises(PermissionDeniedError, match="UpdateEndpoint needs writer"):
                eve.endpoint("live").update(description="mine")
            with pytest.raises(PermissionDeniedError, match="ReportGateway needs writer"):
                report(eve)
            served = report(bob)
            by_name = {each.name: each.sha256 for each in served.callers}
            assert served.has_tokens and {*secrets} < {*by_name}
            assert by_name["eve"] == hashlib.sha256(secrets["eve"].encode()).hexdigest()
            known = str(uuid.uuid4())
            assert report(bob, served.revision, known).unchanged
            with admin(settings) as root:
                root.admin.revoke_token("eve")
            changed = report(bob, served.revision, known, sequence=2)
            assert "eve" not in {each.name for each in changed.callers}
            with pytest.raises(PermissionDeniedError, match="created by 'ann'"):
                bob.endpoint("live").delete()
            ann.endpoint("live").delete()
            with pytest.raises(NotFoundError, match="tuner endpoints"):
                ann.endpoint("live").refresh()


def report(
    client: Client, revision: str = "", gateway: str = "", sequence: int = 1
) -> pb.ReportGatewayResponse:
    request = pb.ReportGatewayRequest(
        gateway=gateway or str(uuid.uuid4()), sequence=sequence, revision=revision
    )
    return client._connection.call(lambda stub: stub.ReportGateway, request)
