"""What the registry asks of the database: models, their versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from tuner.admin import LOCAL_PREFIX
from tuner.errors import (
    FailedPreconditionError,
    LeaseLostError,
    NotFoundError,
)
from tuner.model import Lineage, Model, ModelVersion, Published, VersionState
from tuner.study import parse_trial_name
from tuner_storage.asked import Asked, change
from tuner_storage.database import Database
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows, fetch_value

_LAST_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to change of a model; None: nothing."""

    etag: str = ""
    description: str | None = None
    labels: Mapping[str, str] | None = None
    keep_versions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A publication that begins."""

    model_id: str
    lineage: Lineage
    #: Empty: the version is only asked for.
    publisher: str
    #: Until when the publisher may be silent.
    expire_time: datetime
    after_version: int = 0
    retry_rejected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What names a version's trial for ever, even after another study took the name."""

    study: int | None
    trial: int | None
    #: Whose the version is.
    creator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelRow:
    """A row of tuner.model_summaries."""

    model_id: str
    description: str
    labels: Mapping[str, str]
    keep_versions: int
    last_version: int
    revision: int
    creator: str
    create_time: datetime
    update_time: datetime
    aliases: Mapping[str, int]
    version_count: int
    latest_version: int

    def to_model(self) -> Model:
        """The model."""
        return Model(
            model_id=self.model_id,
            description=self.description,
            aliases=dict(sorted(self.aliases.items())),
            keep_versions=self.keep_versions,
            labels=self.labels,
            latest_version=self.latest_version,
            version_count=self.version_count,
            creator=self.creator,
            create_time=self.create_time,
            update_time=self.update_time,
            etag=str(self.revision),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """A row of tuner.model_versions with the aliases that name it."""

    model_id: str
    version: int
    state: str
    lineage: Mapping[str, Any]
    study: int | None
    trial: int | None
    report: str
    metric_names: Sequence[str]
    metric_values: Sequence[float]
    uri: str
    size_bytes: int
    sha256: str
    card: str
    publisher: str
    attempt: int
    expire_time: datetime | None
    creator: str
    create_time: datetime
    finish_time: datetime | None
    aliases: Sequence[str]

    def to_version(self) -> ModelVersion:
        """The version, without its token."""
        return ModelVersion(
            model_id=self.model_id,
            version=self.version,
            state=VersionState(self.state),
            lineage=Lineage(**self.lineage),
            report=self.report,
            metrics=dict(zip(self.metric_names, self.metric_values, strict=True)),
            uri=self.uri,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            card=self.card,
            aliases=tuple(self.aliases),
            publisher=self.publisher,
            expire_time=self.expire_time,
            creator=self.creator,
            create_time=self.create_time,
            finish_time=self.finish_time,
        )


class ModelStore:
    """The registry's verbs. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction, with the audit entry of its change and the answer to its
    request in it. Changes of one model wait for each other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- models ---

    def create_model(self, model: Model, asked: Asked[Model]) -> bytes:
        """Creates a model; raises AlreadyExistsError."""

        def create(connection: Connection) -> Model:
            parameters = {**_columns(model), "creator": model.creator, "now": asked.now}
            connection.execute(QUERIES["create_model"], parameters)
            return _model(connection, model.model_id)

        return change(self._database, asked, create)

    def get_model(self, model_id: str) -> Model:
        """Returns a model; raises NotFoundError."""
        with self._database.connection() as connection:
            return _model(connection, model_id)

    def list_models(self, *, after: str = "", limit: int = 100) -> list[Model]:
        """Models by name; `after` is the name of the last one seen."""
        with self._database.reading() as connection:
            rows = fetch_rows(
                connection, _ModelRow, "list_models", {"after": after, "limit": limit}
            )
        return [row.to_model() for row in rows]

    def update_model(self, model_id: str, changes: Changes, asked: Asked[Model]) -> bytes:
        """Changes a model; versions that it keeps no more become DELETING.

        Raises:
            NotFoundError: there is no such model.
            FailedPreconditionError: the etag is stale.
        """

        def update(connection: Connection) -> Model:
            lock_model(connection, model_id)
            model = _model(connection, model_id)
            if changes.etag and changes.etag != model.etag:
                raise FailedPreconditionError(
                    f"model {model_id!r} has changed since it was read (etag {changes.etag}, now "
                    f"{model.etag}); read it again."
                )
            given = {
                name: value
                for name in ("description", "labels", "keep_versions")
                if (value := getattr(changes, name)) is not None
            }
            changed = replace(model, **given)
            connection.execute(QUERIES["update_model"], {**_columns(changed), "now": asked.now})
            retire(connection, model_id)
            return _model(connection, model_id)

        return change(self._database, asked, update)

    def delete_model(self, model_id: str, asked: Asked[None]) -> bytes:
        """Deletes a model.

        Raises:
            NotFoundError: there is no such model.
            FailedPreconditionError: it has versions.
        """

        def delete(connection: Connection) -> None:
            lock_model(connection, model_id)
            model = _model(connection, model_id)
            asked.check_delete(model.creator)
            if model.version_count:
                raise FailedPreconditionError(
                    f"model {model_id!r} has {model.version_count} versions; delete these first: "
                    f"tuner models delete {model_id}/VERSION."
                )
            connection.execute(QUERIES["delete_model"], {"model_id": model_id})

        return change(self._database, asked, delete)

    # --- versions ---

    def begin_version(self, begun: Beginning, asked: Asked[ModelVersion]) -> bytes:
        """Takes the next number of a model, which is created if there is none of that name.

        What the model has of the same trial is answered instead, and taken up if nobody works on
        it. The version has a token if the caller is its publisher.

        Raises:
            NotFoundError: there is no such trial.
        """

        def begin(connection: Connection) -> ModelVersion:
            origin = _origin(connection, begun.lineage, asked.audit.caller)
            of = {"model_id": begun.model_id, "creator": origin.creator, "now": asked.now}
            connection.execute(QUERIES["ensure_model"], of)
            lock_model(connection, begun.model_id)
            number = _existing(connection, begun, origin)
            if number is None:
                parameters = {
                    **of,
                    "study": origin.study,
                    "trial": origin.trial,
                    "lineage": _json(asdict(begun.lineage)),
                    "after_version": begun.after_version,
                    **_holder(begun),
                }
                number, held = int(fetch_value(connection, "begin_version", parameters)), True
            else:
                held = _take_up(connection, begun, number, asked.now)
            row = find_version(connection, begun.model_id, number)
            token = _token(row) if held and begun.publisher else ""
            return replace(row.to_version(), publication_token=token)

        return change(self._database, asked, begin)

    def finish_version(
        self,
        model_id: str,
        version: int,
        token: str,
        outcome: Published | str,
        asked: Asked[ModelVersion],
    ) -> bytes:
        """Ends a publication: with what was published, or with why it was not.

        Raises:
            NotFoundError: there is no such version.
            LeaseLostError: another publisher has taken it up, or it has ended.
            FailedPreconditionError: what was published is something else than was begun.
        """

        def finish(connection: Connection) -> ModelVersion:
            lock_model(connection, model_id)
            row = find_version(connection, model_id, version)
            if row.state != VersionState.PUBLISHING or token != _token(row):
                raise LeaseLostError(
                    f"version {version} of {model_id!r} is {row.state.lower()} or was taken up by "
                    "another publisher; drop it."
                )
            begun = Lineage(**row.lineage)
            columns = _outcome(begun, outcome)
            place = {"model_id": model_id, "version": version, "now": asked.now}
            connection.execute(QUERIES["finish_version"], {**columns, **place})
            retire(connection, model_id)
            return find_version(connection, model_id, version).to_version()

        return change(self._database, asked, finish)

    def get_version(self, model_id: str, version: int | str) -> ModelVersion:
        """Returns a version by its number, an alias or `latest`; raises NotFoundError."""
        with self._database.connection() as connection:
            return find_version(connection, model_id, version).to_version()

    def list_versions(
        self,
        model_id: str | None = None,
        *,
        states: Sequence[VersionState] = (),
        after: tuple[str, int] | None = None,
        limit: int = 100,
    ) -> list[ModelVersion]:
        """Versions of a model, or of all, newest first and without cards.

        Args:
            model_id: None for all models, by name.
            states: only those in one of these; empty: all.
            after: model and number of the last one seen.
            limit: at most so many.

        Raises:
            NotFoundError: there is no such model.
        """
        place = after or ("", _LAST_VERSION)
        parameters = {
            "model_id": model_id,
            "states": [state.value for state in states] or None,
            "after_model": place[0],
            "before_version": place[1],
            "limit": limit,
        }
        with self._database.reading() as connection:
            if model_id is not None:
                _model(connection, model_id)
            rows = fetch_rows(connection, VersionRow, "list_versions", parameters)
        return [row.to_version() for row in rows]

    def delete_version(
        self, model_id: str, version: int, *, files_removed: bool, asked: Asked[None]
    ) -> bytes:
        """Deletes a version: a READY one becomes DELETING until its files are removed.

        Raises:
            NotFoundError: there is no such version.
            FailedPreconditionError: something uses it, or a publisher works on it.
        """

        def delete(connection: Connection) -> None:
            lock_model(connection, model_id)
            row = find_version(connection, model_id, version)
            asked.check_delete(row.creator)
            place = {"model_id": model_id, "version": version}
            use = fetch_value(connection, "version_use", place)
            if use:
                raise FailedPreconditionError(
                    f"version {version} of {model_id!r} is in use: {use}; end that first."
                )
            state = VersionState(row.state)
            if state is VersionState.PUBLISHING and not row.to_version().is_silent(asked.now):
                raise FailedPreconditionError(
                    f"version {version} of {model_id!r} is being published by {row.publisher}; "
                    "wait for it."
                )
            if state is VersionState.READY:
                connection.execute(QUERIES["retire_version"], place)
            elif state is not VersionState.DELETING or files_removed:
                connection.execute(QUERIES["delete_version"], place)

        return change(self._database, asked, delete)

    # --- aliases ---

    def set_alias(self, model_id: str, alias: str, version: int, asked: Asked[Model]) -> bytes:
        """Gives a version a name, or moves that name to it.

        Raises:
            NotFoundError: there is no such version.
            FailedPreconditionError: it is not READY.
        """

        def set_it(connection: Connection) -> Model:
            lock_model(connection, model_id)
            state = find_version(connection, model_id, version).state
            if state != VersionState.READY:
                raise FailedPreconditionError(
                    f"version {version} of {model_id!r} is {state.lower()}; an alias names one "
                    "that is ready."
                )
            parameters = {"model_id": model_id, "alias": alias, "version": version}
            connection.execute(QUERIES["set_alias"], parameters)
            return _renamed(connection, model_id, asked.now)

        return change(self._database, asked, set_it)

    def delete_alias(self, model_id: str, alias: str, asked: Asked[Model]) -> bytes:
        """Takes a name away; raises NotFoundError if there is none."""

        def delete(connection: Connection) -> Model:
            lock_model(connection, model_id)
            parameters = {"model_id": model_id, "alias": alias}
            if fetch_value(connection, "delete_alias", parameters) is None:
                raise NotFoundError(f"model {model_id!r} has no alias {alias!r}.")
            return _renamed(connection, model_id, asked.now)

        return change(self._database, asked, delete)


def lock_model(connection: Connection, model_id: str) -> None:
    """Makes others wait who change the model; raises NotFoundError if there is none."""
    if fetch_value(connection, "lock_model", {"model_id": model_id}) is None:
        raise _no_model(model_id)


def _model(connection: Connection, model_id: str) -> Model:
    found = fetch_rows(connection, _ModelRow, "find_model", {"model_id": model_id})
    if not found:
        raise _no_model(model_id)
    return found[0].to_model()


def _no_model(model_id: str) -> NotFoundError:
    return NotFoundError(f"no model is called {model_id!r}; `tuner models` lists them.")


def find_version(connection: Connection, model_id: str, version: int | str) -> VersionRow:
    """A version by its number, an alias or `latest`; raises NotFoundError."""
    number = version if isinstance(version, int) else None
    alias = None if isinstance(version, int) else version
    parameters = {"model_id": model_id, "version": number, "alias": alias}
    found = fetch_rows(connection, VersionRow, "find_version", parameters)
    if not found:
        what = f"version {version}" if number else f"ready version that is called {version!r}"
        raise NotFoundError(
            f"model {model_id!r} has no {what}; `tuner models show {model_id}` lists what it has."
        )
    return found[0]


def retire(connection: Connection, model_id: str) -> None:
    """Lets go of versions beyond those that the model keeps, if nothing uses them."""
    connection.execute(QUERIES["retire_versions"], {"model_id": model_id})


def _renamed(connection: Connection, model_id: str, now: datetime) -> Model:
    connection.execute(QUERIES["touch_model"], {"model_id": model_id, "now": now})
    retire(connection, model_id)
    return _model(connection, model_id)


def _origin(connection: Connection, lineage: Lineage, caller: str) -> _Origin:
    if not lineage.trial:
        return _Origin(study=None, trial=None, creator=caller)
    study_id, number = parse_trial_name(lineage.trial)
    parameters = {"study_id": study_id, "trial": number}
    row = connection.execute(QUERIES["find_trial_key"], parameters).fetchone()
    if row is None:
        raise NotFoundError(f"there is no trial {lineage.trial}; `tuner trials` lists them.")
    # What a runner publishes by itself belongs to whom the study belongs to.
    creator = row[1] if caller.startswith(LOCAL_PREFIX) else caller
    return _Origin(study=int(row[0]), trial=number, creator=creator)


def _existing(connection: Connection, begun: Beginning, origin: _Origin) -> int | None:
    """The version that is answered instead of a new one."""
    parameters = {
        "model_id": begun.model_id,
        "study": origin.study,
        "trial": origin.trial,
        "source": begun.lineage.source,
    }
    number = fetch_value(connection, "find_begun", parameters)
    if number is None:
        return None
    rejected = find_version(connection, begun.model_id, int(number)).state == VersionState.REJECTED
    return None if rejected and begun.retry_rejected else int(number)


def _take_up(connection: Connection, begun: Beginning, number: int, now: datetime) -> bool:
    """Makes the caller the publisher of a version if nobody works on it."""
    version = find_version(connection, begun.model_id, number).to_version()
    if not begun.publisher or not version.is_silent(now):
        return False
    place = {"model_id": begun.model_id, "version": number}
    connection.execute(QUERIES["take_up_version"], {**place, **_holder(begun)})
    return True


def _holder(begun: Beginning) -> Mapping[str, Any]:
    expire_time = begun.expire_time if begun.publisher else None
    return {"publisher": begun.publisher, "expire_time": expire_time}


def _token(row: VersionRow) -> str:
    return f"{row.version}.{row.attempt}"


def _outcome(begun: Lineage, outcome: Published | str) -> Mapping[str, Any]:
    if isinstance(outcome, str):
        nothing = Published(uri="", size_bytes=0, sha256="", lineage=begun, report=outcome)
        return {"state": VersionState.REJECTED.value, **_published(nothing)}
    if (outcome.lineage.trial, outcome.lineage.source) != (begun.trial, begun.source):
        raise FailedPreconditionError(
            f"the version was begun for {begun.trial or begun.source!r}, and is finished with "
            f"{outcome.lineage.trial or outcome.lineage.source!r}."
        )
    return {"state": VersionState.READY.value, **_published(outcome)}


def _published(published: Published) -> Mapping[str, Any]:
    return {
        "report": published.report,
        "lineage": _json(asdict(published.lineage)),
        "metric_names": list(published.metrics),
        "metric_values": list(published.metrics.values()),
        "uri": published.uri,
        "size_bytes": published.size_bytes,
        "sha256": published.sha256,
        "card": published.card,
    }


def _columns(model: Model) -> Mapping[str, Any]:
    return {
        "model_id": model.model_id,
        "description": model.description,
        "labels": _json(dict(model.labels)),
        "keep_versions": model.keep_versions,
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
