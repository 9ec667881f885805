"""A `tuner up` of this process's own, for scripts that find no server."""

from __future__ import annotations

import logging
import time

from tuner import processes
from tuner.config import Settings
from tuner.errors import UnavailableError

logger = logging.getLogger("tuner")

#: Ray and PostgreSQL start side by side in about 15 s on a busy machine.
_START_SECONDS = 120.0


class LocalTuner:
    """A running `tuner up`; it ends with this process, or when it is closed."""

    def __init__(self, child: processes.Child, address: str, web: str) -> None:
        self._child = child
        self.address = address
        #: The web pages' address; empty if it has none.
        self.web = web

    @staticmethod
    def start(settings: Settings, *, announce: bool = True) -> LocalTuner:
        """Starts it in the settings' data directory and waits until it answers.

        Args:
            settings: where, and on which ports.
            announce: tell people, by the log.

        Raises:
            ProcessError: it could not start; the message says why.
        """
        log = settings.data_dir / "logs" / "up.log"
        if announce:
            logger.warning(
                "no study server answers: starting one in %s, which ends with this process",
                settings.data_dir,
            )
        child = processes.Child(
            processes.Command(
                name="local tuner",
                args=processes.python("-m", "tuner.cli", "up", "--json"),
                log=log,
                environment=settings.environment(),
                grace_seconds=20.0,
            )
        )
        try:
            child.start()
            said = child.wait_ready(time.monotonic() + _START_SECONDS)
        except BaseException:
            child.stop()
            raise
        address = said.get("address")
        if not isinstance(address, str):
            child.stop()
            raise UnavailableError(f"the local tuner did not say where it listens; see {log}.")
        return LocalTuner(child, address, str(said.get("web", "")))

    def close(self) -> None:
        """Stops it, and waits until nothing of it is left."""
        self._child.stop()
