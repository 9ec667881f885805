"""`tuner studies`, `tuner watch` and `tuner trials`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import RenderableType

from tuner import study as values
from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.cli.summary import print_summary
from tuner.client import Study, live, tables
from tuner.study import StudyState, TrialState, parse_trial_name


@click.command()
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in StudyState], case_sensitive=False),
    help="Only studies in this state; may be repeated.",
)
@server_option
@click.pass_obj
def studies(session: Session, states: tuple[str, ...]) -> None:
    """List the studies, newest first."""
    wanted = [StudyState(state.upper()) for state in states]
    found = list(session.client.studies(states=wanted))
    if session.as_json:
        session.print_json([documents.study(study.record) for study in found])
    elif found:
        session.out.print(_studies_table(found))
    else:
        session.say("no studies; `tuner submit study.yaml` starts one")


def _studies_table(found: list[Study]) -> RenderableType:
    view = tables.table()
    # In a narrow terminal the name goes on in the next line: whole, it can be copied.
    view.add_column("study", overflow="fold")
    view.add_column("state", no_wrap=True)
    view.add_column("trials", justify="right", no_wrap=True)
    view.add_column("failed", justify="right", no_wrap=True)
    view.add_column("metric", no_wrap=True)
    view.add_column("best", justify="right", no_wrap=True)
    view.add_column("cost", justify="right", no_wrap=True)
    view.add_column("created", justify="right", no_wrap=True)
    for study in found:
        record = study.record
        counts = record.trial_counts
        view.add_row(
            study.study_id,
            tables.state(record.state),
            f"{counts.ran}/{record.spec.limits.trials}",
            str(counts.failed) if counts.failed else "",
            tables.goals(record.spec),
            _best(study, record),
            tables.duration(record.cost.worker_time) if record.cost.worker_time else "",
            f"{tables.age(record.create_time)} ago",
        )
    return view


def _best(study: Study, record: values.Study) -> str:
    if record.best_trial is None:
        return ""
    best = study.trial(record.best_trial)
    values = [best.metrics.get(metric.name) for metric in record.spec.metrics]
    return " / ".join(tables.number(value) for value in values if value is not None)


@click.command()
@click.argument("study")
@server_option
@click.pass_obj
def watch(session: Session, study: str) -> None:
    """Show a study until it ends. Ctrl-C detaches; the study goes on."""
    handle = session.client.get_study(study)
    if session.as_json:
        for change in _changes(handle):
            session.print_line(change)
    elif live.watch(handle, session.out):
        print_summary(session, handle)


def _changes(study: Study) -> Iterator[dict[str, Any]]:
    """Each event as an object with one key that says what it is."""
    progress = live.Progress(study.record)
    for event in study.events():
        progress.apply(event)
        kind = event.WhichOneof("event")
        if kind == "study":
            yield {"study": documents.study(progress.study)}
        elif kind == "trial":
            number = parse_trial_name(event.trial.name)[1]
            yield {"trial": documents.trial(progress.trials[number])}
        elif kind == "reported":
            number = parse_trial_name(event.reported.trial)[1]
            measurement = event.reported.measurement
            metrics = dict(measurement.metrics)
            yield {"reported": {"trial": number, "step": measurement.step, "metrics": metrics}}


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="Only so many, best first.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in TrialState], case_sensitive=False),
    help="Only trials in this state; may be repeated.",
)
@click.option("--filter", "condition", default="", help='As "metrics.auc > 0.9".')
@click.option("--order-by", help="number, best, end_time, metrics.NAME, parameters.NAME; ` desc`.")
@click.option("--optimal", is_flag=True, help="Only those that no other one beats in all metrics.")
@server_option
@click.pass_obj
def trials(
    session: Session,
    study: str,
    top: int | None,
    states: tuple[str, ...],
    condition: str,
    order_by: str | None,
    optimal: bool,
) -> None:
    """List a study's trials by number, or the best of them."""
    handle = session.client.get_study(study)
    found = handle.trials(
        states=[TrialState(state.upper()) for state in states],
        filter=condition,
        order_by=order_by or ("number" if top is None else "best"),
        optimal=optimal,
        limit=top,
    )
    rows = list(found)
    if session.as_json:
        session.print_json([documents.trial(row) for row in rows])
    elif rows:
        spec, best = handle.record.spec, handle.record.best_trial
        session.out.print(tables.trials(rows, spec, width=session.out.width, best=best))
    else:
        session.say("no such trial" if states or condition or optimal else "no trials yet")
