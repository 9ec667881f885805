"""How a client finds a server, and what it sends there."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - Ray pickles what it sends to its actors
from pathlib import Path

import pytest

from tuner.client.access import Access, is_own_machine
from tuner.config import Settings
from tuner.errors import FailedPreconditionError, InvalidArgumentError
from tuner.service import listen
from tuner.web.serving import _check_host


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The data directory of a server that runs and has a token for its machine."""
    said = {"address": "tuner.lan:8470", "local": "unix:/home/server.sock", "pid": 1}
    (tmp_path / "server.json").write_text(json.dumps(said))
    (tmp_path / "token").write_text("local-secret\n")
    return tmp_path


def test_the_server_of_the_machine_is_found_with_its_token(home: Path) -> None:
    access = Access.of(Settings(data_dir=home))
    assert access.addresses == ("unix:/home/server.sock",)
    assert access.current_token() == "local-secret"
    (home / "token").write_text("of the next start")
    assert access.current_token() == "of the next start"
    named = Access.of(Settings(data_dir=home, server="tuner.lan:8470"))
    assert named.current_token() == "of the next start"


def test_the_servers_own_token_is_for_its_own_address(home: Path) -> None:
    other = Access.of(Settings(data_dir=home, server="elsewhere:8470"))
    assert other.current_token() == ""
    both = Access.of(Settings(data_dir=home, server="tuner.lan:8470,elsewhere:8470"))
    assert both.addresses == ("tuner.lan:8470", "elsewhere:8470")
    assert both.current_token() == ""


def test_a_token_that_is_given_goes_first(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("from a file")
    given = Access.of(Settings(data_dir=home, token="given", token_file=str(tmp_path / "mine")))
    assert given.current_token() == "given"
    filed = Access.of(Settings(data_dir=home, token_file=str(tmp_path / "mine")))
    assert filed.current_token() == "from a file"
    with pytest.raises(
        FailedPreconditionError, match=r"other cannot be read \(No such file.*; name"
    ):
        Access.of(Settings(data_dir=home, token_file=str(tmp_path / "other")))


def test_without_a_server_the_usual_address_is_asked_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("left by somebody")
    access = Access.of(Settings(data_dir=tmp_path, server_port=9))
    assert (access.addresses, access.current_token()) == (("127.0.0.1:9",), "")


def test_another_machine_is_given_the_token_itself(home: Path) -> None:
    carried: Access = pickle.loads(pickle.dumps(Access.of(Settings(data_dir=home)).carried()))
    assert carried.current_token() == "local-secret"
    (home / "token").unlink()
    assert carried.current_token() == "local-secret"
    assert "local-secret" not in repr(carried)


def test_there_must_be_an_address() -> None:
    with pytest.raises(InvalidArgumentError, match="host:port"):
        Access.to(" , ")


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1:8470", True),
        ("localhost:8470", True),
        ("[::1]:8470", True),
        ("unix:/home/server.sock", True),
        ("tuner.lan:8470", False),
        ("192.0.2.1:8470", False),
        ("dns:///127.0.0.1:8470", False),
    ],
)
def test_a_token_stays_on_the_machine_without_tls(address: str, own: bool) -> None:
    assert is_own_machine(address) is own
    access = Access.to(address)
    assert access.metadata(address, "") == ()
    sent = (("authorization", "Bearer secret"),)
    if own:
        assert access.metadata(address, "secret") == sent
    else:
        with pytest.raises(FailedPreconditionError, match="set TUNER_TLS_CA"):
            access.metadata(address, "secret")
        told = Access(addresses=(address,), insecure=True)
        assert told.metadata(address, "secret") == sent


def test_a_client_certificate_needs_somebody_to_trust() -> None:
    with pytest.raises(FailedPreconditionError, match="needs TUNER_TLS_CA"):
        Access.of(Settings(tls_client_certificate="a", tls_client_key="b"))
    with pytest.raises(FailedPreconditionError, match=r"/no/such/ca \(TUNER_TLS_CA\)"):
        Access.of(Settings(tls_ca="/no/such/ca"))


def test_what_listens_beyond_the_machine_was_told_to() -> None:
    for check in (listen.check, _check_host):
        check(Settings())
        check(Settings(host="0.0.0.0", insecure=True))
        with pytest.raises(FailedPreconditionError, match="TUNER_INSECURE=1"):
            check(Settings(host="0.0.0.0"))
    safe = Settings(host="0.0.0.0", auth="token", tls_certificate="a", tls_key="b")
    listen.check(safe)
    with pytest.raises(FailedPreconditionError, match="ask for no sign-in"):
        _check_host(safe)
