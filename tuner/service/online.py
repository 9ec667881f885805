"""What became of predictions, told to the trials that the versions come from."""

from __future__ import annotations

import logging
from itertools import groupby
from uuid import UUID

from tuner.errors import TunerError
from tuner.service.fleet import ElsewhereError
from tuner.service.studies import Studies
from tuner_storage.results import ResultStore, Untold

logger = logging.getLogger(__name__)

#: How long a label's name may be.
_NAME = 128


class OnlineResults:
    """Writes results into the labels of trials, `online/ENDPOINT/RESULT`. Thread-safe.

    Every server tells the trials of the studies that it owns, or that no living server does; what
    it cannot tell now it tells later.

    Args:
        results: Where results are kept.
        studies: Where the trials are.
        server: Which server this is.
    """

    def __init__(self, results: ResultStore, studies: Studies, server: UUID) -> None:
        self._results = results
        self._studies = studies
        self._server = server

    def tell(self) -> None:
        """Tells what has not been told: call it every few seconds."""
        untold = self._results.list_untold(self._server)
        untold.sort(key=_trial)
        for (study_id, trial), group in groupby(untold, key=_trial):
            together = list(group)
            labels = {_name(each): f"{each.mean:.4g} of {each.count}" for each in together}
            try:
                self._label(study_id, trial, labels)
            except ElsewhereError:
                continue  # Another server has taken it up, and tells it.
            except TunerError as error:
                logger.warning("trial %d of %s is told later: %s", trial, study_id, error.message)
                continue
            for each in together:
                self._results.mark_told(each)

    def _label(self, study_id: str, trial: int, labels: dict[str, str]) -> None:
        self._studies.do(study_id, lambda live: live.add_labels(trial, labels))


def _trial(untold: Untold) -> tuple[str, int]:
    return untold.study_id, untold.trial


def _name(untold: Untold) -> str:
    return f"online/{untold.endpoint_id}/{untold.result}"[:_NAME]
