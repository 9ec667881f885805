"""Where models lie, `ROOT/MODEL/VERSION/`: a folder or a store's URI."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.registry import gate
from tuner_trainers import transfer


class ModelRoot:
    """A place of models, laid out as TensorFlow Serving looks for them.

    Args:
        uri: a path, file://, s3:// or gs://.

    Raises:
        DataError: it is no place that can be used.
    """

    def __init__(self, uri: str) -> None:
        self._remote = transfer.is_remote(uri)
        self._uri = uri.rstrip("/") if self._remote else str(transfer.local_path(uri))

    def place(self, model: str, version: int) -> str:
        """Where a version lies: a path or a URI."""
        return f"{self._uri}/{model}/{version}"

    def highest(self, model: str) -> int:
        """The highest number that lies there; 0 if none does. Raises DataError, OSError."""
        folder = f"{self._uri}/{model}"
        if self._remote:
            return _highest(transfer.folders(folder))
        path = Path(folder)
        return _highest(child.name for child in path.iterdir()) if path.is_dir() else 0

    def found(self, model: str, version: int) -> Path | None:
        """The directory of a version, if it is there whole: only on this machine's files.

        Of a store that is not known: what a publisher left there is written anew.
        """
        path = Path(self.place(model, version))
        return path if not self._remote and path.is_dir() else None

    @contextmanager
    def workshop(self, model: str) -> Iterator[Path]:
        """A folder to make a version in, from which `put` need not copy."""
        if self._remote:
            with tempfile.TemporaryDirectory(prefix="tuner-export-") as temporary:
                yield Path(temporary)
            return
        folder = Path(f"{self._uri}/{model}")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder

    def put(self, directory: Path, model: str, version: int) -> str:
        """Gives a version of the workshop its place, by a rename; returns the place.

        Raises:
            FileExistsError: it is taken.
            DataError: the store cannot be written.
        """
        place = self.place(model, version)
        if self._remote:
            transfer.upload(directory, place)
            return place
        target = Path(place)
        if target.exists():
            raise FileExistsError(f"{target} exists already.")
        directory.rename(target)
        gate.sync(target.parent)
        return place

    def remove(self, model: str, version: int) -> None:
        """Removes a version's files; there may be none. Raises DataError, OSError."""
        place = self.place(model, version)
        if self._remote:
            transfer.remove(place)
            return
        path = Path(place)
        if not path.exists():
            return
        # Out of sight in one step: nobody loads half of a version.
        hidden = Path(tempfile.mkdtemp(prefix=gate.REMOVED, dir=path.parent))
        path.rename(hidden / path.name)
        shutil.rmtree(hidden)


def _highest(names: Iterable[str]) -> int:
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)
