"""Expressions of columns: a small language, read once and computed by any numerical library.

An expression is written in a part of Python's syntax and never run as Python:

    expression  number, column, column("any name"), operation, comparison, call
    operation   + - * / // % **, and, or, not
    comparison  < <= > >= == !=, also chained; a text column may be == or != "a text"
    call        min max abs log log1p exp sqrt floor (of numbers), where(condition, a, b),
                is_missing(column or expression)

All values are numbers, truth is 1 and 0, and anything but 0 is true. A value may be missing, and
what is made of it is missing too, but for is_missing, and for the branch that `where` does not
take. What is no finite number, such as x / 0, is missing.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

from tuner.errors import InvalidArgumentError

#: Characters of an expression, and operations in one another.
MAX_LENGTH = 1000
_MAX_DEPTH = 100

#: What a column must hold.
Need = Literal["number", "string", "any"]

#: Functions with the least and the greatest number of arguments.
_FUNCTIONS = {
    "min": (2, 16),
    "max": (2, 16),
    "abs": (1, 1),
    "log": (1, 1),
    "log1p": (1, 1),
    "exp": (1, 1),
    "sqrt": (1, 1),
    "floor": (1, 1),
    "where": (3, 3),
    "is_missing": (1, 1),
}
_BINARY: Mapping[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_TESTS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "and": lambda left, right: (left != 0.0) & (right != 0.0),
    "or": lambda left, right: (left != 0.0) | (right != 0.0),
}
_COMPARED: Mapping[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is written."""

    value: float


@dataclass(frozen=True, slots=True)
class Column:
    """The number of a column."""

    name: str


