"""Keeps the logs of native libraries off the terminal."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Sends what native code writes to standard error elsewhere; Python's own text still shows.

    TensorFlow logs its start whatever its log level is. TUNER_LOG_LEVEL=debug shows it.
    """
    shown = sys.stderr
    native = shown is not None and shown is sys.__stderr__
    if not native or os.environ.get("TUNER_LOG_LEVEL") == "debug":
        yield
        return
    shown.flush()
    with tempfile.TemporaryFile() as log, open(os.dup(2), "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 2)
        # Text for people, a spinner's for one, goes where it always went.
        sys.stderr = terminal
        try:
            yield
        finally:
            sys.stderr = shown
            terminal.flush()
            os.dup2(terminal.fileno(), 2)
