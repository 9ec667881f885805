"""Real gateways that serve the endpoints of a real study server."""

from __future__ import annotations

import math
import os
import secrets
import signal
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest

from tests.integration.certificates import Authority, Pair
from tests.integration.conftest import database_of, make_database
from tests.integration.gateways import Gateway, gateway, until
from tuner.admin import Role
from tuner.client import Access, Client
from tuner.client.endpoints import Endpoint
from tuner.config import Settings
from tuner.endpoint import Deployment, Recording, Scaling, Traffic, slot_of
from tuner.errors import FailedPreconditionError
from tuner.model import Lineage, Published
from tuner.service import StudyServer
from tuner.serving.gateway import Options, run
from tuner.v1 import tensorflow_serving_pb2 as serving_pb
from tuner_storage import EmbeddedPostgres

pytestmark = pytest.mark.timeout(240)

#: How often one version takes another's place under load; more in `make soak`.
SWAPS = int(os.environ.get("TUNER_TEST_SWAPS", "1"))
#: What each version of `half` adds to the half of its input.
PLUS = {1: 2.0, 2: 3.0, 3: 2.0}


class Box:
    """A study server that can be stopped and started, and its client."""

    def __init__(self, folder: Path, url: str) -> None:
        self.settings = Settings(data_dir=folder / "server", server_port=0, database_url=url)
        self.folder = folder
        self.server = StudyServer(self.settings)
        self.server.__enter__()
        self.address = self.server.address
        self.client = Client(self.address)
        self.environment = {
            "TUNER_SERVER": self.address,
            "TUNER_DATA_DIR": str(folder / "gateway"),
        }

    def stop(self) -> None:
        self.server.__exit__(None, None, None)

    def start(self) -> None:
        port = int(self.address.rpartition(":")[2])
        settings = Settings(
            data_dir=self.settings.data_dir,
            server_port=port,
            database_url=self.settings.database_url,
        )
        self.server = StudyServer(settings)
        self.server.__enter__()

    def endpoint(self, model: str, **versions: int) -> Endpoint:
        """A new endpoint of a model, and the percents of its versions: v1=30, v2=70."""
        endpoint = self.client.endpoint(f"{model}-{secrets.token_hex(3)}")
        endpoint.create(model)
        percents = {int(name[1:]): percent for name, percent in versions.items()}
        deployments = [Deployment(version=v, percent=p) for v, p in percents.items()]
        endpoint.update(deployments=deployments)
        return endpoint


def publish(client: Client, model: str, directory: Path) -> None:
    """Says that a directory is the next version of a model."""
    begun = client.models.begin(
        model, Lineage(source=str(uuid.uuid4())), publisher="test", ttl=timedelta(minutes=1)
    )
    client.models.finish(
        begun,
        Published(
            uri=str(directory),
            size_bytes=1,
            sha256="ab" * 32,
            lineage=begun.lineage,
            metrics={},
            card="",
            report="",
        ),
    )


@pytest.fixture(scope="module")
def box(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, models: Path
) -> Iterator[Box]:
    name = f"gateways_{os.getpid()}"
    make_database(postgres, name)
    box = Box(tmp_path_factory.mktemp("box"), database_of(postgres, name))
    for version in (1, 2, 1):
        publish(box.client, "half", models / "half" / str(version))
    publish(box.client, "clf", models / "clf" / "7")
    for directory in (models / "half" / "1", models / "broken" / "1"):
        publish(box.client, "fragile", directory)
    yield box
    box.client.close()
    box.stop()


@pytest.fixture(scope="module")
def served(box: Box) -> Iterator[Gateway]:
    with gateway("--connections", "300", environment=box.environment) as running:
        assert running.zygotes() == []  # nothing is served yet
        yield running


def ask(http: httpx.Client, name: str, x: float = 1.0, **headers: str) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return http.post(f"/v1/models/{name}:predict", json={"instances": [x]}, headers=named)


