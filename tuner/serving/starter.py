"""Starts and ends replicas on this machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner.errors import DataError, UnavailableError
from tuner.serving.wire import SECRET, Caller, Method
from tuner_trainers.context import ENVIRONMENT

logger = logging.getLogger(__name__)

#: How long TensorFlow's import may take on a busy machine.
_IMPORT_SECONDS = 120.0
_LOAD_SECONDS = 120.0
_STOP_SECONDS = 5.0
#: The same numbers as in training, and no words about processors.
_ENVIRONMENT = {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "2"}


class Running:
    """A replica that runs, and the connection to it."""

    def __init__(self, socket: str, caller: Caller) -> None:
        self.socket = socket
        self.caller = caller

    async def end(self) -> None:
        """Asks it to end, and closes the connection; one that hangs is not waited for long."""
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self.caller.call(Method.END, b"")
        self.caller.close()


class Starter:
    """Has replicas forked from a process that has TensorFlow imported; use it in `async with`.

    That process, the zygote, is started when it is needed, and again if it dies: its replicas die
    with it, and then their pools start others.

    Args:
        threads: How many an operation of a model may use.
        host: Where replicas listen, at free ports; empty: on Unix sockets.
        secret: What callers have to show where there is a host.
    """

    def __init__(self, *, threads: int = 1, host: str = "", secret: str = "") -> None:
        self._threads = threads
        self._host = host
        self._secret = secret
        self._numbers = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="tuner-replicas-")
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        #: Whether the process has imported TensorFlow; False if it died instead.
        self._ready: asyncio.Future[bool] | None = None
        self._is_closed = False
        #: By socket, who waits for a replica to be ready.
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._lock:
            self._is_closed = True
        process, reader, ready = self._process, self._reader, self._ready
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                # While it imports TensorFlow it does not look at its input.
                seconds = _STOP_SECONDS if ready is not None and ready.done() else 0.0
                await asyncio.wait_for(process.wait(), seconds)
            except TimeoutError:
                process.kill()
                await process.wait()
        if reader is not None:
            # It releases who waits for a replica.
            await asyncio.wait([reader], timeout=_STOP_SECONDS)
            reader.cancel()
        self._folder.cleanup()

    async def start(self, directory: Path) -> Running:
        """Starts a replica of a model version, and returns once it can predict.

        Raises:
            DataError: the model cannot be loaded.
            UnavailableError: the process did not start, or died.
        """
        socket, _ = await self.launch(directory)
        _, caller = await asyncio.get_running_loop().create_unix_connection(Caller, socket)
        return Running(socket, caller)

    async def launch(self, directory: Path) -> tuple[str, int]:
        """Starts a replica that others connect to; returns its socket and, on a host, its port.

        Raises:
            DataError, UnavailableError: as `start` does.
        """
        await self.prepare()
        process = self._process
        if self._is_closed or process is None or process.stdin is None:
            raise UnavailableError("the gateway ends.")
        socket = f"{self._folder.name}/{next(self._numbers)}"
        started = asyncio.get_running_loop().create_future()
        self._starting[socket] = started
        asked = {
            "directory": str(directory),
            "socket": socket,
            "threads": str(self._threads),
            "host": self._host,
        }
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        try:
            return socket, await asyncio.wait_for(started, _LOAD_SECONDS)
        except TimeoutError:
            self.kill(socket)
            raise UnavailableError(
                f"{directory} was not loaded within {_LOAD_SECONDS:.0f} s."
            ) from None
        finally:
            self._starting.pop(socket, None)

    async def stop(self, running: Running) -> None:
        """Ends a replica, which has answered everything it was asked, or hangs."""
        await running.end()
        self.kill(running.socket)  # a call that hangs would keep it
        with suppress(FileNotFoundError):
            os.unlink(running.socket)

    def kill(self, socket: str) -> None:
        """Ends the replica of a socket at once, if it runs."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps({"kill": socket}).encode() + b"\n")

    async def prepare(self) -> None:
        """Has TensorFlow imported, so that the first replica does not wait for that.

        Raises:
            UnavailableError: that took too long.
        """
        async with self._lock:
            if self._is_closed:
                raise UnavailableError("the gateway ends.")
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tuner.serving.zygote",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # Ctrl-C is for the gateway, which ends it once all calls are answered.
                    start_new_session=True,
                    env={**os.environ, **_ENVIRONMENT, SECRET: self._secret},
                )
                self._ready = asyncio.get_running_loop().create_future()
                self._reader = asyncio.create_task(self._read(self._process, self._ready))
            process, ready = self._process, self._ready
        if ready is None:
            return
        try:
            is_ready = await asyncio.wait_for(asyncio.shield(ready), _IMPORT_SECONDS)
        except TimeoutError:
            process.kill()
            raise UnavailableError(
                f"TensorFlow was not imported within {_IMPORT_SECONDS:.0f} s."
            ) from None
        if not is_ready:
            raise UnavailableError("the process that starts replicas died before it was ready.")

    async def _read(
        self, process: asyncio.subprocess.Process, ready: asyncio.Future[bool]
    ) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict):
                logger.info("%s", line.decode(errors="replace").rstrip())
                continue
            if "ready" in said:
                ready.set_result(True)
            self._heard(said)
        if not ready.done():
            ready.set_result(False)
        for waiting in self._starting.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError("the process that starts replicas died."))

    def _heard(self, said: dict[str, Any]) -> None:
        socket = said.get("socket") or said.get("exited") or ""
        waiting = self._starting.get(socket)
        if waiting is None or waiting.done():
            return
        if "error" in said:
            waiting.set_exception(DataError(said["error"]))
        elif "exited" in said:
            waiting.set_exception(
                UnavailableError(f"a replica ended with code {said['code']} before it was ready.")
            )
        else:
            waiting.set_result(said.get("port", 0))
