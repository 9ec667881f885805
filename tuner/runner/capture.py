"""Takes what a process prints, C and C++ libraries included, while a trial trains in it."""

from __future__ import annotations

import codecs
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

#: What a listener is given at a time, at most, in characters.
CHUNK_CHARACTERS = 60_000
#: What an attempt may print; the rest is dropped, and the log says so.
LOG_CHARACTERS = 5_000_000
#: The end of the log that goes with a failure.
TAIL_BYTES = 20_000
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
        self._file = tempfile.TemporaryFile(mode="w+b", buffering=0)
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
        size = os.fstat(self._file.fileno()).st_size
        start = max(0, size - TAIL_BYTES)
        return os.pread(self._file.fileno(), TAIL_BYTES, start).decode(errors="replace")

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


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
