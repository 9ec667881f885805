"""What the pages know about one study: its trials and curves, kept up to date by one stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from tuner.client.study import Importance
from tuner.errors import TunerError, UnavailableError
from tuner.study import Measurement, Study, Trial, TrialState
from tuner.web import format
from tuner.web.feeds import Feed
from tuner.web.source import Event, Reported, StudySource

#: A study is asked for again after this long: its counts change with every trial.
STUDY_SECONDS = 0.8
#: What mattered is computed again after this long, if trials ended meanwhile.
IMPORTANCE_SECONDS = 10.0
#: How long a first page waits for the trials to arrive.
_FIRST_SECONDS = 10.0


class History(Feed):
    """One study's trials and some of their curves. Threads may share it.

    The stream brings each change once, so that a look at a study of thousands of trials costs the
    server nothing; a trial's measurements are asked for when its curve is first drawn.
    """

    def __init__(self, source: StudySource, study: Study) -> None:
        super().__init__(source)
        self.study_id = study.study_id
        self.created = study.create_time
        self._changed = threading.Condition()
        self._study, self._asked = study, time.monotonic()
        self._token = ""
        self._error: TunerError | None = None
        self._version = 0
        self._ready = False
        self._trials: dict[int, Trial] = {}
        self._curves: dict[int, dict[int, Measurement]] = {}
        self._latest: dict[int, Measurement] = {}
        self._valued: set[tuple[int, int]] = set()
        self._importance: tuple[int, float, Importance] | None = None

    # --- the stream ------------------------------------------------------------------------

    def follow(self, source: StudySource) -> bool:
        """Takes in the stream; it ends with the study, or to be taken up again."""
        for event in source.watch(self.study_id, self._token):
            with self._changed:
                self._take(event)
                self._changed.notify_all()
        return self._study.state.is_finished

    def broke(self, error: TunerError) -> None:
        """Goes on where the stream broke, or starts over where the server cannot tell."""
        with self._changed:
            self._error = error
            if not isinstance(error, UnavailableError):
                self._token = ""
            self._changed.notify_all()

    def _take(self, event: Event) -> None:
        self._token = event.resume_token
        self._version += 1
        self._error = None
        match event.what:
            case Study() as study:
                self._study, self._asked = study, time.monotonic()
                if not event.resume_token:
                    # Everything as it is comes next: what was reported meanwhile is not known.
                    self._curves.clear()
                    self._latest.clear()
                    self._valued.clear()
            case Trial() as trial:
                self._take_trial(trial)
            case Reported(number=number, measurement=measurement):
                self._latest[number] = measurement
                if number in self._curves:
                    self._curves[number][measurement.step] = measurement

    def _take_trial(self, trial: Trial) -> None:
        known = self._trials.get(trial.number)
        if known is not None and known.attempt != trial.attempt:
            self._curves.pop(trial.number, None)
            self._latest.pop(trial.number, None)
        if trial.state.is_finished:
            self._latest.pop(trial.number, None)
        self._trials[trial.number] = trial

    # --- what pages read -------------------------------------------------------------------

    def study(self) -> Study:
        """The study, at most STUDY_SECONDS old. Raises TunerError if the server does not say."""
        if time.monotonic() - self._asked > STUDY_SECONDS:
            study = self._source.get_study(self.study_id)
            with self._changed:
                self._study, self._asked = study, time.monotonic()
            if not study.state.is_finished:
                self.start(again=True)
        return self._study

    def mark(self) -> tuple[object, ...]:
        """Differs whenever something on the study's page does."""
        study = self.study()
        return (
            self._version,
            study.etag,
            study.state,
            study.state_reason,
            study.trial_counts,
            study.best_trial,
            study.exported_model_uri,
            study.update_time,
        )

    def ready(self) -> None:
        """Waits until the trials that there were at first have arrived, within reason.

        Raises:
            TunerError: the server does not send them.
        """
        with self._changed:
            if self._ready:
                return
            expected = self._study.trial_counts.total
            self._changed.wait_for(
                lambda: self._error is not None or len(self._trials) >= expected, _FIRST_SECONDS
            )
            if self._error is not None:
                raise self._error
            self._ready = True

    def trials(self) -> list[Trial]:
        """Every trial by number; a running one with its latest measurement as its value."""
        with self._changed:
            trials = [self._trials[number] for number in sorted(self._trials)]
            latest = {n: c[max(c)] for n, c in self._curves.items() if c} | self._latest
        return [
            format.valued(t, latest[t.number])
            if t.state is TrialState.RUNNING and t.number in latest
            else t
            for t in trials
        ]

    def value_running(self, trials: Collection[Trial]) -> None:
        """Learns the values of running trials that reported before the stream began."""
        running = {(t.number, t.attempt) for t in trials if t.state is TrialState.RUNNING}
        with self._changed:
            unknown = running - self._valued
            self._valued = self._valued & running | unknown
        for number, attempt in unknown:
            trial = self._source.get_trial(self.study_id, number)
            with self._changed:
                if trial.measurements and trial.attempt == attempt:
                    self._latest.setdefault(number, trial.measurements[-1])

    def curves(self, numbers: Collection[int]) -> Mapping[int, Sequence[Measurement]]:
        """The measurements by step of the trials with these numbers; others' are dropped."""
        with self._changed:
            for number in self._curves.keys() - set(numbers):
                del self._curves[number]
            missing = [n for n in numbers if n not in self._curves and self._has_run(n)]
        for number in missing:
            self._fetch(self._source.get_trial(self.study_id, number))
        with self._changed:
            return {
                number: [curve[step] for step in sorted(curve)]
                for number, curve in self._curves.items()
            }

    def _has_run(self, number: int) -> bool:
        return number in self._trials and self._trials[number].attempt > 0

    def _fetch(self, trial: Trial) -> None:
        with self._changed:
            curve = {m.step: m for m in trial.measurements}
            # What the stream brought while the answer was under way is newer.
            self._curves[trial.number] = curve | self._curves.get(trial.number, {})

    def importance(self) -> Importance:
        """What mattered, computed again at times while trials end."""
        ended = self.study().trial_counts.finished
        known, now = self._importance, time.monotonic()
        if known is None or (known[0] != ended and now - known[1] > IMPORTANCE_SECONDS):
            known = ended, now, self._source.importance(self.study_id)
            self._importance = known
        return known[2]
