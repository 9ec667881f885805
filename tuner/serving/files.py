"""Where the versions that a gateway serves lie on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tuner.endpoint import Deployment

_TEMPORARY = ".fetch-"
#: What no replica was started from for so long is removed, as is what a gateway that was killed
#: left half-fetched.
_KEPT_SECONDS, _LEFT_SECONDS = 30 * 86_400.0, 86_400.0


class Files:
    """The directories of versions: a path is used as it is, what lies in a store is fetched once.

    Several gateways may share the folder. It belongs to an event loop.

    Args:
        folder: Where what was fetched is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetching: dict[Path, asyncio.Lock] = {}

    async def locate(self, deployment: Deployment) -> Path:
        """The directory of a version.

        Raises:
            DataError: it cannot be fetched.
            ModelRejectedError: what was fetched is not what was published.
        """
        path = deployment.uri.removeprefix("file://")
        if "://" not in path:
            return Path(path)
        name = hashlib.sha256(f"{deployment.sha256} {deployment.uri}".encode()).hexdigest()
        target = self._folder / name[:32]
        async with self._fetching.setdefault(target, asyncio.Lock()):
            await asyncio.to_thread(self._fetch, deployment, target)
        return target

    def _fetch(self, deployment: Deployment, target: Path) -> None:
        from tuner import registry  # pyarrow takes 30 MB, which most gateways do not need

        if target.is_dir():
            os.utime(target)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._folder))
        try:
            registry.fetch(deployment.uri, deployment.sha256, temporary / "model")
            try:
                (temporary / "model").rename(target)
            except OSError:
                if not target.is_dir():  # else another gateway was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            kept = _LEFT_SECONDS if path.name.startswith(_TEMPORARY) else _KEPT_SECONDS
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > kept:
                    shutil.rmtree(path, ignore_errors=True)
