"""Pages of lists: what a request asks for, and the word that asks for the next page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tuner.errors import InvalidArgumentError
from tuner.service import validate
from tuner.study import Metric, StudyState, Trial, TrialState, parse_trial_name
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner_storage import TrialPage
from tuner_storage.rows import score

S = TypeVar("S", StudyState, TrialState)

#: The longest pages. In the FULL view a trial may be large, and a message may not.
_BASIC = 1000
_FULL = 100
_ORDERS = ("number", "number desc", "best")


def study_states(numbers: Iterable[int]) -> list[StudyState]:
    """The states of a request; raises InvalidArgumentError for those that there are not."""
    known = {study_pb2.Study.State.Value(state.value): state for state in StudyState}
    return [_known(known, number) for number in numbers]


def trial_states(numbers: Iterable[int]) -> tuple[TrialState, ...]:
    """The states of a request; raises InvalidArgumentError for those that there are not."""
    known = {trial_pb2.Trial.State.Value(state.value): state for state in TrialState}
    return tuple(_known(known, number) for number in numbers)


def _known(known: Mapping[Any, S], number: int) -> S:
    if number not in known:
        raise InvalidArgumentError(f"`states` has {number}, which is no state.")
    return known[number]


def study_key(token: str) -> int | None:
    """The key of the last study seen; raises InvalidArgumentError for a foreign token."""
    if not token:
        return None
    if not token.isdecimal() or len(token) > 18:
        raise _foreign(token)
    return int(token)


def trial_page(request: pb.ListTrialsRequest) -> TrialPage:
    """The page that a request asks for; raises InvalidArgumentError if there is no such order."""
    order = request.order_by or "number"
    if order not in _ORDERS:
        raise InvalidArgumentError(
            f"`order_by` must be {', '.join(_ORDERS)}, but got {request.order_by!r}."
        )
    number, after = _parse(order, request.page_token)
    full = request.view == pb.FULL
    return TrialPage(
        order=order,
        states=trial_states(request.states),
        limit=min(validate.page_size(request.page_size), _FULL if full else _BASIC),
        after_number=number,
        after_score=after,
        full=full,
    )


def next_trial(page: TrialPage, metric: Metric, trials: Sequence[Trial]) -> str:
    """The word for the page after these trials; empty if there is none."""
    if len(trials) < page.limit:
        return ""
    last = trials[-1]
    reached = score(metric, last.final_measurement) if page.order == "best" else None
    return f"{page.order}:{last.number}:{'' if reached is None else repr(reached)}"


def _parse(order: str, token: str) -> tuple[int | None, float | None]:
    if not token:
        return None, None
    asked, _, rest = token.partition(":")
    number, _, reached = rest.partition(":")
    try:
        if asked != order or not 0 <= int(number) < 2**31:
            raise _foreign(token)
        return int(number), float(reached) if reached else None
    except ValueError as error:
        raise _foreign(token) from error


def trial_numbers(study_id: str, names: Iterable[str]) -> list[int]:
    """The numbers of trials by name; raises InvalidArgumentError for another study's."""
    parsed = [parse_trial_name(name) for name in names]
    for other, number in parsed:
        if other != study_id:
            raise InvalidArgumentError(f"trial {number} of {other!r} is not one of {study_id!r}.")
    return [number for _, number in parsed]


def _foreign(token: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"`page_token` {token[:64]!r} is not of this list; send back what the page before said."
    )
