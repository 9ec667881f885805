"""ModelService over gRPC: models, the lives of their versions, aliases, retention, repetition."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from tests.integration.service_support import Caller, refused, request_id, until
from tuner.config import Settings
from tuner.model import VERSION_MOVES, VersionState
from tuner.service import StudyServer
from tuner.v1 import admin_service_pb2, model_pb2
from tuner.v1 import model_service_pb2 as pb
from tuner.v1.admin_service_pb2_grpc import AdminServiceStub
from tuner.v1.model_service_pb2_grpc import ModelServiceStub

State = model_pb2.ModelVersion.State
Version = model_pb2.ModelVersion
SHA = "ab" * 32


class Registry:
    """Calls ModelService in short."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = ModelServiceStub(channel)

    def call(self, method: str, **fields: Any) -> Any:
        kind = getattr(pb, f"{method}Request")
        return getattr(self.stub, method)(kind(**fields), timeout=30)

    def begin(self, trial: str = "studies/s/trials/0", **fields: Any) -> Version:
        seconds = fields.pop("seconds", 0.0)
        values = {
            "parent": "models/adult",
            "publisher": "box:1",
            "lineage": model_pb2.Lineage(trial=trial),
            **fields,
        }
        request = pb.BeginModelVersionRequest(**values)
        if seconds:
            request.ttl.FromMilliseconds(int(seconds * 1000))
        return self.stub.BeginModelVersion(request, timeout=30)

    def finish(self, version: Version, rejected: str = "", **fields: Any) -> Version:
        request = pb.FinishModelVersionRequest(
            name=version.name, publication_token=version.publication_token
        )
        if rejected:
            request.rejected = rejected
        else:
            values = {
                "uri": f"/models/{version.name}",
                "size_bytes": 7,
                "sha256": SHA,
                "metrics": {"auc": 0.9},
                "card": "# adult",
                "lineage": version.lineage,
                **fields,
            }
            request.published.CopyFrom(pb.FinishModelVersionRequest.Published(**values))
        return self.stub.FinishModelVersion(request, timeout=30)

    def ready(self, number: int, model: str = "adult") -> Version:
        """Publishes a trial of the study `s`."""
        begun = self.begin(f"studies/s/trials/{number}", parent=f"models/{model}")
        return self.finish(begun)

    def versions(self, model: str = "adult", **fields: Any) -> list[Version]:
        return list(self.call("ListModelVersions", parent=f"models/{model}", **fields).versions)

    def states(self) -> dict[int, str]:
        return {number_of(v): State.Name(v.state) for v in self.versions()}


def number_of(version: Version) -> int:
    return int(version.name.rpartition("/")[2])


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[tuple[Registry, Caller]]:
    """A registry beside a study `s` with eight trials."""
    settings = Settings(data_dir=tmp_path, server_port=0, database_url=database_url)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        caller.create()
        caller.suggest(count=8)
        yield Registry(channel), caller


@pytest.fixture
def registry(served: tuple[Registry, Caller]) -> Registry:
    return served[0]


def test_a_version_from_its_beginning_to_its_alias(registry: Registry) -> None:
    begun = registry.begin()
    assert begun.name == "models/adult/versions/1"
    assert begun.state == State.PUBLISHING and begun.publication_token
    assert begun.expire_time.seconds - begun.create_time.seconds == 30 * 60
    lineage = model_pb2.Lineage(
        trial="studies/s/trials/0", trainer="tabular", packages={"keras": "3.15.1"}
    )
    done = registry.finish(begun, lineage=lineage, report="fine")
    assert done.state == State.READY and done.lineage == lineage and done.report == "fine"
    assert not done.publication_token and not done.HasField("expire_time")
    named = registry.call("SetModelAlias", name="models/adult", alias="champion", version=1)
    assert dict(named.aliases) == {"champion": 1} and named.latest_version == 1
    for word in ("1", "champion", "latest"):
        found = registry.call("GetModelVersion", name=f"models/adult/versions/{word}")
        assert found.name == begun.name and found.card == "# adult"
        assert list(found.aliases) == ["champion"] and found.metrics["auc"] == 0.9
    listed = registry.versions()
    assert [v.name for v in listed] == [begun.name] and listed[0].card == ""
    model = registry.call("GetModel", name="models/adult")
    assert (model.latest_version, model.version_count) == (1, 1)
    gone = registry.call("DeleteModelAlias", name="models/adult", alias="champion")
    assert not gone.aliases and gone.etag != named.etag


