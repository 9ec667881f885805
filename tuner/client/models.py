"""The registry of models, for scripts, publishers and pages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from google.protobuf.field_mask_pb2 import FieldMask

from tuner import convert_model
from tuner.client.channel import Connection
from tuner.errors import ModelRejectedError, UnavailableError
from tuner.model import (
    LATEST,
    PUBLICATION,
    Lineage,
    Model,
    ModelVersion,
    Published,
    VersionState,
    check_model_id,
    parse_reference,
)
from tuner.v1 import model_pb2
from tuner.v1 import model_service_pb2 as pb

_PAGE = 500
_POLL_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 2.0
#: How long a publication is waited for: a runner looks for work, exports and checks.
PATIENCE_SECONDS = 900.0


class Models:
    """The models of a study server. Iterating yields them by name. Every method raises TunerError.

    Where a `reference` is taken, it is `model`, `model@alias`, `model@version` or `model/version`;
    a model alone means its newest version.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __iter__(self) -> Iterator[Model]:
        token = ""
        while True:
            request = pb.ListModelsRequest(page_size=_PAGE, page_token=token)
            page = self._connection.call(lambda stub: stub.ListModels, request)
            yield from map(convert_model.model_from_proto, page.models)
            token = page.next_page_token
            if not token:
                return

    # --- models ---

    def create(
        self,
        model: str,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        keep_versions: int = 0,
    ) -> Model:
        """Creates a model without versions; publishing one creates its model, too.

        Args:
            model: letters, digits, `.`, `_` and `-`.
            description: what it is for.
            labels: words of your own.
            keep_versions: how many ready versions without an alias are kept; 0: all.
        """
        request = pb.CreateModelRequest(
            model=model_pb2.Model(
                description=description, labels=labels, keep_versions=keep_versions
            ),
            model_id=check_model_id(model),
            request_id=str(uuid.uuid4()),
        )
        answer = self._connection.call(lambda stub: stub.CreateModel, request)
        return convert_model.model_from_proto(answer)

    def get(self, model: str) -> Model:
        """Returns a model; raises NotFoundError."""
        request = pb.GetModelRequest(name=_name(model))
        answer = self._connection.call(lambda stub: stub.GetModel, request)
        return convert_model.model_from_proto(answer)

    def update(
        self,
        model: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        keep_versions: int | None = None,
        etag: str = "",
    ) -> Model:
        """Changes what is given; with an etag only if nobody else has changed the model since."""
        given = {
            "description": description,
            "labels": None if labels is None else dict(labels),
            "keep_versions": keep_versions,
        }
        paths = [name for name, value in given.items() if value is not None]
        request = pb.UpdateModelRequest(
            model=model_pb2.Model(
                name=_name(model),
                description=description or "",
                labels=labels,
                keep_versions=keep_versions or 0,
                etag=etag,
            ),
            update_mask=FieldMask(paths=paths),
            request_id=str(uuid.uuid4()),
        )
        answer = self._connection.call(lambda stub: stub.UpdateModel, request)
        return convert_model.model_from_proto(answer)

    def delete(self, model: str) -> None:
        """Deletes a model that has no versions."""
        request = pb.DeleteModelRequest(name=_name(model), request_id=str(uuid.uuid4()))
        self._connection.call(lambda stub: stub.DeleteModel, request)

    # --- versions ---

    def versions(
        self, model: str | None = None, *, states: Iterable[VersionState] = ()
    ) -> Iterator[ModelVersion]:
        """Yields versions, newest first and without their cards; of all models if none is named.

        Args:
            model: whose.
            states: only those in one of these; empty for all.
        """
        token = ""
        while True:
            request = pb.ListModelVersionsRequest(
                parent="models/-" if model is None else _name(model),
                page_size=_PAGE,
                page_token=token,
                states=[convert_model.state_to_proto(state) for state in states],
            )
            page = self._connection.call(lambda stub: stub.ListModelVersions, request)
            yield from map(convert_model.version_from_proto, page.versions)
            token = page.next_page_token
            if not token:
                return

    def version(self, reference: str) -> ModelVersion:
        """Returns a version with its card; raises NotFoundError."""
        model, word = parse_reference(reference)
        request = pb.GetModelVersionRequest(name=f"{_name(model)}/versions/{word or LATEST}")
        answer = self._connection.call(lambda stub: stub.GetModelVersion, request)
        return convert_model.version_from_proto(answer)

    def delete_version(self, version: ModelVersion, *, files_removed: bool = False) -> None:
        """Deletes a version; a runner removes its files. Raises FailedPreconditionError if used.

        Args:
            version: which.
            files_removed: there are none any more: nothing is left of it.
        """
        request = pb.DeleteModelVersionRequest(
            name=version.name, files_removed=files_removed, request_id=str(uuid.uuid4())
        )
        self._connection.call(lambda stub: stub.DeleteModelVersion, request)

    def set_alias(self, model: str, alias: str, version: int) -> Model:
        """Gives a ready version a name of its own, or moves that name to it."""
        request = pb.SetModelAliasRequest(
            name=_name(model), alias=alias, version=version, request_id=str(uuid.uuid4())
        )
        answer = self._connection.call(lambda stub: stub.SetModelAlias, request)
        return convert_model.model_from_proto(answer)

    def delete_alias(self, model: str, alias: str) -> Model:
        """Takes such a name away; the version stays."""
        request = pb.DeleteModelAliasRequest(
            name=_name(model), alias=alias, request_id=str(uuid.uuid4())
        )
        answer = self._connection.call(lambda stub: stub.DeleteModelAlias, request)
        return convert_model.model_from_proto(answer)

    # --- publication ---

    def begin(
        self,
        model: str,
        lineage: Lineage,
        *,
        publisher: str = "",
        ttl: timedelta = PUBLICATION,
        after_version: int = 0,
        retry_rejected: bool = False,
    ) -> ModelVersion:
        """Takes the next version of a model for a publisher, or answers what there is already.

        Only a version with a `publication_token` is the caller's to publish.

        Args:
            model: the model; created if there is none.
            lineage: the trial, or the source of an import.
            publisher: who publishes: a host and a process; empty to ask a runner for it.
            ttl: how long the publisher may be silent.
            after_version: the highest number that lies where models are published.
            retry_rejected: try again what was rejected.
        """
        request = pb.BeginModelVersionRequest(
            parent=_name(model),
            lineage=convert_model.lineage_to_proto(lineage),
            publisher=publisher,
            after_version=after_version,
            retry_rejected=retry_rejected,
            request_id=str(uuid.uuid4()),
        )
        request.ttl.FromTimedelta(ttl)
        answer = self._connection.call(lambda stub: stub.BeginModelVersion, request)
        return convert_model.version_from_proto(answer)

    def finish(self, begun: ModelVersion, outcome: Published | str) -> ModelVersion:
        """Ends a publication: with what was published, or with why it was not.

        Raises:
            LeaseLostError: another publisher has taken it up.
        """
        request = pb.FinishModelVersionRequest(
            name=begun.name,
            publication_token=begun.publication_token,
            request_id=str(uuid.uuid4()),
        )
        if isinstance(outcome, Published):
            request.published.CopyFrom(convert_model.published_to_proto(outcome))
        else:
            request.rejected = outcome
        answer = self._connection.call(lambda stub: stub.FinishModelVersion, request)
        return convert_model.version_from_proto(answer)

    def wait(
        self, version: ModelVersion, timeout_seconds: float = PATIENCE_SECONDS
    ) -> ModelVersion:
        """Waits until a version is published.

        Raises:
            ModelRejectedError: it was not, and why.
            UnavailableError: nobody has published it in time; it is still to be.
        """
        deadline, pause = time.monotonic() + timeout_seconds, _POLL_SECONDS
        reference = f"{version.model_id}/{version.version}"
        while version.state is VersionState.PUBLISHING:
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnavailableError(
                    f"{reference} is not published after {timeout_seconds:g} s; see that a runner "
                    f"is at work (tuner up), and look again: tuner models show {reference}."
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
            version = self.version(reference)
        if version.state is VersionState.REJECTED:
            raise ModelRejectedError(f"{reference} was rejected: {version.report}")
        return version

    def publish(
        self,
        model: str,
        trial: str,
        *,
        wait: bool = True,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> ModelVersion:
        """Asks a runner to publish a trial, `studies/STUDY/trials/N`, as a model's next version.

        A trial that is published already is answered with its version; one that was rejected is
        tried again.

        Args:
            model: the model's name.
            trial: the trial's.
            wait: return when it is published.
            timeout_seconds: how long to wait.

        Raises:
            ModelRejectedError: it does not predict what training recorded, or left no model.
            UnavailableError: no runner has published it in time.
        """
        begun = self.begin(model, Lineage(trial=trial), retry_rejected=True)
        return self.wait(begun, timeout_seconds) if wait else begun


def _name(model: str) -> str:
    return f"models/{check_model_id(model)}"
