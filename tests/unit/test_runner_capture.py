"""What a trial prints, taken at the level of file descriptors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from tuner.runner import capture
from tuner.runner.capture import Capture


@pytest.fixture(autouse=True)
def real_descriptors(capfd: pytest.CaptureFixture[str]) -> None:
    """Descriptors 1 and 2 are pytest's to begin with."""


def test_prints_logs_and_children_reach_the_listener_in_order() -> None:
    chunks: list[tuple[str, int]] = []
    with Capture(lambda text, offset: chunks.append((text, offset))) as taken:
        os.write(1, b"one\n")
        os.write(2, "zw\u00f6lf\n".encode())
        logging.getLogger("x").warning("three")
        subprocess.run([sys.executable, "-c", "print('four')"], check=True)
        tail = taken.tail()
    text = "".join(text for text, _ in chunks)
    assert [line for line in text.splitlines() if line != "three"] == ["one", "zw\u00f6lf", "four"]
    assert tail == text
    position = 0
    for chunk, offset in chunks:
        assert offset == position
        position += len(chunk)


def test_a_chunk_is_bounded_and_no_character_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "CHUNK_CHARACTERS", 5)
    chunks: list[str] = []
    with Capture(lambda text, offset: chunks.append(text)):
        os.write(1, ("\u00e4\u20ac" * 40).encode())
    assert max(map(len, chunks)) <= 5
    assert "".join(chunks) == "\u00e4\u20ac" * 40


def test_the_rest_of_a_long_log_is_dropped_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "LOG_CHARACTERS", 100)
    monkeypatch.setattr(capture, "CHUNK_CHARACTERS", 50)
    chunks: list[str] = []
    with Capture(lambda text, offset: chunks.append(text)) as taken:
        os.write(1, b"a" * 1000 + b"the end")
        assert taken.tail().endswith("the end")
    text = "".join(chunks)
    assert text.count("a" * 100) == 1 and "the end" not in text
    assert text.endswith("[the log is longer than 100 characters; the rest is dropped]\n")


def test_afterwards_everything_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    with Capture():
        os.write(1, b"inside")
    os.write(1, b"outside")
    assert capfd.readouterr().out == "outside"
    assert logging.getLogger().handlers == handlers
