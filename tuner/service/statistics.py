"""The methods of StatisticsService, and how long what they keep is kept."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import grpc

from tuner import convert
from tuner.client.statistics import MOST_BYTES
from tuner.errors import InvalidArgumentError, NotFoundError
from tuner.service import call as calls
from tuner.v1 import statistics_service_pb2 as pb
from tuner.v1.statistics_service_pb2_grpc import StatisticsServiceServicer
from tuner_storage.statistics import KeptStatistics, StatisticsStore

Context = grpc.ServicerContext

#: Of all data sets together; what was used longest ago makes room.
_MOST_BYTES_IN_ALL = 1 << 30
#: What nobody uses for so long is forgotten.
_KEPT = timedelta(days=90)

_NAME = re.compile(r"statistics/([0-9a-f]{64})")


class StatisticsServicer(StatisticsServiceServicer):
    """Answers calls on what is known of data. Thread-safe."""

    def __init__(self, store: StatisticsStore) -> None:
        self._store = store

    def GetStatistics(self, request: pb.GetStatisticsRequest, context: Context) -> pb.Statistics:
        fingerprint = _parse(request.name)
        kept = self._store.find(fingerprint, datetime.now(UTC))
        if kept is None:
            raise NotFoundError(f"nothing is known of data with the fingerprint {fingerprint}.")
        return _to_proto(kept)

    def UpdateStatistics(
        self, request: pb.UpdateStatisticsRequest, context: Context
    ) -> pb.Statistics:
        kept = _from_proto(request.statistics)
        audit = calls.audit_entry(request.statistics.name, kept.update_time)
        self._store.keep(kept, audit)
        message = _to_proto(kept)
        message.ClearField("content")
        return message

    def forget(self) -> None:
        """Makes room; called now and then."""
        self._store.forget(datetime.now(UTC) - _KEPT, _MOST_BYTES_IN_ALL)


def _parse(name: str) -> str:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidArgumentError(
            f"`name` must be statistics/ and a SHA-256 in 64 hexadecimal digits, but got {name!r}."
        )
    return found[1]


def _to_proto(kept: KeptStatistics) -> pb.Statistics:
    return pb.Statistics(
        name=f"statistics/{kept.fingerprint}",
        rows=kept.row_count,
        content=kept.content,
        update_time=convert.time_to_proto(kept.update_time),
    )


def _from_proto(message: pb.Statistics) -> KeptStatistics:
    fingerprint = _parse(message.name)
    if message.rows < 0:
        raise InvalidArgumentError(f"`rows` must not be negative, but got {message.rows}.")
    if not message.content:
        raise InvalidArgumentError("`content` is empty; send what is known of the data.")
    if len(message.content) > MOST_BYTES:
        raise InvalidArgumentError(
            f"at most {MOST_BYTES} bytes are kept of one data set, but got {len(message.content)}."
        )
    return KeptStatistics(
        fingerprint=fingerprint,
        row_count=message.rows,
        content=message.content,
        update_time=datetime.now(UTC),
    )
