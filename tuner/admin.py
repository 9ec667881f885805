"""Who may call study servers, what was changed, which servers there are: as plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tuner.errors import InvalidArgumentError

#: The ids of the tokens that servers make for the other processes of their machine start so.
LOCAL_PREFIX = "local-"

_TOKEN_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Role(StrEnum):
    """What a token's holder may do; each may also do what those before it may."""

    #: Read.
    READER = "READER"
    #: Create and change studies and trials; delete one's own studies.
    WRITER = "WRITER"
    #: Everything, tokens included.
    ADMIN = "ADMIN"

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a caller proves with who it is; the secret is not part of it."""

    token_id: str
    role: Role
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"tokens/{self.token_id}"

    @property
    def is_local(self) -> bool:
        """Whether a server made it for its own machine."""
        return self.token_id.startswith(LOCAL_PREFIX)

    def is_active(self, now: datetime) -> bool:
        """Whether it opens anything."""
        return self.revoke_time is None and (self.expire_time is None or now < self.expire_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change: who made it, by which method, of what."""

    time: datetime
    caller: str
    method: str
    resource: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A study server that is alive."""

    address: str
    start_time: datetime
    expire_time: datetime
    studies: int


def check_token_id(token_id: str) -> str:
    """Returns `token_id` if it is one that people may choose; raises InvalidArgumentError."""
    if not _TOKEN_ID.fullmatch(token_id):
        raise InvalidArgumentError(
            "a token is named after its holder by 1 to 63 of a-z, 0-9 and -, starting with a "
            f"letter, but got {token_id[:64]!r}."
        )
    if token_id.startswith(LOCAL_PREFIX):
        raise InvalidArgumentError(
            f"names with {LOCAL_PREFIX} are the servers' own; choose another than {token_id!r}."
        )
    return token_id


def parse_token_name(name: str) -> str:
    """The id of `tokens/{token}`; raises InvalidArgumentError."""
    collection, _, token_id = name.partition("/")
    if collection != "tokens" or not _TOKEN_ID.fullmatch(token_id):
        raise InvalidArgumentError(f"a token's name is tokens/TOKEN, but got {name[:80]!r}.")
    return token_id
