"""The settings of a process: flags, over `TUNER_*` variables, over defaults for one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tuner.errors import InvalidArgumentError

#: Each setting's variable and what it is for; the documentation lists the same.
VARIABLES: Mapping[str, tuple[str, str]] = {
    "data_dir": ("TUNER_DATA_DIR", "where the database, artifacts and logs lie"),
    "server": ("TUNER_SERVER", "the study server's address for clients, host:port"),
    "host": ("TUNER_HOST", "the address the study server and the web pages listen on"),
    "server_port": ("TUNER_SERVER_PORT", "the study server's port; 0 takes a free one"),
    "web_port": ("TUNER_WEB_PORT", "the web pages' port; 0 takes a free one"),
    "database_url": (
        "TUNER_DATABASE_URL",
        "a PostgreSQL server, instead of the embedded one",
    ),
    "artifacts": (
        "TUNER_ARTIFACTS",
        "where checkpoints and models lie; in the data directory",
    ),
    "ray_address": (
        "TUNER_RAY_ADDRESS",
        "a Ray cluster, instead of one on this machine",
    ),
    "cpus": ("TUNER_CPUS", "the CPUs that trials share on this machine; 0 means all"),
    "lease_seconds": (
        "TUNER_LEASE_SECONDS",
        "how long a silent worker keeps its trial",
    ),
    "log_level": ("TUNER_LOG_LEVEL", "debug, info, warning or error"),
    "log_format": ("TUNER_LOG_FORMAT", "text, or json: an object in each line"),
    "metrics_port": (
        "TUNER_METRICS_PORT",
        "the port of the study server's Prometheus metrics; 0 means none",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process was told; read once in `main` and handed down."""

    data_dir: Path = Path("~/.tuner")
    server: str = ""
    host: str = "127.0.0.1"
    server_port: int = 8470
    web_port: int = 8480
    database_url: str = ""
    artifacts: str = ""
    ray_address: str = ""
    cpus: int = 0
    lease_seconds: float = 30.0
    log_level: str = "info"
    log_format: str = "text"
    metrics_port: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", Path(self.data_dir).expanduser().absolute())
        for name in ("server_port", "web_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise InvalidArgumentError(
                    f"{VARIABLES[name][0]} must be 0 to 65535, but got {getattr(self, name)}."
                )
        if not 1 <= self.lease_seconds <= 86400:
            raise InvalidArgumentError(
                f"TUNER_LEASE_SECONDS must be 1 to 86400, but got {self.lease_seconds:g}."
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

    @property
    def server_address(self) -> str:
        """The study server's address for clients."""
        return self.server or f"127.0.0.1:{self.server_port}"

    @property
    def artifacts_dir(self) -> Path:
        """Where checkpoints, statistics and models lie."""
        return Path(self.artifacts).expanduser() if self.artifacts else self.data_dir / "artifacts"

    @staticmethod
    def read(
        environment: Mapping[str, str] | None = None,
        **flags: str | int | float | Path | None,
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
        return {VARIABLES[f.name][0]: str(getattr(self, f.name)) for f in fields(self)}


def _parse(variable: str, raw: str, kind: type[Any]) -> object:
    if issubclass(kind, Path):
        return Path(raw)
    try:
        return kind(raw)
    except ValueError as error:
        words = {int: "a whole number", float: "a number"}.get(kind, "text")
        raise InvalidArgumentError(f"{variable} must be {words}, but got {raw!r}.") from error
