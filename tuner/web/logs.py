"""The end of one trial's log, kept up to date by one stream."""

from __future__ import annotations

import threading

from tuner.errors import TunerError
from tuner.web.feeds import Feed
from tuner.web.source import StudySource

#: How much of a log a page shows.
TAIL_CHARACTERS = 64_000


class LogTail(Feed):
    """The last TAIL_CHARACTERS of a trial's log. Threads may share it."""

    def __init__(self, source: StudySource, study_id: str, number: int) -> None:
        super().__init__(source)
        self._study_id = study_id
        self._number = number
        self._changed = threading.Condition()
        self._text = ""
        self._attempt = 0
        self._ended = self._cut = False

    def follow(self, source: StudySource) -> bool:
        """Takes in the whole log anew; the stream ends with the trial."""
        with self._changed:
            self._text, self._attempt, self._cut = "", 0, False
        for attempt, text in source.log(self._study_id, self._number):
            with self._changed:
                self._take(attempt, text)
        ended = source.get_trial(self._study_id, self._number).state.is_finished
        with self._changed:
            self._ended = ended
            self._changed.notify_all()
        return ended

    def broke(self, error: TunerError) -> None:
        """Nothing is lost: the next stream brings the whole log."""

    def _take(self, attempt: int, text: str) -> None:
        if attempt != self._attempt:
            if attempt > 1:
                text = f"── attempt {attempt} ──\n{text}"
            self._attempt = attempt
        self._text += text
        if len(self._text) > 2 * TAIL_CHARACTERS:
            self._text, self._cut = self._text[-TAIL_CHARACTERS:], True

    def tail(self, wait_seconds: float = 0.0) -> tuple[str, bool]:
        """The end of the log, and whether earlier parts are left out.

        Args:
            wait_seconds: how long to wait for the log of a trial that has ended to arrive whole.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended, wait_seconds)
            cut = self._cut or len(self._text) > TAIL_CHARACTERS
            return self._text[-TAIL_CHARACTERS:], cut
