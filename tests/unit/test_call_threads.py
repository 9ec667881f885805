"""The threads that answer calls."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tuner.service.threads import CallThreads

_SECONDS = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_call_is_answered_and_told_once() -> None:
    answered: list[int] = []
    told: list[Future[Any]] = []
    with CallThreads(4, 4) as threads:
        for number in range(500):
            threads.submit(answered.append, number).add_done_callback(told.append)
    assert sorted(answered) == list(range(500))
    assert len(told) == len(set(map(id, told))) == 500


def test_there_are_never_more_threads_than_asked_for_and_further_calls_wait() -> None:
    held, release = threading.Semaphore(0), threading.Event()
    names: set[str] = set()

    def call() -> None:
        names.add(threading.current_thread().name)
        held.release()
        release.wait(_SECONDS)

    with CallThreads(3, 3) as threads:
        for _ in range(5):
            threads.submit(call)
        for _ in range(3):
            assert held.acquire(timeout=_SECONDS)
        assert not held.acquire(timeout=0.2)
        release.set()
    assert len(names) == 3


def test_a_thread_is_started_only_when_all_are_busy() -> None:
    names: set[str] = set()
    done = threading.Semaphore(0)
    with CallThreads(8, 8) as threads:
        for _ in range(20):
            work = threads.submit(lambda: names.add(threading.current_thread().name))
            work.add_done_callback(lambda _: done.release())
            assert done.acquire(timeout=_SECONDS)
    assert len(names) == 1


def test_a_call_that_fails_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Semaphore(0)
    with CallThreads(1, 1) as threads:
        for _ in range(3):
            threads.submit(int, "x").add_done_callback(lambda _: ended.release())
            assert ended.acquire(timeout=_SECONDS)
    assert caplog.text.count("a call was not answered") == 3


def test_what_a_call_brought_along_is_not_kept() -> None:
    class Message:
        pass

    done = threading.Event()
    message = Message()
    gone = weakref.ref(message)
    with CallThreads(1, 1) as threads:
        threads.submit(lambda _: None, message).add_done_callback(lambda _: done.set())
        del message
        assert done.wait(_SECONDS)
        threads.submit(gc.collect)
    assert gone() is None


def test_one_caller_cannot_have_all_threads() -> None:
    held, release = threading.Semaphore(0), threading.Event()
    order: list[str] = []

    def mute() -> None:
        held.release()
        release.wait(_SECONDS)

    with CallThreads(4, 3) as threads:
        threads.caller = "mute"
        for _ in range(10):
            threads.submit(mute)
        threads.submit(order.append, "mute")
        for _ in range(3):
            assert held.acquire(timeout=_SECONDS)
        done = threading.Event()
        threads.caller = "other"
        threads.submit(order.append, "other").add_done_callback(lambda _: done.set())
        assert done.wait(_SECONDS)
        assert not held.acquire(timeout=0.2)
        release.set()
        until(lambda: len(order) == 2)
    assert order == ["other", "mute"]


def test_after_the_end_nothing_is_taken() -> None:
    threads = CallThreads(2, 2)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="have ended"):
        threads.submit(print)
