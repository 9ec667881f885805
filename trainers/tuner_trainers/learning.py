"""What is known of a data set: taken from where it is kept, and learned only where it is not."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tuner.errors import DataError
from tuner_trainers import relevance
from tuner_trainers.derived import Derived
from tuner_trainers.portions import Here, Workers
from tuner_trainers.sources import Progress
from tuner_trainers.statistics import Statistics, Survey, with_derived

logger = logging.getLogger(__name__)

#: Bytes that kept knowledge may unfold to: what is read may come from anybody.
_MOST_BYTES = 128 << 20
_FINGERPRINT = re.compile(rb"[0-9a-f]{64}")


class Shelf(Protocol):
    """Where knowledge is kept, under the fingerprint of the data that it is of."""

    def find(self, fingerprint: str) -> bytes | None:
        """Returns what is kept; None if nothing is, or if it cannot be had."""
        ...

    def keep(self, fingerprint: str, rows: int, content: bytes) -> None:
        """Keeps something in place of what there was; what cannot be kept is learned again."""
        ...


class NoShelf:
    """Keeps nothing."""

    def find(self, fingerprint: str) -> bytes | None:
        """See Shelf."""
        return None

    def keep(self, fingerprint: str, rows: int, content: bytes) -> None:
        """See Shelf."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knowledge:
    """All that was ever learned of a data set.

    Attributes:
        statistics: of the columns, and of all that was derived from them.
        noticed: the keys of what is derived without anybody asking for it.
        relevance: by label, how much each column tells of it.
    """

    statistics: Statistics
    noticed: tuple[str, ...] = ()
    relevance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Returns it as bytes."""
        stored = {
            "statistics": self.statistics.to_json(),
            "noticed": self.noticed,
            "relevance": self.relevance,
        }
        return zlib.compress(json.dumps(stored, ensure_ascii=False).encode(), 1)

    @staticmethod
    def unpack(content: bytes) -> Knowledge:
        """The inverse of `pack`; raises DataError."""
        try:
            unfolding = zlib.decompressobj()
            stored = json.loads(unfolding.decompress(content, _MOST_BYTES))
            known = Knowledge(
                statistics=Statistics.from_json(stored["statistics"]),
                noticed=tuple(stored["noticed"]),
                relevance=dict(stored["relevance"]),
            )
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise DataError(f"this is not what is known of a data set: {error!r}.") from error
        if not known.statistics.derived.keys() >= {*known.noticed}:
            raise DataError("this is not all that is known of a data set.")
        return known

    def of(self, derived: Sequence[Derived]) -> Statistics:
        """What one who asks for these sees: as if nobody had ever asked for anything else."""
        known = self.statistics
        return replace(
            known,
            derived={key: known.derived[key] for key in (*self.noticed, *_keys(derived))},
            fingerprint=with_derived(known.fingerprint, derived),
        )


class Learner:
    """Learns of one data set. Used by one thread.

    Args:
        workers: where rows are read; in this process by default.
        shelf: where knowledge is kept.
        progress: called now and then with rows read, bytes read and bytes in all.
    """

    def __init__(
        self,
        workers: Workers | None = None,
        shelf: Shelf | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._workers = workers or Here()
        self._shelf = shelf or NoShelf()
        self._progress = progress
        self._survey: Survey | None = None
        self._known: Knowledge | None = None
        self._fingerprint = ""
        #: Whether no row had to be read so far.
        self.was_kept = True

    def statistics(
        self,
        uri: str,
        *,
        types: Mapping[str, str] | None = None,
        missing_values: Sequence[str] = (),
        derived: Sequence[Derived] = (),
    ) -> Statistics:
        """Returns the statistics of all columns; the arguments are those of `statistics.scan`.

        Raises:
            DataError: the data cannot be used.
        """
        survey = self._survey = Survey.of(uri, types, missing_values)
        known = self._find(survey)
        if known is None:
            known = self._all(survey, derived)
        else:
            known = self._more(survey, known, derived)
        self._known = known
        return known.of(derived)

    def relevance(self, label: str) -> Mapping[str, float]:
        """How much each column tells of a label, 0 to 1; `statistics` was called before."""
        survey, known = self._survey, self._known
        if survey is None or known is None:
            raise RuntimeError("the statistics come first.")
        if label not in known.relevance:
            self.was_kept = False
            found = relevance.measure(
                survey, known.statistics, label, self._workers, self._progress
            )
            known = replace(known, relevance={**known.relevance, label: found})
            self._keep(survey, known)
        return known.relevance[label]

    def _all(self, survey: Survey, derived: Sequence[Derived]) -> Knowledge:
        self.was_kept = False
        noticed = survey.noticed()
        everything = tuple(dict.fromkeys([*noticed, *derived]))
        found = survey.learn(everything, self._workers, self._progress)
        known = Knowledge(
            statistics=replace(found, fingerprint=self._fingerprint), noticed=_keys(noticed)
        )
        self._keep(survey, known)
        return known

    def _more(self, survey: Survey, known: Knowledge, derived: Sequence[Derived]) -> Knowledge:
        """Learns of what nobody has asked for before."""
        learned = known.statistics
        lacking = [asked for asked in derived if not learned.derived.keys() >= {*asked.keys}]
        if not lacking:
            return known
        self.was_kept = False
        again = survey.of_kinds(learned.types)
        found = again.learn(lacking, self._workers, self._progress, columns=())
        known = replace(
            known, statistics=replace(learned, derived={**learned.derived, **found.derived})
        )
        self._keep(survey, known)
        return known

    def _find(self, survey: Survey) -> Knowledge | None:
        """What is known of the files as they are; else of the same bytes elsewhere."""
        name = _FINGERPRINT.fullmatch(self._shelf.find(survey.version) or b"")
        self._fingerprint = name[0].decode() if name else survey.fingerprint(self._workers)
        content = self._shelf.find(self._fingerprint)
        if content is None:
            return None
        try:
            known = Knowledge.unpack(content)
            if known.statistics.columns.keys() != {*survey.layout.names}:
                raise DataError("this is known of other columns.")
        except DataError as error:
            logger.warning("%s: %s It is learned again.", survey.source.uri, error.message)
            return None
        if not name:
            self._keep_name(survey, known)
        return known

    def _keep(self, survey: Survey, known: Knowledge) -> None:
        """Keeps what is known; raises DataError if the files changed while they were read."""
        if not survey.is_current():
            raise DataError(
                f"{survey.source.uri} changed while it was read; start again when it is whole."
            )
        self._known = known
        self._shelf.keep(self._fingerprint, known.statistics.rows, known.pack())
        self._keep_name(survey, known)

    def _keep_name(self, survey: Survey, known: Knowledge) -> None:
        """Keeps which bytes the files have, so that they need not be read for that again."""
        self._shelf.keep(survey.version, known.statistics.rows, self._fingerprint.encode())


def _keys(derived: Collection[Derived]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for asked in derived for key in asked.keys))
