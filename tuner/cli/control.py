"""`tuner stop`, `pause`, `resume`, `retry` and `delete`."""

from __future__ import annotations

import sys

import click

from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.client import Study


@click.command()
@click.argument("study")
@click.option("--reason", default="", help="Why, for people.")
@server_option
@click.pass_obj
def stop(session: Session, study: str, reason: str) -> None:
    """End a study; its running trials are told to stop."""
    handle = session.client.get_study(study)
    handle.stop(reason)
    _answer(session, handle)


@click.command()
@click.argument("study")
@server_option
@click.pass_obj
def pause(session: Session, study: str) -> None:
    """Start no more trials; those that run go on."""
    handle = session.client.get_study(study)
    handle.pause()
    _answer(session, handle)


@click.command()
@click.argument("study")
@server_option
@click.pass_obj
def resume(session: Session, study: str) -> None:
    """Take up a paused study, or an ended one whose limits allow more."""
    handle = session.client.get_study(study)
    handle.resume()
    _answer(session, handle)


@click.command()
@click.argument("study")
@click.option("--failed", is_flag=True, help="All that failed.")
@click.option("--trial", "numbers", type=click.IntRange(0), multiple=True, help="This one.")
@server_option
@click.pass_obj
def retry(session: Session, study: str, failed: bool, numbers: tuple[int, ...]) -> None:
    """Run failed trials again."""
    if failed == bool(numbers):
        raise click.UsageError("say which: --failed for all, or --trial NUMBER")
    due = session.client.get_study(study).retry(numbers)
    if session.as_json:
        session.print_json({"study": study, "trials": due})
    elif due:
        session.say(f"{study}: due again: {', '.join(map(str, due))}")
    else:
        session.say(f"{study}: no trial failed")


@click.command()
@click.argument("study")
@click.option("--force", is_flag=True, help="Even while trials run.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_option
@click.pass_obj
def delete(session: Session, study: str, force: bool, yes: bool) -> None:
    """Delete a study with its trials."""
    handle = session.client.get_study(study)
    trials = handle.record.trial_counts.total
    if not yes:
        if session.as_json or not sys.stdin.isatty():
            raise click.UsageError(f"deleting {study} with {trials} trials needs --yes")
        click.confirm(f"delete {study} with {trials} trials?", abort=True)
    handle.delete(force=force)
    if session.as_json:
        session.print_json({"study": study, "deleted": True})
    else:
        session.say(f"{study} is deleted")


def _answer(session: Session, study: Study) -> None:
    record = study.record
    if session.as_json:
        session.print_json(documents.study(record))
        return
    reason = f": {record.state_reason}" if record.state_reason else ""
    session.say(f"{study.study_id} is {record.state.lower()}{reason}")
