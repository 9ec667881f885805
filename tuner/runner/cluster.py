"""Ray: one of its own on this machine, which ends with the runner, or a cluster that is joined."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import ray

from tuner.config import Settings
from tuner.errors import UnavailableError
from tuner.runner import placement
from tuner.runner.pool import Capacity

logger = logging.getLogger(__name__)

#: Trials exchange almost nothing through Ray's object store.
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
#: The default of two workers per trial runs on one core too.
_FEWEST_CPUS = 2
#: How long Ray's head may be silent: ours does not come back, that of a cluster may.
_OWN_SECONDS, _CLUSTER_SECONDS = 3.0, 30.0
_PROBE_SECONDS = 2.0
#: How long a cluster that does not answer is tried to be joined; it may be starting itself.
_JOIN_SECONDS = 40.0
_RETRY_SECONDS = 1.0
#: How long the runner may take to end once Ray's head is gone.
_END_SECONDS = 10.0
_FOLDER = "tuner-ray-"


class Cluster:
    """The process's connection to Ray. Opened in the main thread, which must outlive it.

    Ray's own processes are killed by the kernel when the thread that started them ends. Another
    thread looks whether Ray's head is there: without it, whoever asks Ray something waits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._head = ""
        self._dead = ""
        self._closing = threading.Event()
        self._where = "the Ray cluster" if settings.ray_address else "this machine"

    def __enter__(self) -> Self:
        start = time.monotonic()
        try:
            if self._settings.ray_address:
                self._join(self._settings.ray_address)
            else:
                self._start()
        except Exception as error:  # what Ray raises is not more special than that
            raise UnavailableError(f"Ray cannot be used: {_line(error)}") from error
        self._head = str(ray.get_runtime_context().gcs_address)
        threading.Thread(target=self._watch, name="ray-head", daemon=True).start()
        logger.info("Ray is up after %.1f s", time.monotonic() - start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def capacity(self) -> Capacity:
        """What the machine, or the cluster as it is now, offers to trials."""
        return Capacity(
            nodes=tuple(placement.nodes().values()),
            where=self._where,
            placement=self._settings.placement.upper(),
        )

    def check(self) -> None:
        """Raises UnavailableError if Ray's head does not answer any more, or has no nodes."""
        if not self._dead and any(
            node["Alive"]
            for node in ray.nodes()  # type: ignore[no-untyped-call]
        ):
            return
        raise UnavailableError(self._dead or "Ray died; the runner has to start again.")

    def _watch(self) -> None:
        """Looks for Ray's head until it is gone, or the cluster is left."""
        host, _, port = self._head.rpartition(":")
        patience = _CLUSTER_SECONDS if self._settings.ray_address else _OWN_SECONDS
        seen_time = time.monotonic()
        while not self._closing.wait(_RETRY_SECONDS):
            try:
                with socket.create_connection((host, int(port)), _PROBE_SECONDS):
                    seen_time = time.monotonic()
            except OSError as error:
                if time.monotonic() - seen_time >= patience:
                    self._dead = (
                        f"Ray's head at {self._head} does not answer any more ({error}); the "
                        "runner has to start again."
                    )
                    break
        if self._dead:
            logger.error("%s", self._dead)
            # The main thread may wait for Ray, which would wait for longer.
            if not self._closing.wait(_END_SECONDS):
                os._exit(1)

    def _join(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # or it is found by Ray, as `auto` is
            _wait_for(host, int(port))
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)

    def _start(self) -> None:
        sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=_short()))
        ray.init(
            address="local",
            num_cpus=self._settings.cpus or max(_cpus(), _FEWEST_CPUS),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._folder),
        )


def sweep() -> None:
    """Removes the folders of runners that were killed."""
    for folder in Path(_short()).glob(f"{_FOLDER}*-*"):
        pid = folder.name.removeprefix(_FOLDER).split("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for(host: str, port: int) -> None:
    """Waits until somebody listens: Ray's own waiting is slow, and does not say for what."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), _PROBE_SECONDS):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"nobody answers at {host}:{port} ({error}): start the cluster, or set "
                    "TUNER_RAY_ADDRESS to the address of its head."
                ) from error
            time.sleep(_RETRY_SECONDS)


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _short() -> str:
    """A folder whose path is short: Ray's sockets lie below, and theirs may have 107 bytes."""
    return "/tmp" if sys.platform != "win32" else tempfile.gettempdir()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
