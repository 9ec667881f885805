"""A change that is asked for: done in one transaction with its audit entry, once per request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from tuner.admin import AuditEntry
from tuner.errors import TunerError
from tuner_storage.database import Database
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_value
from tuner_storage.tokens import write_audit

R = TypeVar("R")

#: Repeated requests are answered from the row of no study.
_NO_STUDY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[R]):
    """Who asks for a change, and how it is answered."""

    audit: AuditEntry
    #: Makes the request repeatable; empty: it is not.
    request_id: str
    #: Makes the answer of the result; what is repeated gets the same.
    answer: Callable[[R], bytes]
    #: Raises PermissionDeniedError unless the caller may delete what this creator made.
    check_delete: Callable[[str], None] = lambda creator: None

    @property
    def now(self) -> datetime:
        """When it is asked."""
        return self.audit.time


def change(database: Database, asked: Asked[R], work: Callable[[Connection], R]) -> bytes:
    """Does something once, however often it is asked; returns the answer."""
    try:
        with database.transaction() as connection:
            answered = _answered(connection, asked)
            return _do(connection, asked, work) if answered is None else answered
    except TunerError:
        # The same request may have arrived twice, and the other one was faster.
        with database.connection() as connection:
            answered = _answered(connection, asked)
        if answered is None:
            raise
        return answered


def _answered(connection: Connection, asked: Asked[Any]) -> bytes | None:
    if not asked.request_id:
        return None
    parameters = {
        "study": _NO_STUDY,
        "request_id": _request_key(asked),
        "method": asked.audit.method,
    }
    body = fetch_value(connection, "find_answer", parameters)
    return None if body is None else bytes(body)


def _do(connection: Connection, asked: Asked[R], work: Callable[[Connection], R]) -> bytes:
    body = asked.answer(work(connection))
    write_audit(connection, asked.audit)
    if asked.request_id:
        method = asked.audit.method
        kept = {"request_id": _request_key(asked), "method": method, "answer": body}
        connection.execute(QUERIES["record_shared_answer"], {**kept, "now": asked.now})
    return body


def _request_key(asked: Asked[Any]) -> str:
    """Tells the same id of two resources apart."""
    return f"{asked.audit.resource}:{asked.request_id}"