def test_the_same_trial_is_published_once(served: tuple[Registry, Caller]) -> None:
    registry, caller = served
    first = registry.ready(0)
    again = registry.begin("studies/s/trials/0")
    assert again.name == first.name and again.state == State.READY
    assert not again.publication_token
    begun = registry.begin("studies/s/trials/1")
    other = registry.begin("studies/s/trials/1", publisher="box:2")
    assert other.name == begun.name and not other.publication_token
    rejected = registry.finish(begun, rejected="it predicts otherwise")
    assert rejected.state == State.REJECTED and rejected.report == "it predicts otherwise"
    assert registry.begin("studies/s/trials/1").name == rejected.name
    retried = registry.begin("studies/s/trials/1", retry_rejected=True)
    assert number_of(retried) == 3 and retried.publication_token
    # A trial of another study that took the name is another trial.
    caller.delete(force=True)
    caller.create()
    caller.suggest(count=1)
    assert number_of(registry.begin("studies/s/trials/0")) == 4


def test_a_publisher_that_fell_silent_is_followed(registry: Registry) -> None:
    lost = registry.begin(seconds=0.2)
    assert not registry.begin(publisher="box:2").publication_token
    taken = Version()

    def take() -> bool:
        taken.CopyFrom(registry.begin(publisher="box:2"))
        return bool(taken.publication_token)

    until(take)
    assert taken.name == lost.name and taken.publication_token != lost.publication_token
    with refused("ABORTED", "LEASE_LOST"):
        registry.finish(lost)
    assert registry.finish(taken).publisher == "box:2"
    with refused("ABORTED", "LEASE_LOST"):
        registry.finish(taken)


def test_a_version_that_is_asked_for_waits_for_a_publisher(registry: Registry) -> None:
    asked = registry.begin(publisher="")
    assert asked.state == State.PUBLISHING and not asked.publication_token
    assert not asked.HasField("expire_time")
    assert registry.begin(publisher="").name == asked.name
    taken = registry.begin()
    assert taken.name == asked.name and taken.publication_token
    # An import left behind is taken up by who imports from the same place, and no other.
    source = model_pb2.Lineage(source="/tmp/m")
    left = registry.begin("", lineage=source, seconds=0.001)
    other = registry.begin("", lineage=model_pb2.Lineage(source="/tmp/n"))
    assert other.name != left.name
    assert registry.begin("", lineage=source).name == left.name


def test_numbers_are_above_what_lies_there_and_never_used_again(registry: Registry) -> None:
    assert number_of(registry.begin(after_version=7)) == 8
    registry.finish(registry.begin("studies/s/trials/1"), rejected="no")
    registry.call("DeleteModelVersion", name="models/adult/versions/9")
    assert number_of(registry.begin("studies/s/trials/2", after_version=3)) == 10


def test_what_is_used_is_not_deleted(registry: Registry) -> None:
    registry.ready(0)
    registry.call("SetModelAlias", name="models/adult", alias="champion", version=1)
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("DeleteModelVersion", name="models/adult/versions/1")
    assert "the alias champion names it" in said[0]
    busy = registry.begin("studies/s/trials/1")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("DeleteModelVersion", name=busy.name)
    assert "is being published by box:1" in said[0]
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("DeleteModel", name="models/adult")
    assert "has 2 versions" in said[0]
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("SetModelAlias", name="models/adult", alias="next", version=2)
    assert "is publishing" in said[0]
    registry.finish(busy, rejected="no")
    registry.call("DeleteModelVersion", name=busy.name)
    registry.call("DeleteModelAlias", name="models/adult", alias="champion")
    registry.call("DeleteModelVersion", name="models/adult/versions/1")
    assert registry.states() == {1: "DELETING"}
    registry.call("DeleteModelVersion", name="models/adult/versions/1")
    assert registry.states() == {1: "DELETING"}
    registry.call("DeleteModelVersion", name="models/adult/versions/1", files_removed=True)
    registry.call("DeleteModel", name="models/adult")
    with refused("NOT_FOUND", "NOT_FOUND") as said:
        registry.call("GetModel", name="models/adult")
    assert "no model is called 'adult'" in said[0]


