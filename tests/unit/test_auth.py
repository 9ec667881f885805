"""Who may call what: the table of roles, the guard, deletion, and what studies may name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tuner import convert_admin, v1
from tuner.admin import AuditEntry, Role, Server, Token, check_token_id
from tuner.config import Settings
from tuner.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    TunerError,
    UnauthenticatedError,
    UnavailableError,
)
from tuner.service import auth, roles
from tuner.service.allowed import Allowed, check_locations, check_model_place
from tuner.service.auth import TokenGuard
from tuner.service.call import Call
from tuner.study import DataSource, Goal, Metric, OwnTrainer, StudySpec
from tuner_storage.tokens import HashedToken

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# --- roles -----------------------------------------------------------------------------------


def methods() -> list[str]:
    """Every method of every service of tuner."""
    modules = [
        importlib.import_module(f"tuner.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)
    ]
    services = [
        service
        for module in modules
        if hasattr(module, "DESCRIPTOR")
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    assert len(services) >= 2
    return [method.name for service in services for method in service.methods]


def test_every_method_has_a_role_and_no_other_has() -> None:
    names = methods()
    assert len(set(names)) == len(names), "the table tells methods apart by their names alone"
    assert set(roles.METHODS) == set(names)


def test_readers_may_only_call_what_reads() -> None:
    reads = ("Get", "List", "Stream", "Watch", "Read")
    for name in methods():
        if roles.METHODS[name] is not Role.ADMIN:
            assert (roles.METHODS[name] is Role.READER) == name.startswith(reads), name


@pytest.mark.parametrize(
    ("method", "least"),
    [("GetStudy", Role.READER), ("CreateStudy", Role.WRITER), ("CreateToken", Role.ADMIN)],
)
@pytest.mark.parametrize("role", list(Role))
def test_a_role_includes_those_below_it(method: str, least: Role, role: Role) -> None:
    if list(Role).index(role) >= list(Role).index(least):
        roles.check_role(method, "ann", role)
    else:
        words = (
            f"'ann' has the role {role.lower()}, and {method} needs {least.lower()}; ask an admin"
        )
        with pytest.raises(PermissionDeniedError, match=words):
            roles.check_role(method, "ann", role)


def test_a_method_without_a_role_is_nobodys() -> None:
    with pytest.raises(PermissionDeniedError, match="no role is set"):
        roles.check_role("DropEverything", "root", Role.ADMIN)


@pytest.mark.parametrize(
    ("caller", "is_admin", "creator", "allowed"),
    [
        ("ann", False, "ann", True),
        ("bob", False, "ann", False),
        ("bob", False, "", True),
        ("root", True, "ann", True),
        ("", True, "", True),
        ("", False, "ann", False),
    ],
)
def test_only_the_creator_and_admins_delete(
    caller: str, is_admin: bool, creator: str, allowed: bool
) -> None:
    call = Call(method="DeleteStudy", request="r", caller=caller, is_admin=is_admin)
    assert roles.may_delete(call, creator) is allowed
    if allowed:
        roles.check_delete(call, "adult", creator)
    else:
        with pytest.raises(PermissionDeniedError, match="'adult' was created by 'ann'; only they"):
            roles.check_delete(call, "adult", creator)


# --- the guard -------------------------------------------------------------------------------


class Bench:
    """A guard over tokens in memory, and its two clocks."""

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.reads = 0
        self.seconds = 0.0
        self.error: TunerError | None = None
        #: How long each call that was held back had to wait; other calls come meanwhile.
        self.waits: list[float] = []
        self.guard = TokenGuard(
            self.active_tokens,
            now=lambda: NOW + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
            sleep=self.waits.append,
        )

    def active_tokens(self, now: datetime) -> Sequence[HashedToken]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return [
            HashedToken(token=token, secret_hash=auth.hash_of(secret))
            for secret, token in self.tokens.items()
            if token.is_active(now)
        ]

    def add(self, secret: str, role: Role, seconds: float | None = None) -> None:
        expires = None if seconds is None else NOW + timedelta(seconds=seconds)
        self.tokens[secret] = Token(
            token_id="ann", role=role, create_time=NOW, expire_time=expires
        )

    def call(self, authorization: str | None, method: str = "GetStudy") -> Call:
        metadata = {} if authorization is None else {"authorization": authorization}
        call = Call(method=method, request="r", metadata=metadata)
        self.guard.admit(call, None)
        return call


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("role", list(Role))
def test_a_token_says_who_calls(bench: Bench, role: Role) -> None:
    bench.add("secret", role)
    call = bench.call("Bearer secret")
    assert (call.caller, call.is_admin) == ("ann", role is Role.ADMIN)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic c2VjcmV0"])
def test_without_a_token_nobody_gets_in(bench: Bench, authorization: str | None) -> None:
    bench.add("secret", Role.ADMIN)
    with pytest.raises(UnauthenticatedError, match="wants a token: set TUNER_TOKEN"):
        bench.call(authorization)
    assert bench.reads == 0


def test_a_role_bounds_what_may_be_called(bench: Bench) -> None:
    bench.add("secret", Role.READER)
    with pytest.raises(PermissionDeniedError, match="CreateStudy needs writer"):
        bench.call("bearer secret", "CreateStudy")


def test_a_revoked_token_ends_within_a_second(bench: Bench) -> None:
    bench.add("secret", Role.READER)
    bench.call("Bearer secret")
    bench.tokens.clear()
    bench.seconds = 0.99
    bench.call("Bearer secret")
    bench.seconds = 1.0
    with pytest.raises(UnauthenticatedError, match="unknown, revoked or expired"):
        bench.call("Bearer secret")


def test_a_token_that_was_changed_here_is_read_at_once(bench: Bench) -> None:
    bench.add("secret", Role.READER)
    bench.call("Bearer secret")
    bench.tokens.clear()
    bench.guard.forget()
    with pytest.raises(UnauthenticatedError):
        bench.call("Bearer secret")


def test_an_expired_token_ends_at_once(bench: Bench) -> None:
    bench.add("secret", Role.READER, seconds=0.5)
    bench.call("Bearer secret")
    bench.seconds = 0.5
    with pytest.raises(UnauthenticatedError):
        bench.call("Bearer secret")


def test_a_new_token_is_found_and_guesses_cost_little(bench: Bench) -> None:
    for number in range(1000):
        bench.seconds = number / 1000
        with pytest.raises(UnauthenticatedError):
            bench.call(f"Bearer guess-{number}")
    assert bench.reads <= 11
    assert len(bench.waits) > 900 and 0 < min(bench.waits) <= max(bench.waits) < 0.1
    bench.add("secret", Role.READER)
    bench.seconds += 0.1
    assert bench.call("Bearer secret").caller == "ann"
    reads = bench.reads
    for _ in range(1000):
        bench.call("Bearer secret")
    assert bench.reads == reads


def test_a_stranger_is_told_without_a_look_at_the_database(bench: Bench) -> None:
    """All calls pass through the thread that asks; a database that hangs must not hold it."""
    bench.add("s", Role.READER)
    bench.guard.refresh()
    for seconds in (0.0, 0.5, 4.0):
        bench.seconds = seconds
        assert bench.guard.is_stranger((("authorization", "Bearer guess"),))
        assert bench.guard.is_stranger(())
        assert not bench.guard.is_stranger((("authorization", "Bearer s"),))
    bench.seconds = 6.0  # what was read may be too old to turn anybody away
    assert not bench.guard.is_stranger((("authorization", "Bearer guess"),))
    assert bench.reads == 1


def test_without_the_database_nobody_gets_in_until_it_answers(bench: Bench) -> None:
    bench.add("secret", Role.READER)
    bench.error = UnavailableError("the database does not answer; try again.")
    for _ in range(10):
        with pytest.raises(UnavailableError, match="does not answer"):
            bench.call("Bearer secret")
    assert bench.reads == 1
    bench.error = None
    bench.seconds = 0.2
    assert bench.call("Bearer secret").caller == "ann"


def test_secrets_are_long_random_and_only_their_hash_is_kept() -> None:
    first, second = auth.new_secret(), auth.new_secret()
    assert first != second and first.startswith("tuner_") and len(first) == len("tuner_") + 43
    assert len(auth.hash_of(first)) == 32 and first.encode() not in auth.hash_of(first)


# --- tokens, entries and servers as messages -------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("ended", [None, NOW])
def test_messages_say_the_same(role: Role, ended: datetime | None) -> None:
    token = Token(token_id="ann", role=role, create_time=NOW, expire_time=ended, revoke_time=ended)
    assert convert_admin.token_from_proto(convert_admin.token_to_proto(token)) == token
    entry = AuditEntry(time=NOW, caller="a", method="b", resource="c", request="d")
    assert convert_admin.entry_from_proto(convert_admin.entry_to_proto(entry)) == entry
    server = Server(address="a:1", start_time=NOW, expire_time=NOW, studies=3)
    assert convert_admin.server_from_proto(convert_admin.server_to_proto(server)) == server


@pytest.mark.parametrize("name", ["", "Ann", "1ann", "a" * 64, "local-12345678", "a b"])
def test_a_tokens_name_is_a_word(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_token_id(name)


# --- what studies may name -------------------------------------------------------------------

SPEC = StudySpec(
    metrics=(Metric(name="auc", goal=Goal.MAXIMIZE),),
    trainer="tabular",
    data=DataSource(train_uri="/data/team/train.csv", label="y"),
)
TEAM = Allowed(
    data=("/data/team", "s3://bucket/team/", "file:///more"), trainers=("ours", "a.b:C")
)


def naming(**places: str) -> StudySpec:
    return replace(SPEC, data=replace(DataSource(train_uri="/data/team/x", label="y"), **places))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "uri",
    [
        "/data/team",
        "/data/team/train.csv",
        "/data//team/./deep/../train-*.csv",
        "file:///data/team/train.csv",
        "/more/x.csv",
        "s3://bucket/team/x.parquet",
        "S3://bucket/team/a/../x.parquet",
    ],
)
def test_what_lies_below_an_entry_is_allowed(uri: str) -> None:
    check_locations(naming(train_uri=uri, validation_uri=uri, test_uri=uri), TEAM)


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "/data/teams/train.csv",
        "/data/team/../other/train.csv",
        "/data/team/../../etc/passwd",
        "//etc/passwd",
        "/data",
        "file:///data/team/../x",
        "s3://bucket/teams/x",
        "s3://bucket/team/../x",
        "s3://other/team/x",
        "s3://bucket@evil/team/x",
        "gs://bucket/team/x",
    ],
)
@pytest.mark.parametrize("field", ["train_uri", "validation_uri", "test_uri"])
def test_everything_else_is_refused(uri: str, field: str) -> None:
    with pytest.raises(
        PermissionDeniedError, match=r"does not allow data at .* TUNER_ALLOWED_DATA"
    ):
        check_locations(naming(**{field: uri}), TEAM)


@pytest.mark.parametrize(
    "uri",
    [
        "data/team/train.csv",
        "../data/team/train.csv",
        "file:data/team",
        "file://localhost/data/team/x",
        "s3://bucket/team/x?endpoint_override=http://inside:1",
        "s3://bucket/team/%2e%2e/x",
        "s3:///team/x",
        "s3://../team/x",
        "/data/team/\0/x",
    ],
)
def test_what_cannot_be_compared_is_refused(uri: str) -> None:
    with pytest.raises(PermissionDeniedError, match="cannot be compared with TUNER_ALLOWED_DATA"):
        check_locations(naming(train_uri=uri), TEAM)


@pytest.mark.parametrize(
    ("trainer", "allowed"),
    [
        ("tabular", True),
        ("ours:Wide", True),
        ("ours.deep:Wide", True),
        ("a.b:C", True),
        ("a.b:D", False),
        ("ours_not:Wide", False),
        ("os:system", False),
    ],
)
def test_trainers_are_the_boxs_and_those_listed(trainer: str, allowed: bool) -> None:
    spec = replace(SPEC, trainer=trainer)
    if allowed:
        check_locations(spec, TEAM)
    else:
        with pytest.raises(PermissionDeniedError, match="does not allow the trainer"):
            check_locations(spec, TEAM)


@pytest.mark.parametrize(
    ("trainer", "own", "entries"),
    [
        ("program", OwnTrainer(command=("sh",)), ("program",)),
        ("program", OwnTrainer(command=("sh",), code="0" * 64), ("program",)),
        ("ours:Wide", OwnTrainer(code="0" * 64), ("code",)),
        ("program.deep:Wide", OwnTrainer(), ("program.deep",)),
    ],
)
def test_what_brings_code_is_allowed_by_that_and_not_by_its_name(
    trainer: str, own: OwnTrainer, entries: tuple[str, ...]
) -> None:
    """A module that a study brings may be called like one that is installed and allowed."""
    spec = replace(SPEC, trainer=trainer, own=own)
    check_locations(spec, Allowed(trainers=entries))
    others = ("ours", "ours:Wide", "program", "code", "sh", "python")
    rest = tuple(entry for entry in others if entry not in entries)
    with pytest.raises(PermissionDeniedError, match="TUNER_ALLOWED_TRAINERS"):
        check_locations(spec, Allowed(trainers=rest))


def test_an_empty_list_is_no_bound_but_with_tokens_it_allows_nothing() -> None:
    anything = naming(train_uri="data/relative.csv")
    check_locations(replace(anything, trainer="os:system"), Allowed.of(Settings()))
    tokens = Allowed.of(Settings(auth="token"))
    with pytest.raises(PermissionDeniedError, match="TUNER_ALLOWED_DATA"):
        check_locations(naming(train_uri="/data/x.csv"), tokens)
    with pytest.raises(PermissionDeniedError, match="TUNER_ALLOWED_TRAINERS"):
        check_locations(replace(SPEC, trainer="os:system"), tokens)
    script = replace(SPEC, trainer=None, data=None)
    check_locations(script, tokens)
    listed = Allowed.of(Settings(auth="token", allowed_data="/a,\n/data/team , s3://b"))
    check_locations(SPEC, listed)
    check_locations(SPEC, Allowed.of(Settings(allowed_data="/data/team")))
    with pytest.raises(PermissionDeniedError):
        check_locations(SPEC, Allowed.of(Settings(allowed_data="/elsewhere")))
    check_locations(SPEC, Allowed.of(Settings(auth="token", allowed_data="/")))


@pytest.mark.parametrize(
    ("uri", "root", "allowed"),
    [
        ("/anywhere", None, True),
        ("/models/m/1", "/models", True),
        ("/models/../etc", "/models", False),
        ("/modelsx/m/1", "/models", False),
        ("s3://b/models/m/1", "s3://b/models/", True),
        ("s3://c/models/m/1", "s3://b/models", False),
        ("s3://b/models/m/1?x=y", "s3://b/models", False),
        ("models/m/1", "/models", False),
    ],
)
def test_versions_lie_where_models_are_published(
    uri: str, root: str | None, allowed: bool
) -> None:
    if allowed:
        check_model_place(uri, root)
    else:
        with pytest.raises(PermissionDeniedError, match="TUNER_MODELS"):
            check_model_place(uri, root)
