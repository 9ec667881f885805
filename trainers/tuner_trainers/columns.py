"""Brings Arrow arrays of any type into the kinds a column has: number, string or bytes.

A number column is float64 with NaN for missing; booleans count as 0 and 1. A string column has ""
for missing; its values lose the white space around them, wherever they come from, so that
`a, b` in a CSV file means what `a` and `b` mean in a request. Dates and times are strings. A bytes
column, such as one of images, has b"" for missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["number", "string", "bytes"]
Numbers = npt.NDArray[np.float64]

#: What means a missing number in text, in lower case.
_MISSING_NUMBERS = ("", "na", "n/a", "nan", "null", "none")


class Cleaner:
    """Reads arrays, given the words that mean missing besides the empty one."""

    def __init__(self, missing_values: Sequence[str] = ()) -> None:
        words = [word.strip() for word in missing_values]
        self._words = pa.array(dict.fromkeys(["", *words]), pa.string())
        self._numbers = [number for word in words if (number := _number(word)) is not None]

    def numbers(self, array: Any) -> Numbers | None:
        """Returns the array as float64, NaN for missing; None if it holds other text."""
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if is_text(array.type):
            array = self._parsed(array)
            if array is None:
                return None
        values: Numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if self._numbers:
            values = np.where(np.isin(values, self._numbers), np.nan, values)
        return values

    def strings(self, array: Any) -> Any:
        """Returns the array as dictionary<int32, string> without nulls, "" for missing.

        The dictionary may hold a value twice, and values that no row has.
        """
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        values = self._text(array.dictionary)
        missing = pc.is_in(values, value_set=self._words)
        values = pc.if_else(pc.fill_null(missing, True), "", values)
        values = pa.concat_arrays([values, pa.array([""], pa.string())])
        indices = pc.fill_null(array.indices.cast(pa.int32()), len(values) - 1)
        return pa.DictionaryArray.from_arrays(indices, values)

    def bytes(self, array: Any) -> Any:
        """Returns the array as dictionary<int32, binary> without nulls, b"" for missing.

        The dictionary is not looked at: it may hold a value twice, as large ones hardly recur.
        """
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        values = pc.fill_null(array.cast(pa.large_binary()), b"")
        return pa.DictionaryArray.from_arrays(np.arange(len(values), dtype=np.int32), values)

    def first_text(self, array: Any) -> str:
        """Returns the first value of an array that is not all numbers, for a message."""
        for value in self.strings(array).dictionary.to_pylist():
            if value and self.numbers(pa.array([value])) is None:
                return str(value)
        return ""

    def _parsed(self, array: Any) -> Any:
        plain = _cast(array)
        if plain is not None:
            return plain
        encoded = array.cast(pa.string()).dictionary_encode()
        values = pc.ascii_trim_whitespace(encoded.dictionary)
        named = pc.is_in(pc.utf8_lower(values), value_set=pa.array(_MISSING_NUMBERS))
        missing = pc.or_(named, pc.is_in(values, value_set=self._words))
        numbers = _cast(pc.if_else(missing, None, values))
        return None if numbers is None else numbers.take(encoded.indices)

    def _text(self, values: Any) -> Any:
        if is_text(values.type):
            return pc.ascii_trim_whitespace(values.cast(pa.string()))
        if pa.types.is_boolean(values.type):
            # As Python and pandas write them, so that CSV and Parquet say the same.
            return pc.if_else(values, "True", "False")
        if is_numeric(values.type):
            return self._number_texts(values)
        return values.cast(pa.string())

    def _number_texts(self, values: Any) -> Any:
        numbers = self.numbers(values)
        if numbers is None:
            return pa.array([], pa.string())
        if _is_whole(values.type):  # as it is: not all of 64 bits fit into a float64
            return pc.if_else(pa.array(np.isnan(numbers)), "", values.cast(pa.string()))
        return pa.array([number_text(number) for number in numbers.tolist()], pa.string())


def kind_of(arrow_type: Any) -> Kind | None:
    """The kind of a column of `arrow_type`; None if a column cannot be of that type."""
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if is_numeric(arrow_type):
        return "number"
    if is_bytes(arrow_type):
        return "bytes"
    return "string" if is_text(arrow_type) or _is_time(arrow_type) else None


def is_text(arrow_type: Any) -> bool:
    """Whether values of `arrow_type` are text."""
    types = pa.types
    return bool(
        types.is_string(arrow_type)
        or types.is_large_string(arrow_type)
        or types.is_string_view(arrow_type)
    )


def is_bytes(arrow_type: Any) -> bool:
    """Whether values of `arrow_type` are bytes that need not be text."""
    types = pa.types
    return bool(
        types.is_binary(arrow_type)
        or types.is_large_binary(arrow_type)
        or types.is_binary_view(arrow_type)
        or types.is_fixed_size_binary(arrow_type)
    )


def is_numeric(arrow_type: Any) -> bool:
    """Whether values of `arrow_type` are numbers, or truth values, or all missing."""
    types = pa.types
    return bool(
        types.is_integer(arrow_type)
        or types.is_floating(arrow_type)
        or types.is_boolean(arrow_type)
        or types.is_decimal(arrow_type)
        or types.is_null(arrow_type)
    )


def _is_whole(arrow_type: Any) -> bool:
    types = pa.types
    return bool(
        types.is_integer(arrow_type) or (types.is_decimal(arrow_type) and arrow_type.scale == 0)
    )


def number_text(number: float) -> str:
    """A number as text: whole ones without a decimal point, "" for NaN."""
    if number != number:
        return ""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def decode(encoded: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Returns string columns as object arrays of str, those of bytes of bytes, others as is."""
    return {
        name: column if isinstance(column, np.ndarray) else _objects(column)
        for name, column in encoded.items()
    }


def _cast(array: Any) -> Any:
    """The text as numbers, or None. A few values first: failing on each of many is slow."""
    try:
        array.slice(0, 64).cast(pa.float64())
        return array.cast(pa.float64())
    except pa.ArrowInvalid:
        return None


def _objects(column: Any) -> npt.NDArray[np.object_]:
    words: npt.NDArray[np.object_] = np.empty(len(column.dictionary), object)
    words[:] = column.dictionary.to_pylist()  # numpy alone would look into what they hold
    indices: npt.NDArray[np.int32] = column.indices.to_numpy()
    return words[indices]


def _is_time(arrow_type: Any) -> bool:
    types = pa.types
    return bool(types.is_temporal(arrow_type) and not types.is_interval(arrow_type))


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