def test_the_newest_versions_that_nothing_uses_are_kept(registry: Registry) -> None:
    for number in range(4):
        registry.ready(number)
    registry.call("SetModelAlias", name="models/adult", alias="champion", version=1)
    model = model_pb2.Model(name="models/adult", keep_versions=2)
    registry.call("UpdateModel", model=model, update_mask={"paths": ["keep_versions"]})
    assert registry.states() == {4: "READY", 3: "READY", 2: "DELETING", 1: "READY"}
    registry.ready(4)
    assert registry.states() == {
        5: "READY",
        4: "READY",
        3: "DELETING",
        2: "DELETING",
        1: "READY",
    }
    registry.call("SetModelAlias", name="models/adult", alias="champion", version=5)
    assert registry.states()[1] == "READY", "5 is named now, so that 4 and 1 are the two kept"
    registry.ready(5)
    assert registry.states()[1] == "DELETING"
    everywhere = registry.versions("-", states=[State.DELETING])
    assert [v.name for v in everywhere] == [f"models/adult/versions/{n}" for n in (3, 2, 1)]


def test_models_are_described_and_listed(registry: Registry) -> None:
    for name in ("beta", "Alpha.2", "alpha_1"):
        model = model_pb2.Model(description=f"about {name}", labels={"team": "ads"})
        registry.call("CreateModel", model=model, model_id=name)
    with refused("ALREADY_EXISTS", "ALREADY_EXISTS"):
        registry.call("CreateModel", model_id="beta")
    page = registry.call("ListModels", page_size=2)
    rest = registry.call("ListModels", page_size=2, page_token=page.next_page_token)
    names = [m.name for m in (*page.models, *rest.models)]
    assert sorted(names) == ["models/Alpha.2", "models/alpha_1", "models/beta"]
    model = page.models[0]
    model.description = "new"
    changed = registry.call("UpdateModel", model=model, update_mask={"paths": ["description"]})
    assert changed.description == "new" and changed.labels == model.labels
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.call("UpdateModel", model=model, update_mask={"paths": ["description"]})
    assert "read it again" in said[0]


def test_pages_of_versions_follow_each_other(registry: Registry) -> None:
    for model, count in (("adult", 3), ("births", 2)):
        for number in range(count):
            registry.ready(number, model)
    seen, token = [], ""
    while True:
        page = registry.call("ListModelVersions", parent="models/-", page_size=2, page_token=token)
        seen += [v.name for v in page.versions]
        token = page.next_page_token
        if not token:
            break
    assert seen == [
        *(f"models/adult/versions/{n}" for n in (3, 2, 1)),
        *(f"models/births/versions/{n}" for n in (2, 1)),
    ]


@pytest.mark.parametrize(
    ("method", "fields", "says"),
    [
        ("CreateModel", {"model_id": "a/b"}, "a model's name"),
        ("GetModel", {"name": "studies/s"}, "models/MODEL"),
        ("BeginModelVersion", {"parent": "models/m"}, "names a trial"),
        ("BeginModelVersion", {"parent": "models/m", "after_version": -1}, "after_version"),
        ("GetModelVersion", {"name": "models/m/versions/Ü"}, "an alias is"),
        ("GetModelVersion", {"name": "models/m/versions/0"}, "a number from 1"),
        ("FinishModelVersion", {"name": "models/m/versions/1"}, "published"),
        ("SetModelAlias", {"name": "models/m", "alias": "latest", "version": 1}, "an alias is"),
        ("ListModels", {"page_size": -1}, "page_size"),
        ("ListModelVersions", {"parent": "models/-", "page_token": "x"}, "version's name"),
        ("UpdateModel", {"model": model_pb2.Model(name="models/m")}, "update_mask"),
    ],
)
def test_what_cannot_be_is_refused(
    registry: Registry, method: str, fields: dict[str, Any], says: str
) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        registry.call(method, **fields)
    assert says in said[0]


