"""Removes the code of trainers that no study needs any more."""

from __future__ import annotations

import logging
from pathlib import Path

from tuner import code
from tuner.client.channel import Connection
from tuner.errors import TunerError
from tuner.study import StudyState
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb

logger = logging.getLogger(__name__)

_PAGE = 1000


class Retention:
    """Looks for archives of code to remove. Used by one thread at a time."""

    def __init__(self, connection: Connection, artifacts: Path) -> None:
        self._connection = connection
        self._artifacts = artifacts

    def work(self) -> None:
        """Removes what is due."""
        try:
            removed = code.remove_unused(self._artifacts, self._named())
        except (TunerError, OSError) as error:
            logger.info("unused code was not removed: %s", error)
        else:
            if removed:
                logger.info("removed unused code: %s", ", ".join(removed))

    def _named(self) -> set[str]:
        """The archives of all studies that have not ended."""
        states = [state for state in StudyState if not state.is_finished]
        request = pb.ListStudiesRequest(
            states=[study_pb2.Study.State.Value(state) for state in states],
            managed_only=True,
            page_size=_PAGE,
        )
        named = set[str]()
        while True:
            answer = self._connection.call(
                lambda stub: stub.ListStudies, request, patience_seconds=0.0
            )
            named |= {study.trainer.code for study in answer.studies if study.trainer.code}
            if not answer.next_page_token:
                return named
            request.page_token = answer.next_page_token
