"""What the administration asks of the database: tokens, the audit log, the servers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tuner.admin import AuditEntry, Role, Token
from tuner.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from tuner_storage.database import Database
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedToken:
    """A token with the hash of its secret."""

    token: Token
    secret_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokenRow:
    """A row of tuner.tokens."""

    token_id: str
    role: str
    secret_hash: bytes
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None

    def to_token(self) -> Token:
        """The token."""
        return Token(
            token_id=self.token_id,
            role=Role(self.role),
            create_time=self.create_time,
            expire_time=self.expire_time,
            revoke_time=self.revoke_time,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _AuditRow:
    """A row of tuner.audit."""

    entry: int
    time: datetime
    caller: str
    method: str
    resource: str
    request: str


class AdminStore:
    """The administration's verbs. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction, with the audit entry of its change in it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- tokens ---

    def create_token(self, hashed: HashedToken, audit: AuditEntry) -> None:
        """Keeps a token; one of its name that was revoked or has expired makes room for it.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        with self._database.transaction() as connection:
            _create(connection, hashed)
            write_audit(connection, audit)

    def list_tokens(self, *, after: str = "", limit: int = 100) -> list[Token]:
        """Tokens by name; `after` is the name of the last one seen."""
        parameters = {"after": after, "limit": limit}
        with self._database.connection() as connection:
            rows = fetch_rows(connection, _TokenRow, "list_tokens", parameters)
        return [row.to_token() for row in rows]

    def active_tokens(self, now: datetime) -> list[HashedToken]:
        """The tokens that open anything now."""
        with self._database.connection() as connection:
            return find_active_tokens(connection, now)

    def revoke_token(self, token_id: str, audit: AuditEntry) -> Token:
        """Ends a token at the time of the audit entry; returns it. Again, it changes nothing.

        Raises:
            NotFoundError: there is none of that name.
            FailedPreconditionError: no admin but the servers themselves would be left.
        """
        parameters = {"token_id": token_id, "now": audit.time}
        with self._database.transaction() as connection:
            # In one order and until the commit: two admins cannot revoke each other's last token.
            admins = connection.execute(QUERIES["lock_admin_tokens"], parameters).fetchall()
            found = fetch_rows(connection, _TokenRow, "find_token", parameters)
            if not found:
                raise NotFoundError(
                    f"no token is called {token_id!r}; `tuner token list` shows them."
                )
            token = found[0].to_token()
            if not token.is_active(audit.time):
                return token
            others = [name for (name,) in admins if name != token_id]
            if token.role is Role.ADMIN and not others:
                raise FailedPreconditionError(
                    f"{token_id!r} is the last admin token; make another one first: "
                    "tuner token create NAME --role admin."
                )
            revoked = fetch_rows(connection, _TokenRow, "revoke_token", parameters)
            write_audit(connection, audit)
        return revoked[0].to_token()

    # --- the tokens of the servers themselves ---

    def keep_local_token(self, hashed: HashedToken) -> None:
        """Keeps a server's own token; those of dead servers are forgotten."""
        with self._database.transaction() as connection:
            connection.execute(QUERIES["forget_local_tokens"], {"now": hashed.token.create_time})
            _create(connection, hashed)

    def renew_local_token(self, token_id: str, now: datetime, expire_time: datetime) -> None:
        """Prolongs a server's own token; those of dead servers are forgotten."""
        parameters = {"token_id": token_id, "expire_time": expire_time, "now": now}
        with self._database.transaction() as connection:
            connection.execute(QUERIES["renew_local_token"], parameters)
            connection.execute(QUERIES["forget_local_tokens"], parameters)

    def delete_local_token(self, secret_hash: bytes) -> None:
        """Deletes a server's own token, if there is one with this hash."""
        with self._database.connection() as connection:
            connection.execute(QUERIES["delete_local_token"], {"secret_hash": secret_hash})

    # --- what was changed ---

    def list_entries(
        self, *, resource: str = "", before: int | None = None, limit: int = 100
    ) -> list[tuple[int, AuditEntry]]:
        """Entries with their keys, newest first; `before` is the key of the last one seen."""
        parameters = {"resource": resource, "before": before, "limit": limit}
        with self._database.connection() as connection:
            rows = fetch_rows(connection, _AuditRow, "list_audit", parameters)
        return [
            (
                row.entry,
                AuditEntry(
                    time=row.time,
                    caller=row.caller,
                    method=row.method,
                    resource=row.resource,
                    request=row.request,
                ),
            )
            for row in rows
        ]

    def forget_entries(self, before: datetime) -> None:
        """Removes the entries of changes before a time."""
        with self._database.connection() as connection:
            connection.execute(QUERIES["forget_audit"], {"before": before})


def _create(connection: Connection, hashed: HashedToken) -> None:
    token = hashed.token
    parameters = {
        "token_id": token.token_id,
        "role": token.role.value,
        "secret_hash": hashed.secret_hash,
        "now": token.create_time,
        "expire_time": token.expire_time,
    }
    if connection.execute(QUERIES["create_token"], parameters).fetchone() is None:
        raise AlreadyExistsError(
            f"a token is called {token.token_id!r}; choose another name, or revoke it first: "
            f"tuner token revoke {token.token_id}."
        )


def find_active_tokens(connection: Connection, now: datetime) -> list[HashedToken]:
    """The tokens that open anything now."""
    return [
        HashedToken(token=row.to_token(), secret_hash=bytes(row.secret_hash))
        for row in fetch_rows(connection, _TokenRow, "active_tokens", {"now": now})
    ]


def write_audit(connection: Connection, audit: AuditEntry) -> None:
    """Notes a change, in the transaction of it."""
    parameters = {
        "time": audit.time,
        "caller": audit.caller,
        "method": audit.method,
        "resource": audit.resource,
        "request": audit.request,
    }
    connection.execute(QUERIES["write_audit"], parameters)
