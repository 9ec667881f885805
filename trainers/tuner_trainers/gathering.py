"""How the processes of a trial find each other and learn of its end: by files that all see.

Programs are told where all tasks are before they start, parameter servers never end by
themselves, and none of them can be interrupted by a call: so each rank looks at a folder.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.errors import UnavailableError

#: How long the ranks may take to come.
MEET_SECONDS = 60.0
_TICK_SECONDS = 0.05
_ENDED = "ended"


class Gathering:
    """One rank's place among those of an attempt. Leaving it ends the attempt for the others.

    Args:
        folder: of this attempt alone, seen by all ranks.
        rank: the place; the trial ends with rank 0.
        ranks: how many there are.
    """

    def __init__(self, folder: Path, rank: int, ranks: int) -> None:
        self._folder, self._rank, self._ranks = folder, rank, ranks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ranks == 1:
            return
        if self._rank == 0 or error is not None:
            self._write(_ENDED, "" if error is None else f"rank {self._rank}: {error}")
        (self._folder / str(self._rank)).unlink(missing_ok=True)
        if not any(self._file(rank).exists() for rank in range(self._ranks)):
            self._file(_ENDED).unlink(missing_ok=True)
            with suppress(OSError):  # another one was last as well
                self._folder.rmdir()

    def meet(self, host: str) -> list[str]:
        """Returns host:port of each rank, by rank; the ports were free.

        Args:
            host: how the others reach this machine.

        Raises:
            UnavailableError: not all of them came.
        """
        if self._ranks == 1:
            return [f"127.0.0.1:{free_port()}"]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(str(self._rank), f"{host}:{free_port()}")
        deadline = time.monotonic() + MEET_SECONDS
        while not all(self._file(rank).exists() for rank in range(self._ranks)):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"not all workers of the trial met in {self._folder} within "
                    f"{MEET_SECONDS:g} s: they must all see the artifacts."
                )
            time.sleep(_TICK_SECONDS)
        places = [self._file(rank).read_text() for rank in range(self._ranks)]
        if len({place.rpartition(":")[0] for place in places}) == 1:
            # One machine: its own address works whatever its network looks like.
            places = ["127.0.0.1:" + place.rpartition(":")[2] for place in places]
        return places

    def ended(self) -> str | None:
        """Why the attempt is over, an empty text if it ended well; None while it goes on."""
        if self._ranks == 1:
            return None
        try:
            return self._file(_ENDED).read_text()
        except FileNotFoundError:
            return None

    def _file(self, name: str | int) -> Path:
        return self._folder / str(name)

    def _write(self, name: str, text: str) -> None:
        with suppress(FileExistsError):
            self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._file(f".{name}.{self._rank}")
        partial.write_text(text)
        partial.replace(self._file(name))


def free_port() -> int:
    """A port of this machine that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
