"""What a model takes and gives, as its SavedModel says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Of the types of tensors that JSON can carry: their names in messages, and NumPy's types.
DTYPES: Mapping[str, tuple[str, Any]] = {
    "DT_FLOAT": ("float", np.float32),
    "DT_DOUBLE": ("double", np.float64),
    "DT_HALF": ("half", np.float16),
    "DT_INT8": ("int8", np.int8),
    "DT_INT16": ("int16", np.int16),
    "DT_INT32": ("int32", np.int32),
    "DT_INT64": ("int64", np.int64),
    "DT_UINT8": ("uint8", np.uint8),
    "DT_UINT16": ("uint16", np.uint16),
    "DT_UINT32": ("uint32", np.uint32),
    "DT_UINT64": ("uint64", np.uint64),
    "DT_BOOL": ("bool", np.bool_),
    "DT_STRING": ("string", np.object_),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or an output of a signature."""

    name: str
    #: As TensorFlow writes it: `DT_FLOAT`.
    dtype: str
    #: None for a dimension of any size, or for any number of dimensions.
    shape: tuple[int | None, ...] | None

    @property
    def type_name(self) -> str:
        """The type's name in messages, `float`."""
        return DTYPES[self.dtype][0] if self.dtype in DTYPES else self.dtype

    @property
    def is_batched(self) -> bool:
        """Whether requests may be joined along the first dimension."""
        return self.shape is not None and len(self.shape) > 0 and self.shape[0] is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One way to call a model."""

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    #: `tensorflow/serving/predict`, or classify or regress.
    method: str = "tensorflow/serving/predict"
    #: Whether a missing number is NaN to the model, and a missing text empty.
    takes_missing: bool = False

    @property
    def is_batched(self) -> bool:
        """Whether rows of several requests may be predicted at once."""
        tensors = [*self.inputs.values(), *self.outputs.values()]
        return all(tensor.is_batched for tensor in tensors)
