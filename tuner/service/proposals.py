"""Points for new trials that take a model to be fitted, found before a verb decides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tuner.engine import Fit
from tuner.fits import FitError, Fits
from tuner.service.record import Postponed
from tuner.space import Value

logger = logging.getLogger(__name__)


class Proposer:
    """Fits the models of one study: one after the other, so that each knows of the one before.

    Args:
        fits: Where models are fitted.
        seconds: How long a caller waits, for its turn and for the fits, before it makes do with
            what takes none.
    """

    def __init__(self, fits: Fits, seconds: float) -> None:
        self.turn = threading.Lock()
        self.fits = fits
        self.seconds = seconds

    def proposals(self) -> Proposals:
        """What one call gets; used in a `with`."""
        return Proposals(self)


class Proposals:
    """The points that one call has got so far. Used by one thread.

    A verb demands what it needs, and is postponed until it was found; then it takes all of it.
    """

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._deadline = time.monotonic() + proposer.seconds
        self._has_turn = False
        self._fit: Fit | None = None
        self._is_expected = False
        #: Points for the next trials.
        self.points: list[Mapping[str, Value]] = []
        #: What took the model's place, and why; empty where nothing did.
        self.note = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._has_turn:
            self._proposer.turn.release()
        if self._is_expected:
            self._proposer.fits.prepare()

    def expect(self) -> None:
        """A model will be fitted soon."""
        self._is_expected = True

    def demand(self, read: Callable[[], Fit | None]) -> None:
        """Raises Postponed unless the next point is given up; the caller holds the study's lock.

        Args:
            read: Reads the study as it is now.
        """
        if self.note:
            return
        self._has_turn = self._has_turn or self._proposer.turn.acquire(blocking=False)
        # Before its turn it would read too early: the trials of others are missing.
        try:
            self._fit = read() if self._has_turn else None
        except Exception:
            # A search that fails must not cost the result that came with it.
            logger.exception("a model cannot be fitted")
            self._give_up("what it is fitted to cannot be read")
            return
        if self._fit is not None or not self._has_turn:
            raise Postponed

    def find(self) -> None:
        """Finds what was demanded, or gives it up at the deadline; call it without locks."""
        try:
            if not self._has_turn:
                self._has_turn = self._proposer.turn.acquire(timeout=self._left)
                if not self._has_turn:
                    raise FitError("models for other trials were being fitted all the time")
            elif self._fit is not None:
                self.points.append(self._proposer.fits.solve(self._fit, self._deadline))
        except FitError as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self.note = f"tpe, because {reason}"
        logger.warning("a trial is proposed by %s", self.note)

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def take(self) -> Mapping[str, Value] | None:
        """The next point, or None if there is none left."""
        return self.points.pop(0) if self.points else None
