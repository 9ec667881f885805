"""Takes what a process prints, C and C++ libraries included, while a trial trains in it."""

from __future__ import annotations

import codecs
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

#: What a listener is given at a time, at most, in characters.
CHUNK_CHARACTERS = 60_000
#: What an attempt may print; the rest is dropped, and the log says so.
LOG_CHARACTERS = 5_000_000
#: The end of the log that goes with a failure.
TAIL_BYTES = 20_000
#: Of the files' names; the process's id follows.
_PREFIX = "tuner-trial-"
#: How long they wait for whoever asks for a dead process's last words.
_KEPT_SECONDS = 3600.0
#: How often the listener is told.
FLUSH_SECONDS = 0.5

#: Takes a text and its offset; returns whether it was taken, or else comes again.
Listener = Callable[[str, int], bool]


class Capture:
    """Sends standard output and error to a file and, as it grows, to a listener.

    A file, not a pipe: a library that prints while it holds the interpreter's lock never blocks.
    The listener is called from a thread of the capture with the text and its offset in characters.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        # With a name: what a process prints as it dies is read by others.
        self._file = tempfile.NamedTemporaryFile(
            mode="w+b", buffering=0, prefix=f"{_PREFIX}{os.getpid()}-"
        )
        self._saved: list[tuple[int, int]] = []
        self._handler: logging.Handler = logging.NullHandler()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="capture", daemon=True)
        self._read_bytes = 0
        self._sent_characters = 0
        self._pending = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __enter__(self) -> Self:
        _flush()
        for number in (1, 2):
            self._saved.append((number, os.dup(number)))
            os.dup2(self._file.fileno(), number)
        self._handler = logging.StreamHandler()
        logging.getLogger().addHandler(self._handler)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _flush()
        logging.getLogger().removeHandler(self._handler)
        for number, saved in self._saved:
            os.dup2(saved, number)
            os.close(saved)
        self._ended.set()
        self._thread.join(10)
        self._file.close()

    def tail(self) -> str:
        """Returns the end of what was printed."""
        _flush()
        return _tail(self._file.fileno())

    def _follow(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while self._listener is not None and self._sent_characters < LOG_CHARACTERS:
            if not self._pending:
                self._pending = self._read()
            if not self._pending or not self._listener(self._pending, self._sent_characters):
                return
            self._sent_characters += len(self._pending)
            self._pending = ""

    def _read(self) -> str:
        data = os.pread(self._file.fileno(), CHUNK_CHARACTERS, self._read_bytes)
        self._read_bytes += len(data)
        text = self._decoder.decode(data)
        if self._sent_characters + len(text) >= LOG_CHARACTERS:
            text += (
                f"\n[the log is longer than {LOG_CHARACTERS} characters; the rest is dropped]\n"
            )
        return text


def last_words(pid: int) -> str:
    """The end of what a process of this machine printed in a trial that it did not survive.

    Returns:
        Empty if it printed nothing, or was in no trial; and the second time it is asked.
    """
    words = ""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{pid}-*"):
        with suppress(OSError), path.open("rb") as file:  # another user's
            words = _tail(file.fileno())
            path.unlink()
    return words


def sweep() -> None:
    """Removes what processes of this machine left that were killed, and that nobody asked for."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):  # another user's, or just removed
            old = time.time() - path.stat().st_mtime > _KEPT_SECONDS
            if old and not Path("/proc", pid).exists():
                path.unlink()


def _tail(descriptor: int) -> str:
    start = max(0, os.fstat(descriptor).st_size - TAIL_BYTES)
    return os.pread(descriptor, TAIL_BYTES, start).decode(errors="replace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
