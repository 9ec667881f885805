"""Publishes versions: the number from the study server, the check, the rename, and the word."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from tuner.client import Models
from tuner.errors import DataError, FailedPreconditionError, ModelRejectedError
from tuner.model import PUBLICATION, Lineage, ModelVersion, Published, VersionState
from tuner.registry import gate
from tuner.registry.root import ModelRoot
from tuner_trainers import checksums, layout, transfer

logger = logging.getLogger(__name__)

#: How often a place that cannot be written is tried, and how long to wait in between.
_TRIES, _PAUSE_SECONDS = 3, 2.0
_CARD_KEPT = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a version is made of."""

    #: What a trial left, or a SavedModel.
    directory: Path
    #: Options of `tuner_trainers.export`.
    options: Sequence[str] = ()

    @staticmethod
    def of_saved_model(directory: Path, rows: Path | None = None) -> Source:
        """A SavedModel from elsewhere; `rows` has JSON lines with the golden rows to record."""
        recorded = [] if rows is None else ["--rows", str(rows)]
        origin = ["--origin", str(directory)]
        return Source(directory=directory, options=["--import", *origin, *recorded])


class Registry:
    """Publishes and removes versions in one place. Thread-safe.

    Args:
        models: the registry of the study server.
        root: where versions lie.
        ttl: how long this publisher may be silent before another takes its work up.
    """

    def __init__(self, models: Models, root: ModelRoot, *, ttl: timedelta = PUBLICATION) -> None:
        self._models = models
        self._root = root
        self._ttl = ttl

    def publish(
        self, model: str, lineage: Lineage, source: Source, *, retry_rejected: bool = False
    ) -> ModelVersion:
        """Publishes the next version of a model, or returns what there is of the same trial.

        What a publisher that was killed has left behind is taken up.

        Args:
            model: the model; created if there is none.
            lineage: the trial, or the source of an import.
            source: what the version is made of.
            retry_rejected: try again what was rejected.

        Returns:
            A version: READY; REJECTED with its report; or PUBLISHING, by somebody else.

        Raises:
            LeaseLostError: another publisher took it up meanwhile.
            DataError: the place of models cannot be read.
        """
        begun = self._models.begin(
            model,
            lineage,
            publisher=publisher_id(),
            ttl=self._ttl,
            after_version=self._root.highest(model),
            retry_rejected=retry_rejected,
        )
        if not begun.publication_token:
            return begun
        return self._models.finish(begun, self._outcome(begun, source))

    def reject(self, model: str, lineage: Lineage, report: str) -> ModelVersion:
        """Says of a version that somebody asked for why it cannot be published."""
        begun = self._models.begin(model, lineage, publisher=publisher_id(), ttl=self._ttl)
        return self._models.finish(begun, report) if begun.publication_token else begun

    def remove(self, version: ModelVersion) -> bool:
        """Removes a DELETING version; returns whether its files lay in this place."""
        place = self._root.place(version.model_id, version.version)
        if version.state is not VersionState.DELETING or version.uri != place:
            return False
        self._root.remove(version.model_id, version.version)
        self._models.delete_version(version, files_removed=True)
        return True

    def _outcome(self, begun: ModelVersion, source: Source) -> Published | str:
        for left in reversed(range(_TRIES)):
            try:
                return self._published(begun, source)
            except ModelRejectedError as error:
                return error.message
            except (DataError, OSError) as error:
                if not left:
                    return f"it could not be written: {error}"
                logger.warning("%s: %s; trying again", begun.name, error)
                time.sleep(_PAUSE_SECONDS)
        return "it could not be written."

    def _published(self, begun: ModelVersion, source: Source) -> Published:
        model, version = begun.model_id, begun.version
        found = self._root.found(model, version)
        if found is not None:
            # A publisher was killed between the rename and the word.
            report = gate.verify(found)
            return _published(begun.lineage, found, str(found), report)
        options = ["--model", model, *source.options]
        with (
            self._root.workshop(model) as workshop,
            gate.exported(source.directory, workshop, options) as (directory, report),
        ):
            published = _published(begun.lineage, directory, "", report)
            uri = self._root.put(directory, model, version)
        return replace(published, uri=uri)


