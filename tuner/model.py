"""Models, their versions and aliases, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from tuner.errors import InvalidArgumentError

#: How long a publisher may be silent before another one may take its version up.
PUBLICATION = timedelta(minutes=30)
#: Stands for the newest READY version where an alias may stand.
LATEST = "latest"

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LAST_VERSION = 2**31 - 1


class VersionState(StrEnum):
    """The states of a model version."""

    #: Its number is taken; a publisher is at work, or one is waited for.
    PUBLISHING = "PUBLISHING"
    #: It lies at its place, whole, and predicted its golden rows as training did.
    READY = "READY"
    #: It was not published; its report says why.
    REJECTED = "REJECTED"
    #: It is gone but for its files, which a publisher removes.
    DELETING = "DELETING"


#: The legal moves of a version; the same table as tuner.is_version_move.
VERSION_MOVES: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.PUBLISHING: frozenset({VersionState.READY, VersionState.REJECTED}),
    VersionState.READY: frozenset({VersionState.DELETING}),
    VersionState.REJECTED: frozenset(),
    VersionState.DELETING: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a version comes from: a trial, or somewhere else."""

    #: `studies/{study}/trials/{trial}`; empty for a model from elsewhere.
    trial: str = ""
    #: Where a model from elsewhere was imported from; empty for a trial.
    source: str = ""
    trainer: str = ""
    data_fingerprint: str = ""
    #: The SHA-256 of the archive with code of the user's own; empty: none.
    code: str = ""
    #: The versions of the packages that trained it, by name.
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A name under which versions are published."""

    model_id: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    aliases: Mapping[str, int] = field(default_factory=dict)
    #: How many READY versions without an alias are kept; 0: all.
    keep_versions: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The newest READY version; 0 before the first.
    latest_version: int = 0
    version_count: int = 0
    creator: str = ""
    etag: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"models/{self.model_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publisher has published."""

    uri: str
    size_bytes: int
    sha256: str
    lineage: Lineage
    metrics: Mapping[str, float] = field(default_factory=dict)
    card: str = ""
    report: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version of a model; once READY it does not change."""

    model_id: str
    version: int
    state: VersionState
    create_time: datetime
    lineage: Lineage = Lineage()
    report: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    uri: str = ""
    size_bytes: int = 0
    sha256: str = ""
    card: str = ""
    aliases: tuple[str, ...] = ()
    publisher: str = ""
    expire_time: datetime | None = None
    #: Only in the answer that makes the caller its publisher.
    publication_token: str = ""
    creator: str = ""
    finish_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"models/{self.model_id}/versions/{self.version}"

    def is_silent(self, now: datetime) -> bool:
        """Whether it waits for a publisher, or its publisher has been silent for too long."""
        due = self.expire_time is None or self.expire_time <= now
        return self.state is VersionState.PUBLISHING and due


def check_model_id(model_id: str) -> str:
    """Returns `model_id` if it is one; raises InvalidArgumentError."""
    if not _MODEL_ID.fullmatch(model_id):
        raise InvalidArgumentError(
            "a model's name is 1 to 128 of letters, digits, `.`, `_` and `-`, starting with a "
            f"letter or a digit, but got {model_id[:140]!r}."
        )
    return model_id


def check_alias(alias: str) -> str:
    """Returns `alias` if it may be one; raises InvalidArgumentError."""
    if not _ALIAS.fullmatch(alias) or alias == LATEST:
        raise InvalidArgumentError(
            "an alias is 1 to 63 of a-z, 0-9, _ and -, starting with a letter, and not "
            f"{LATEST!r}, but got {alias[:64]!r}."
        )
    return alias


def parse_model_name(name: str) -> str:
    """The id of `models/{model}`; raises InvalidArgumentError."""
    collection, _, model_id = name.partition("/")
    if collection != "models":
        raise InvalidArgumentError(f"a model's name is models/MODEL, but got {name[:160]!r}.")
    return check_model_id(model_id)


def parse_version_name(name: str) -> tuple[str, str]:
    """Model and version of `models/{model}/versions/{version}`; the version is still a word.

    Raises:
        InvalidArgumentError: it is no such name.
    """
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "models" or parts[2] != "versions":
        raise InvalidArgumentError(
            f"a version's name is models/MODEL/versions/VERSION, but got {name[:200]!r}."
        )
    return check_model_id(parts[1]), parts[3]


def parse_reference(reference: str) -> tuple[str, str]:
    """Model and version of `model`, `model@alias`, `model@version` or `model/version`.

    The version is a word, empty where only the model is named.

    Raises:
        InvalidArgumentError: it is no such reference.
    """
    model_id, separator, word = reference.replace("@", "/", 1).partition("/")
    if separator and not (word.isdecimal() or word == LATEST):
        check_alias(word)
    return check_model_id(model_id), str(check_version(word)) if word.isdecimal() else word


def check_version(word: str | int) -> int:
    """A version's number; raises InvalidArgumentError for none."""
    text = str(word)
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise InvalidArgumentError(f"a version is a number from 1, but got {text[:64]!r}.")
    if not 1 <= int(text) <= _LAST_VERSION:
        raise InvalidArgumentError(f"a version is a number from 1, but got {text}.")
    return int(text)