def test_a_trial_that_is_not_there_is_not_begun(registry: Registry) -> None:
    with refused("NOT_FOUND", "NOT_FOUND") as said:
        registry.begin("studies/s/trials/99")
    assert "there is no trial" in said[0]
    assert registry.call("ListModels").models == [], "nothing is left of it"
    begun = registry.begin()
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        registry.finish(begun, lineage=model_pb2.Lineage(trial="studies/s/trials/1"))
    assert "was begun for" in said[0]


def test_repeated_requests_get_their_first_answer(registry: Registry) -> None:
    service = pb.DESCRIPTOR.services_by_name["ModelService"]
    with_id = {m.name for m in service.methods if "request_id" in m.input_type.fields_by_name}
    begun = registry.begin("studies/s/trials/7")
    published = pb.FinishModelVersionRequest.Published(
        uri="/m/1", sha256=SHA, lineage=begun.lineage
    )
    mask = {"paths": ["keep_versions"]}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("CreateModel", {"model_id": "made"}),
        ("UpdateModel", {"model": model_pb2.Model(name="models/made"), "update_mask": mask}),
        ("BeginModelVersion", {
            "parent": "models/made",
            "publisher": "box:1",
            "lineage": model_pb2.Lineage(source="/somewhere"),
        }),
        ("FinishModelVersion", {
            "name": begun.name,
            "publication_token": begun.publication_token,
            "published": published,
        }),
        ("SetModelAlias", {"name": "models/adult", "alias": "a", "version": 1}),
        ("DeleteModelAlias", {"name": "models/adult", "alias": "a"}),
        ("DeleteModelVersion", {"name": "models/adult/versions/1"}),
        ("DeleteModelVersion", {"name": "models/adult/versions/1", "files_removed": True}),
        ("DeleteModel", {"name": "models/adult"}),
    ]  # fmt: skip
    assert {method for method, _ in steps} == with_id
    for method, fields in steps:
        fields = {**fields, "request_id": request_id()}
        answers: list[Any] = []
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(registry.call, method, **fields) for _ in range(4)]
            answers += [call.result(30) for call in calls]
        answers.append(registry.call(method, **fields))
        assert len(answers) == 5 and all(answer == answers[0] for answer in answers), method
    assert [number_of(v) for v in registry.versions("made")] == [1]


def test_publishers_that_race_get_different_numbers(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        begun = pool.map(registry.begin, [f"studies/s/trials/{number}" for number in range(8)])
        names = sorted(version.name for version in begun)
    assert names == [f"models/adult/versions/{number}" for number in range(1, 9)]


def test_changes_are_audited_and_survive_a_restart(tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path, server_port=0, database_url=database_url)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        Caller(channel).create()
        Caller(channel).suggest()
        before = Registry(channel).ready(0)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        found = Registry(channel).call("GetModelVersion", name=before.name)
        assert found == before
        request = admin_service_pb2.ListAuditEntriesRequest(resource="models/adult")
        entries = AdminServiceStub(channel).ListAuditEntries(request, timeout=30).entries
        methods = [entry.method for entry in entries]
        assert methods == ["FinishModelVersion", "BeginModelVersion"]


def test_sql_knows_the_same_moves_of_versions(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for before in VersionState:
            for after in VersionState:
                row = connection.execute(
                    b"SELECT tuner.is_version_move(%s, %s)", (before.value, after.value)
                ).fetchone()
                assert row == (after in VERSION_MOVES[before],), (before, after)
