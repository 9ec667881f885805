"""Ray: one of its own on this machine, which ends with the runner, or a cluster that is joined."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import ray

from tuner.config import Settings
from tuner.errors import UnavailableError
from tuner.runner.pool import Capacity

logger = logging.getLogger(__name__)

#: Trials exchange almost nothing through Ray's object store.
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
#: The default of two workers per trial runs on one core too.
_FEWEST_CPUS = 2
_FOLDER = "tuner-ray-"


class Cluster:
    """The process's connection to Ray. Opened in the main thread, which must outlive it.

    Ray's own processes are killed by the kernel when the thread that started them ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._where = "the Ray cluster" if settings.ray_address else "this machine"

    def __enter__(self) -> Self:
        start = time.monotonic()
        try:
            if self._settings.ray_address:
                self._join(self._settings.ray_address)
            else:
                self._start()
        except Exception as error:  # what Ray raises is not more special than that
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise UnavailableError(f"Ray cannot be used: {line}") from error
        logger.info("Ray is up after %.1f s", time.monotonic() - start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def capacity(self) -> Capacity:
        """What the machine, or the cluster as it is now, offers to trials."""
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return Capacity(
            cpus=float(resources.get("CPU", 0)),
            gpus=float(resources.get("GPU", 0)),
            where=self._where,
        )

    def check(self) -> None:
        """Raises UnavailableError if none of Ray's nodes is there any more."""
        if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
            raise UnavailableError("Ray died; the runner has to start again.")

    def _join(self, address: str) -> None:
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
