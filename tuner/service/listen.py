"""Where a study server listens, and with which certificates."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import grpc

from tuner import tls
from tuner.client.access import Access
from tuner.client.channel import Options, open_channel
from tuner.config import Settings, is_loopback
from tuner.errors import FailedPreconditionError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
#: Longer paths no system takes for a socket.
_SOCKET_BYTES = 103


def check(settings: Settings) -> None:
    """Raises FailedPreconditionError if strangers could call the server, and nobody said so."""
    if is_loopback(settings.host) or settings.insecure:
        return
    missing = []
    if not settings.has_tokens:
        missing.append("TUNER_AUTH=token")
    if not settings.tls_certificate:
        missing.append("TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY")
    if missing:
        raise FailedPreconditionError(
            f"the study server does not listen on {settings.host} without tokens and TLS: set "
            f"{' and '.join(missing)}, or TUNER_INSECURE=1 to let everybody in."
        )


def listen(server: grpc.Server, settings: Settings) -> str:
    """Takes the port; returns the address.

    Raises:
        FailedPreconditionError: it is in use, or the certificates cannot be used.
    """
    host, port = settings.host, settings.server_port
    shown = f"[{host}]" if ":" in host else host
    credentials = tls.server_credentials(settings)
    try:
        if credentials is None:
            bound = server.add_insecure_port(f"{shown}:{port}")
        else:
            bound = server.add_secure_port(f"{shown}:{port}", credentials)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise FailedPreconditionError(
            f"{shown}:{port} cannot be listened on: another program, maybe another study server, "
            "uses it; stop that, or choose another port by TUNER_SERVER_PORT."
        )
    reachable = _ANYWHERE.get(host, host)
    return f"[{reachable}]:{bound}" if ":" in reachable else f"{reachable}:{bound}"


def announced(settings: Settings, address: str) -> str:
    """Where the other servers of the database reach this one."""
    if settings.advertise:
        return settings.advertise
    if settings.database_url and settings.host in _ANYWHERE:
        return f"{socket.getfqdn()}:{address.rpartition(':')[2]}"
    return address


def listen_locally(server: grpc.Server, settings: Settings, address: str) -> str:
    """The address for processes of this machine and user; call it with the data directory held.

    A certificate is made out to the server's name in the network, and its clients may need one of
    their own: with TLS the processes of the same user come by a socket that only they can open.
    """
    if not settings.tls_certificate:
        return address
    path = Path(unquote(settings.socket_address.removeprefix("unix:")))
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        raise FailedPreconditionError(
            f"the path {path} is too long for a socket, which a server with TLS needs; name a "
            "shorter directory by TUNER_DATA_DIR."
        )
    try:
        server.add_insecure_port(settings.socket_address)
        path.chmod(0o600)
    except (RuntimeError, OSError) as error:
        raise FailedPreconditionError(
            f"{path} cannot be listened on; name a directory on a local disk by TUNER_DATA_DIR."
        ) from error
    return settings.socket_address


def peers(settings: Settings, options: Options) -> Callable[[str], grpc.Channel]:
    """What opens channels to the other servers of the database; callers' own tokens go along.

    With TLS the others are those that TUNER_TLS_CA trusts, or that share this one's certificate.
    """
    trust = _trust(settings) if settings.tls_certificate else None
    return lambda to: open_channel(Access(addresses=(to,), trust=trust), to, options)


def _trust(settings: Settings) -> tls.Trust:
    """Whom this server trusts as another one, and what it shows there."""
    shown = own = tls.identity("tls_certificate", settings.tls_certificate, settings.tls_key)
    trusted: bytes | None = own.certificate
    if settings.tls_ca:
        trusted = tls.authorities("tls_ca", settings.tls_ca)
    if settings.tls_client_certificate:
        certificate, key = settings.tls_client_certificate, settings.tls_client_key
        shown = tls.identity("tls_client_certificate", certificate, key)
    return tls.Trust(authorities=trusted, identity=shown)
