"""Keeps one child process and everything it starts, and lets nothing of it outlive the parent.

Run as a script by `tuner.processes`; it imports only the standard library, so that it starts in a
few milliseconds. Standard input is a pipe that the parent holds open: its end says that the parent
is gone. On Linux the keeper is a subreaper, so that detached daemons are found as well.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORPHAN_SECONDS = 3.0
_TICK_SECONDS = 0.1


def prctl(option: int, value: int) -> None:
    """Calls Linux's prctl(2); does nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Asks the kernel for a SIGTERM to this process when its parent's thread ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def fork(work: Callable[[], int]) -> int:
    """Does some work in a fork of this process, which is killed when this one ends.

    Only for a process of one thread. The fork's exit status is what the work returns, or 1 if it
    raises; what Python does at its end is left out, as it would take apart what is shared.

    Returns:
        The fork's process id.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # or it died before it could be watched
            status = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def children() -> list[int]:
    """Returns the process ids of this process's children, adopted ones included."""
    return [pid for pid, parent in _parents() if parent == os.getpid()]


def _parents() -> Iterator[tuple[int, int]]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            yield int(name), int(fields[1])


class Keeper:
    """One child, from its start until the last of its descendants has ended. Single-threaded."""

    def __init__(self, args: list[str], grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1])
        self._stopping = False
        self._kill_time: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The keeper has one thread, so this function is safe to run between fork and exec.
        self._child = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )

    def run(self) -> int:
        """Returns the child's exit code, 128 + n for signal n, once nothing of it is left."""
        while (code := self._reap()) is None:
            if self._stopping:
                self._stop_child()
            self._wait()
        self._end_orphans()
        return code if code >= 0 else 128 - code

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _reap(self) -> int | None:
        """Collects every child that has ended; returns the exit code of the first one."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                return self._child.returncode
            if pid == self._child.pid:
                self._child.returncode = os.waitstatus_to_exitcode(status)

    def _stop_child(self) -> None:
        if self._kill_time is None:
            self._kill_time = time.monotonic() + self._grace_seconds
            _send(self._child.pid, signal.SIGTERM)
        elif time.monotonic() > self._kill_time:
            _send(self._child.pid, signal.SIGKILL)

    def _wait(self) -> None:
        watched = [self._wake[0]] if self._stopping else [self._wake[0], sys.stdin.fileno()]
        timeout = _TICK_SECONDS if self._stopping else None
        ready, _, _ = select.select(watched, [], [], timeout)
        if self._wake[0] in ready:
            os.read(self._wake[0], 4096)
        if sys.stdin.fileno() in ready:
            self._stopping = True

    def _end_orphans(self) -> None:
        if sys.platform != "linux":
            os.killpg(0, signal.SIGTERM)
            return
        deadline = time.monotonic() + _ORPHAN_SECONDS
        told: set[int] = set()
        while orphans := children():
            late = time.monotonic() > deadline
            for pid in orphans:
                if late or pid not in told:
                    _send(pid, signal.SIGKILL if late else signal.SIGTERM)
            told.update(orphans)
            time.sleep(0.02)
            self._reap()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main() -> int:
    """Runs `keeper.py PARENT GRACE_SECONDS ARGS...`."""
    parent, grace_seconds, *args = sys.argv[1:]
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    die_with_parent()
    if os.getppid() != int(parent):
        return 0
    return Keeper(args, float(grace_seconds)).run()


if __name__ == "__main__":
    sys.exit(main())
