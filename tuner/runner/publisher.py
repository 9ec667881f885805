"""Makes the winners of completed studies versions of their models."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from pathlib import Path

from tuner import convert
from tuner.client.channel import Connection
from tuner.errors import FailedPreconditionError, TunerError
from tuner.registry import publish
from tuner.runner.places import folder_of, inside
from tuner.study import Study
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb

logger = logging.getLogger(__name__)

_TRIES = 3
_PAGE = 100


class Publisher:
    """Looks for completed studies with a winner to publish. Used by one thread at a time."""

    def __init__(self, connection: Connection, artifacts: Path) -> None:
        self._connection = connection
        self._artifacts = artifacts
        self._failures: dict[str, int] = {}
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Publishes what is due, in a thread; at once if none is at work."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._publish_due, name="publish", daemon=True)
            self._thread.start()

    def _publish_due(self) -> None:
        try:
            studies = self._completed()
        except TunerError as error:
            logger.debug("%s", error.message)
            return
        for study in studies:
            if self._is_due(study):
                self._try_publish(study)

    def _completed(self) -> list[Study]:
        request = pb.ListStudiesRequest(
            states=[study_pb2.Study.COMPLETED], managed_only=True, page_size=_PAGE
        )
        answer = self._connection.call(
            lambda stub: stub.ListStudies, request, patience_seconds=0.0
        )
        return [convert.study_from_proto(study) for study in answer.studies]

    def _is_due(self, study: Study) -> bool:
        return (
            study.spec.export_model is not None
            and study.spec.data is not None  # else its trainer's files are no model we know
            and study.best_trial is not None
            and not study.exported_model_uri
            and self._failures.get(study.study_id, 0) < _TRIES
        )

    def _try_publish(self, study: Study) -> None:
        start = time.monotonic()
        try:
            uri = self._publish(study)
        except (TunerError, OSError) as error:
            self._failures[study.study_id] = self._failures.get(study.study_id, 0) + 1
            logger.error("%s: the winner was not published: %s", study.name, error)
        else:
            seconds = time.monotonic() - start
            logger.info("%s: published as %s in %.1f s", study.name, uri, seconds)

    def _publish(self, study: Study) -> str:
        request = pb.GetTrialRequest(name=f"{study.name}/trials/{study.best_trial}")
        trial = convert.trial_from_proto(
            self._connection.call(lambda stub: stub.GetTrial, request)
        )
        folder = folder_of(self._artifacts, study.study_id, trial.number)
        artifact = inside(folder, trial.artifact_uri)
        if artifact is None:
            raise FailedPreconditionError(
                f"the artifact {trial.artifact_uri!r} of {trial.name} is none of its own, in "
                f"{folder}; the runner publishes what its trials wrote there."
            )
        version = publish(artifact, self._artifacts / "models", study.spec.export_model or "")
        update = pb.UpdateStudyRequest(
            study=study_pb2.Study(name=study.name, exported_model_uri=str(version)),
            request_id=str(uuid.uuid4()),
        )
        update.update_mask.paths.append("exported_model_uri")
        self._connection.call(lambda stub: stub.UpdateStudy, update)
        return str(version)
