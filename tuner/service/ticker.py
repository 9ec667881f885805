"""The threads that watch the clock: leases, time limits, studies without a server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tuner.errors import TunerError
from tuner.service.studies import Studies

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_CHECK_SECONDS = 1.0
_REFRESH_SECONDS = 1.0
_TAKE_OVER_SECONDS = 1.0
_HAND_OVER_SECONDS = 5.0
_TELL_SECONDS = 3.0
_HOUSEKEEPING_SECONDS = 3600.0


class Ticker:
    """Owns the threads; use it in a `with`.

    What may take long, such as loading a study, has a thread of its own, so that leases go on.

    Args:
        studies: Whose clock it is.
        refresh: Something else to do every second.
        tell: Something else to do every few seconds.
        housekeeping: What else to do every hour, by name.
    """

    def __init__(
        self,
        studies: Studies,
        *,
        refresh: Callable[[], None],
        tell: Callable[[], None],
        housekeeping: Mapping[str, Callable[[], None]],
    ) -> None:
        self._stop = threading.Event()
        work: Mapping[str, tuple[Callable[[], None], float]] = {
            "refresh": (refresh, _REFRESH_SECONDS),
            "tell": (tell, _TELL_SECONDS),
            "tick": (studies.tick, _TICK_SECONDS),
            "check": (studies.check_owned, _CHECK_SECONDS),
            "take-over": (studies.take_over, _TAKE_OVER_SECONDS),
            "hand-over": (studies.hand_over, _HAND_OVER_SECONDS),
            "requests": (studies.forget_requests, _HOUSEKEEPING_SECONDS),
            **{name: (do, _HOUSEKEEPING_SECONDS) for name, do in housekeeping.items()},
        }
        self._threads = [
            threading.Thread(target=self._run, args=what, name=name, daemon=True)
            for name, what in work.items()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, work: Callable[[], None], seconds: float) -> None:
        said = ""
        while True:
            try:
                work()
                said = ""
            except TunerError as error:
                # Said once, not four times a second for as long as a database is away.
                if error.message != said:
                    logger.warning("%s", error.message)
                said = error.message
            except Exception:
                # A thread's border: what goes wrong once must not end it.
                logger.exception("unexpected error in %s", threading.current_thread().name)
            if self._stop.wait(seconds):
                return
