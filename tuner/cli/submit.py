"""`tuner submit`: creates a study, waits until its data is understood, says what will be done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click
from rich.console import RenderableType

from tuner import study as values
from tuner import study_file
from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.cli.summary import failure_of, print_summary
from tuner.client import Study, live, tables
from tuner.space import Space
from tuner.study import StudyState

#: After so long nobody seems to read the data.
_RUNNER_SECONDS = 10.0
#: How long to wait for the data before leaving the study to itself.
_PREPARE_SECONDS = 180.0
_EXPORT_SECONDS = 120.0


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
    prepared = _prepare(session, study)
    if wait and prepared:
        _follow(session, study)
    elif session.as_json:
        session.print_json(documents.study(study.refresh()))


def _prepare(session: Session, study: Study) -> bool:
    """Waits for the runner; returns whether trials can start. Raises DataError."""
    start = time.monotonic()
    with _spinner(session, "reading the data"):
        state = study.wait_prepared(_RUNNER_SECONDS)
    if state is StudyState.PREPARING:
        session.note(
            "no runner has answered yet: is `tuner up` running? Large data takes a while; "
            "Ctrl-C leaves the study waiting."
        )
        with _spinner(session, "reading the data"):
            state = study.wait_prepared(_PREPARE_SECONDS - _RUNNER_SECONDS)
    if state is StudyState.PREPARING:
        session.say(
            f"{study.study_id} waits for a runner; `tuner watch {study.study_id}` shows it"
        )
        return False
    _report(session, study.record, time.monotonic() - start)
    return True


def _report(session: Session, record: values.Study, seconds: float) -> None:
    spec = record.spec
    if session.as_json:
        return
    if any(feature.reason for feature in spec.features):
        session.out.print(_features_table(record))
    session.say(f"{record.study_id}: {describe(spec, record.statistics)}")
    if record.state is not StudyState.ACTIVE:
        session.say(f"it is {record.state.lower()} {record.state_reason}".rstrip())
    session.note(f"tuner watch {record.study_id}")


def describe(
    spec: values.StudySpec,
    statistics: values.StatisticsRef | None = None,
    *,
    features: Sequence[values.Feature] | None = None,
    space: Space | None = None,
) -> str:
    """`26,048 rows · 14 features · 9 parameters (5 preprocessing, 4 model) · 30 trials`."""
    parameters = list((spec.space if space is None else space).walk())
    features = spec.features if features is None else features
    parts = [] if statistics is None else [f"{statistics.rows:,} rows"]
    if features:
        parts.append(_plural(len(features), "feature"))
    if parameters:
        groups = Counter(parameter.group for parameter in parameters)
        told = ", ".join(f"{count} {group}" for group, count in groups.items())
        parts.append(f"{_plural(len(parameters), 'parameter')} ({told})")
    trials = _plural(spec.limits.trials, "trial")
    if spec.limits.parallel is not None and spec.limits.parallel > 1:
        trials += f", {spec.limits.parallel} at once"
    parts.append(trials)
    if spec.resources.workers > 1:
        parts.append(f"{spec.resources.workers} workers each")
    return " · ".join(parts)


def _features_table(record: values.Study) -> RenderableType:
    view = tables.table()
    for heading in ("feature", "kind", "tuned", "because"):
        view.add_column(heading, no_wrap=heading != "because")
    names = [parameter.name for parameter in record.spec.space.walk()]
    for feature in record.spec.features:
        prefix = f"{feature.name}."
        tuned = ", ".join(n.removeprefix(prefix) for n in names if n.startswith(prefix))
        view.add_row(feature.name, feature.kind, tuned, feature.reason)
    return view


def _follow(session: Session, study: Study) -> None:
    if session.as_json:
        study.wait()
        _await_export(study)
        session.print_json(_outcome(study))
    elif live.watch(study, session.out):
        with _spinner(session, "exporting the winner"):
            _await_export(study)
        print_summary(session, study)
    else:
        return
    if study.refresh().best_trial is None:
        raise failure_of(study)


def _outcome(study: Study) -> dict[str, object]:
    top = study.trials(order_by="best", limit=5)
    return {
        **documents.study(study.refresh()),
        "best_trials": [documents.trial(trial) for trial in top if trial.value is not None],
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


def _spinner(session: Session, text: str) -> AbstractContextManager[object]:
    if session.as_json or not session.err.is_terminal:
        return nullcontext()
    return session.err.status(text)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
