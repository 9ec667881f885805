"""`tuner add`: points of the user's own to be tried, and results that were measured elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import click

from tuner.cli.session import Session, server_option
from tuner.errors import InvalidArgumentError
from tuner.space import Domain, Value


@click.command()
@click.argument("study")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--file", type=click.Path(path_type=Path), help="A CSV file of such, one a row.")
@server_option
@click.pass_obj
def add(session: Session, study: str, values: tuple[str, ...], file: Path | None) -> None:
    """Add a trial to be run next, by its parameters; with metrics, a past result.

    A past result is not run: the search learns from it. As in `tuner add mine units=64 auc=0.91`.
    """
    if bool(values) == (file is not None):
        raise click.UsageError("say what: NAME=VALUE of each parameter, or --file")
    handle = session.client.get_study(study)
    spec = handle.record.spec
    domains = {parameter.name: parameter.domain for parameter in spec.space.walk()}
    due, past = list[Mapping[str, Value]](), list[tuple[Mapping[str, Value], dict[str, float]]]()
    for cells in [_pairs(values)] if file is None else _rows(file):
        if unknown := cells.keys() - {*domains, *spec.metric_names}:
            raise InvalidArgumentError(
                f"{', '.join(sorted(unknown))}: the parameters of {study} are "
                f"{', '.join(domains)}, its metrics {', '.join(spec.metric_names)}."
            )
        point = {n: _value(domains[n], text) for n, text in cells.items() if n in domains}
        result = {n: _number(n, text) for n, text in cells.items() if n not in domains}
        if result:
            past.append((point, result))
        else:
            due.append(point)
    numbers = {"past": handle.add_results(past), "due": handle.add_trials(due)}
    if session.as_json:
        session.print_json({"study": study, **numbers})
    else:
        said = [
            f"{word}: {', '.join(map(str, found))}" for word, found in numbers.items() if found
        ]
        session.say(f"{study}: added {'; '.join(said) or 'nothing'}")


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    if wrong := [text for text in values if "=" not in text]:
        raise click.UsageError(f"{wrong[0]!r} is no NAME=VALUE")
    return {name: text for name, _, text in (item.partition("=") for item in values)}


def _rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; empty cells say nothing."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = list(csv.DictReader(text, restkey="", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgumentError(f"cannot read {file}: {error}.") from error
    return [{name.strip(): cell for name, cell in row.items() if cell} for row in rows]


def _value(domain: Domain, text: str) -> Value:
    """A number or a boolean where it is one; the server refuses what the domain does not have."""
    try:
        read = json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
    known = isinstance(read, (bool, int, float)) and not domain.contains(text)
    return read if known else text


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{name} is a number, but got {text!r}; correct it.") from error
