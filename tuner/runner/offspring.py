"""Processes that a trial started from its worker's process, and that would outlive it.

What forks keeps the sockets of its worker: while such a process lives, nobody notices that the
worker has died.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def bind() -> None:
    """Makes the forks of this process end with it, however it ends.

    Those of the main thread only, where trials run: the system counts a thread that has ended as
    the death of what it forked.
    """
    libc, in_main = ctypes.CDLL(None), threading.local()

    def before() -> None:
        in_main.value = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if in_main.value:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    os.register_at_fork(before=before, after_in_child=in_child)


def children() -> set[int]:
    """The processes that this one has started, and which have not ended."""
    return set(_children(os.getpid()))


def end(pids: set[int]) -> None:
    """Kills processes that this one has started, and what they have started in turn."""
    for pid in pids:
        for each in list(_descendants(pid)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with suppress(ChildProcessError):  # somebody else has waited for it
            os.waitpid(pid, 0)


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for child in _children(pid):
        yield from _descendants(child)


def _children(pid: int) -> Iterator[int]:
    """As Linux tells them, thread by thread; elsewhere none are known."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            yield from map(int, thread.read_text().split())
