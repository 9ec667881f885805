"""Publishes the winners of completed studies and what people ask for; removes what is deleted."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tuner import convert
from tuner.client import Models
from tuner.client.channel import Connection
from tuner.errors import LeaseLostError, NotFoundError, TunerError
from tuner.model import Lineage, ModelVersion, VersionState
from tuner.registry import ModelRoot, Registry, Source
from tuner.runner.places import folder_of, inside
from tuner.study import Study, Trial, parse_trial_name
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb

logger = logging.getLogger(__name__)

_TRIES = 3
_PAGE = 100


class Publisher:
    """Looks for what is to be published or removed. Used by one thread at a time.

    Args:
        connection: To the study server.
        artifacts: What trials leave lies below it.
        models: Where models are published, a path or a URI.
    """

    def __init__(self, connection: Connection, artifacts: Path, models: str) -> None:
        self._connection = connection
        self._artifacts = artifacts
        self._models = Models(connection)
        self._registry = Registry(self._models, ModelRoot(models))
        #: How often something failed, by name.
        self._failures: dict[str, int] = {}

    def work(self) -> None:
        """Does what is due."""
        try:
            for study in self._completed():
                if self._has_winner(study):
                    self._try(_winner(study), partial(self._publish_winner, study))
            states = (VersionState.PUBLISHING, VersionState.DELETING)
            for version in self._models.versions(states=states):
                if version.state is VersionState.DELETING:
                    self._try(version.name, partial(self._registry.remove, version))
                elif version.lineage.trial and version.is_silent(datetime.now(UTC)):
                    self._try(version.name, partial(self._take_up, version))
        except TunerError as error:
            logger.debug("%s", error.message)

    def _try(self, name: str, work: Callable[[], object]) -> None:
        """Does something unless it has failed too often."""
        if self._failures.get(name, 0) >= _TRIES:
            return
        try:
            work()
        except LeaseLostError as error:
            logger.info("%s: %s", name, error.message)
        except (TunerError, OSError) as error:
            self._failures[name] = self._failures.get(name, 0) + 1
            logger.error("%s: %s", name, error)

    def _completed(self) -> list[Study]:
        request = pb.ListStudiesRequest(
            states=[study_pb2.Study.COMPLETED], managed_only=True, page_size=_PAGE
        )
        answer = self._connection.call(
            lambda stub: stub.ListStudies, request, patience_seconds=0.0
        )
        return [convert.study_from_proto(study) for study in answer.studies]

    def _has_winner(self, study: Study) -> bool:
        return (
            study.spec.export_model is not None
            and study.spec.data is not None  # else its trainer's files are no model we know
            and study.best_trial is not None
            and not study.exported_model_uri
        )

    def _publish_winner(self, study: Study) -> None:
        trial = self._trial(_winner(study))
        version = self._publish(study.spec.export_model or "", study, trial)
        if version.state is VersionState.REJECTED:
            # Its report is in the registry; whoever wants it again publishes the trial by hand.
            self._failures[trial.name] = _TRIES
        if version.state is not VersionState.READY:
            return
        update = pb.UpdateStudyRequest(
            study=study_pb2.Study(name=study.name, exported_model_uri=version.uri),
            request_id=str(uuid.uuid4()),
        )
        update.update_mask.paths.append("exported_model_uri")
        self._connection.call(lambda stub: stub.UpdateStudy, update)

    def _take_up(self, version: ModelVersion) -> None:
        """Publishes a version that somebody has asked for, or that a dead publisher has left."""
        study_id, _ = parse_trial_name(version.lineage.trial)
        try:
            trial = self._trial(version.lineage.trial)
            request = pb.GetStudyRequest(name=f"studies/{study_id}")
            answer = self._connection.call(lambda stub: stub.GetStudy, request)
        except NotFoundError as error:
            self._give_up(version, error.message)
            return
        if trial.create_time > version.create_time:
            self._give_up(version, f"another trial took the name {trial.name}.")
            return
        self._publish(version.model_id, convert.study_from_proto(answer), trial)

    def _give_up(self, version: ModelVersion, reason: str) -> None:
        """Leaves a version whose trial was deleted: whoever asked for it deletes it, too."""
        logger.warning("%s is not published: %s", version.name, reason)
        self._failures[version.name] = _TRIES

    def _publish(self, model: str, study: Study, trial: Trial) -> ModelVersion:
        start, lineage = time.monotonic(), Lineage(trial=trial.name)
        folder = folder_of(self._artifacts, study.study_id, trial.number)
        artifact = inside(folder, trial.artifact_uri)
        if artifact is None or study.spec.data is None:
            version = self._registry.reject(model, lineage, _without_model(study, trial))
        else:
            version = self._registry.publish(model, lineage, Source(directory=artifact))
        seconds = time.monotonic() - start
        if version.state is VersionState.READY:
            logger.info("%s: published as %s in %.1f s", trial.name, version.uri, seconds)
        elif version.state is VersionState.REJECTED:
            logger.error("%s: %s was rejected: %s", trial.name, version.name, version.report)
        return version

    def _trial(self, name: str) -> Trial:
        request = pb.GetTrialRequest(name=name)
        return convert.trial_from_proto(self._connection.call(lambda stub: stub.GetTrial, request))


def _winner(study: Study) -> str:
    return f"{study.name}/trials/{study.best_trial}"


def _without_model(study: Study, trial: Trial) -> str:
    if study.spec.data is None:
        return (
            f"the trainer of {study.study_id} is the user's own, and what its trials write is no "
            "model that tuner knows."
        )
    if not trial.artifact_uri:
        return f"trial {trial.number} is {trial.state.lower()} and has left no weights."
    return (
        f"the artifact {trial.artifact_uri!r} of {trial.name} is none of its own; the runner "
        "publishes what its trials wrote."
    )
