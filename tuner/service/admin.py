"""The methods of AdminService: tokens, the audit log, the servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import grpc

from tuner import convert_admin
from tuner.admin import Server, Token, check_token_id, parse_token_name
from tuner.errors import InvalidArgumentError
from tuner.service import auth, pages, validate
from tuner.service import call as calls
from tuner.v1 import admin_service_pb2 as pb
from tuner.v1.admin_service_pb2_grpc import AdminServiceServicer
from tuner_storage.tokens import AdminStore, HashedToken

Context = grpc.ServicerContext

_LONGEST = timedelta(days=36_500)


class AdminServicer(AdminServiceServicer):
    """Answers admins' calls. Thread-safe.

    Args:
        store: Where tokens are kept.
        list_servers: The servers that are alive.
        on_change: Is called when tokens have changed.
    """

    def __init__(
        self,
        store: AdminStore,
        list_servers: Callable[[], Sequence[Server]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._list_servers = list_servers
        self._on_change = on_change

    def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        now, secret = _now(), auth.new_secret()
        token = Token(
            token_id=check_token_id(request.token_id),
            role=convert_admin.role_from_proto(request.role),
            create_time=now,
            expire_time=_expire_time(request, now),
        )
        hashed = HashedToken(token=token, secret_hash=auth.hash_of(secret))
        self._store.create_token(hashed, calls.audit_entry(token.name, now))
        self._on_change()
        return pb.CreateTokenResponse(token=convert_admin.token_to_proto(token), secret=secret)

    def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        limit = validate.page_size(request.page_size)
        found = self._store.list_tokens(after=request.page_token, limit=limit)
        return pb.ListTokensResponse(
            tokens=[convert_admin.token_to_proto(token) for token in found],
            next_page_token=found[-1].token_id if len(found) == limit else "",
        )

    def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.Token:
        token_id = parse_token_name(request.name)
        revoked = self._store.revoke_token(token_id, calls.audit_entry(request.name, _now()))
        self._on_change()
        return convert_admin.token_to_proto(revoked)

    def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        limit = validate.page_size(request.page_size)
        found = self._store.list_entries(
            resource=validate.uri("`resource`", request.resource),
            before=pages.study_key(request.page_token),
            limit=limit,
        )
        return pb.ListAuditEntriesResponse(
            entries=[convert_admin.entry_to_proto(entry) for _, entry in found],
            next_page_token=str(found[-1][0]) if len(found) == limit else "",
        )

    def ListServers(
        self, request: pb.ListServersRequest, context: Context
    ) -> pb.ListServersResponse:
        servers = map(convert_admin.server_to_proto, self._list_servers())
        return pb.ListServersResponse(servers=servers)


def _now() -> datetime:
    return datetime.now(UTC)


def _expire_time(request: pb.CreateTokenRequest, now: datetime) -> datetime | None:
    if not request.HasField("ttl"):
        return None
    seconds = request.ttl.seconds
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise InvalidArgumentError(
            f"`ttl` must be 1 second to {_LONGEST.days} days, but got {seconds} s."
        )
    return now + timedelta(seconds=seconds)
