"""Tunes models and their preprocessing.

study = tuner.connect().submit("adult.yaml")
study.watch()
print(study.best().parameters)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tuner import errors
from tuner.space import Categorical, Child, Discrete, Float, Group, Int, Parameter, Space
from tuner.study import Constraint

if TYPE_CHECKING:
    from tuner.client import Client, connect

__all__ = [
    "Categorical",
    "Child",
    "Client",
    "Constraint",
    "Discrete",
    "Float",
    "Group",
    "Int",
    "Parameter",
    "Space",
    "connect",
    "errors",
]

#: Imported at first use, so that `import tuner` costs nothing in a process that only needs a part.
_LATE = {"Client": "tuner.client", "connect": "tuner.client"}


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'tuner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
