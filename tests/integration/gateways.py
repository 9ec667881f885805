"""Running gateways, for tests."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class Gateway:
    """A running `tuner gateway`."""

    def __init__(
        self, process: subprocess.Popen[str], rest: str, calls: str, tls: ssl.SSLContext | None
    ) -> None:
        self.process = process
        self.rest = rest
        self.calls = calls
        self.url = f"{'http' if tls is None else 'https'}://{rest}"
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=tls or True)

    def post(self, path: str, document: Any, **headers: str) -> httpx.Response:
        """Posts to a model."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.http.post(f"/v1/models/{path}", content=body, headers=headers)

    def replicas(self) -> list[int]:
        """The pids of the replicas, the zygote's children."""
        return [pid for zygote in self.zygotes() for pid in _children(zygote)]

    def zygotes(self) -> list[int]:
        """The pid of the zygote, if it runs."""
        return _children(self.process.pid)

    def stop(self) -> None:
        """Ends it, and waits for that."""
        self.process.terminate()
        self.process.wait(60)


@contextmanager
def gateway(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Gateway]:
    """A gateway on free ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.cli", "gateway", *arguments, "--rest-port", "0",
         "--grpc-port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        assert "rest" in said, said
        running = Gateway(process, said["rest"], said["grpc"], tls)
        with running.http:
            yield running
    finally:
        process.stdout.close()
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits for something to happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
