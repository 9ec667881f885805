"""`tuner deploy` and `tuner endpoints` against a real server, and deploying from a script."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.integration.service_support import until
from tests.integration.test_models_cli import Run, _json, client, run
from tests.integration.web_study import prepared, published, work
from tuner import convert_endpoint
from tuner.client import Client
from tuner.endpoint import Canary, CanaryState, Recording, Replicas, Scaling, Traffic
from tuner.errors import FailedPreconditionError
from tuner.model import Lineage, ModelVersion, Published, VersionState
from tuner.v1 import endpoint_service_pb2 as pb

__all__ = ["client", "run"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables have to fit 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    yield


def _gateway(client: Client) -> None:
    """Reports traffic and replicas of two versions, as a gateway does, and results."""
    fast, slow = Traffic(), Traffic()
    for _ in range(12345):
        fast.count(0.012)
    for number in range(200):
        slow.count(1.5, is_error=number < 3)
    request = pb.ReportGatewayRequest(gateway=str(uuid.uuid4()), sequence=1, host="box:1")
    for version, traffic, failure in ((1, fast, ""), (2, slow, "out of memory")):
        each = request.versions.add(endpoint="endpoints/adult", version=version)
        each.answered.CopyFrom(convert_endpoint.traffic_to_proto(traffic))
        replicas = Replicas(version=version, ready=2, failure=failure)
        each.replicas.CopyFrom(convert_endpoint.replicas_to_proto(replicas))
    request.versions[1].shadowed.CopyFrom(convert_endpoint.traffic_to_proto(slow))
    connection = client._connection
    connection.call(lambda stub: stub.ReportGateway, request)
    predictions = pb.RecordPredictionsRequest()
    for number in range(20):
        each_one = predictions.predictions.add(
            endpoint="endpoints/adult",
            request=f"r{number}",
            version=1 + number % 2,
            answer='{"predictions": [{"predicted": "yes"}, 3.5]}',
        )
        each_one.time.GetCurrentTime()
    connection.call(lambda stub: stub.RecordPredictions, predictions)


def test_endpoints_from_the_command_line(run: Run, client: Client) -> None:
    assert "no endpoints" in run("endpoints")[1]
    study = prepared(client, "adult")
    work(study, 3)
    published(client, study, "adult", 3)
    client.models.set_alias("adult", "champion", 1)
    code, out, err = run("deploy", "adult@champion", "--traffic", "10", "--record", "50")
    assert code == 0 and out == "endpoint adult: version 1 at 100%\n" and "tuner gateway" in err
    made = _json(run, "deploy", "adult/2", "--traffic", "30", "--max-replicas", "3")
    assert {each["version"]: each["percent"] for each in made["deployments"]} == {1: 70, 2: 30}
    assert made["scaling"]["max_replicas"] == 3 and made["recording"]["percent"] == 50
    assert run("deploy", "adult/2", "--min-replicas", "3", "--max-replicas", "2")[0] == 2
    shadow = run("deploy", "adult/3", "--shadow", "20", "--idle", "10m")[1]
    split = "versions 1 at 70%, 2 at 30%, 3 at 0% and 20% as a shadow"
    assert shadow == f"endpoint adult: {split}\n"
    assert _json(run, "endpoints")[0]["scaling"]["idle_seconds"] == 600
    _gateway(client)
    told = {f"r{number}": "yes" if number % 3 else "no" for number in range(20)}
    assert client.endpoint("adult").results({**told, "nobody": "yes"}) == ["nobody"]
    client.endpoint("adult").results([(f"r{n}", 1, 1.5 + n / 7) for n in range(20)], name="clicks")
    shown = run("endpoints", "show", "adult")[1]
    assert max(map(len, shown.splitlines())) <= 80, shown
    for word in (
        "12,345",
        "1.50%",
        "12 ms",
        "1.6 s",
        "70%",
        "3 shadow",
        "2 shadow",
        "accuracy",
        "clicks",
    ):
        assert word in shown, (word, shown)
    assert "…" not in shown, shown
    assert "version 2 does not start: out of memory" in shown
    document = _json(run, "endpoints", "show", "adult", "--window", "5m")
    assert document["traffic"][0]["requests"] == 12345 and len(document["results"]) == 4
    assert document["replicas"][0]["ready"] == 2
    listed = run("endpoints", "list")[1]
    assert max(map(len, listed.splitlines())) <= 80 and "70%" in listed
    assert "1 at 20%, 2 at 80%" in run("endpoints", "traffic", "adult", "1=20", "2=80%")[1]
    canary = run("deploy", "adult/3", "--canary", "5,50", "--every", "2h", "--min-requests", "7")
    assert "canary of version 3 is at 5%, step 1 of 2" in canary[1]
    back = _json(run, "endpoints", "rollback", "adult", "--reason", "it is Friday")["canary"]
    assert back["state"] == "ROLLED_BACK" and back["step_seconds"] == 7200
    assert "was rolled back: it is Friday" in run("endpoints", "show", "adult")[1]
    assert "1 at 20%, 2 at 80%" in run("endpoints", "undeploy", "adult", "3")[1]
    for arguments, says in (
        (("endpoints", "show", "nobody"), "no endpoint is called 'nobody'"),
        (("endpoints", "traffic", "adult", "1=20", "2=70"), "sum to 100"),
        (("endpoints", "traffic", "adult", "3=100"), "does not serve version 3"),
        (("endpoints", "traffic", "adult", "all"), "VERSION=PERCENT"),
        (("endpoints", "delete", "adult"), "needs --yes"),
        (("deploy", "adult", "--canary", "5,x"), "write percents as 5,25,100"),
        (("deploy", "adult", "--canary", "50,5"), "each above the one before"),
        (("deploy", "adult", "--every", "10m"), "go with --canary"),
        (("deploy", "adult", "--canary", "5", "--every", "soon"), "write a time as"),
        (("deploy", "adult/9"), "no version 9"),
    ):
        code, out, err = run(*arguments)
        assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1, err
    assert _json(run, "endpoints", "delete", "adult", "--yes") == {"deleted": "adult"}


def test_a_script_deploys_what_a_study_found(client: Client) -> None:
    study = prepared(client, "adult")
    work(study, 2)
    with ThreadPoolExecutor(1) as pool:
        # A publisher beside the script, as a runner is.
        found = pool.submit(study.deploy, "site", traffic=10, model="income")
        until(lambda: any(client.models.versions()))
        (asked,) = client.models.versions("income")
        _published(client, asked.lineage)
        endpoint = found.result(timeout=60)
    assert endpoint.record.percents == {1: 100} and endpoint.record.model_id == "income"
    (version,) = client.models.versions("income")
    assert version.state is VersionState.READY
    # What is published already is deployed again at once, to the endpoint's model.
    again = study.best().deploy("site")
    assert again.record.percents == {1: 100} and repr(again) == "Endpoint('site')"
    changed = again.update(
        description="the site",
        scaling=Scaling(max_replicas=2),
        recording=Recording(percent=1.0),
        timeout=timedelta(seconds=3),
        etag=again.record.etag,
    )
    assert client.endpoint("site").record == changed
    assert changed.scaling == Scaling(max_replicas=2) and changed.timeout == timedelta(seconds=3)
    number = 1 - int(asked.lineage.trial.rpartition("/")[2])
    other = _published(client, replace(asked.lineage, trial=f"{study.name}/trials/{number}"))
    steps = Canary(steps=(10, 100), min_requests=5)
    canary = again.deploy(other, canary=steps).canary
    assert canary is not None and canary.state is CanaryState.RUNNING
    assert (canary.version, canary.steps, canary.min_requests) == (other.version, (10, 100), 5)
    assert again.roll_back().percents == {1: 100, other.version: 0}
    with pytest.raises(FailedPreconditionError, match="no canary runs"):
        again.roll_back()
    assert [each.name for each in client.endpoints()] == ["endpoints/site"]
    again.delete()
    assert not [*client.endpoints()]


def _published(client: Client, lineage: Lineage) -> ModelVersion:
    """Publishes as a runner does, whatever lies at the place."""
    begun = client.models.begin("income", lineage, publisher="box:1")
    uri = f"/models/income/{begun.version}"
    what = Published(uri=uri, size_bytes=1, sha256="ab" * 32, lineage=lineage)
    return client.models.finish(begun, what)
