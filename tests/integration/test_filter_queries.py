"""Filters against PostgreSQL: they choose what the same predicate chooses in Python."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration import storage_support
from tests.integration.storage_support import SPEC, STUDY, Held, entered
from tuner.errors import InvalidArgumentError
from tuner.service import filters
from tuner.space import Value
from tuner.study import Measurement, Origin, Trial, TrialState
from tuner_storage import Database, Store, TrialPage, writes

_numbers = itertools.count()
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

#: Few enough that comparisons meet each other's values, and every kind that a trial may hold.
NAMES = ("a", "b.c", "d e", 'f"g', "h\\i", "é🎈", "not", "")
PRINTABLE = NAMES[:-1]
WORDS = ("", "ann", "RUNNING", "true", "1", 'x"y', "z\\", "ü", "\u2028", "🎈", "NaN", "%s")
FLOATS = (0.0, -0.5, 1.0, 0.1, 1e22, -1e-9, 1e300, 5e-324)
INTS = (0, 1, 2, -3, 2**53 + 1, 2**62)
ODD = (math.nan, math.inf, -math.inf)

values = st.sampled_from((*FLOATS, *INTS, *WORDS, True, False))
names = st.sampled_from(PRINTABLE)


@dataclass(frozen=True)
class Comparison:
    """A field, a sign and a value; true, false, or None where PostgreSQL does not know."""

    field: str
    name: str | None
    sign: str
    value: Value

    def text(self, quote: str) -> str:
        field = self.field if self.name is None else f"{self.field}.{_quoted(self.name, quote)}"
        return f"{field} {self.sign} {_shown(self.value, quote)}"

    def holds(self, trial: Trial) -> bool | None:
        found = _found(trial, self.field, self.name)
        if found is _ABSENT:
            return False
        if found is None:
            return self.sign == "!="
        if isinstance(found, float) and not math.isfinite(found):
            # JSON has no such number: it is the word.
            found = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(found, "NaN")
        if _kind(found) is not _kind(self.value):
            return None
        return _OPERATORS[self.sign](found, self.value)


@dataclass(frozen=True)
class Not:
    """The opposite; what is not known stays so."""

    of: Predicate

    def text(self, quote: str) -> str:
        return f"NOT ({self.of.text(quote)})"

    def holds(self, trial: Trial) -> bool | None:
        inner = self.of.holds(trial)
        return None if inner is None else not inner


@dataclass(frozen=True)
class Both:
    """AND, or OR."""

    left: Predicate
    right: Predicate
    word: str

    def text(self, quote: str) -> str:
        return f"({self.left.text(quote)}) {self.word} ({self.right.text(quote)})"

    def holds(self, trial: Trial) -> bool | None:
        sides = {self.left.holds(trial), self.right.holds(trial)}
        decided = self.word == "OR"
        if decided in sides:
            return decided
        return None if None in sides else not decided


Predicate = Comparison | Not | Both
_ABSENT = object()


def _kind(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _found(trial: Trial, field: str, name: str | None) -> object:
    result = trial.final_measurement
    if name is not None:
        maps: Mapping[str, Mapping[str, object]] = {
            "metrics": {} if result is None else result.metrics,
            "parameters": trial.parameters,
            "labels": trial.labels,
        }
        return maps[field].get(name, _ABSENT)
    fields: Mapping[str, object] = {
        "number": trial.number,
        "state": trial.state.value,
        "attempt": trial.attempt,
        "origin": trial.origin.value,
        "worker_id": trial.lease.worker_id if trial.lease else None,
    }
    return fields[field]


def _quoted(text: str, quote: str) -> str:
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    return f"{quote}{escaped}{quote}"


def _shown(value: Value, quote: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value, quote) if isinstance(value, str) else repr(value)


comparisons = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from(("metrics", "parameters", "labels")),
        st.sampled_from(NAMES),
        st.sampled_from(tuple(_OPERATORS)),
        values,
    ),
    *(
        st.builds(
            Comparison,
            st.sampled_from(fields),
            st.none(),
            st.sampled_from(tuple(_OPERATORS)),
            compared,
        )
        for fields, compared in (
            (("number", "attempt"), st.one_of(st.integers(-2, 12), st.floats(-2, 12))),
            (("state",), st.sampled_from(TrialState).map(lambda state: state.value)),
            (("origin",), st.sampled_from(Origin).map(lambda origin: origin.value)),
            (("worker_id",), values),
        )
    ),
)
predicates: st.SearchStrategy[Predicate] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Both, inner, inner, st.sampled_from(("AND", "OR")))
    ),
    max_leaves=8,
)


@st.composite
def trials(draw: st.DrawFn, held: Held, number: int) -> Trial:
    metrics = draw(
        st.one_of(
            st.none(),
            st.dictionaries(names, st.sampled_from((*FLOATS, *ODD)), min_size=1, max_size=4),
        )
    )
    state = draw(st.sampled_from([s for s in TrialState if s is not TrialState.RUNNING]))
    past = state is not TrialState.QUEUED
    return held.trial(
        number,
        state=state,
        attempt=int(past),
        lease=None,
        parameters=draw(st.dictionaries(names, values, max_size=4)),
        labels=draw(st.dictionaries(names, st.sampled_from(WORDS), max_size=4)),
        final_measurement=metrics and Measurement(step=0, metrics=metrics),
        origin=draw(st.sampled_from(Origin)),
    )


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Database(database_url, connections=2) as database:
        yield Store(database)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_filter_chooses_what_it_says(store: Store, data: st.DataObject) -> None:
    server = entered(store)
    held = Held(store, server, replace(STUDY, study_id=f"s{next(_numbers)}"))
    made = [data.draw(trials(held, number)) for number in range(8)]
    running = [
        held.trial(number, parameters=made[number - 8].parameters, labels={}) for number in (8, 9)
    ]
    held.commit(
        *writes.add_trials(SPEC, made),
        writes.lease_trials(due=(), proposed=running, host=""),
    )
    for _ in range(12):
        predicate = data.draw(predicates)
        text = predicate.text(data.draw(st.sampled_from("\"'")))
        page = TrialPage(filter=filters.to_jsonpath(text))
        chosen = [trial.number for trial in held.list(page)]
        expected = [t.number for t in (*made, *running) if predicate.holds(t)]
        assert chosen == expected, text
    store.leave_server(server)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ("number", "metrics.", "labels.", "a", "AND", "OR", "NOT", "(", ")", "=", "<", "1")
            ),
            st.sampled_from(("'x'", '"y"', "true", "1e9", "-.5", "\\", "$", "@", "?", "--", ";")),
            st.text(max_size=3),
        ),
        max_size=12,
    )
)
def test_whatever_can_be_read_can_be_asked(store: Store, words: list[str]) -> None:
    """No filter that the server accepts is one that PostgreSQL cannot read."""
    try:
        path = filters.to_jsonpath(" ".join(words))
    except InvalidArgumentError:
        return
    store.list_trials(1, "s", TrialPage(filter=path))


@pytest.mark.parametrize(
    "text",
    [
        "number = 1" + "0" * 300,
        "number = " + "0" * 1500 + "1",
        "metrics.a > 1e-400",
        "metrics.a > -5.",
        f"labels.'{'x' * 1900}' = 1",
        " OR ".join(["number = 1"] * 140),
        "NOT " * 19 + "number = 1",
        "(" * 19 + "number = 1" + ")" * 19,
        'labels.a = "$" AND labels."%s" != "%(study)s" AND labels.a = "\x01\x7f\ufeff"',
    ],
)
def test_filters_at_their_limits(store: Store, text: str) -> None:
    held = Held(store, entered(store))
    held.commit(*writes.add_trials(SPEC, [storage_support.given(held, 0)]))
    assert len(held.list(TrialPage(filter=filters.to_jsonpath(text)))) <= 1
