"""Many changes in few statements: none is lost, and what depends on another comes after it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from tuner_storage.writes import Write, statements

NAMES = ("report", "end_attempt", "lease_trials", "label_trial", "save_study")
numbers = st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True)


@st.composite
def changes(draw: st.DrawFn) -> list[Write]:
    """Changes of some trials, or of a whole study, some of which may share a statement."""
    made = []
    for index in range(draw(st.integers(0, 14))):
        name = draw(st.sampled_from(NAMES))
        whole, bulk = name == "save_study", name not in ("label_trial", "save_study")
        trials = None if whole else tuple(draw(numbers))
        made.append(Write(name=name, values={"index": index}, trials=trials, bulk=bulk))
    return made


def touched(write: Write, other: Write) -> bool:
    if write.trials is None or other.trials is None:
        return True
    return not set(write.trials).isdisjoint(other.trials)


@given(changes())
@example([])
def test_changes_keep_their_order_where_it_matters(made: Sequence[Write]) -> None:
    places: dict[int, int] = {}
    for place, (name, parameters) in enumerate(statements(made)):
        rows = json.loads(parameters["rows"]) if "rows" in parameters else [parameters]
        for row in rows:
            assert row["index"] not in places
            assert made[row["index"]].name == name
            places[row["index"]] = place
    assert set(places) == set(range(len(made)))
    for index, write in enumerate(made):
        for later in range(index + 1, len(made)):
            if touched(write, made[later]):
                # Not even in one statement: its rows have no order.
                assert places[index] < places[later]


def test_reports_of_many_trials_are_one_statement() -> None:
    made = [Write(name="report", values={"number": n}, trials=(n,), bulk=True) for n in range(50)]
    ((name, parameters),) = statements(made)
    assert name == "report" and len(json.loads(parameters["rows"])) == 50
