"""Conversions between the messages of AdminService and plain values, in pairs."""

from __future__ import annotations

from typing import Any

from tuner import convert
from tuner.admin import AuditEntry, Role, Server, Token, parse_token_name
from tuner.errors import InvalidArgumentError
from tuner.v1 import admin_service_pb2 as pb


def role_to_proto(role: Role) -> Any:
    """A role's number."""
    return pb.Token.Role.Value(role.value)


def role_from_proto(number: int) -> Role:
    """A role; raises InvalidArgumentError for none and for those that there are not."""
    roles = {role_to_proto(role): role for role in Role}
    if number not in roles:
        raise InvalidArgumentError(
            f"`role` must be {', '.join(Role)}, but got {number}; say what the token may do."
        )
    return roles[number]


def token_to_proto(token: Token) -> pb.Token:
    """A token."""
    return pb.Token(
        name=token.name,
        role=role_to_proto(token.role),
        create_time=convert.time_to_proto(token.create_time),
        expire_time=convert.time_to_proto(token.expire_time),
        revoke_time=convert.time_to_proto(token.revoke_time),
    )


def token_from_proto(message: pb.Token) -> Token:
    """A token."""
    expires, revoked = message.HasField("expire_time"), message.HasField("revoke_time")
    return Token(
        token_id=parse_token_name(message.name),
        role=role_from_proto(message.role),
        create_time=convert.time_from_proto(message.create_time),
        expire_time=convert.time_from_proto(message.expire_time) if expires else None,
        revoke_time=convert.time_from_proto(message.revoke_time) if revoked else None,
    )


def entry_to_proto(entry: AuditEntry) -> pb.AuditEntry:
    """An entry of the audit log."""
    return pb.AuditEntry(
        time=convert.time_to_proto(entry.time),
        caller=entry.caller,
        method=entry.method,
        resource=entry.resource,
        request=entry.request,
    )


def entry_from_proto(message: pb.AuditEntry) -> AuditEntry:
    """An entry of the audit log."""
    return AuditEntry(
        time=convert.time_from_proto(message.time),
        caller=message.caller,
        method=message.method,
        resource=message.resource,
        request=message.request,
    )


def server_to_proto(server: Server) -> pb.Server:
    """A server."""
    return pb.Server(
        address=server.address,
        start_time=convert.time_to_proto(server.start_time),
        expire_time=convert.time_to_proto(server.expire_time),
        studies=server.studies,
    )


def server_from_proto(message: pb.Server) -> Server:
    """A server."""
    return Server(
        address=message.address,
        start_time=convert.time_from_proto(message.start_time),
        expire_time=convert.time_from_proto(message.expire_time),
        studies=message.studies,
    )
