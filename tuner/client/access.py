"""How a study server is reached: where, whom a client trusts, and what it proves itself with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner import tls
from tuner.config import Settings, is_loopback, words
from tuner.errors import FailedPreconditionError, InvalidArgumentError

Metadata = tuple[tuple[str, str], ...]

_UNIX = "unix:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The addresses of the servers of one database, and what calls to them need."""

    addresses: tuple[str, ...]
    token: str = field(default="", repr=False)
    #: A file with the token, which goes before `token` where it can be read.
    token_file: Path | None = None
    #: None: no TLS.
    trust: tls.Trust | None = None
    #: The same of gateways.
    gateway_trust: tls.Trust | None = None
    #: Whether the token may be sent over a network without TLS.
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.addresses:
            raise InvalidArgumentError("a study server's address is host:port, but got none.")

    @staticmethod
    def to(address: str) -> Access:
        """Access to a server that asks for nothing; several addresses have commas between."""
        return Access(addresses=words(address))

    @staticmethod
    def of(settings: Settings) -> Access:
        """Access to the server that is named, or else to the one that runs on this machine.

        Raises:
            FailedPreconditionError: a PEM file cannot be used.
        """
        said = _said(settings)
        local = str(said.get("local") or said.get("address") or "")
        addresses = words(settings.server) or (local or settings.server_address,)
        return Access(
            addresses=addresses,
            token=settings.token,
            token_file=_token_file(settings, is_own=set(addresses) <= {*map(str, said.values())}),
            trust=_trust(settings),
            gateway_trust=_gateway_trust(settings),
            insecure=settings.insecure,
        )

    def carried(self) -> Access:
        """The same for a process of another machine, where the file may not be."""
        return replace(self, token=self.current_token())

    def current_token(self) -> str:
        """The token as it is now: a server that starts anew writes a new one."""
        if self.token_file is not None:
            try:
                return self.token_file.read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                return self.token
        return self.token

    def metadata(self, address: str, token: str) -> Metadata:
        """What goes with a call to an address.

        Raises:
            FailedPreconditionError: the token would travel where others can read it.
        """
        if not token:
            return ()
        if self.trust is None and not is_own_machine(address) and not self.insecure:
            raise FailedPreconditionError(
                f"the token is not sent to {address} without TLS: set TUNER_TLS_CA to the "
                "certificate of whom you trust, or to `system`; TUNER_INSECURE=1 sends it where "
                "others may read it."
            )
        return (("authorization", f"Bearer {token}"),)


def is_socket(address: str) -> bool:
    """Whether an address is a socket in this machine's file system, which needs no TLS."""
    return address.startswith(_UNIX)


def is_own_machine(address: str) -> bool:
    """Whether what is sent to an address stays on this machine."""
    return is_socket(address) or is_loopback(address.rpartition(":")[0])


def _said(settings: Settings) -> Mapping[str, Any]:
    """What the server of the data directory said of itself when it started."""
    try:
        said = json.loads((settings.data_dir / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _token_file(settings: Settings, *, is_own: bool) -> Path | None:
    """A token that was given goes first; the server's own is for the server's own address."""
    if settings.token:
        return None
    if settings.token_file:
        given = Path(settings.token_file).expanduser()
        try:
            given.read_bytes()
        except OSError as error:
            raise FailedPreconditionError(
                f"TUNER_TOKEN_FILE={given} cannot be read ({error.strerror}); name a file that "
                "holds the token, or set TUNER_TOKEN."
            ) from error
        return given
    return settings.local_token_file if is_own else None


def _gateway_trust(settings: Settings) -> tls.Trust | None:
    """A gateway shows what study servers show; this machine's own is trusted as it is."""
    if settings.tls_ca or not settings.tls_certificate:
        return _trust(settings)
    return tls.Trust(authorities=tls.authorities("tls_certificate", settings.tls_certificate))


def _trust(settings: Settings) -> tls.Trust | None:
    certificate, key = settings.tls_client_certificate, settings.tls_client_key
    if not settings.tls_ca:
        if certificate:
            raise FailedPreconditionError(
                "TUNER_TLS_CLIENT_CERTIFICATE needs TUNER_TLS_CA: say whom you trust, or `system`."
            )
        return None
    return tls.Trust(
        authorities=tls.authorities("tls_ca", settings.tls_ca),
        identity=tls.identity("tls_client_certificate", certificate, key) if certificate else None,
    )
