"""Pages of lists: what a request asks for, and the word that asks for the next page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from tuner.errors import InvalidArgumentError
from tuner.service import filters, validate
from tuner.study import StudyState, TrialState, parse_trial_name
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner_storage import TrialPage

T = TypeVar("T")
S = TypeVar("S", StudyState, TrialState)
M = TypeVar("M", bound=Message)

#: The longest pages. In the FULL view a trial may be large, and a message may not.
_BASIC = 1000
_FULL = 100
#: What a page may hold, whatever its length: gRPC's clients take 4 MiB unless told otherwise.
_BYTES = 3 * 2**20
_ORDER = re.compile(r"best|(number|start_time|end_time|(metrics|parameters)\..{1,128}?)( desc)?")


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
    """The page that a request asks for.

    Raises:
        InvalidArgumentError: there is no such order, or the filter cannot be read.
    """
    order = request.order_by or "number"
    if not _ORDER.fullmatch(order):
        raise InvalidArgumentError(
            "`order_by` must be best, or number, start_time, end_time, metrics.NAME or "
            f"parameters.NAME, perhaps with ` desc` behind it, but got {order[:200]!r}."
        )
    number, key = _parse(order, request.page_token)
    full = request.view == pb.FULL
    return TrialPage(
        order=order,
        states=trial_states(request.states),
        filter=filters.to_jsonpath(request.filter) if request.filter.strip() else None,
        limit=min(validate.page_size(request.page_size), _FULL if full else _BASIC),
        after_number=number,
        after_key=key,
        full=full,
    )


def longest(page: TrialPage) -> TrialPage:
    """The same, as long as pages may be."""
    return replace(page, limit=_FULL if page.full else _BASIC)


def fitting(messages: Iterable[M]) -> list[M]:
    """As many of a page's messages, from the first, as fit into an answer; at least one."""
    taken, size = list[M](), 0
    for message in messages:
        size += message.ByteSize()
        if taken and size > _BYTES:
            break
        taken.append(message)
    return taken


def shown(
    found: Sequence[T], messages: Iterable[M], limit: int, token_of: Callable[[T], str]
) -> tuple[list[M], str]:
    """What a page shows of what was found, and the word for the next page; empty if there is none.

    Args:
        found: What the page's query found.
        messages: The same as messages.
        limit: How many it was to find.
        token_of: The word for the page after the one that ends with this.
    """
    fit = fitting(messages)
    more = len(found) == limit or len(fit) < len(found)
    return fit, token_of(found[len(fit) - 1]) if more else ""


def next_trials(page: TrialPage, number: int, key: float | None) -> str:
    """The word for the page after the one that ends with a trial."""
    return f"{number}:{'' if key is None else repr(key)}:{page.order}"


def _parse(order: str, token: str) -> tuple[int | None, float | None]:
    if not token:
        return None, None
    number, _, rest = token.partition(":")
    key, _, asked = rest.partition(":")
    try:
        if asked != order or not 0 <= int(number) < 2**31:
            raise _foreign(token)
        return int(number), float(key) if key else None
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
