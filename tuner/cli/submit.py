"""`tuner submit`: creates a study, waits until its data is understood, says what will be done."""

from __future__ import annotations

import math
import time
from pathlib import Path

import click
from rich.status import Status

from tuner import study as values
from tuner import study_file
from tuner.cli import describe, documents
from tuner.cli.session import Session, server_option
from tuner.cli.summary import best_trials, failure_of, print_summary
from tuner.client import Study, live
from tuner.study import StudyState

#: After so long nobody seems to read the data.
_RUNNER_SECONDS = 10.0
#: How long to wait for the data before leaving the study to itself.
_PREPARE_SECONDS = 180.0
_EXPORT_SECONDS = 120.0
#: How often it is shown how far the data was read.
_SHOW_SECONDS = 1.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Show the study until it ends, then what it found.")
@click.option("--name", help="Another name than the file's.")
@server_option
@click.pass_obj
def submit(session: Session, file: Path, wait: bool, name: str | None) -> None:
    """Start the study that FILE describes."""
    study_id, spec = study_file.load(file)
    study = session.client.create(name or study_id, spec)
    prepared = _prepare(session, study, None if wait else _PREPARE_SECONDS)
    if wait and prepared:
        _follow(session, study)
    elif session.as_json:
        session.print_json(documents.study(study.refresh()))
    elif prepared:
        session.note(f"tuner watch {study.study_id}")


def _prepare(session: Session, study: Study, timeout_seconds: float | None) -> bool:
    """Waits for the runner; returns whether trials can start. Raises DataError."""
    doing = "looking at the trainer" if study.record.spec.data is None else "reading the data"
    with session.spinner(doing) as shown:
        state = _await_data(study, _RUNNER_SECONDS, shown)
    if state is StudyState.PREPARING and not study.record.state_reason:
        session.note(
            "no runner has answered yet: is `tuner up` running? Large data takes a while; "
            "Ctrl-C leaves the study waiting."
        )
    if state is StudyState.PREPARING:
        with session.spinner(doing) as shown:
            state = _await_data(study, timeout_seconds, shown)
    if state is StudyState.PREPARING:
        session.say(
            f"{study.study_id} waits for a runner; `tuner watch {study.study_id}` shows it"
        )
        return False
    _report(session, study.record)
    return True


def _await_data(study: Study, timeout_seconds: float | None, shown: object) -> StudyState:
    """Waits while the data is read, and shows how far that is. Raises DataError."""
    end = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        left = min(end - time.monotonic(), _SHOW_SECONDS)
        state = study.wait_prepared(max(left, 0.0))
        if state is not StudyState.PREPARING or time.monotonic() >= end:
            return state
        if isinstance(shown, Status) and study.record.state_reason:
            shown.update(study.record.state_reason)


def _report(session: Session, record: values.Study) -> None:
    spec = record.spec
    if session.as_json:
        return
    describe.print_features(session, spec.features, spec.space)
    rows = record.statistics.rows if record.statistics else None
    session.say(f"{record.study_id}: {describe.summary(spec, rows)}")
    if record.state is not StudyState.ACTIVE:
        session.say(f"it is {record.state.lower()}: {record.state_reason}".rstrip(": "))


def _follow(session: Session, study: Study) -> None:
    if session.as_json:
        study.wait()
        _await_export(study)
        session.print_json(_outcome(study))
    elif live.watch(study, session.out):
        with session.spinner("exporting the winner"):
            _await_export(study)
        print_summary(session, study)
    else:
        return
    if study.refresh().best_trial is None:
        raise failure_of(study)


def _outcome(study: Study) -> dict[str, object]:
    record = study.refresh()
    front = study.optimal() if len(record.spec.metrics) > 1 else []
    return {
        **documents.study(record),
        "best_trials": [documents.trial(trial) for trial in best_trials(study)],
        "optimal_trials": [documents.trial(trial) for trial in front],
        "importance": documents.importance(study.importance()),
    }


def _await_export(study: Study) -> None:
    """The runner exports the winner after the study has ended."""
    end = time.monotonic() + _EXPORT_SECONDS
    record = study.refresh()
    while (
        record.spec.is_managed
        and record.spec.export_model is not None
        and record.state is StudyState.COMPLETED
        and record.best_trial is not None
        and not record.exported_model_uri
        and time.monotonic() < end
    ):
        time.sleep(0.5)
        record = study.refresh()