@dataclass(frozen=True, slots=True)
class TextTest:
    """Whether a text column holds a text: "==", "!=", or "is_missing", of numbers as well."""

    name: str
    test: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, a comparison or a function."""

    name: str
    arguments: tuple[Node, ...]


Node = Number | Column | TextTest | Call


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read, and what it needs of each of its columns, in their order."""

    text: str
    root: Node
    columns: Mapping[str, Need]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What a numerical library does with arrays of float64, besides Python's operators.

    `number` turns truth values into numbers, `constant` a number into an array. `lacks` says where
    a column of either kind has no value, `equals` where a text column holds a text. `functions`
    are those with their own names, and `**`.
    """

    number: Callable[[Any], Any]
    constant: Callable[[float], Any]
    where: Callable[[Any, Any, Any], Any]
    is_finite: Callable[[Any], Any]
    lacks: Callable[[Any], Any]
    equals: Callable[[Any, str], Any]
    functions: Mapping[str, Callable[..., Any]]


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Reads an expression; raises InvalidArgumentError, which says what is wrong."""
    if len(text) > MAX_LENGTH:
        raise InvalidArgumentError(f"an expression has at most {MAX_LENGTH} characters.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is too deep"
        raise InvalidArgumentError(f"{text!r} is no expression: {reason}.") from None
    reader = _Reader()
    root = reader.read(tree, 0)
    if not reader.columns:
        raise InvalidArgumentError(f"{text!r} names no column.")
    return Expression(text, root, reader.columns)


class _Reader:
    """Turns Python's syntax tree into ours, and notes what columns must hold."""

    def __init__(self) -> None:
        self.columns: dict[str, Need] = {}

    def read(self, node: ast.expr, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise InvalidArgumentError(f"it has more than {_MAX_DEPTH} operations in one another.")
        name = _column_name(node)
        if name is not None:
            return Column(self._need(name, "number"))

        def inner(part: ast.expr) -> Node:
            return self.read(part, depth + 1)

        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return Number(_finite(value))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Call("negative", (inner(operand),))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return inner(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Call("not", (inner(operand),))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return Call(_BINARY[type(op)], (inner(left), inner(right)))
            case ast.BoolOp(op=op, values=values):
                joined = "and" if isinstance(op, ast.And) else "or"
                return _joined(joined, [inner(value) for value in values])
            case ast.Compare():
                return self._compared(node, depth + 1)
            case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
                return self._called(function, arguments, depth + 1)
        raise InvalidArgumentError(f"{ast.unparse(node)!r} is not allowed in an expression.")

    def _called(self, name: str, arguments: list[ast.expr], depth: int) -> Node:
        column = _column_name(arguments[0]) if arguments else None
        if name == "is_missing" and column is not None and len(arguments) == 1:
            return TextTest(self._need(column, "any"), name)
        if name == "column":
            raise InvalidArgumentError('column takes a name in quotes: column("any name").')
        if name not in _FUNCTIONS:
            known = ", ".join((*_FUNCTIONS, "column"))
            raise InvalidArgumentError(f"there is no function {name!r}; use {known}.")
        low, high = _FUNCTIONS[name]
        if not low <= len(arguments) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise InvalidArgumentError(f"{name} takes {wanted} values, but got {len(arguments)}.")
        return Call(name, tuple(self.read(argument, depth) for argument in arguments))

    def _compared(self, node: ast.Compare, depth: int) -> Node:
        sides = [node.left, *node.comparators]
        tests = []
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if type(op) not in _COMPARED:
                raise InvalidArgumentError(f"{ast.unparse(node)!r} is not allowed.")
            test = _COMPARED[type(op)]
            text, column = (right, left) if _is_text(right) else (left, right)
            if _is_text(text):
                tests.append(self._text_test(column, test, text))
            else:
                tests.append(Call(test, (self.read(left, depth), self.read(right, depth))))
        return _joined("and", tests)

    def _text_test(self, column: ast.expr, test: str, text: ast.expr) -> Node:
        name = _column_name(column)
        if name is None or test not in ("==", "!="):
            raise InvalidArgumentError("a text is only compared with a column, by == or !=.")
        word = str(ast.literal_eval(text)).strip()
        if not word:
            raise InvalidArgumentError(f"write is_missing({name}) for an empty text.")
        return TextTest(self._need(name, "string"), test, word)

    def _need(self, name: str, need: Need) -> str:
        before = self.columns.get(name, "any")
        if "any" not in (before, need) and before != need:
            raise InvalidArgumentError(f"the column {name!r} is used as a number and as a text.")
        self.columns[name] = before if need == "any" else need
        return name


def evaluate(expression: Expression, columns: Mapping[str, Any], library: Library) -> Any:
    """Computes an expression, float64 [rows] with NaN for missing.

    Args:
        expression: what to compute.
        columns: numbers as float64 [rows], NaN for missing, and texts as `library.equals` takes
            them.
        library: how.
    """
    missing = library.constant(float("nan"))

    def present(value: Any) -> Any:
        return library.where(library.is_finite(value), value, missing)

    def compute(node: Node) -> Any:
        if isinstance(node, Number):
            return library.constant(node.value)
        if isinstance(node, Column):
            return present(columns[node.name])
        if isinstance(node, TextTest):
            return test(node)
        arguments = [compute(argument) for argument in node.arguments]
        if node.name == "is_missing":
            return library.number(~library.is_finite(arguments[0]))
        if node.name == "where":
            condition, first, second = arguments
            chosen = library.where(condition != 0.0, first, second)
            return library.where(library.is_finite(condition), chosen, missing)
        known = reduce(lambda a, b: a & b, map(library.is_finite, arguments))
        return present(library.where(known, _applied(node.name, arguments, library), missing))

    def test(node: TextTest) -> Any:
        column = columns[node.name]
        lacking = library.lacks(column)
        if node.test == "is_missing":
            return library.number(lacking)
        same = library.equals(column, node.text)
        found = library.number(same if node.test == "==" else ~same)
        return library.where(lacking, missing, found)

    return compute(expression.root)


def _applied(name: str, arguments: Sequence[Any], library: Library) -> Any:
    """What an operation makes of numbers, none of which is missing."""
    functions = library.functions
    if name in ("min", "max"):
        return reduce(functions[name], arguments)
    if name in functions:
        return functions[name](*arguments)
    if name == "negative":
        return -arguments[0]
    if name == "not":
        return library.number(arguments[0] == 0.0)
    left, right = arguments
    if name in _TESTS:
        return library.number(_TESTS[name](left, right))
    if name in ("//", "%"):
        whole = functions["floor"](left / right)
        return whole if name == "//" else left - right * whole
    return _ARITHMETIC[name](left, right)


def _joined(name: str, parts: list[Node]) -> Node:
    return reduce(lambda left, right: Call(name, (left, right)), parts)


def _column_name(node: ast.expr) -> str | None:
    """The column that is named: by itself, or as column("any name")."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Call(
            func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[]
        ):
            return name
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _finite(value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidArgumentError("a number of an expression must be below 1e308.")
    return number
