"""Keras without scikit-learn: its wrappers for that are imported when they are used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

#: They import scikit-learn where it is installed, with SciPy's statistics: a quarter of the time
#: that a worker, an export or a replica takes to start.
_WRAPPERS = frozenset({"keras.wrappers", "keras._tf_keras.keras.wrappers"})


class _Later(Loader):
    """Runs a module when somebody wants a name of it; Python's LazyLoader does at any look."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leaves it to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Has it wait."""

        def found(name: str) -> object:
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            self._loader.exec_module(module)
            vars(module).pop("__getattr__", None)
            return getattr(module, name)

        vars(module)["__getattr__"] = found


class _Finder:
    """Finds the wrappers."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by Python's import."""
        spec = PathFinder.find_spec(name, path) if name in _WRAPPERS else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


def install() -> None:
    """Takes effect where Keras is not imported yet; call it once."""
    sys.meta_path.insert(0, _Finder)
