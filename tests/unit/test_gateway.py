"""Parts of the gateway that need neither a study server nor a model."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from tuner.endpoint import Traffic
from tuner.errors import (
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from tuner.serving.callers import Callers
from tuner.serving.endpoints import Endpoints
from tuner.serving.files import Files
from tuner.serving.pool import Replicas
from tuner.serving.predictions import parse_version, request_id
from tuner.serving.recording import Recorder, results_of
from tuner.serving.sync import Kept
from tuner.v1 import endpoint_service_pb2 as pb

Caller = pb.ReportGatewayResponse.Caller


def caller(secret: str, ttl: timedelta | None = None) -> Caller:
    made = Caller(name="ann", sha256=hashlib.sha256(secret.encode()).hexdigest())
    if ttl is not None:
        made.expire_time.FromDatetime(datetime.now(UTC) + ttl)
    return made


def test_who_has_a_good_token_may_call() -> None:
    callers = Callers(is_open=True)
    callers.check(b"")
    hour = timedelta(hours=1)
    callers.update(True, [caller("for-ever"), caller("later", hour), caller("over", -hour)])
    for good in (b"Bearer for-ever", b"bearer  later "):
        callers.check(good)
    for bad in (b"", b"Bearer", b"Bearer ", b"Basic for-ever", b"Bearer over", b"Bearer \xff"):
        with pytest.raises(UnauthenticatedError, match="tuner token create"):
            callers.check(bad)
    callers.update(False, [])
    callers.check(b"")


def test_beyond_the_machine_nobody_calls_before_there_are_tokens() -> None:
    callers = Callers(is_open=False)
    with pytest.raises(UnauthenticatedError, match="TUNER_AUTH=token"):
        callers.check(b"Bearer x")
    callers.update(True, [caller("x")])
    callers.check(b"Bearer x")


def test_what_was_kept_is_read_if_it_is_of_the_same_server(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "endpoints.json"
    kept = Kept(path, "one:1")
    assert kept.read() is None
    answer = pb.ReportGatewayResponse(revision="7", has_tokens=True, callers=[caller("x")])
    answer.endpoints.add(name="endpoints/live", model="models/m", slots=[1] * 100)
    kept.write(answer)
    assert kept.read() == answer
    assert path.stat().st_mode & 0o077 == 0 and [*path.parent.iterdir()] == [path]
    assert Kept(path, "two:1").read() is None
    for broken in ("", "[]", '{"server": "one:1"}', '{"server": "one:1", "answer": {"x": 1}}'):
        path.write_text(broken)
        assert kept.read() is None


def test_what_cannot_be_kept_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tuner.serving.sync.os.replace", full)
    Kept(tmp_path / "endpoints.json", "").write(pb.ReportGatewayResponse())
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_know_yet_what_it_serves_does_not_deny_it(tmp_path: Path) -> None:
    async def ask() -> None:
        endpoints = Endpoints(cast(Replicas, None), Files(tmp_path), cast(Recorder, None))
        with pytest.raises(UnavailableError, match="not know yet"):
            endpoints.find("live", None, "", b"")
        with pytest.raises(UnavailableError, match="not know yet"):
            endpoints.versions("live", None)
        endpoints.apply([])
        with pytest.raises(NotFoundError):
            endpoints.find("live", None, "", b"")

    asyncio.run(ask())


def test_a_version_is_named_by_number_or_label() -> None:
    assert parse_version("12") == (12, "")
    assert parse_version("stable") == (None, "stable")
    assert parse_version("1" * 40) == (None, "1" * 40)


def test_results_are_read_as_they_are_meant() -> None:
    rows = [
        {"request": "a", "label": "yes"},
        {"request": "a", "row": 2, "label": 3.5},
        {"request": "b", "label": True},
        {"request": "b", "reward": 2, "name": "revenue"},
    ]
    read = results_of("endpoints/live", json.dumps({"results": rows}).encode()).results
    assert [each.label for each in read] == ["yes", "3.5", "true", ""]
    assert (read[1].row, read[3].reward, read[3].name) == (2, 2.0, "revenue")
    both = {"results": [{"request": "a", "label": "x", "reward": 1}]}
    with pytest.raises(InvalidArgumentError, match="one of them"):
        results_of("endpoints/live", json.dumps(both).encode())


@pytest.mark.parametrize(
    "wrong", [{"reward": 10**400}, {"reward": float("nan")}, {"label": "\ud800"}]
)
def test_results_that_cannot_be_kept_are_refused(wrong: dict[str, object]) -> None:
    body = json.dumps({"results": [{"request": "a", **wrong}]}).encode()
    with pytest.raises(InvalidArgumentError):
        results_of("endpoints/live", body)


def test_an_id_that_results_cannot_name_is_replaced() -> None:
    assert request_id("order 17") == "order 17"
    for sent in ("", "a\tb", "a\x85b", "a" * 65):
        assert len(request_id(sent)) == 16


def test_traffic_since_a_moment_is_what_came_after() -> None:
    traffic, before = Traffic(), Traffic()
    for seconds in (0.001, 0.1, 100.0):
        traffic.count(seconds)
        before.count(seconds)
    traffic.count(0.1)
    traffic.count(0.1, is_error=True)
    traffic.count(0.1, is_refusal=True)
    traffic.differences += 1
    since = traffic.since(before)
    assert (since.requests, since.errors, since.differences, since.refusals) == (3, 1, 1, 1)
    assert sum(since.latencies) == 2
    before.add(since)
    assert before == traffic
