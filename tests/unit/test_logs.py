"""Logs: lines for people and for programs, each with the call that it belongs to."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tuner import logs
from tuner.service import access
from tuner.service import call as calls
from tuner.service.access import AccessLog, level_of
from tuner.service.call import Call

logger = logging.getLogger("tuner.test")


@pytest.fixture
def answering() -> Iterator[Call]:
    """A call that this thread answers."""
    call = Call(method="StopStudy", request="4f2a", peer="ipv4:10.0.0.7:1", caller="ann")
    calls.begin(call)
    yield call
    calls.end()


def record(message: str, *args: object, level: int = logging.INFO, **more: Any) -> str:
    stack = sys.exc_info() if more.pop("exc_info", False) else None
    made = logger.makeRecord("tuner.test", level, "f.py", 1, message, args, stack, **more)
    return logs.JsonFormatter(access.context).format(made)


def test_json_says_when_what_and_for_whom(answering: Call) -> None:
    document = json.loads(record("trial %d of “%s” ended", 3, "a\nb"))
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "info",
        "logger": "tuner.test",
        "message": "trial 3 of “a\nb” ended",
        "request": "4f2a",
        "method": "StopStudy",
        "caller": "ann",
    }


def test_outside_a_call_nothing_is_said_of_one() -> None:
    assert set(json.loads(record("started"))) == {"time", "level", "logger", "message"}


def test_an_exception_is_a_field_in_the_same_line(answering: Call) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        line = record("it failed", level=logging.ERROR, exc_info=True)
    assert "\n" not in line
    stack = json.loads(line)["stack"]
    assert stack.startswith("Traceback") and stack.endswith("ValueError: boom")


def test_what_json_does_not_know_is_text() -> None:
    line = record("x", extra={"fields": {"path": logging, "seconds": 0.5}})
    document = json.loads(line)
    assert document["seconds"] == 0.5 and document["path"].startswith("<module")


def test_text_shows_the_request(answering: Call) -> None:
    formatter = logs.TextFormatter(access.context)
    made = logger.makeRecord("tuner.test", logging.INFO, "f.py", 1, "done", (), None)
    assert formatter.format(made).endswith("INFO tuner.test: done [request 4f2a]")
    calls.end()
    assert formatter.format(made).endswith("INFO tuner.test: done")


@pytest.mark.parametrize(
    ("method", "code", "level"),
    [
        ("GetStudy", "OK", logging.DEBUG),
        ("ReportTrial", "OK", logging.DEBUG),
        ("StopStudy", "OK", logging.INFO),
        ("ReportTrial", "ABORTED", logging.INFO),
        ("GetStudy", "NOT_FOUND", logging.INFO),
        ("WatchStudy", "CANCELLED", logging.DEBUG),
        ("ReportTrial", "UNAVAILABLE", logging.WARNING),
        ("GetStudy", "INTERNAL", logging.WARNING),
        ("ListStudies", "UNAUTHENTICATED", logging.WARNING),
    ],
)
def test_how_much_a_call_matters(method: str, code: str, level: int) -> None:
    assert level_of(Call(method=method, request="r", code=code)) == level


def test_every_call_has_a_line(answering: Call) -> None:
    answering.seconds = 0.0123
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logs.JsonFormatter(access.context))
    log = logging.getLogger("tuner.service.access")
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        AccessLog().observe(answering)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    document = json.loads(output.getvalue())
    assert document["message"] == "StopStudy OK in 12.3 ms, from ann"
    assert (document["code"], document["seconds"]) == ("OK", 0.0123)
    assert (document["peer"], document["request"]) == ("ipv4:10.0.0.7:1", "4f2a")
