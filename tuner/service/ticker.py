"""The thread that watches the clock: leases, time limits, old requests."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

from tuner.errors import TunerError
from tuner.service.studies import Studies

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_HOUSEKEEPING_SECONDS = 3600.0


class Ticker:
    """Owns the thread; use it in a `with`."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        clean_time = time.monotonic()
        while not self._stop.wait(_TICK_SECONDS):
            try:
                self._studies.tick()
                if time.monotonic() >= clean_time:
                    self._studies.forget_requests()
                    clean_time = time.monotonic() + _HOUSEKEEPING_SECONDS
            except TunerError as error:
                logger.warning("%s", error.message)
            except Exception:
                # A thread's border: what goes wrong for one tick must not end all of them.
                logger.exception("unexpected error in the ticker")
