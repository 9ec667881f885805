"""The call that a thread is answering: who makes it, and what it is called in the logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from tuner.admin import AuditEntry

#: What came with a call, as gRPC hands it out.
Metadata: TypeAlias = "Iterable[tuple[str, str | bytes]] | None"


@dataclass(slots=True, kw_only=True)
class Call:
    """One call, from its arrival to its answer."""

    #: As gRPC has it, for example `/tuner.v1.StudyService/CreateStudy`.
    path: str = ""
    #: Without the service, for example `CreateStudy`.
    method: str
    #: Names the call in the logs and traces of every server it passes through.
    request: str
    #: The address it came from.
    peer: str = ""
    #: What came with it.
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Who calls: a token's id; empty where callers have no tokens.
    caller: str = ""
    #: Whether its caller may do everything.
    is_admin: bool = True
    #: What it ended with, the name of a grpc.StatusCode.
    code: str = "OK"
    #: How long it took.
    seconds: float = 0.0
    #: What the tracer keeps of it until it ends.
    trace: object = None


_CURRENT: ContextVar[Call] = ContextVar("call")
_NOBODY = Call(method="", request="")


def begin(call: Call) -> None:
    """From now on this thread answers the call."""
    _CURRENT.set(call)


def end() -> None:
    """This thread answers no call any more; a stream that was dropped may end in another one."""
    _CURRENT.set(_NOBODY)


def audit_entry(resource: str, now: datetime) -> AuditEntry:
    """What the audit log says of a change that the call of this thread makes."""
    call = current()
    return AuditEntry(
        time=now, caller=call.caller, method=call.method, resource=resource, request=call.request
    )


def current() -> Call:
    """The call of this thread; one of nobody's in the server's own threads."""
    return _CURRENT.get(_NOBODY)