def version_of(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-model-version"])


def keys_of(name: str) -> list[str]:
    """A key of each slot."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < 100:
        found.setdefault(slot_of(name, b"%d" % number), str(number))
        number += 1
    return [found[slot] for slot in range(100)]


def versions_by_slot(running: Gateway, name: str) -> list[int]:
    return [version_of(ask(running.http, name, x_tuner_key=key)) for key in keys_of(name)]


def follows(running: Gateway, endpoint: Endpoint) -> list[int]:
    """Waits until the gateway splits the traffic as the study server says; returns the slots."""
    slots, name = list(endpoint.refresh().slots), endpoint.endpoint_id
    until(lambda: ask(running.http, name).status_code == 200)
    until(lambda: versions_by_slot(running, name) == slots)
    return slots


class Load:
    """Callers that never pause, each answer checked against the version that gave it."""

    def __init__(self, gateways: Sequence[Gateway], name: str, count: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[Any] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(gateways, name, at)) for at in range(count)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 30) -> None:
        """Waits for more good answers."""
        enough = self.statuses[200] + count
        until(lambda: self.statuses[200] > enough)

    def _call(self, gateways: Sequence[Gateway], name: str, x: float) -> None:
        clients = [httpx.Client(base_url=each.url, timeout=60) for each in gateways]
        while not self._stop.is_set():
            x += 1
            for place, client in enumerate(clients):
                try:
                    answer = ask(client, name, x)
                except httpx.TransportError as error:
                    if place + 1 == len(clients):  # nobody is left to ask
                        self.wrong.append(repr(error))
                    continue
                break
            else:
                continue
            self.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                self.wrong.append(answer.text)
            elif answer.json() != {"predictions": [x / 2 + PLUS[version_of(answer)]]}:
                self.wrong.append((x, answer.text))
        for client in clients:
            client.close()


def traffic_of(endpoint: Endpoint, *, shadow: bool = False) -> Mapping[int, Traffic]:
    found: dict[int, Traffic] = {}
    for minute in endpoint.report().minutes:
        if minute.shadow is shadow:
            found.setdefault(minute.version, Traffic()).add(minute.traffic)
    return found


# --- the split ---


def test_what_was_deployed_is_served_at_once(box: Box, served: Gateway) -> None:
    endpoint = box.client.endpoint("fresh")
    endpoint.deploy("half/1")
    assert version_of(ask(served.http, "fresh")) == 1
    endpoint.deploy("half/2", 0)
    assert version_of(ask(served.http, "fresh/versions/2")) == 2
    assert ask(served.http, "stale").status_code == 404
    endpoint.delete()


def test_traffic_is_split_as_the_study_server_says(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=30, v2=70)
    follows(served, endpoint)
    found: Counter[int] = Counter()
    asked, threads = 3000, 6

    def caller() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            mine = [version_of(ask(client, endpoint.endpoint_id)) for _ in range(asked // threads)]
        found.update(mine)

    running = [threading.Thread(target=caller) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert found.total() == asked
    assert abs(found[1] - 0.3 * asked) < 3 * math.sqrt(asked * 0.3 * 0.7), found
    # Who names a version gets it, whatever the split.
    name = endpoint.endpoint_id
    assert version_of(ask(served.http, f"{name}/versions/1")) == 1
    assert version_of(ask(served.http, name, x_tuner_version="2")) == 2
    assert ask(served.http, name, x_tuner_version="9").status_code == 404


def test_keys_move_only_as_a_change_asks(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=90, v2=10)
    before = follows(served, endpoint)
    endpoint.split({1: 60, 2: 40})
    after = follows(served, endpoint)
    moved = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert moved == [(1, 2)] * 30


def test_aliases_are_labels(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=100, v2=0)
    box.client.models.set_alias("half", "stable", 1)
    follows(served, endpoint)
    name = endpoint.endpoint_id
    until(lambda: ask(served.http, f"{name}/labels/stable").status_code == 200)
    assert version_of(ask(served.http, f"{name}/labels/stable")) == 1
    box.client.models.set_alias("half", "stable", 2)
    until(lambda: version_of(ask(served.http, f"{name}/labels/stable")) == 2)
    refused = ask(served.http, f"{name}/labels/none")
    assert refused.status_code == 400 and "Unrecognized servable version label" in refused.text


# --- changes ---


def test_changes_and_dead_replicas_cost_no_request(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=100, v2=0)
    endpoint.update(scaling=Scaling(min_replicas=2, max_replicas=2))
    name = endpoint.endpoint_id
    follows(served, endpoint)
    before = len(served.replicas())
    with Load([served], name) as load:
        for percent in (50, 0, 100, 20, 80, 99, 1, 50, 100, 0):
            endpoint.split({1: percent, 2: 100 - percent})
            follows(served, endpoint)
        for swap in range(SWAPS):
            old, new = (2, 3) if swap % 2 == 0 else (3, 2)
            endpoint.deploy(f"half@{new}", 50)
            follows(served, endpoint)
            endpoint.undeploy(old)
            assert set(follows(served, endpoint)) == {new}
        load.more()
        assert endpoint.report().replicas  # the gateway has said how many there are
        for pid in served.replicas():
            os.kill(pid, signal.SIGKILL)
            load.more()
        until(lambda: len(served.replicas()) >= min(before, 2))
        load.more()
    assert load.wrong == [] and set(load.statuses) == {200}


def test_a_version_that_cannot_be_loaded_gets_no_traffic(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("fragile", v1=100)
    follows(served, endpoint)
    endpoint.deploy("fragile@2", 50)

    def failure() -> str:
        replicas = endpoint.report().replicas
        return next((each.failure for each in replicas if each.version == 2), "")

    assert "cannot be loaded" in until(failure)
    assert versions_by_slot(served, endpoint.endpoint_id) == [1] * 100
    refused = ask(served.http, f"{endpoint.endpoint_id}/versions/2")
    assert refused.status_code == 503 and "cannot be loaded" in refused.json()["error"]
    endpoint.delete()
    until(lambda: ask(served.http, endpoint.endpoint_id).status_code == 404)


# --- what is counted, compared and recorded ---


def test_shadows_are_asked_counted_and_never_answer(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=100)
    endpoint.deploy("half@2", 0, shadow_percent=100)
    endpoint.deploy("half@3", 0, shadow_percent=50)
    name = endpoint.endpoint_id
    follows(served, endpoint)
    asked = 100

    def differences() -> int:
        found = traffic_of(endpoint, shadow=True)
        return found[2].differences if 2 in found else 0

    before = traffic_of(endpoint, shadow=True)
    for _ in range(asked):
        assert version_of(ask(served.http, name)) == 1
    until(lambda: differences() >= asked / 2)  # they are left out while shadows are busy
    shadows = traffic_of(endpoint, shadow=True)
    assert shadows[2].differences == shadows[2].requests and shadows[2].errors == 0
    assert shadows[3].requests > 0 and shadows[3].differences == 0
    assert set(before) <= {2, 3}
    assert set(traffic_of(endpoint)) == {1}
    metrics = served.http.get("/monitoring/prometheus/metrics").text
    labels = f'endpoint="{name}",shadow="true",version="2"'
    assert f"tuner_gateway_differences_total{{{labels}}}" in metrics
    assert f'tuner_gateway_replicas{{endpoint="{name}",version="1"}} 1.0' in metrics
    assert f'model_name="{name}",status="OK"' in metrics


def test_results_find_the_predictions_that_were_recorded(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=50, v2=50)
    endpoint.update(recording=Recording(percent=100))
    name = endpoint.endpoint_id
    follows(served, endpoint)
    path = f"/v1/endpoints/{name}/results"

    def is_recorded() -> bool:
        request = ask(served.http, name).headers["x-request-id"]
        told = {"results": [{"request": request, "reward": 1, "name": "probe"}]}
        return bool(served.http.post(path, json=told).json()["recorded"])

    until(is_recorded)
    results = []
    for number in range(40):
        answer = ask(served.http, name, x_request_id=f"mine-{number}")
        assert answer.headers["x-request-id"] == f"mine-{number}"
        right = answer.json()["predictions"][0]
        results.append({"request": f"mine-{number}", "label": right})
        results.append({"request": f"mine-{number}", "reward": version_of(answer)})
    answer = served.http.post(path, json={"results": [*results, {"request": "no", "reward": 1}]})
    assert answer.json() == {"recorded": 80, "unknown": ["no"]}, answer.text
    found = {(each.version, each.result): each for each in endpoint.report().results}
    assert found[1, "reward"].mean == 1 and found[2, "reward"].mean == 2
    assert found[1, "squared_error"].mean == found[2, "squared_error"].mean == 0
    assert found[1, "reward"].count + found[2, "reward"].count == 40
    for body, said in (
        (b"{", "no JSON"),
        (b'{"results": []}', "1 to 10,000"),
        (b'{"results": [1]}', "no object"),
        (b'{"results": [{"request": "a"}]}', "`label` or a `reward`"),
        (b'{"results": [{"request": "a", "reward": "x"}]}', "is a number"),
        (b'{"results": [{"request": "a", "reward": NaN}]}', "is a number"),
        (b"[" * 100_000, "no JSON"),
    ):
        refused = served.http.post(path, content=body)
        assert refused.status_code == 400 and said in refused.json()["error"], refused.text


def test_the_shapes_of_vertex_ai_and_cloud_ml_engine(box: Box, served: Gateway) -> None:
    endpoint = box.endpoint("half", v1=100, v2=0)
    name = endpoint.endpoint_id
    follows(served, endpoint)
    url = f"/v1/projects/p/locations/europe-west1/endpoints/{name}:predict"
    body = {"instances": [1.0, 2.0], "parameters": {"sampling": 1}}
    assert served.http.post(url, json=body).json() == {
        "predictions": [2.5, 3.0],
        "deployedModelId": "1",
        "model": "models/half",
        "modelDisplayName": "half",
        "modelVersionId": "1",
    }
    refused = served.http.post(url, json={})
    assert refused.status_code == 400
    assert refused.json()["error"]["status"] == "INVALID_ARGUMENT"
    missing = served.http.post(url.replace(name, "none"), json=body)
    assert missing.status_code == 404 and missing.json()["error"]["code"] == 404
    cloud = f"/v1/projects/p/models/{name}"
    assert served.http.post(f"{cloud}:predict", json=body).json() == {"predictions": [2.5, 3.0]}
    found = served.http.post(f"{cloud}/versions/2:predict", json=body)
    assert found.json() == {"predictions": [3.5, 4.0]}


def test_grpc_takes_keys_and_versions_as_metadata_and_is_recorded(
    box: Box, served: Gateway
) -> None:
    endpoint = box.endpoint("half", v1=50, v2=50)
    endpoint.update(recording=Recording(percent=100))
    name = endpoint.endpoint_id
    slots = follows(served, endpoint)
    # A TensorProto: DT_FLOAT, of the shape [1], 1.0.
    tensor = bytes.fromhex("08011204120208012a040000803f")
    spec = serving_pb.ModelSpec(name=name)
    body = serving_pb.PredictRequest(model_spec=spec, inputs={"x": tensor}).SerializeToString()
    key = keys_of(name)[7]
    with grpc.insecure_channel(served.calls) as channel:
        predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for metadata, version in (
            ({"x-tuner-version": "1"}, 1),
            ({"x-tuner-version": "2"}, 2),
            ({"x-tuner-key": key, "x-request-id": "over-grpc"}, slots[7]),
        ):
            answer, call = predict.with_call(body, metadata=tuple(metadata.items()), timeout=60)
            said = serving_pb.PredictResponse.FromString(answer)
            assert said.model_spec.version.value == version
            trailing = dict(call.trailing_metadata())
            assert trailing["x-model-version"] == str(version)
        assert trailing["x-request-id"] == "over-grpc"
        with pytest.raises(grpc.RpcError) as caught:
            predict(body, metadata=(("x-tuner-version", "9"),), timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    right = 0.5 + PLUS[slots[7]]
    told = {"results": [{"request": "over-grpc", "label": right}]}
    answer = served.http.post(f"/v1/endpoints/{name}/results", json=told)
    assert answer.json() == {"recorded": 1, "unknown": []}
    (result,) = endpoint.report().results
    assert (result.version, result.result, result.mean) == (slots[7], "squared_error", 0)


# --- without a study server, and with two gateways ---


def test_it_goes_on_without_a_study_server_and_another_takes_over(
    box: Box, served: Gateway
) -> None:
    endpoint = box.endpoint("half", v1=50, v2=50)
    name = endpoint.endpoint_id
    follows(served, endpoint)
    box.stop()
    try:
        with (
            gateway(environment=box.environment) as other,
            Load([other, served], name, 2) as load,
        ):
            load.more()
            version_of(ask(other.http, name))  # it knows the endpoint from what was kept
            other.stop()
            load.more()
    finally:
        box.start()
    assert load.wrong == [] and set(load.statuses) == {200}
    (known,) = until(lambda: [g for g in box.client.gateways() if g.rest_address == served.rest])
    assert known.grpc_address == served.calls


def test_every_call_is_counted_once_whatever_happens_to_the_study_server(
    box: Box, served: Gateway
) -> None:
    endpoint = box.endpoint("half", v1=50, v2=50)
    name, asked = endpoint.endpoint_id, 0

    def ask_more() -> None:
        nonlocal asked
        for _ in range(20):
            version_of(ask(served.http, name))
            asked += 1

    def counted() -> int:
        return sum(traffic.requests for traffic in traffic_of(endpoint).values())

    def ids() -> set[str]:
        return {g.gateway for g in box.client.gateways() if g.rest_address == served.rest}

    until(lambda: served.http.get(f"/v1/models/{name}").is_success)
    ask_more()
    until(ids)
    before = ids()
    box.stop()
    ask_more()
    # Taken for dead meanwhile, as after a minute of silence, it begins anew.
    with psycopg.connect(box.settings.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM tuner.gateways")
    box.start()
    ask_more()
    until(lambda: counted() >= asked)
    until(lambda: ids() and ids().isdisjoint(before))
    assert counted() == asked


# --- who may call ---


def test_callers_need_a_token_and_a_certificate(tmp_path: Path, database_url: str) -> None:
    authority = Authority(tmp_path, "authority")
    own, ann = authority.sign("gateway", "IP:127.0.0.1"), authority.sign("ann")
    data_dir = tmp_path / "data"
    settings = Settings(
        data_dir=data_dir,
        server_port=0,
        database_url=database_url,
        auth="token",
        tls_certificate=own.certificate,
        tls_key=own.key,
    )
    environment = {
        "TUNER_DATA_DIR": str(data_dir),
        "TUNER_TLS_CERTIFICATE": own.certificate,
        "TUNER_TLS_KEY": own.key,
        "TUNER_TLS_CLIENT_CA": authority.ca,
    }
    context = ssl.create_default_context(cafile=authority.ca)
    context.load_cert_chain(ann.certificate, ann.key)
    with (
        StudyServer(settings),
        Client(Access.of(Settings(data_dir=data_dir))) as admin,
        gateway("--host", "0.0.0.0", environment=environment) as running,
    ):
        made = admin.admin.create_token("ann", Role.READER)
        port = running.rest.rpartition(":")[2]
        known = {"Authorization": f"Bearer {made.secret}"}
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as http:
            path, body = "/v1/models/m:predict", {"instances": [1]}
            until(lambda: http.post(path, json=body, headers=known).status_code == 404)
            for headers, said in (
                ({}, "send the header Authorization: Bearer TOKEN"),
                ({"Authorization": "Bearer tuner_x"}, "unknown, revoked or expired"),
                ({"Authorization": f"Basic {made.secret}"}, "send the header Authorization"),
            ):
                refused = http.post(path, json=body, headers=headers)
                assert refused.status_code == 401 and said in refused.json()["error"]
                assert refused.headers["www-authenticate"] == "Bearer"
            assert http.get("/v2/health/live").is_success
            assert http.get("/v2/health/ready").is_success
            metrics = "/monitoring/prometheus/metrics"
            assert http.get(metrics).status_code == 401
            assert http.get(metrics, headers=known).is_success
            codes = [
                code_of(running, authority, ann, made.secret, with_token) for with_token in (0, 1)
            ]
            assert codes == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND]
            admin.admin.revoke_token("ann")
            until(lambda: http.post(path, json=body, headers=known).status_code == 401)
        stranger = ssl.create_default_context(cafile=authority.ca)
        with (
            httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=stranger) as http,
            pytest.raises(httpx.TransportError),
        ):
            http.get("/v2/health/live")


def code_of(
    running: Gateway, authority: Authority, pair: Pair, secret: str, with_token: int
) -> grpc.StatusCode:
    credentials = grpc.ssl_channel_credentials(
        Path(authority.ca).read_bytes(),
        Path(pair.key).read_bytes(),
        Path(pair.certificate).read_bytes(),
    )
    metadata = [("authorization", f"Bearer {secret}")] * with_token
    request = serving_pb.PredictRequest(model_spec=serving_pb.ModelSpec(name="m"))
    port = running.calls.rpartition(":")[2]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            predict(request.SerializeToString(), metadata=metadata, timeout=60)
    code: grpc.StatusCode = caught.value.code()
    return code


def test_it_is_not_open_to_all_unless_told(box: Box, tmp_path: Path) -> None:
    pair = Authority(tmp_path, "authority").sign("gateway")
    settings = Settings(
        data_dir=tmp_path, server=box.address, host="0.0.0.0", rest_port=0, grpc_port=0
    )
    with pytest.raises(FailedPreconditionError, match=r"listen on 0\.0\.0\.0 without TLS"):
        run(Options(settings=settings))
    settings = replace(settings, tls_certificate=pair.certificate, tls_key=pair.key)
    with pytest.raises(FailedPreconditionError, match="no tokens: set TUNER_AUTH=token there"):
        run(Options(settings=settings))
