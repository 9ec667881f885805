"""`tuner logs`: what a trial printed, and why its attempts failed."""

from __future__ import annotations

import click

from tuner.cli.session import Session, server_option
from tuner.client import Study
from tuner.errors import InvalidArgumentError
from tuner.study import Attempt


@click.command()
@click.argument("trial", metavar="STUDY/NUMBER")
@click.option("--follow", "-f", is_flag=True, help="Go on until the trial ends.")
@server_option
@click.pass_obj
def logs(session: Session, trial: str, follow: bool) -> None:
    """Show what a trial printed, and why it failed."""
    study_id, _, digits = trial.rpartition("/")
    if not study_id or not digits.isdecimal():
        raise InvalidArgumentError(f"a trial is STUDY/NUMBER, as in adult/3, but got {trial!r}.")
    study, number = session.client.get_study(study_id), int(digits)
    study.trial(number)
    last = 0
    for attempt, text in study.log(number, follow=follow):
        if session.as_json:
            session.print_line({"attempt": attempt, "text": text})
            continue
        if attempt != last and attempt > 1:
            session.note(f"── attempt {attempt} ──")
        last = attempt
        click.echo(text, nl=False)
    _print_failures(session, study, number, printed=last > 0)


def _print_failures(session: Session, study: Study, number: int, *, printed: bool) -> None:
    attempts = study.trial(number).record.attempts
    failed = [attempt for attempt in attempts if attempt.failure is not None]
    for attempt in failed:
        if session.as_json:
            session.print_line(_document(attempt))
        else:
            _print_failure(session, attempt)
    if not printed and not failed and not session.as_json:
        session.note(f"trial {number} has printed nothing")


def _print_failure(session: Session, attempt: Attempt) -> None:
    failure = attempt.failure
    if failure is None:
        return
    where = f" on {attempt.host}" if attempt.host else ""
    cause = failure.cause.lower().replace("_", " ")
    session.note(f"── attempt {attempt.number} failed{where}: {cause} ──")
    session.say(failure.stack.rstrip() or failure.message)


def _document(attempt: Attempt) -> dict[str, object]:
    failure = attempt.failure
    if failure is None:
        return {"attempt": attempt.number}
    return {
        "attempt": attempt.number,
        "host": attempt.host,
        "cause": failure.cause,
        "message": failure.message,
        "stack": failure.stack,
    }
