"""PostgreSQL, embedded or elsewhere: the one place where studies and trials are kept."""

from tuner_storage.database import Database
from tuner_storage.directory import DataDirectory
from tuner_storage.embedded import EmbeddedPostgres
from tuner_storage.errors import StaleError
from tuner_storage.store import Store
from tuner_storage.values import (
    LoadedTrials,
    LogPiece,
    Orphan,
    Ownership,
    Request,
    ServerEntry,
    StoredStudy,
    TrialPage,
)
from tuner_storage.writes import Write

__all__ = [
    "DataDirectory",
    "Database",
    "EmbeddedPostgres",
    "LoadedTrials",
    "LogPiece",
    "Orphan",
    "Ownership",
    "Request",
    "ServerEntry",
    "StaleError",
    "Store",
    "StoredStudy",
    "TrialPage",
    "Write",
]
