"""The models in a folder, for a gateway without a study server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tuner.serving.pool import Pool
from tuner.serving.predictions import Served, chosen, no_label, not_served
from tuner.serving.tasks import spawn

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class Folder:
    """The models in a folder, MODEL/VERSION/saved_model.pb, as TensorFlow Serving reads them.

    The latest version answers who names none, whatever the key; others answer who names them. New
    versions are found within a second. It belongs to an event loop.

    Args:
        root: The folder.
        pool_of: Makes the pool of a version, from its name and its directory.
        seconds: How long a prediction may take.
    """

    is_ready = True

    def __init__(
        self, root: Path, pool_of: Callable[[str, Path], Pool], *, seconds: float
    ) -> None:
        self._root = root
        self._pool_of = pool_of
        self._seconds = seconds
        self._models: dict[str, dict[int, Served]] = {}
        self._look()
        self._ticker = asyncio.create_task(self._poll())
        self._ending: set[asyncio.Task[None]] = set()

    async def look_again(self) -> None:
        """Nothing: the folder is looked at once a second."""

    def find(self, model: str, version: int | None, label: str, key: bytes) -> Served:
        """See `Source`."""
        versions = self._models.get(model)
        if not versions:
            raise not_served(model, version)
        if label:
            raise no_label(label)
        found = versions.get(max(versions) if version is None else version)
        if found is None:
            raise not_served(model, version)
        return found

    def versions(self, model: str, version: int | None) -> Mapping[int, Served]:
        """See `Source`."""
        return chosen(model, self._models.get(model, {}), version)

    def all(self) -> Iterable[tuple[str, Served]]:
        """See `Source`."""
        for model, versions in self._models.items():
            yield from ((model, served) for served in versions.values())

    async def close(self) -> None:
        """Ends all replicas."""
        self._ticker.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticker
        await asyncio.gather(*self._ending, *(served.pool.close() for _, served in self.all()))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                gone = self._look()
            except OSError as error:
                logger.warning("%s cannot be read: %s", self._root, error)
                continue
            for served in gone:
                spawn(served.pool.close(), self._ending)

    def _look(self) -> list[Served]:
        """Takes in what is there now; returns what is not there any more."""
        found = {
            model.name: {
                int(version.name): version
                for version in model.iterdir()
                if version.name.isascii()
                and version.name.isdecimal()
                # It is renamed into place whole; other tools copy this file last.
                and (version / "saved_model.pb").is_file()
            }
            for model in self._root.iterdir()
            if model.is_dir() and not model.name.startswith(".")
        }
        gone = [
            self._models[model].pop(version)
            for model, versions in self._models.items()
            for version in list(versions)
            if version not in found.get(model, {})
        ]
        for model, directories in found.items():
            known = self._models.setdefault(model, {})
            for version, directory in directories.items():
                if version not in known:
                    logger.info("%s/%d is served", model, version)
                    pool = self._pool_of(f"{model}/{version}", directory)
                    known[version] = Served(model, version, pool, self._seconds)
        self._models = {model: versions for model, versions in self._models.items() if versions}
        return gone
