"""Streams: what happens to a study, and the log of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from tuner.errors import UnavailableError
from tuner.service.events import Event, Reported
from tuner.service.fleet import ElsewhereError
from tuner.service.live import LiveStudy
from tuner.service.record import utc_now
from tuner.service.studies import Studies
from tuner_storage import LogPiece, StaleError

#: How long a stream may take to notice that its client went away.
_TICK_SECONDS = 1.0
#: How long a stream rests after it sent something, for each watcher of its study: what happens
#: meanwhile is sent together, so that a thousand watchers cost little more than one.
_REST_SECONDS, _LONGEST_REST_SECONDS = 0.001, 1.0


def watch(
    studies: Studies, study_id: str, token: str, is_wanted: Callable[[], bool]
) -> Iterator[Sequence[Event]]:
    """What happens to a study until it has ended: first as it is, unless `token` is known.

    A watcher that was too slow, or whose study was loaded again, gets the study as it is again.
    """
    while is_wanted() and not studies.stopping.is_set():
        live = studies.live(study_id)
        events = live.record.events
        events.watchers += 1
        try:
            position = events.find(token)
            if position is None:
                position, shown = studies.do(study_id, _snapshot)
                yield shown
            if (yield from _follow(live, position, is_wanted)):
                return
        finally:
            events.watchers -= 1
        token = ""


def _snapshot(live: LiveStudy) -> tuple[int, list[Event]]:
    """The study and its trials; only the last event resumes, as half of it is no beginning."""
    record = live.record
    position, what = record.read(
        lambda now: (record.events.position, [record.summary(), *record.board])
    )
    token, now = record.events.token(position), utc_now()
    events = [Event(token="", time=now, what=item) for item in what[:-1]]
    return position, [*events, Event(token=token, time=now, what=what[-1])]


def _follow(
    live: LiveStudy, position: int, is_wanted: Callable[[], bool]
) -> Generator[Sequence[Event], None, bool]:
    """What happens after a position, until the study has ended or the log cannot say.

    Returns:
        Whether all was told up to the study's end.
    """
    events = live.record.events
    while is_wanted():
        try:
            # Asked before reading: what ended the study has been published by then.
            ended = live.has_ended()
        except StaleError:
            return False
        happened = events.after(position, 0.0 if ended else _TICK_SECONDS)
        if happened is None:
            return False
        if ended and not happened:
            return True
        position += len(happened)
        if happened:
            yield _newest(happened)
        if not ended:
            time.sleep(min(events.watchers * _REST_SECONDS, _LONGEST_REST_SECONDS))
    return False


def _newest(happened: Sequence[Event]) -> Sequence[Event]:
    """Without states that a later one of the same study or trial has already followed."""
    seen = set[str]()
    kept = list[Event]()
    for event in reversed(happened):
        what = event.what
        name = "" if isinstance(what, Reported) else what.name
        # The last event carries the token to resume after, so it always stays.
        if isinstance(what, Reported) or name not in seen:
            kept.append(event)
        seen.add(name)
    return kept[::-1]


def read_log(
    studies: Studies, study_id: str, number: int, *, follow: bool, is_wanted: Callable[[], bool]
) -> Iterator[LogPiece]:
    """A trial's log; with `follow`, until the trial or its study has ended.

    The database is asked for what was written, and not whether something was.

    Raises:
        UnavailableError: the server ends, or the study went to another one; who follows the log
            asks anew.
    """
    after = (0, -1)

    def goes_on() -> bool:
        return is_wanted() and not studies.stopping.is_set()

    while goes_on():
        try:
            live = studies.live(study_id)
        except ElsewhereError as elsewhere:
            if after == (0, -1):
                raise
            # Forwarded now, the call would bring the whole log once more.
            raise UnavailableError(elsewhere.message) from None
        version = live.record.events.log_version(number)
        ended = not follow or live.is_over(number)
        pieces = studies.read_log(study_id, number, after)
        yield from pieces
        if pieces:
            after = (pieces[-1].attempt, pieces[-1].offset)
        elif ended:
            return
        else:
            _await_log(live, number, version, goes_on)
    if studies.stopping.is_set():
        raise UnavailableError("this study server ends; try again.")


def _await_log(live: LiveStudy, number: int, version: int, goes_on: Callable[[], bool]) -> None:
    """Waits until a trial's log has grown since a version, or may not grow any more."""
    events = live.record.events
    while events.log_version(number) == version and not live.record.closed and goes_on():
        events.await_log(number, version, _TICK_SECONDS)
        if live.is_over(number):
            return
