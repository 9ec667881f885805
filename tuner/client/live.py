"""The live view of a study: a table in a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tuner import convert
from tuner import study as values
from tuner.client import tables
from tuner.client.study import Study, Trial
from tuner.study import Origin, StudyState, TrialState, parse_trial_name
from tuner.v1 import study_service_pb2 as pb

_REFRESH_PER_SECOND = 4
_MOST_ROWS = 24
_FRAME_ROWS = 10
_BAR_WIDTH = 30


@dataclass(slots=True)
class Progress:
    """A study as its events tell it. Not thread-safe."""

    study: values.Study
    trials: dict[int, Trial] = field(default_factory=dict)
    #: The last step and value that each trial reported.
    latest: dict[int, tuple[int, float | None]] = field(default_factory=dict)

    def apply(self, event: pb.StudyEvent) -> Trial | None:
        """Takes an event in; returns the trial that it ended, if it did."""
        kind = event.WhichOneof("event")
        if kind == "study":
            self.study = convert.study_from_proto(event.study)
        elif kind == "reported":
            number = parse_trial_name(event.reported.trial)[1]
            measurement = convert.measurement_from_proto(event.reported.measurement)
            value = measurement.metrics.get(self.study.spec.metric.name)
            self.latest[number] = (measurement.step, value)
        elif kind == "trial":
            return self._apply_trial(convert.trial_from_proto(event.trial))
        return None

    def _apply_trial(self, record: values.Trial) -> Trial | None:
        trial = Trial(record, self.study.spec.metric)
        before = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        ended = trial.state.is_finished and (before is None or not before.state.is_finished)
        return trial if ended else None

    @property
    def best(self) -> Trial | None:
        """The best trial so far by the first metric, of those that succeeded and may count."""
        goal = self.study.spec.metric.goal
        best: Trial | None = None
        for trial in self.trials.values():
            if not self._counts(trial) or trial.value is None:
                continue
            if best is None or best.value is None or goal.better(trial.value, best.value):
                best = trial
        return best

    def _counts(self, trial: Trial) -> bool:
        within = trial.record.within_constraints is not False
        return trial.state is TrialState.SUCCEEDED and within

    def count(self, state: TrialState) -> int:
        """How many trials are in a state."""
        if not self.trials:
            return int(getattr(self.study.trial_counts, state.lower()))
        return sum(trial.state is state for trial in self.trials.values())

    @property
    def finished(self) -> int:
        """How many trials have ended, besides those that ran elsewhere."""
        if not self.trials:
            return self.study.trial_counts.ran
        own = [t for t in self.trials.values() if t.record.origin is not Origin.PAST]
        return sum(trial.state.is_finished for trial in own)

    def rows(self, most: int) -> list[Trial]:
        """The trials to show: those that run, then the best, then the latest."""
        goal = self.study.spec.metric.goal
        sign = -1.0 if goal is values.Goal.MAXIMIZE else 1.0
        running = [t for t in self.trials.values() if t.state is TrialState.RUNNING]
        ended = [t for t in self.trials.values() if t.state.is_finished]

        def rank(trial: Trial) -> tuple[bool, float, int]:
            value = trial.value
            bad = not self._counts(trial) or value is None or value != value
            return (
                bad,
                sign * value if value is not None and value == value else 0.0,
                -trial.number,
            )

        running.sort(key=lambda trial: trial.number)
        return (running + sorted(ended, key=rank))[:most]


def watch(study: Study, console: Console | None = None) -> bool:
    """Shows a study until it ends; returns False if the user detached before.

    A terminal gets a live table, anything else one line for each trial that ends.
    """
    console = console or Console(markup=False, highlight=False, emoji=False)
    try:
        if console.is_terminal:
            _watch_table(study, console)
        else:
            for line in lines(study):
                console.print(line, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"detached; the study goes on: tuner watch {study.study_id}")
        return False
    return True


def _watch_table(study: Study, console: Console) -> None:
    progress, lock = Progress(study.refresh()), threading.Lock()

    def frame() -> RenderableType:
        with lock:
            return render(progress, width=console.width, height=console.height)

    with Live(
        get_renderable=frame,
        console=console,
        refresh_per_second=_REFRESH_PER_SECOND,
        vertical_overflow="crop",
    ):
        for event in study.events():
            with lock:
                progress.apply(event)
        with lock:
            progress.study = study.record


def lines(study: Study) -> Iterator[str]:
    """One line for each trial that ends, and one for each change of the study."""
    progress = Progress(study.refresh())
    yield _headline(progress)
    shown = progress.study.state
    for event in study.events():
        ended = progress.apply(event)
        if ended is not None:
            yield _line(ended, progress)
        if progress.study.state is not shown:
            shown = progress.study.state
            yield _headline(progress)


def render(progress: Progress, *, width: int, height: int) -> RenderableType:
    """One frame of the live view."""
    parts: list[RenderableType] = [_header(progress), _bar(progress, width)]
    best = progress.best
    if best is not None:
        parts.append(_best(best, progress))
    rows = progress.rows(max(3, min(_MOST_ROWS, height - _FRAME_ROWS)))
    if rows:
        parts.append(
            tables.trials(
                rows,
                progress.study.spec,
                width=width,
                best=None if best is None else best.number,
                latest=progress.latest,
            )
        )
    elif progress.study.state is StudyState.PREPARING:
        parts.append(Text("a runner reads the data before the first trial", style="dim"))
    if not progress.study.state.is_finished:
        if search := progress.study.algorithm_in_use:
            line = Text(f"search: {search}", style="dim", no_wrap=True, overflow="ellipsis")
            parts.append(line)
        parts.append(Text("Ctrl-C detaches; the study goes on", style="dim"))
    return Group(*parts)


def _header(progress: Progress) -> Text:
    study = progress.study
    text = Text.assemble(
        (study.study_id, "bold"), "  ", tables.state(study.state), "  ",
        (tables.goals(study.spec), "dim"),
    )  # fmt: skip
    if study.state_reason:
        text.append(f"  {study.state_reason}", style="dim")
    return text


def _bar(progress: Progress, width: int) -> Text:
    """How far the study is, if there is room, and the counts."""
    counts = _counts(progress)
    room = max(0, min(_BAR_WIDTH, width - len(counts) - 2))
    part = progress.finished / max(progress.study.spec.limits.trials, 1)
    done = round(min(part, 1.0) * room)
    gap = "  " if room else ""
    return Text.assemble(("━" * done, "green"), ("━" * (room - done), "bright_black"), gap, counts)


def _counts(progress: Progress) -> str:
    parts = [f"{progress.finished}/{progress.study.spec.limits.trials} trials"]
    for state in (TrialState.RUNNING, TrialState.PRUNED, TrialState.FAILED, TrialState.INFEASIBLE):
        if count := progress.count(state):
            parts.append(f"{count} {state.lower()}")
    if past := progress.study.trial_counts.past:
        parts.append(f"{past} past")
    return " · ".join(parts)


def _best(best: Trial, progress: Progress) -> Text:
    spec = progress.study.spec
    ordered = tables.ordered(best.parameters, spec)
    one = len(spec.metric_names) == 1
    value = tables.number(best.value or 0.0) if one else tables.result(best, spec)
    text = Text.assemble(
        "best ", (value, "bold green"), f"  trial {best.number}  ",
        (tables.parameters({name: best.parameters[name] for name in ordered}), "dim"),
    )  # fmt: skip
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _headline(progress: Progress) -> str:
    study = progress.study
    reason = f": {study.state_reason}" if study.state_reason else ""
    return f"{study.study_id} is {study.state.lower()}{reason} · {_counts(progress)}"


def _line(trial: Trial, progress: Progress) -> str:
    spec = progress.study.spec
    value = f" {tables.result(trial, spec)}".rstrip()
    if spec.beyond(trial.record.final_measurement):
        value += " beyond a constraint"
    best = progress.best
    mark = ""
    if best is not None and best.value is not None:
        mark = f" (best {tables.number(best.value)}, trial {best.number})"
    unusual = trial.value is None or trial.state is TrialState.PRUNED
    reason = f": {trial.record.state_reason}" if unusual and trial.record.state_reason else ""
    ordered = tables.ordered(trial.parameters, spec)
    settings = tables.parameters({name: trial.parameters[name] for name in ordered})
    return f"trial {trial.number} {trial.state.lower()}{value}{reason}{mark} {settings}"
