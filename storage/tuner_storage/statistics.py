"""What is known of data sets, as the database keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from tuner.admin import AuditEntry
from tuner_storage.database import Database
from tuner_storage.queries import QUERIES
from tuner_storage.tokens import write_audit


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatistics:
    """What is known of the data with a fingerprint."""

    fingerprint: str
    row_count: int
    content: bytes
    update_time: datetime


class StatisticsStore:
    """The verbs. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, fingerprint: str, now: datetime) -> KeptStatistics | None:
        """What is known of the data, if anything is; notes that it was used."""
        parameters = {"fingerprint": fingerprint, "now": now}
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=class_row(KeptStatistics)) as cursor,
        ):
            return cursor.execute(QUERIES["use_statistics"], parameters).fetchone()

    def keep(self, kept: KeptStatistics, audit: AuditEntry) -> None:
        """Keeps what is known, in place of what there was."""
        parameters = {
            "fingerprint": kept.fingerprint,
            "row_count": kept.row_count,
            "content": kept.content,
            "now": kept.update_time,
        }
        with self._database.transaction() as connection:
            connection.execute(QUERIES["keep_statistics"], parameters)
            write_audit(connection, audit)

    def forget(self, before: datetime, most_bytes: int) -> None:
        """Forgets what was not used since, and what was used longest ago beyond so many bytes."""
        parameters = {"before": before, "bytes": most_bytes}
        with self._database.connection() as connection:
            connection.execute(QUERIES["forget_statistics"], parameters)
