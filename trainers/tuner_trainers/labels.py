"""Finds what a label asks for: two classes, several, or a number; and refuses what cannot be."""

from __future__ import annotations

from tuner.errors import DataError, InvalidArgumentError
from tuner.study import DataSource
from tuner.trainer_spaces import Task
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.columns import number_text

#: Whole numbers with no more values than this are classes, unless the user says otherwise.
_FEW_CLASSES = 20
#: More classes than this are an identifier.
_MAX_CLASSES = 1000
#: Of so many rows, classes that recur are expected.
_SOME_ROWS = 20


def task_of(column: ColumnStatistics, source: DataSource) -> tuple[Task, tuple[str, ...]]:
    """Returns the task and, for classes, their names in order: numbers by size, texts by text.

    Raises:
        DataError: the label cannot be learned.
        InvalidArgumentError: the data names a task that does not exist.
    """
    name = f"{source.train_uri}: the label {column.name!r}"
    if column.kind == "bytes":
        raise DataError(f"{name} holds bytes; name a column of classes or numbers.")
    if not column.present:
        raise DataError(f"{name} is missing in every row; name another column.")
    if column.nonfinite:
        raise DataError(f"{name} is infinite in {column.nonfinite} rows; mend or remove them.")
    if column.distinct == 1:
        raise DataError(
            f"{name} has only one value, {column.top[0][0]!r}; a model needs at least two to tell "
            "apart."
        )
    if _is_regression(column, source, name):
        return Task.REGRESSION, ()
    classes = _classes(column, name)
    return (Task.BINARY if len(classes) == 2 else Task.MULTICLASS), classes


def _is_regression(column: ColumnStatistics, source: DataSource, name: str) -> bool:
    if source.task not in (None, "", "classification", "regression"):
        raise InvalidArgumentError(
            f"a task is classification or regression, but got {source.task!r}."
        )
    if source.task == "classification":
        return False
    if source.task == "regression" and column.kind == "string":
        raise DataError(
            f"{name} holds text such as {column.top[0][0]!r}, so it is not for regression; "
            "say `task: classification`, or name a column of numbers."
        )
    few = column.is_integer and column.distinct <= _FEW_CLASSES
    return source.task == "regression" or (column.kind == "number" and not few)


def _classes(column: ColumnStatistics, name: str) -> tuple[str, ...]:
    if column.distinct > _MAX_CLASSES:
        raise DataError(
            f"{name} has {column.distinct:,} different values, more than the {_MAX_CLASSES:,} "
            f"classes that can be told apart; {_advice(column)}."
        )
    if column.distinct > column.present / 2 and column.present >= _SOME_ROWS:
        raise DataError(
            f"{name} has {column.distinct:,} different values in {column.present:,} rows, too few "
            f"rows of each to learn from; {_advice(column)}."
        )
    values = column.summary.counts.values
    if column.kind == "number":
        return tuple(number_text(value) for value in values.tolist())
    return tuple(sorted(values.to_pylist()))


def _advice(column: ColumnStatistics) -> str:
    if column.kind == "number":
        return "say `task: regression`"
    is_mostly_numbers = sum(_is_number(value) for value, _ in column.top) > column.distinct / 2
    if not is_mostly_numbers:
        return "name another column"
    word = next(value for value, _ in column.top if not _is_number(value))
    return f"if it is of numbers, add {word!r} to `missing` under `data`"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