def export_to(source: Source, to: str) -> str:
    """Exports to a place of the user's choice, which must be empty or not exist.

    Args:
        source: what is exported.
        to: a directory, or a URI of a store.

    Returns:
        The place: a path or a URI.

    Raises:
        ModelRejectedError: it could not be exported or does not predict what was recorded; nothing
            is left of it.
        FailedPreconditionError: the place is taken.
        DataError: it cannot be written.
    """
    with (
        _workshop(to) as workshop,
        gate.exported(source.directory, workshop, source.options) as (directory, _),
    ):
        return _put(directory, to)


def copy_to(version: ModelVersion, to: str) -> str:
    """Copies a published version to a place of the user's choice; see `export_to`.

    Raises:
        ModelRejectedError: its files are not those that were published.
        FailedPreconditionError: the place is taken, or the version is not READY.
        DataError: it cannot be read or written.
    """
    if version.state is not VersionState.READY:
        raise FailedPreconditionError(
            f"{version.name} is {version.state.lower()}; only what is ready can be exported."
        )
    with _workshop(to) as workshop, tempfile.TemporaryDirectory(dir=workshop) as folder:
        directory = Path(folder) / "model"
        fetch(version.uri, version.sha256, directory)
        return _put(directory, to)


def fetch(uri: str, sha256: str, directory: Path) -> None:
    """Copies a published version into a new directory, and checks that it is what was published.

    Args:
        uri: where it lies: a path or a URI.
        sha256: the sum of its checksums, in hexadecimal.
        directory: what is made.

    Raises:
        ModelRejectedError: its files are not those that were published.
        DataError: it cannot be read.
    """
    transfer.download(uri, directory)
    transfer.check_sum(directory, sha256)
    checksums.check(directory, directory / layout.SUMS)


def publisher_id() -> str:
    """Who publishes, for people."""
    return f"{socket.gethostname()[:80]}:{os.getpid()}"


@contextmanager
def _workshop(to: str) -> Iterator[Path]:
    """A folder from which a rename leads to a free place, or an upload."""
    if transfer.is_remote(to):
        if not transfer.is_empty(to):
            raise FailedPreconditionError(f"{to} is not empty; name another place.")
        with tempfile.TemporaryDirectory(prefix="tuner-export-") as folder:
            yield Path(folder)
        return
    path = transfer.local_path(to)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FailedPreconditionError(f"{path} exists and is not empty; name another directory.")
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path.parent


def _put(directory: Path, to: str) -> str:
    if transfer.is_remote(to):
        transfer.upload(directory, to)
        return to
    path = transfer.local_path(to)
    # Renaming onto an empty directory replaces it.
    directory.rename(path)
    gate.sync(path.parent)
    return str(path)


def _published(begun: Lineage, directory: Path, uri: str, report: str) -> Published:
    """What there is to say of a version; `begun` names its trial or source."""
    metadata = json.loads((directory / layout.METADATA).read_text(encoding="utf-8"))
    lineage = replace(
        begun,
        trainer=metadata.get("trainer", ""),
        data_fingerprint=metadata.get("data_fingerprint", ""),
        code=metadata.get("code", ""),
        packages=metadata["versions"].get("trained") or metadata["versions"]["exported"],
    )
    files = [path for path in directory.rglob("*") if path.is_file()]
    return Published(
        uri=uri,
        size_bytes=sum(path.stat().st_size for path in files),
        sha256=hashlib.sha256((directory / layout.SUMS).read_bytes()).hexdigest(),
        lineage=lineage,
        metrics=metadata.get("metrics", {}),
        card=(directory / layout.CARD).read_text(encoding="utf-8")[:_CARD_KEPT],
        report=report,
    )
