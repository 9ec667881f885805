"""`tuner statistics`: what one pass over a data file finds, as a table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import click
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tuner.cli.session import Session, json_option
from tuner.client import tables
from tuner.errors import InvalidArgumentError
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.statistics import Statistics, scan

_TOP = 4


@click.command()
@click.argument("file")
@click.option("--type", "types", multiple=True, metavar="COLUMN=KIND", help="number or string.")
@click.option("--missing", multiple=True, metavar="WORD", help="A word for a missing value.")
@json_option
@click.pass_obj
def statistics(
    session: Session, file: str, types: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """Show what FILE holds: CSV, Parquet or TFRecord; a file, a folder, a glob or a URI."""
    kinds = dict(_pair(given) for given in types)
    with ExitStack() as stack:
        found = scan(file, types=kinds, missing_values=missing, progress=_progress(session, stack))
    if session.as_json:
        session.print_json(_document(found))
        return
    session.out.print(tables.fitted(_table(found), session.out, "most frequent"))
    session.say(f"{found.rows:,} rows · {len(found.columns)} columns")
    for name, kind in found.unsupported.items():
        session.note(f"{name} holds {kind} and cannot be used")


def _pair(given: str) -> tuple[str, str]:
    name, equals, kind = given.rpartition("=")
    if not equals or not name:
        raise InvalidArgumentError(f"a type is COLUMN=number or COLUMN=string, but got {given!r}.")
    return name, kind


def _progress(session: Session, stack: ExitStack) -> Callable[[int, int, int], None] | None:
    """A bar that goes away, where somebody looks."""
    if session.as_json or not session.err.is_terminal:
        return None
    bar = stack.enter_context(
        Progress(
            TextColumn("reading"),
            BarColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            console=session.err,
            transient=True,
        )
    )
    task = bar.add_task("", total=None, rows=0)
    return lambda rows, done, total: bar.update(task, completed=done, total=total, rows=rows)


def _table(found: Statistics) -> Table:
    view = tables.table()
    view.add_column("column", no_wrap=True, overflow="ellipsis", max_width=30)
    view.add_column("kind", no_wrap=True)
    for heading in ("missing", "distinct", "least", "mean", "most"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("most frequent", no_wrap=True)
    for column in found.columns.values():
        view.add_row(
            column.name,
            column.kind,
            _missing(column),
            _distinct(column),
            _figure(column.minimum),
            _figure(column.mean),
            _figure(column.maximum),
            _frequent(column),
        )
    return view


def _missing(column: ColumnStatistics) -> Text:
    share = column.missing / column.count if column.count else 0.0
    if not column.missing:
        return Text("")
    text = "<0.1%" if share < 0.001 else f"{share:.1%}"
    return Text(text, style="red" if share == 1 else "yellow" if share > 0.2 else "")


def _distinct(column: ColumnStatistics) -> str:
    if column.kind == "bytes":  # which are not compared
        return ""
    return f"{'' if column.is_exact else '~'}{column.distinct:,}"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value)}" if abs(value) < 10_000 else f"{int(value):,}"
    return f"{value:,.2f}" if 1 <= abs(value) < 1e6 else f"{value:.4g}"


def _frequent(column: ColumnStatistics) -> str:
    """`Private 70%, State-gov 4%`: the values that are at least a half percent."""
    shares = [(value, count / column.present) for value, count in column.top[:_TOP]]
    return ", ".join(f"{value} {share:.0%}" for value, share in shares if share >= 0.005)


def _document(found: Statistics) -> dict[str, object]:
    return {
        "rows": found.rows,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "missing": column.missing,
                "nonfinite": column.nonfinite,
                "distinct": None if column.kind == "bytes" else column.distinct,
                "distinct_is_exact": column.is_exact,
                "minimum": column.minimum,
                "maximum": column.maximum,
                "mean": column.mean,
                "variance": column.variance,
                "top": [{"value": value, "count": count} for value, count in column.top[:20]],
            }
            for column in found.columns.values()
        ],
        "unsupported": dict(found.unsupported),
    }
