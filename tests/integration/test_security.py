"""Tokens, TLS and the administration, with real servers and real certificates."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

import tuner
from tests.integration.certificates import Authority, Pair
from tests.integration.service_support import refused, running, study_of, until
from tuner.admin import Role
from tuner.client import Access, Client
from tuner.client.channel import Connection
from tuner.config import Settings
from tuner.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from tuner.model import Lineage, Published
from tuner.service import StudyServer, listen
from tuner.v1 import admin_service_pb2 as messages
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

pytestmark = pytest.mark.timeout(120)

CREATE = pb.CreateStudyRequest(study=study_of(), study_id="mine")


@contextmanager
def serving(folder: Path, url: str, **changes: Any) -> Iterator[Settings]:
    """A server in this process, and the settings of clients on its machine."""
    told = {"data_dir": folder, "server_port": 0, "database_url": url, "auth": "token", **changes}
    settings = Settings(**told)
    with StudyServer(settings) as server:
        yield Settings(data_dir=folder, server=server.address)


def client(settings: Settings, secret: str = "") -> Client:
    """A client without the server's own token, on whatever machine."""
    return Client(Access(addresses=(settings.server,), token=secret))


def admin(settings: Settings) -> Client:
    """A client with the server's own token."""
    return Client(Access.of(settings))


def secret_of(settings: Settings, role: Role, name: str = "ann", **ttl: timedelta) -> str:
    with admin(settings) as root:
        return root.admin.create_token(name, role, **ttl).secret


# --- tokens ----------------------------------------------------------------------------------


