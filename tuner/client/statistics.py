"""What a study server keeps of what is known of data sets."""

from __future__ import annotations

import logging

from tuner.client.channel import Connection
from tuner.errors import NotFoundError, TunerError
from tuner.v1 import statistics_service_pb2 as pb

logger = logging.getLogger(__name__)

#: What a server keeps of one data set, at most.
MOST_BYTES = 8 << 20
_PATIENCE_SECONDS = 5.0


class ServerShelf:
    """Knowledge of data sets on a study server, by fingerprint.

    Whoever learns of data goes on without: what cannot be had or kept is said in the log.

    Args:
        connection: to the server.
        patience_seconds: how long a call is repeated while nobody answers.
    """

    def __init__(
        self, connection: Connection, *, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds

    def find(self, fingerprint: str) -> bytes | None:
        """Returns what is kept; None if nothing is, or if it cannot be had."""
        request = pb.GetStatisticsRequest(name=f"statistics/{fingerprint}")
        try:
            found = self._connection.call(
                lambda stub: stub.GetStatistics, request, patience_seconds=self._patience_seconds
            )
        except NotFoundError:
            return None
        except TunerError as error:
            logger.warning("the data is read again: %s", error.message)
            return None
        return found.content

    def keep(self, fingerprint: str, rows: int, content: bytes) -> None:
        """Keeps something in place of what there was."""
        if len(content) > MOST_BYTES:
            logger.warning(
                "what is known of the data has %d bytes, more than a server keeps (%d): the next "
                "study reads the data again.",
                len(content),
                MOST_BYTES,
            )
            return
        kept = pb.Statistics(name=f"statistics/{fingerprint}", rows=rows, content=content)
        request = pb.UpdateStatisticsRequest(statistics=kept)
        try:
            self._connection.call(
                lambda stub: stub.UpdateStatistics,
                request,
                patience_seconds=self._patience_seconds,
            )
        except TunerError as error:
            logger.warning("the next study reads the data again: %s", error.message)
