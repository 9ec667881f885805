"""Certificates and keys of PEM files: read once, and checked before anybody relies on them."""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tuner.config import SYSTEM, VARIABLES, Settings
from tuner.errors import FailedPreconditionError

logger = logging.getLogger(__name__)

#: Where systems keep the authorities that they trust, if Python's own answer is not there.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a process shows of itself: a certificate, with those it was signed by, and its key."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a client trusts, and what it shows. Without authorities gRPC's own list is trusted."""

    authorities: bytes | None = field(repr=False)
    identity: Identity | None = None

    def context(self) -> ssl.SSLContext:
        """The same for Python's own connections."""
        data = None if self.authorities is None else self.authorities.decode("ascii")
        context = ssl.create_default_context(cadata=data)
        if self.identity is not None:
            # Python takes them from a file only; it is readable by this user alone.
            with tempfile.NamedTemporaryFile(prefix="tuner-identity-") as file:
                file.write(self.identity.key + b"\n" + self.identity.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def identity(setting: str, certificate: str, key: str) -> Identity:
    """Reads a certificate and its key.

    Args:
        setting: The setting that names the certificate, for messages.

    Raises:
        FailedPreconditionError: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = f"{_path(certificate)} and {_path(key)} ({VARIABLES[setting][0]})"
    # With a password of its own an encrypted key fails here, and nobody is asked for it.
    _checked(files, lambda: context.load_cert_chain(_path(certificate), _path(key), lambda: ""))
    return Identity(certificate=_path(certificate).read_bytes(), key=_path(key).read_bytes())


def authorities(setting: str, file: str) -> bytes | None:
    """Reads the certificates of those who are trusted; None if the system does not say.

    Args:
        setting: The setting that names the file, for messages.
        file: The file, or `system`.

    Raises:
        FailedPreconditionError: it cannot be read, or holds none.
    """
    if file == SYSTEM:
        return _of_system()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    shown = f"{_path(file)} ({VARIABLES[setting][0]})"
    _checked(shown, lambda: context.load_verify_locations(_path(file)))
    return _path(file).read_bytes()


class Shown:
    """What a server shows and whose certificates it asks for, read again when its files change.

    Args:
        settings: Names the files; `tls_certificate` is set.

    Raises:
        FailedPreconditionError: they cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = [settings.tls_certificate, settings.tls_key, settings.tls_client_ca]
        self._read = _stamps(self._files)
        self.identity, self.clients = self._load()

    def renew(self) -> bool:
        """Reads the files if they have changed; returns whether there is something new to show."""
        found = _stamps(self._files)
        if found == self._read:
            return False
        self._read = found
        try:
            self.identity, self.clients = self._load()
        except FailedPreconditionError as error:
            # Maybe one file is written and the other is not yet.
            logger.warning("the certificates in use are kept: %s", error.message)
            return False
        logger.info("the certificates were read again")
        return True

    def _load(self) -> tuple[Identity, bytes | None]:
        settings = self._settings
        own = identity("tls_certificate", settings.tls_certificate, settings.tls_key)
        clients = None
        if settings.tls_client_ca:
            clients = authorities("tls_client_ca", settings.tls_client_ca)
        return own, clients


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What a gRPC server shows, renewed for the next connection; None without TLS.

    Raises:
        FailedPreconditionError: the files cannot be used.
    """
    if not settings.tls_certificate:
        return None
    shown = Shown(settings)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        return _configuration(shown) if shown.renew() else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        fetch,  # type: ignore[arg-type]  # None is "as before"; the stubs do not know
        require_client_authentication=bool(settings.tls_client_ca),
    )


def _configuration(shown: Shown) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(shown.identity.key, shown.identity.certificate)], root_certificates=shown.clients
    )


def _stamps(files: Sequence[str]) -> list[tuple[int, int] | None]:
    """What changes with a file; None for one that is not there, or has no name."""
    stamps = list[tuple[int, int] | None]()
    for file in files:
        try:
            status = _path(file).stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_mtime_ns, status.st_ino))
    return stamps


def _of_system() -> bytes | None:
    for bundle in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
        if bundle is not None and Path(bundle).is_file():
            return Path(bundle).read_bytes()
    return None


def _path(file: str) -> Path:
    return Path(file).expanduser()


def _checked(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise FailedPreconditionError(f"{what}: {_meaning(error)}.") from error
    except OSError as error:
        raise FailedPreconditionError(
            f"{what} cannot be read ({error.strerror}); correct the path or its permissions."
        ) from error


def _meaning(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if "MISMATCH" in reason:
        return "the key is not the certificate's; name the two that belong together"
    if "DECRYPT" in reason or "PASSWORD" in reason:
        return "the key has a password; write it without one, readable by this user only"
    return "no usable certificate or key in PEM format is in there; name a PEM file"
