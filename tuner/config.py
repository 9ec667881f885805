"""The settings of a process: flags, over `TUNER_*` variables, over defaults for one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuner.errors import InvalidArgumentError

#: Each setting's variable and what it is for; the documentation lists the same.
VARIABLES: Mapping[str, tuple[str, str]] = {
    "data_dir": ("TUNER_DATA_DIR", "where the database, artifacts and logs lie"),
    "server": (
        "TUNER_SERVER",
        "the study server's address for clients, host:port; several with commas between",
    ),
    "host": (
        "TUNER_HOST",
        "the address that the study server, the web pages and the gateway listen on",
    ),
    "server_port": ("TUNER_SERVER_PORT", "the study server's port; 0 takes a free one"),
    "web_port": ("TUNER_WEB_PORT", "the web pages' port; 0 takes a free one"),
    "rest_port": ("TUNER_REST_PORT", "the gateway's port for REST; 0 takes a free one"),
    "grpc_port": ("TUNER_GRPC_PORT", "the gateway's port for gRPC; 0 takes a free one"),
    "database_url": (
        "TUNER_DATABASE_URL",
        "a PostgreSQL server, instead of the embedded one",
    ),
    "artifacts": (
        "TUNER_ARTIFACTS",
        "where checkpoints and models lie; in the data directory",
    ),
    "models": (
        "TUNER_MODELS",
        "where models are published, a folder or s3:// or gs://; below the artifacts",
    ),
    "cache_dir": (
        "TUNER_CACHE_DIR",
        "where each machine keeps rows that it has read, on a disk of its own; in the data "
        "directory",
    ),
    "cache_gib": (
        "TUNER_CACHE_GIB",
        "what these rows may take of the disk, in GiB; 0 means half of what is free",
    ),
    "memory_gib": (
        "TUNER_MEMORY_GIB",
        "what the encoded rows of one worker may take of the memory, in GiB; 0 means its share "
        "of half the machine's",
    ),
    "ray_address": (
        "TUNER_RAY_ADDRESS",
        "a Ray cluster, instead of one on this machine",
    ),
    "cpus": ("TUNER_CPUS", "the CPUs that trials share on this machine; 0 means all"),
    "placement": (
        "TUNER_PLACEMENT",
        "how a cluster's nodes share a trial's workers: pack, spread, strict_pack, strict_spread",
    ),
    "idle_seconds": (
        "TUNER_IDLE_SECONDS",
        "how long the processes of a runner stay warm without work",
    ),
    "lease_seconds": (
        "TUNER_LEASE_SECONDS",
        "how long a silent worker keeps its trial",
    ),
    "fit_seconds": (
        "TUNER_FIT_SECONDS",
        "how long a suggestion waits for its model to be fitted before a quicker search makes it",
    ),
    "advertise": (
        "TUNER_ADVERTISE",
        "where the other study servers of the database reach this one, host:port",
    ),
    "log_level": ("TUNER_LOG_LEVEL", "debug, info, warning or error"),
    "log_format": ("TUNER_LOG_FORMAT", "text, or json: an object in each line"),
    "metrics_port": (
        "TUNER_METRICS_PORT",
        "the port of the study server's Prometheus metrics; 0 means none",
    ),
    "auth": ("TUNER_AUTH", "who may call the study server: none (everybody) or token"),
    "tls_certificate": (
        "TUNER_TLS_CERTIFICATE",
        "the certificate of the study server and the gateway, a PEM file",
    ),
    "tls_key": ("TUNER_TLS_KEY", "the key of that certificate, a PEM file"),
    "tls_client_ca": (
        "TUNER_TLS_CLIENT_CA",
        "whose certificates clients must show to the study server and the gateway, a PEM file",
    ),
    "allowed_data": (
        "TUNER_ALLOWED_DATA",
        "the folders and URIs below which studies may name data, with commas between",
    ),
    "allowed_trainers": (
        "TUNER_ALLOWED_TRAINERS",
        "the trainers that studies may name besides the box's own, with commas between",
    ),
    "audit_days": (
        "TUNER_AUDIT_DAYS",
        "how long the study server remembers who changed what; 0 means for ever",
    ),
    "token": ("TUNER_TOKEN", "what clients prove with who they are"),
    "token_file": ("TUNER_TOKEN_FILE", "a file with the token; read anew for every call"),
    "tls_ca": (
        "TUNER_TLS_CA",
        "turns TLS on in clients: whom they trust, a PEM file, or `system`",
    ),
    "tls_client_certificate": (
        "TUNER_TLS_CLIENT_CERTIFICATE",
        "the certificate that clients show, a PEM file",
    ),
    "tls_client_key": ("TUNER_TLS_CLIENT_KEY", "the key of that certificate, a PEM file"),
    "insecure": (
        "TUNER_INSECURE",
        "1 allows what is not safe: to listen beyond this machine without tokens and TLS, and to "
        "send tokens without TLS",
    ),
}

#: How the workers of a trial may be laid out.
PLACEMENTS = ("pack", "spread", "strict_pack", "strict_spread")
#: The name under which `tls_ca` means the certificates that the system trusts.
SYSTEM = "system"
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process was told; read once in `main` and handed down."""

    data_dir: Path = Path("~/.tuner")
    server: str = ""
    host: str = "127.0.0.1"
    server_port: int = 8470
    web_port: int = 8480
    rest_port: int = 8501
    grpc_port: int = 8500
    database_url: str = field(default="", repr=False)
    artifacts: str = ""
    models: str = ""
    cache_dir: str = ""
    cache_gib: float = 0.0
    memory_gib: float = 0.0
    ray_address: str = ""
    cpus: int = 0
    placement: str = "pack"
    idle_seconds: float = 600.0
    lease_seconds: float = 30.0
    fit_seconds: float = 10.0
    advertise: str = ""
    log_level: str = "info"
    log_format: str = "text"
    metrics_port: int = 0
    auth: str = "none"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    allowed_data: str = ""
    allowed_trainers: str = ""
    audit_days: int = 400
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls_ca: str = ""
    tls_client_certificate: str = ""
    tls_client_key: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", Path(self.data_dir).expanduser().absolute())
        for name in ("server_port", "web_port", "rest_port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise InvalidArgumentError(
                    f"{VARIABLES[name][0]} must be 0 to 65535, but got {getattr(self, name)}."
                )
        if not 1 <= self.lease_seconds <= 86400:
            raise InvalidArgumentError(
                f"TUNER_LEASE_SECONDS must be 1 to 86400, but got {self.lease_seconds:g}."
            )
        if not 0 <= self.fit_seconds <= 15:
            # Clients wait 20 s for an answer.
            raise InvalidArgumentError(
                f"TUNER_FIT_SECONDS must be 0 to 15, but got {self.fit_seconds:g}."
            )
        if not 0 <= self.audit_days <= 36_500:
            raise InvalidArgumentError(
                f"TUNER_AUDIT_DAYS must be 0 to 36500, but got {self.audit_days}."
            )
        if self.placement not in PLACEMENTS:
            raise InvalidArgumentError(
                f"TUNER_PLACEMENT must be one of {', '.join(PLACEMENTS)}, but got "
                f"{self.placement!r}."
            )
        if self.idle_seconds < 0:
            raise InvalidArgumentError(
                f"TUNER_IDLE_SECONDS must be 0 or more, but got {self.idle_seconds:g}."
            )
        for name in ("cache_gib", "memory_gib"):
            if not 0 <= getattr(self, name) <= 1 << 30:
                raise InvalidArgumentError(
                    f"{VARIABLES[name][0]} must be 0 or more GiB, but got {getattr(self, name):g}."
                )
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise InvalidArgumentError(
                f"TUNER_LOG_LEVEL must be debug, info, warning or error, but got "
                f"{self.log_level!r}."
            )
        if self.log_format not in ("text", "json"):
            raise InvalidArgumentError(
                f"TUNER_LOG_FORMAT must be text or json, but got {self.log_format!r}."
            )
        if self.auth not in ("none", "token"):
            raise InvalidArgumentError(f"TUNER_AUTH must be none or token, but got {self.auth!r}.")
        self._check_pairs()

    def _check_pairs(self) -> None:
        for one, other in (
            ("tls_certificate", "tls_key"),
            ("tls_client_certificate", "tls_client_key"),
        ):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise InvalidArgumentError(
                    f"set both {VARIABLES[one][0]} and {VARIABLES[other][0]}, or neither."
                )
        if self.tls_client_ca and not self.tls_certificate:
            raise InvalidArgumentError(
                "TUNER_TLS_CLIENT_CA needs TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY: set them, too."
            )

    @property
    def has_tokens(self) -> bool:
        """Whether callers of the study server need a token."""
        return self.auth == "token"

    @property
    def server_address(self) -> str:
        """The study server's address for clients."""
        return self.server or f"127.0.0.1:{self.server_port}"

    @property
    def artifacts_dir(self) -> Path:
        """Where checkpoints, statistics and models lie."""
        return Path(self.artifacts).expanduser() if self.artifacts else self.data_dir / "artifacts"

    @property
    def models_uri(self) -> str:
        """Where models are published: an absolute path or a URI."""
        if "://" in self.models:
            return self.models
        folder = Path(self.models).expanduser() if self.models else self.artifacts_dir / "models"
        return str(folder.absolute())

    @property
    def rows_dir(self) -> Path:
        """Where this machine keeps rows that it has read."""
        return Path(self.cache_dir).expanduser() if self.cache_dir else self.data_dir / "cache"

    @property
    def local_token_file(self) -> Path:
        """Where a study server keeps the token for the other processes of its machine."""
        return self.data_dir / "token"

    @property
    def socket_address(self) -> str:
        """Where a study server with TLS also listens for the other processes of its machine."""
        return f"unix:{quote(str(self.data_dir / 'server.sock'))}"

    @staticmethod
    def read(
        environment: Mapping[str, str] | None = None,
        **flags: str | int | float | bool | Path | None,
    ) -> Settings:
        """Reads the settings; a flag that is None was not given.

        Raises:
            InvalidArgumentError: a value has the wrong type or range; names the variable.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for item in fields(Settings):
            variable = VARIABLES[item.name][0]
            given = flags.get(item.name)
            raw = environment.get(variable) if given is None else given
            if raw not in (None, ""):
                values[item.name] = _parse(variable, str(raw), type(item.default))
        return Settings(**values)  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings."""
        return {VARIABLES[f.name][0]: _text(getattr(self, f.name)) for f in fields(self)}


def words(text: str) -> tuple[str, ...]:
    """The parts of a setting that lists something, with commas or lines between."""
    return tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host, written without its port."""
    name = host.strip("[]").lower()
    return name in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(variable: str, raw: str, kind: type[Any]) -> object:
    if issubclass(kind, Path):
        return Path(raw)
    if kind is bool:
        if raw.lower() not in _TRUTH:
            raise InvalidArgumentError(f"{variable} must be 1 or 0, but got {raw!r}.")
        return _TRUTH[raw.lower()]
    try:
        return kind(raw)
    except ValueError as error:
        words = {int: "a whole number", float: "a number"}.get(kind, "text")
        raise InvalidArgumentError(f"{variable} must be {words}, but got {raw!r}.") from error
