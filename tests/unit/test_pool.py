"""The replicas of a version, without processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tuner.endpoint import Scaling
from tuner.errors import DeadlineError, ResourceExhaustedError
from tuner.serving import pool as pools
from tuner.serving.pool import Pool
from tuner.serving.starter import Running
from tuner.serving.wire import OK, Caller, Frames, Method


class Replica(Frames):
    """Answers, unless it hangs."""

    def __init__(self, *, hangs: bool) -> None:
        super().__init__()
        self._hangs = hangs

    def received(self, number: int, code: int, body: bytes) -> None:
        """Echoes."""
        if not self._hangs:
            self.send(number, OK, body)


class Hanging:
    """Starts replicas of which the first hangs, or several."""

    def __init__(self, folder: Path, hang: int = 1) -> None:
        self.folder = folder
        self.hang = hang
        self.started = 0
        self.stopped = list[str]()
        self.servers = list[asyncio.Server]()

    async def prepare(self) -> None:
        """Nothing."""

    async def start(self, directory: Path) -> Running:
        """A replica in this process."""
        loop, name = asyncio.get_running_loop(), str(self.folder / str(self.started))
        hangs, self.started = self.started < self.hang, self.started + 1
        self.servers.append(await loop.create_unix_server(lambda: Replica(hangs=hangs), name))
        _, caller = await loop.create_unix_connection(Caller, name)
        return Running(name, caller)

    async def stop(self, running: Running) -> None:
        """Takes note."""
        running.caller.close()
        self.stopped.append(running.socket)


def test_a_replica_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_HANGS_SECONDS", 0.3)

    async def locate() -> Path:
        return tmp_path

    async def ask() -> None:
        replicas = Hanging(tmp_path)
        pool = Pool("m/1", locate, replicas, Scaling())
        with pytest.raises(DeadlineError):
            await pool.call(Method.PREDICT_JSON, b"one", 0.1)
        # It waits where the first one did, until that one is given up.
        assert await pool.call(Method.PREDICT_JSON, b"two", 5.0) == b"two"
        assert (replicas.started, replicas.stopped) == (2, [str(tmp_path / "0")])
        await pool.close()
        for server in replicas.servers:
            server.close()

    monkeypatch.setattr(pools, "_HANGS", 0.05)
    asyncio.run(ask())


def test_replicas_that_die_together_cost_no_call(tmp_path: Path) -> None:
    async def locate() -> Path:
        return tmp_path

    async def ask() -> None:
        replicas = Hanging(tmp_path, hang=4)
        pool = Pool("m/1", locate, replicas, Scaling(min_replicas=4, max_replicas=4))
        while pool.size < 4:
            await asyncio.sleep(0.01)
        call = asyncio.create_task(pool.call(Method.PREDICT_JSON, b"one", 5.0))
        await asyncio.sleep(0.01)
        # Their ends are heard of one after the other.
        for running in sorted(pool._running, key=lambda each: -each.caller.in_flight):
            running.caller.close()
            await asyncio.sleep(0.002)
        assert await call == b"one"
        await pool.close()
        for server in replicas.servers:
            server.close()

    asyncio.run(ask())


def test_calls_that_took_too_long_count_until_they_are_answered(tmp_path: Path) -> None:
    async def locate() -> Path:
        return tmp_path

    async def ask() -> None:
        replicas = Hanging(tmp_path)
        pool = Pool("m/1", locate, replicas, Scaling(max_queue=2))
        for _ in range(2):
            with pytest.raises(DeadlineError):
                await pool.call(Method.PREDICT_JSON, b"one", 0.05)
        with pytest.raises(ResourceExhaustedError, match="has 2 calls"):
            await pool.call(Method.PREDICT_JSON, b"two", 0.05)
        # Nobody waits for its answers: neither does the pool.
        await pool.close()
        assert replicas.stopped == [str(tmp_path / "0")]
        for server in replicas.servers:
            server.close()

    asyncio.run(ask())
