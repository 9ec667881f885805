"""What a store is told of the call that asks it for a change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.message import Message

from tuner.service import call as calls
from tuner.service import roles, validate
from tuner_storage.asked import Asked

R = TypeVar("R")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def asked(
    build: Callable[[R], Message],
    resource: str,
    request_id: str,
    time: datetime | None = None,
    *,
    kind: str = "",
) -> Asked[R]:
    """The change that the call of this thread asks for.

    Args:
        build: Makes the answer of what was done.
        resource: The name of what is changed.
        request_id: Makes the request repeatable.
        time: When it is asked; left out: now.
        kind: What people call what may be deleted.
    """
    call = calls.current()
    name = resource.partition("/")[2]
    return Asked(
        audit=calls.audit_entry(resource, time or now()),
        request_id=validate.request_id(request_id),
        answer=lambda result: build(result).SerializeToString(),
        check_delete=lambda creator: roles.check_delete(call, name, creator, kind=kind),
    )
