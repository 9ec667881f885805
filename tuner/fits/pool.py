"""The processes that fit models, and who may use them when."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from tuner.engine import Fit
from tuner.engine.gp import Array, Problem
from tuner.fits import wire
from tuner.processes import python
from tuner.space import Value

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 600.0
_END_SECONDS = 5.0
#: Of a machine that is very busy; one that takes longer hangs.
_START_SECONDS = 120.0
#: Matrices are too small to be shared by threads, and there are other processes.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class FitError(Exception):
    """A model was not fitted; the message says why, in words that follow `because`."""


class Fits:
    """Processes that fit models, each of one study at a time. Thread-safe.

    Args:
        most: How many there may be at once; by default as many as processors, from 2 to 8, so
            that a study whose model takes long leaves room for the others.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or min(max(2, os.cpu_count() or 1), 8)
        self._slots = threading.BoundedSemaphore(self._most)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def solve(self, fit: Fit, deadline: float) -> Mapping[str, Value]:
        """Solves a fit by the deadline, a time of `time.monotonic`.

        Raises:
            FitError: there was no time, or the model cannot be fitted.
        """
        return fit.solve(lambda problem: self._solve(problem, deadline))

    def _solve(self, problem: Problem, deadline: float) -> Array:
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise FitError(f"{self._most} other models were being fitted all the time")
        try:
            with self._lock:
                self._busy += 1
            return self._answer(wire.problem_to_bytes(problem), deadline)
        finally:
            with self._lock:
                self._busy -= 1
            self._slots.release()

    def _answer(self, message: bytes, deadline: float) -> Array:
        """An answer of a process; one that died is replaced once: it may have been the memory."""
        for _ in range(2):
            process = self._take()
            try:
                process.wait_ready(deadline)
                answer = process.ask(message, deadline)
            except TimeoutError as error:
                if process.is_starting:
                    self._put(process)
                    raise FitError("the process that fits it was still starting") from error
                process.kill()
                # The next model finds one that has started.
                self._put(_started())
                raise FitError("the model took too long to fit") from error
            except (EOFError, OSError) as error:
                logger.warning("a process that fits models ended: %s", error)
                process.kill()
                continue
            self._put(process)
            try:
                return wire.answer_from_bytes(answer)
            except wire.SolverError as error:
                logger.error("a model cannot be fitted: %s", error)
                raise FitError("the model could not be fitted") from error
        raise FitError("the process that fitted the model was killed")

    def prepare(self) -> None:
        """Sees to it that a process is ready when the next model is to be fitted."""
        with self._lock:
            if self._idle or self._busy or self._closed:
                return
        if self._slots.acquire(blocking=False):
            try:
                with suppress(FitError):
                    # Whoever needs it is told.
                    self._put(self._take())
            finally:
                self._slots.release()

    def close_idle(self) -> None:
        """Ends processes that nobody has needed for a while."""
        oldest = time.monotonic() - _IDLE_SECONDS
        with self._lock:
            ended = [process for process in self._idle if process.last_use < oldest]
            self._idle = [process for process in self._idle if process.last_use >= oldest]
        for process in ended:
            process.kill()

    @property
    def idle(self) -> list[int]:
        """The ids of the processes that wait for work."""
        with self._lock:
            return [process.pid for process in self._idle]

    def close(self) -> None:
        """Ends the processes; those at work end with it."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def _take(self) -> _Process:
        with self._lock:
            if self._closed:
                raise FitError("the server stops")
            # The one used last: others may be given up.
            process = self._idle.pop() if self._idle else None
        return process or _started()

    def _put(self, process: _Process) -> None:
        process.last_use = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.kill()


def _started() -> _Process:
    try:
        return _Process()
    except OSError as error:
        logger.error("no process can be started to fit models: %s", error)
        raise FitError("no process could be started to fit the model") from error


class _Process:
    """One process; used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Not forked: threads of gRPC run here. The process ends when the connection does,
            # so it needs no keeper.
            self._process = subprocess.Popen(
                python("-m", "tuner.fits.worker"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )
        self._line = wire.Line(ours)
        self._is_ready = False
        self._start = self.last_use = time.monotonic()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_ready(self, deadline: float) -> None:
        """Waits until it has started; raises as `ask` does."""
        if not self._is_ready:
            self._line.receive(deadline)
            self._is_ready = True

    @property
    def is_starting(self) -> bool:
        """Whether it has not started yet, and still may."""
        return not self._is_ready and time.monotonic() < self._start + _START_SECONDS

    def ask(self, message: bytes, deadline: float) -> bytes:
        """The answer to a problem; raises TimeoutError, EOFError or OSError without one."""
        self._line.send(message, deadline)
        return self._line.receive(deadline)

    def kill(self) -> None:
        """Ends the process."""
        self._line.close()
        self._process.kill()
        self._process.wait(_END_SECONDS)
