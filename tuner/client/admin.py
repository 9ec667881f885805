"""Tokens, the audit log and the servers, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from tuner import convert_admin
from tuner.admin import AuditEntry, Role, Server, Token, check_token_id
from tuner.client.channel import Connection
from tuner.v1 import admin_service_pb2 as pb

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token with its secret, which is told only once."""

    token: Token
    secret: str = field(repr=False)


class Admin:
    """The administration of study servers. Every method raises TunerError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create_token(self, token_id: str, role: Role, ttl: timedelta | None = None) -> NewToken:
        """Makes a token.

        Args:
            token_id: who will hold it: a-z, 0-9 and -.
            role: what its holder may do.
            ttl: how long it is good for; None for ever.
        """
        request = pb.CreateTokenRequest(
            token_id=check_token_id(token_id), role=convert_admin.role_to_proto(role)
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        # Repeated after an answer that was lost, it would find its own name taken.
        answer = self._connection.call(
            lambda stub: stub.CreateToken, request, patience_seconds=0.0
        )
        return NewToken(token=convert_admin.token_from_proto(answer.token), secret=answer.secret)

    def tokens(self) -> Iterator[Token]:
        """Yields the tokens by name, those that have ended included."""
        page_token = ""
        while True:
            request = pb.ListTokensRequest(page_size=_PAGE, page_token=page_token)
            page = self._connection.call(lambda stub: stub.ListTokens, request)
            yield from map(convert_admin.token_from_proto, page.tokens)
            page_token = page.next_page_token
            if not page_token:
                return

    def revoke_token(self, token_id: str) -> Token:
        """Ends a token; every server refuses it within a second."""
        request = pb.RevokeTokenRequest(name=f"tokens/{token_id}")
        answer = self._connection.call(lambda stub: stub.RevokeToken, request)
        return convert_admin.token_from_proto(answer)

    def audit(self, resource: str = "", *, limit: int | None = None) -> Iterator[AuditEntry]:
        """Yields what was changed, newest first.

        Args:
            resource: only changes of this and of what is below it: `studies/adult`.
            limit: at most so many.
        """
        return islice(self._entries(resource), limit)

    def _entries(self, resource: str) -> Iterator[AuditEntry]:
        page_token = ""
        while True:
            request = pb.ListAuditEntriesRequest(
                resource=resource, page_size=_PAGE, page_token=page_token
            )
            page = self._connection.call(lambda stub: stub.ListAuditEntries, request)
            yield from map(convert_admin.entry_from_proto, page.entries)
            page_token = page.next_page_token
            if not page_token:
                return

    def servers(self) -> list[Server]:
        """The study servers that share the database and are alive."""
        answer = self._connection.call(lambda stub: stub.ListServers, pb.ListServersRequest())
        return [convert_admin.server_from_proto(server) for server in answer.servers]
