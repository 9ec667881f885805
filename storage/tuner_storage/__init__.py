"""PostgreSQL, embedded or elsewhere: the one place where studies and trials are kept."""

from tuner_storage.database import Database
from tuner_storage.directory import DataDirectory
from tuner_storage.embedded import EmbeddedPostgres
from tuner_storage.errors import RepeatedRequestError, StaleError
from tuner_storage.store import Store
from tuner_storage.values import Answer, LoadedTrials, LogPiece, StoredStudy, TrialPage

__all__ = [
    "Answer",
    "DataDirectory",
    "Database",
    "EmbeddedPostgres",
    "LoadedTrials",
    "LogPiece",
    "RepeatedRequestError",
    "StaleError",
    "Store",
    "StoredStudy",
    "TrialPage",
]
