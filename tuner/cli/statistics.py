"""`tuner statistics`: what one pass over a data file finds, as a table."""

from __future__ import annotations

from collections.abc import Mapping

import click
from rich.table import Table
from rich.text import Text

from tuner.cli.session import Session, server_option
from tuner.client import tables
from tuner.errors import DataError, InvalidArgumentError
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.data import missing_column
from tuner_trainers.learning import Learner
from tuner_trainers.statistics import Statistics

_TOP = 4


@click.command()
@click.argument("file")
@click.option("--type", "types", multiple=True, metavar="COLUMN=KIND", help="number or string.")
@click.option("--missing", multiple=True, metavar="WORD", help="A word for a missing value.")
@click.option("--label", metavar="COLUMN", help="Show how much each column tells of this one.")
@server_option
@click.pass_obj
def statistics(
    session: Session,
    file: str,
    types: tuple[str, ...],
    missing: tuple[str, ...],
    label: str | None,
) -> None:
    """Show what FILE holds: CSV, Parquet or TFRecord; a file, a folder, a glob or a URI.

    What a study server knows of the data already is not read again; it keeps what is new.
    """
    kinds = dict(_pair(given) for given in types)
    client = session.find_client()
    with session.reading() as progress:
        shelf = None if client is None else client.shelf
        learner = Learner(shelf=shelf, progress=progress)
        found = learner.statistics(file, types=kinds, missing_values=missing)
        if label is not None and label not in found.columns:
            raise DataError(missing_column(file, label, tuple(found.columns)))
        told = None if label is None else learner.relevance(label)
    if session.as_json:
        document = _document(found, told)
        session.print_json({**document, "was_known": learner.was_kept})
        return
    session.out.print(tables.fitted(_table(found, label, told), session.out, "most frequent"))
    source = ""
    if client is not None and learner.was_kept:
        source = f" · known to the study server at {client.address}, not read again"
    session.say(f"{found.rows:,} rows · {len(found.columns)} columns{source}")
    for name, kind in found.unsupported.items():
        session.note(f"{name} holds {kind} and cannot be used")


def _pair(given: str) -> tuple[str, str]:
    name, equals, kind = given.rpartition("=")
    if not equals or not name:
        raise InvalidArgumentError(f"a type is COLUMN=number or COLUMN=string, but got {given!r}.")
    return name, kind


def _table(found: Statistics, label: str | None, told: Mapping[str, float] | None) -> Table:
    view = tables.table()
    view.add_column("column", no_wrap=True, overflow="ellipsis", max_width=30)
    view.add_column("kind", no_wrap=True)
    for heading in ("missing", "distinct", "least", "mean", "most"):
        view.add_column(heading, justify="right", no_wrap=True)
    if told is not None:
        view.add_column("tells", justify="right", no_wrap=True)
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
            *([] if told is None else [_told(column.name, label, told)]),
            _frequent(column),
        )
    return view


def _told(name: str, label: str | None, told: Mapping[str, float]) -> str:
    return "label" if name == label else f"{told[name]:.1%}" if name in told else ""


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


def _document(found: Statistics, told: Mapping[str, float] | None) -> dict[str, object]:
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
                **({} if told is None else {"tells": told.get(column.name)}),
                "top": [{"value": value, "count": count} for value, count in column.top[:20]],
            }
            for column in found.columns.values()
        ],
        "unsupported": dict(found.unsupported),
    }