def test_without_a_token_nobody_gets_in(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        with (
            client(settings) as stranger,
            pytest.raises(UnauthenticatedError, match="TUNER_TOKEN"),
        ):
            stranger.ping()
        with client(settings, "tuner_guess") as stranger:
            with pytest.raises(UnauthenticatedError, match="unknown, revoked or expired"):
                stranger.ping()
            with pytest.raises(UnauthenticatedError):
                stranger.admin.create_token("me", Role.ADMIN)


def test_a_role_bounds_what_its_holder_may_do(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        secrets = {role: secret_of(settings, role, role.lower()) for role in Role}
        with client(settings, secrets[Role.READER]) as reader:
            reader.ping()
            with pytest.raises(PermissionDeniedError, match="CreateStudy needs writer"):
                reader.create_study("mine", {"x": tuner.Float(0, 1)}, maximize="auc")
        with client(settings, secrets[Role.WRITER]) as writer:
            with pytest.raises(PermissionDeniedError, match="ListTokens needs admin"):
                list(writer.admin.tokens())
        with client(settings, secrets[Role.ADMIN]) as root:
            assert {token.token_id for token in root.admin.tokens()} >= {"reader", "writer"}
        connection = Connection(Access(addresses=(settings.server,), token=secrets[Role.WRITER]))
        created = connection.call(lambda stub: stub.CreateStudy, CREATE)
        assert created.name == "studies/mine"
        connection.close()


def test_strangers_hold_no_threads_and_health_is_open(tmp_path: Path, database_url: str) -> None:
    """A call whose message never comes is refused by its metadata alone."""
    with (
        serving(tmp_path, database_url) as settings,
        grpc.insecure_channel(settings.server) as channel,
    ):
        never = threading.Event()

        def no_message() -> Iterator[bytes]:
            never.wait(120)
            yield b""

        for metadata in ((), (("authorization", "Bearer tuner_guess"),)):
            hanging: Any = channel.stream_unary("/tuner.v1.StudyService/GetStudy")
            start = time.monotonic()
            with pytest.raises(grpc.RpcError) as refused_with:
                hanging(no_message(), timeout=60, metadata=metadata)
            assert refused_with.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert time.monotonic() - start < 30
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        # Anybody may ask for health; whoever never says of what holds up nobody.
        check: Any = channel.stream_unary("/grpc.health.v1.Health/Check")
        watch: Any = channel.stream_stream("/grpc.health.v1.Health/Watch")
        mute = [check.future(no_message(), timeout=120) for _ in range(500)]
        mute += [watch(no_message(), timeout=120) for _ in range(500)]
        with client(settings, secret_of(Settings(data_dir=tmp_path), Role.READER)) as ann:
            assert list(ann.studies()) == []
        for _ in range(50):
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in mute:
            call.cancel()
        never.set()
        with pytest.raises(grpc.RpcError) as unknown:
            until(lambda: health.Check(health_pb2.HealthCheckRequest(service="no"), timeout=60))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_one_caller_cannot_hold_up_the_others(tmp_path: Path, database_url: str) -> None:
    """Calls whose messages never come hold threads; one token's leave some for the others."""
    with serving(tmp_path, database_url) as settings:
        mute_secret, other = (
            secret_of(settings, Role.READER, "mute"),
            secret_of(settings, Role.READER),
        )
        channel = grpc.insecure_channel(settings.server)
        never = threading.Event()

        def no_message() -> Iterator[bytes]:
            never.wait(60)
            yield b""

        metadata = (("authorization", f"Bearer {mute_secret}"),)
        hanging: Any = channel.stream_unary("/tuner.v1.StudyService/GetStudy")
        calls = [hanging.future(no_message(), timeout=60, metadata=metadata) for _ in range(1100)]
        with client(settings, other) as ann:
            for _ in range(20):
                assert list(ann.studies()) == []
        for call in calls:
            call.cancel()
        never.set()
        channel.close()
        with client(settings, mute_secret) as mute:
            assert list(mute.studies()) == []


def test_watchers_of_health_are_told_of_the_end(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        channel = grpc.insecure_channel(settings.server)
        health = health_pb2_grpc.HealthStub(channel)
        watchers = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(50)]
        for watcher in watchers:
            assert next(watcher).status == health_pb2.HealthCheckResponse.SERVING
    for watcher in watchers:
        assert next(watcher).status == health_pb2.HealthCheckResponse.NOT_SERVING
    channel.close()


def test_a_revoked_tokens_streams_end(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        secret = secret_of(settings, Role.READER)
        with client(settings, secret) as reader, admin(settings) as root:
            study = root.create_study("s", {"x": tuner.Float(0, 1)}, maximize="auc", trials=100)
            events = reader.get_study("s").events()
            next(events)
            root.admin.revoke_token("ann")
            time.sleep(2.5)
            for _, trial in zip(range(3), study, strict=False):
                trial.complete(0.5)
            with pytest.raises(UnauthenticatedError):
                list(events)


def test_streams_pass_the_same_guard(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        connection = Connection(settings.server)
        with pytest.raises(UnauthenticatedError):
            list(
                connection.stream(
                    lambda stub: stub.WatchStudy, pb.WatchStudyRequest(name="studies/s")
                )
            )
        connection.close()


def test_a_refusal_is_a_status_with_its_reason(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url, auth="token") as caller:
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED") as said:
            caller.stub.GetStudy(pb.GetStudyRequest(name="studies/s"), timeout=60)
        assert "tuner token create" in said[0]


def test_a_revoked_token_ends_within_a_second_on_every_server(
    tmp_path: Path, database_url: str
) -> None:
    with (
        serving(tmp_path / "one", database_url) as one,
        serving(tmp_path / "two", database_url) as two,
    ):
        secret = secret_of(one, Role.READER)
        with client(one, secret) as here, client(two, secret) as there, admin(one) as root:
            # A token that was made a moment ago may be asked for once more.
            there.ping(60)
            here.ping(60)
            root.admin.revoke_token("ann")
            with pytest.raises(UnauthenticatedError):
                here.ping()
            until(lambda: _is_refused(there))  # by the guard's clock, within a second


def _is_refused(client: Client) -> bool:
    try:
        client.ping()
    except UnauthenticatedError:
        return True
    return False


def test_an_expired_token_opens_nothing_and_its_name_is_free(
    tmp_path: Path, database_url: str
) -> None:
    with serving(tmp_path, database_url) as settings:
        secret = secret_of(settings, Role.READER, ttl=timedelta(seconds=1))
        with client(settings, secret) as ann, admin(settings) as root:
            ann.ping()
            with pytest.raises(AlreadyExistsError, match="tuner token revoke ann"):
                root.admin.create_token("ann", Role.READER)
            until(lambda: _is_refused(ann), seconds=5)
            root.admin.create_token("ann", Role.WRITER)
            assert _is_refused(ann)


def test_only_a_hash_of_a_secret_is_kept(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        secret = secret_of(settings, Role.WRITER)
        with psycopg.connect(database_url) as connection:
            for table in (b"tokens", b"audit"):
                rows = connection.execute(b"SELECT t::text FROM tuner." + table + b" t").fetchall()
                assert rows and secret not in str(rows)


def test_the_last_admin_token_cannot_be_revoked(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings, admin(settings) as root:
        root.admin.create_token("one", Role.ADMIN)
        with pytest.raises(FailedPreconditionError, match="'one' is the last admin token"):
            root.admin.revoke_token("one")
        root.admin.create_token("two", Role.ADMIN)
        revoked = root.admin.revoke_token("one")
        assert revoked.revoke_time is not None
        assert root.admin.revoke_token("one") == revoked
        with pytest.raises(FailedPreconditionError, match="last admin token"):
            root.admin.revoke_token("two")
        with pytest.raises(NotFoundError, match="tuner token list"):
            root.admin.revoke_token("three")


def test_who_changed_what_is_forgotten_after_a_time(tmp_path: Path, database_url: str) -> None:
    def entries(settings: Settings) -> set[str]:
        with admin(settings) as root:
            return {entry.resource for entry in root.admin.audit()}

    with serving(tmp_path / "a", database_url) as settings:
        secret_of(settings, Role.READER, "old")
        secret_of(settings, Role.READER, "new")
    with psycopg.connect(database_url) as connection:
        age = "UPDATE tuner.audit SET time = time - interval '11 days' WHERE resource = %s"
        connection.execute(age, ["tokens/old"])
    for_ever = serving(tmp_path / "b", database_url, audit_days=0)
    with for_ever as settings:
        assert {"tokens/old", "tokens/new"} <= entries(settings)
    with serving(tmp_path / "c", database_url, audit_days=10) as settings:
        until(lambda: "tokens/old" not in entries(settings))
        assert "tokens/new" in entries(settings)


def test_changes_of_tokens_are_audited(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings, admin(settings) as root:
        secret = root.admin.create_token("root", Role.ADMIN).secret
        with client(settings, secret) as named:
            named.admin.create_token("ann", Role.READER)
            named.admin.revoke_token("ann")
            found = list(named.admin.audit("tokens"))
            assert [(entry.caller, entry.method, entry.resource) for entry in found[:2]] == [
                ("root", "RevokeToken", "tokens/ann"),
                ("root", "CreateToken", "tokens/ann"),
            ]
            assert found[2].caller.startswith("local-") and found[2].resource == "tokens/root"
            assert all(entry.request for entry in found)
            assert list(named.admin.audit("tokens/ann", limit=1)) == found[:1]
            assert list(named.admin.audit("tokens/an")) == []
            assert named.admin.servers() is not None


@pytest.mark.parametrize("name", ["Ann", "local-x", ""])
def test_a_bad_name_is_refused_by_the_server_too(
    tmp_path: Path, database_url: str, name: str
) -> None:
    with serving(tmp_path, database_url) as settings:
        connection = Connection(Access.of(settings))
        request = messages.CreateTokenRequest(token_id=name, role=messages.Token.READER)
        with pytest.raises(InvalidArgumentError):
            connection.call(lambda stub: stub.CreateToken, request)
        request = messages.CreateTokenRequest(token_id="ann")
        with pytest.raises(InvalidArgumentError, match="`role` must be READER"):
            connection.call(lambda stub: stub.CreateToken, request)
        request.role = messages.Token.READER
        request.ttl.seconds = -1
        with pytest.raises(InvalidArgumentError, match="`ttl` must be"):
            connection.call(lambda stub: stub.CreateToken, request)
        connection.close()


# --- the token of the server's own machine ---------------------------------------------------


def test_the_servers_own_token_is_private_and_ends_with_it(
    tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "token"
    with serving(tmp_path, database_url) as settings:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with admin(settings) as root:
            (local,) = root.admin.tokens()
            assert local.is_local and local.role is Role.ADMIN and local.expire_time is not None
    assert not file.exists()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT * FROM tuner.tokens").fetchall() == []


def test_a_server_that_was_killed_leaves_nothing_behind(tmp_path: Path, database_url: str) -> None:
    environment = Settings(
        data_dir=tmp_path, server_port=0, database_url=database_url, auth="token"
    ).environment()
    command = [sys.executable, "-m", "tuner.service"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    )
    assert process.stdout is not None
    try:
        json.loads(process.stdout.readline())
        old = (tmp_path / "token").read_text().strip()
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
    assert (tmp_path / "token").exists()
    with serving(tmp_path, database_url) as settings:
        with admin(settings) as root:
            assert len(list(root.admin.tokens())) == 1
        with client(settings, old) as late:
            assert _is_refused(late)


def test_a_client_notices_that_the_server_has_a_new_token(
    tmp_path: Path, database_url: str
) -> None:
    with serving(tmp_path, database_url) as settings:
        port = int(settings.server.rpartition(":")[2])
        root = admin(settings)
        root.ping()
    with serving(tmp_path, database_url, server_port=port), root:
        root.ping(10.0)


# --- where it listens ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("server", "DNS:localhost", "IP:127.0.0.1")


def tls_of(pair: Pair) -> dict[str, str]:
    return {"tls_certificate": pair.certificate, "tls_key": pair.key}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"auth": "none"}, "TUNER_AUTH=token and TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY"),
        ({"auth": "token"}, "set TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY"),
        ({"auth": "none", "tls": "yes"}, "set TUNER_AUTH=token, or TUNER_INSECURE=1"),
    ],
)
def test_it_does_not_listen_to_strangers(
    tmp_path: Path, pair: Pair, host: str, changes: dict[str, str], missing: str
) -> None:
    tls = tls_of(pair) if changes.get("tls") else {}
    changes = {name: value for name, value in changes.items() if name != "tls"} | tls
    with pytest.raises(FailedPreconditionError, match=missing):
        StudyServer(Settings(data_dir=tmp_path / "data", host=host, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()


def test_it_listens_to_everybody_when_told_or_when_it_is_safe(
    tmp_path: Path, database_url: str, pair: Pair
) -> None:
    with serving(tmp_path / "a", database_url, auth="none", host="0.0.0.0", insecure=True) as all_:
        with client(all_) as anybody:
            anybody.ping()
    with serving(tmp_path / "b", database_url, host="0.0.0.0", **tls_of(pair)) as safe:
        with admin(Settings(data_dir=safe.data_dir)) as root:
            root.ping()


@pytest.mark.parametrize("changes", ["missing", "mismatch", "not pem", "directory"])
def test_bad_certificates_are_one_line_and_exit_code_2(
    tmp_path: Path, authority: Authority, pair: Pair, changes: str
) -> None:
    broken = {
        "missing": ("/no/such/file", "cannot be read (No such file or directory)"),
        "mismatch": (authority.sign("another").key, "the key is not the certificate's"),
        "not pem": (__file__, "no usable certificate or key in PEM format"),
        "directory": (str(tmp_path), "TUNER_TLS_CERTIFICATE"),
    }
    key, words = broken[changes]
    settings = Settings(
        data_dir=tmp_path / "d", server_port=0, tls_certificate=pair.certificate, tls_key=key
    )
    done = subprocess.run(
        [sys.executable, "-m", "tuner.cli", "server"],
        env={**os.environ, **settings.environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line and "Traceback" not in done.stderr


# --- TLS -------------------------------------------------------------------------------------


def test_tls_protects_and_is_checked(
    tmp_path: Path, database_url: str, authority: Authority, other: Authority, pair: Pair
) -> None:
    with serving(tmp_path, database_url, **tls_of(pair)) as settings:
        local = Settings(data_dir=tmp_path)
        secret = secret_of(local, Role.READER)
        with tuner.connect(settings.server, token=secret, tls_ca=authority.ca) as ann:
            assert list(ann.studies()) == []
        with pytest.raises(UnavailableError, match="not trusted here: set TUNER_TLS_CA"):
            tuner.connect(settings.server, token=secret, tls_ca=other.ca)
        with pytest.raises(UnavailableError):
            tuner.connect(settings.server, token=secret, tls_ca="system")
        with pytest.raises(UnavailableError, match=r"hangs up: .* set TUNER_TLS_CA"):
            with client(settings, secret) as plain:
                plain.ping()
        with pytest.raises(UnauthenticatedError):
            tuner.connect(settings.server, tls_ca=authority.ca, token="tuner_guess")


def test_a_renewed_certificate_is_shown_to_the_next_caller(
    tmp_path: Path, database_url: str, authority: Authority, other: Authority
) -> None:
    shown, renewed = authority.sign("mine", "IP:127.0.0.1"), other.sign("new", "IP:127.0.0.1")
    with serving(tmp_path, database_url, **tls_of(shown)) as settings:
        secret = secret_of(Settings(data_dir=tmp_path), Role.READER)

        def reaches(ca: str) -> bool:
            try:
                with tuner.connect(settings.server, token=secret, tls_ca=ca) as ann:
                    return list(ann.studies()) == []
            except UnavailableError:
                return False

        assert reaches(authority.ca) and not reaches(other.ca)
        # A certificate without its key is not shown.
        Path(shown.certificate).write_bytes(Path(renewed.certificate).read_bytes())
        assert reaches(authority.ca) and not reaches(other.ca)
        Path(shown.key).write_bytes(Path(renewed.key).read_bytes())
        assert reaches(other.ca) and not reaches(authority.ca)


def test_the_servers_own_machine_needs_no_certificate(
    tmp_path: Path, database_url: str, authority: Authority
) -> None:
    """Its certificate need not even know that it is also 127.0.0.1."""
    pair = authority.sign("tuner.example")
    changes = {**tls_of(pair), "tls_client_ca": authority.ca}
    with serving(tmp_path, database_url, **changes):
        socket = tmp_path / "server.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        with Client(Access.of(Settings(data_dir=tmp_path))) as root:
            root.ping()
            assert root.address == f"unix:{socket}"
            assert len(list(root.admin.tokens())) == 1
        with Client(f"unix:{socket}") as stranger:
            assert _is_refused(stranger)


def test_with_mutual_tls_a_client_shows_a_certificate(
    tmp_path: Path, database_url: str, authority: Authority, other: Authority, pair: Pair
) -> None:
    changes = {**tls_of(pair), "tls_client_ca": authority.ca}
    with serving(tmp_path, database_url, **changes) as settings:
        secret = secret_of(Settings(data_dir=tmp_path), Role.READER)

        def reach(identity: Pair | None) -> None:
            shown = {} if identity is None else {
                "tls_client_certificate": identity.certificate,
                "tls_client_key": identity.key,
            }  # fmt: skip
            told = Settings(
                server=settings.server,
                token=secret,
                tls_ca=authority.ca,
                **shown,  # type: ignore[arg-type]
            )
            with Client(Access.of(told)) as ann:
                ann.ping()

        reach(authority.sign("ann"))
        for wrong in (None, other.sign("ann")):
            with pytest.raises(UnavailableError, match="TUNER_TLS_CLIENT_CERTIFICATE"):
                reach(wrong)


def test_a_token_never_travels_in_the_clear() -> None:
    for address in ("tuner.example:8470", "192.0.2.1:8470", "[2001:db8::1]:8470"):
        with Client(Access(addresses=(address,), token="secret")) as ann:
            with pytest.raises(FailedPreconditionError, match=r"not sent to .* without TLS"):
                ann.ping()


def test_a_certificate_is_for_its_name(
    tmp_path: Path, database_url: str, authority: Authority
) -> None:
    with serving(tmp_path, database_url, **tls_of(authority.sign("elsewhere"))) as settings:
        with pytest.raises(UnavailableError, match="not made out to that name"):
            tuner.connect(settings.server, tls_ca=authority.ca)


def test_a_server_without_tls_is_not_trusted_with_it(
    tmp_path: Path, database_url: str, authority: Authority
) -> None:
    with serving(tmp_path, database_url) as settings:
        with pytest.raises(UnavailableError, match="speaks no TLS"):
            tuner.connect(settings.server, tls_ca=authority.ca)


def test_servers_reach_each_other_with_what_callers_proved(
    tmp_path: Path, database_url: str, authority: Authority, pair: Pair
) -> None:
    changes = {**tls_of(pair), "tls_client_ca": authority.ca}
    with serving(tmp_path, database_url, **changes) as settings:
        secret = secret_of(Settings(data_dir=tmp_path), Role.READER)
        for ca in ("", authority.ca):
            with listen.peers(Settings(tls_ca=ca, **changes), ())(settings.server) as channel:  # type: ignore[arg-type]
                stub = StudyServiceStub(channel)
                with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
                    stub.ListStudies(pb.ListStudiesRequest(), timeout=60)
                proof = (("authorization", f"Bearer {secret}"),)
                answer = stub.ListStudies(pb.ListStudiesRequest(), timeout=60, metadata=proof)
                assert len(answer.studies) == 0
    with serving(tmp_path / "plain", database_url, auth="none") as settings:
        with listen.peers(Settings(), ())(settings.server) as channel:
            StudyServiceStub(channel).ListStudies(pb.ListStudiesRequest(), timeout=60)


def test_a_call_goes_on_to_the_studys_owner_with_its_callers_token(
    tmp_path: Path, database_url: str, authority: Authority, pair: Pair
) -> None:
    changes = {**tls_of(pair), "tls_client_ca": authority.ca, "tls_ca": authority.ca}
    with (
        serving(tmp_path / "one", database_url, **changes),
        serving(tmp_path / "two", database_url, **changes),
    ):
        one, two = (Settings(data_dir=tmp_path / name) for name in ("one", "two"))
        secret = secret_of(one, Role.WRITER)
        here = replace(Access.of(one), token=secret, token_file=None)
        there = replace(Access.of(two), token=secret, token_file=None)
        with Client(here) as ann, Client(there) as also_ann, admin(one) as root:
            ann.create_study("mine", {"x": tuner.Float(0, 1)}, maximize="auc", trials=2)
            study = also_ann.get_study("mine")
            for trial in study:
                with trial:
                    trial.complete(1.0)
            assert study.refresh().trial_counts.finished == 2
            assert study.refresh().state.is_finished
            changed = [(e.caller, e.method) for e in root.admin.audit("studies/mine")]
            assert changed[-1] == ("ann", "CreateStudy")
            assert [server.studies for server in root.admin.servers()] in ([0, 1], [1, 0])
            with pytest.raises(PermissionDeniedError):
                list(also_ann.admin.tokens())


# --- sizes -----------------------------------------------------------------------------------


def test_a_message_that_is_too_large_is_refused(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, auth="none") as settings, client(settings) as ann:
        large = pb.ListStudiesRequest(page_token="x" * (17 * 2**20))
        connection = Connection(settings.server)
        with pytest.raises(InvalidArgumentError, match="16 MiB: send less"):
            connection.call(lambda stub: stub.ListStudies, large)
        connection.close()
        ann.ping()


# --- several addresses -----------------------------------------------------------------------


def test_where_nobody_answers_the_next_address_is_asked(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, auth="none") as settings:
        start = time.monotonic()
        with tuner.connect(f"127.0.0.1:1,{settings.server}") as ann:
            assert ann.address == settings.server
            ann.ping()
        with Client(Access.to(f"127.0.0.1:1, 127.0.0.1:2 ,{settings.server}")) as bob:
            bob.ping(0.0)
        assert time.monotonic() - start < 30
    with Client(Access.to("127.0.0.1:1,127.0.0.1:2")) as lost:
        with pytest.raises(UnavailableError, match=r"no study server at 127\.0\.0\.1:"):
            lost.ping(0.0)


# --- the command line ------------------------------------------------------------------------


def run(
    settings: Settings, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuner.cli", *arguments],
        env={**os.environ, "TUNER_DATA_DIR": str(settings.data_dir), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_commands_make_list_and_revoke_tokens(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        made = run(settings, "token", "create", "ann", "--role", "writer", "--days", "7")
        assert made.returncode == 0, made.stderr
        (secret,) = made.stdout.splitlines()
        with client(settings, secret) as ann:
            ann.ping()
        document = json.loads(
            run(settings, "token", "create", "root", "--role", "admin", "--json").stdout
        )
        assert document["secret"].startswith("tuner_") and document["role"] == "ADMIN"
        listed = run(settings, "token", "list")
        assert "ann" in listed.stdout and "writer" in listed.stdout
        assert secret not in listed.stdout + made.stderr
        refused = run(settings, "token", "list", TUNER_TOKEN=secret)
        assert refused.returncode == 2 and "ListTokens needs admin" in refused.stderr
        assert run(settings, "token", "revoke", "ann").stdout == "the token of ann is revoked\n"
        assert "revoked" in run(settings, "token", "list").stdout
        assert "RevokeToken" in run(settings, "audit", "--resource", "tokens/ann").stdout
        entries = json.loads(run(settings, "audit", "--limit", "1", "--json").stdout)
        assert [entry["resource"] for entry in entries] == ["tokens/ann"]
        assert run(settings, "servers", "--json").returncode == 0
        nobody = run(settings, "studies", "--server", settings.server, TUNER_DATA_DIR="/nowhere")
        assert nobody.returncode == 2 and "set TUNER_TOKEN" in nobody.stderr


# --- models ----------------------------------------------------------------------------------


def test_models_belong_to_those_who_made_them(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url) as settings:
        secrets = {name: secret_of(settings, Role.WRITER, name) for name in ("ann", "bob")}
        ann, bob = (client(settings, secret) for secret in secrets.values())
        with ann, bob, admin(settings) as runner:
            study = ann.create_study("mine", {"x": tuner.Float(0, 1)}, maximize="auc", trials=2)
            for trial in study:
                with trial:
                    trial.complete(0.5)
            # What the runner publishes belongs to whom the study belongs to.
            begun = runner.models.begin(
                "m", Lineage(trial=f"{study.name}/trials/0"), publisher="r"
            )
            assert begun.creator == runner.models.get("m").creator == "ann"
            published = Published(
                uri="/etc", size_bytes=1, sha256="ab" * 32, lineage=begun.lineage
            )
            with pytest.raises(PermissionDeniedError, match="TUNER_MODELS"):
                runner.models.finish(begun, published)
            place = str(tmp_path / "artifacts" / "models" / "m" / "1")
            done = runner.models.finish(begun, replace(published, uri=place))
            with pytest.raises(
                PermissionDeniedError, match="model version 'm/versions/1' was cre"
            ):
                bob.models.delete_version(done)
            bob.models.set_alias("m", "champion", 1)
            with pytest.raises(PermissionDeniedError, match="model 'm' was created by 'ann'"):
                bob.models.delete("m")
            bob.models.delete_alias("m", "champion")
            ann.models.delete_version(done)
            runner.models.delete_version(done, files_removed=True)
            ann.models.delete("m")
            callers = {(e.method, e.caller) for e in runner.admin.audit("models/m")}
            assert ("SetModelAlias", "bob") in callers and ("DeleteModel", "ann") in callers
