"""Computes expressions of columns over batches of data, with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tuner import expressions
from tuner.expressions import Expression, Library

Numbers = npt.NDArray[np.float64]


def values(expression: Expression, batch: Mapping[str, Any], rows: int) -> Numbers:
    """The value of an expression in each row of a batch of encoded columns, NaN for missing."""
    with np.errstate(all="ignore"):
        found = expressions.evaluate(expression, batch, _LIBRARY)
    result: Numbers = np.broadcast_to(found, (rows,))
    return result


def fits(expression: Expression, kinds: Mapping[str, str]) -> str:
    """Why columns of these kinds do not fit an expression; empty if they do."""
    for name, need in expression.columns.items():
        if need not in ("any", kinds[name]):
            return f"the column {name!r} is a {kinds[name]}, but the expression takes a {need}"
    return ""


def _equals(column: Any, text: str) -> npt.NDArray[np.bool_]:
    same = pc.equal(column.dictionary, text).to_numpy(zero_copy_only=False)
    found: npt.NDArray[np.bool_] = same[column.indices.to_numpy()]
    return found


def _lacks(column: Any) -> npt.NDArray[np.bool_]:
    return ~np.isfinite(column) if isinstance(column, np.ndarray) else _equals(column, "")


_LIBRARY = Library(
    number=lambda truth: np.asarray(truth, np.float64),
    constant=np.float64,
    where=np.where,
    is_finite=np.isfinite,
    lacks=_lacks,
    equals=_equals,
    functions={
        "min": np.minimum,
        "max": np.maximum,
        "abs": np.abs,
        "log": np.log,
        "log1p": np.log1p,
        "exp": np.exp,
        "sqrt": np.sqrt,
        "floor": np.floor,
        "**": np.power,
    },
)
