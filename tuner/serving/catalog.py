"""Which versions of which models a gateway serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tuner.errors import InvalidArgumentError, NotFoundError
from tuner.serving.pool import Pool, PoolFactory

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class Folder:
    """The models in a folder, MODEL/VERSION/saved_model.pb, as TensorFlow Serving reads them.

    The latest version answers who names none; others answer who names them. New versions are
    found within a second. It belongs to an event loop.

    Args:
        root: The folder.
        pool_of: Makes the pool of a version, from its name and its directory.
    """

    def __init__(self, root: Path, pool_of: PoolFactory) -> None:
        self._root = root
        self._pool_of = pool_of
        self._pools: dict[str, dict[int, Pool]] = {}
        self._look()
        self._ticker = asyncio.create_task(self._poll())

    def find(self, model: str, version: int | None, label: str) -> tuple[int, Pool]:
        """The version that answers a call, and its number.

        Raises:
            NotFoundError, InvalidArgumentError: there is none, in TensorFlow Serving's words.
        """
        versions = self._pools.get(model)
        if label:
            raise InvalidArgumentError(f"Unrecognized servable version label: {label}")
        if not versions:
            which = f"Latest({model})" if version is None else f"Specific({model}, {version})"
            raise NotFoundError(f"Servable not found for request: {which}")
        number = max(versions) if version is None else version
        if number not in versions:
            raise NotFoundError(f"Servable not found for request: Specific({model}, {version})")
        return number, versions[number]

    def versions(self, model: str, version: int | None) -> Mapping[int, Pool]:
        """The versions of a model, or one of them; raises NotFoundError."""
        versions = self._pools.get(model, {})
        if not versions:
            raise NotFoundError(f"Could not find any versions of model {model}")
        if version is None:
            return versions
        if version not in versions:
            raise NotFoundError(f"Could not find version {version} of model {model}")
        return {version: versions[version]}

    @property
    def models(self) -> list[str]:
        """The names of all models."""
        return sorted(self._pools)

    async def close(self) -> None:
        """Ends all replicas."""
        self._ticker.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticker
        pools = [pool for versions in self._pools.values() for pool in versions.values()]
        await asyncio.gather(*(pool.close() for pool in pools))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                gone = self._look()
            except OSError as error:
                logger.warning("%s cannot be read: %s", self._root, error)
                continue
            for pool in gone:
                await pool.close()

    def _look(self) -> list[Pool]:
        """Takes in what is there now; returns the pools of what is not there any more."""
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
            self._pools[model].pop(version)
            for model, versions in self._pools.items()
            for version in list(versions)
            if version not in found.get(model, {})
        ]
        for model, directories in found.items():
            known = self._pools.setdefault(model, {})
            for version, directory in directories.items():
                if version not in known:
                    logger.info("%s/%d is served", model, version)
                    known[version] = self._pool_of(f"{model}/{version}", directory)
        self._pools = {model: versions for model, versions in self._pools.items() if versions}
        return gone
