"""What a trial prints, taken at the level of file descriptors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tuner.runner import capture
from tuner.runner.capture import Capture


@pytest.fixture(autouse=True)
def real_descriptors(capfd: pytest.CaptureFixture[str]) -> None:
    """Descriptors 1 and 2 are pytest's to begin with."""


class Ear:
    """Listens; the first `deaf` times it does not take what it hears."""

    def __init__(self, deaf: int = 0) -> None:
        self.chunks: list[str] = []
        self._deaf = deaf

    def __call__(self, text: str, offset: int) -> bool:
        assert offset == len(self.text)
        self._deaf -= 1
        if self._deaf < 0:
            self.chunks.append(text)
        return self._deaf < 0

    @property
    def text(self) -> str:
        return "".join(self.chunks)


def test_prints_logs_and_children_reach_the_listener_in_order() -> None:
    ear = Ear()
    with Capture(ear) as taken:
        os.write(1, b"one\n")
        os.write(2, "zw\u00f6lf\n".encode())
        logging.getLogger("x").warning("three")
        subprocess.run([sys.executable, "-c", "print('four')"], check=True)
        tail = taken.tail()
    lines = [line for line in ear.text.splitlines() if line != "three"]
    assert lines == ["one", "zw\u00f6lf", "four"]
    assert tail == ear.text


def test_a_chunk_is_bounded_and_no_character_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "CHUNK_CHARACTERS", 5)
    ear = Ear()
    with Capture(ear):
        os.write(1, ("\u00e4\u20ac" * 40).encode())
    assert max(map(len, ear.chunks)) <= 5
    assert ear.text == "\u00e4\u20ac" * 40


def test_what_was_not_taken_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FLUSH_SECONDS", 0.01)
    ear = Ear(deaf=3)
    with Capture(ear):
        for word in ("one", "two", "three"):
            os.write(1, word.encode())
        for _ in range(500):
            if ear.text == "onetwothree":
                break
            time.sleep(0.01)
    assert ear.text == "onetwothree"


def test_the_rest_of_a_long_log_is_dropped_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "LOG_CHARACTERS", 100)
    monkeypatch.setattr(capture, "CHUNK_CHARACTERS", 50)
    ear = Ear()
    with Capture(ear) as taken:
        os.write(1, b"a" * 1000 + b"the end")
        assert taken.tail().endswith("the end")
    assert ear.text.count("a" * 100) == 1 and "the end" not in ear.text
    assert ear.text.endswith("[the log is longer than 100 characters; the rest is dropped]\n")


def test_afterwards_everything_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    with Capture():
        os.write(1, b"inside")
    os.write(1, b"outside")
    assert capfd.readouterr().out == "outside"
    assert logging.getLogger().handlers == handlers


def test_the_last_words_of_the_dead_are_told_once_and_swept_away() -> None:
    said = "import os; from tuner.runner.capture import Capture as C; C().__enter__()"
    pids = []
    for word in ("help", "me"):
        died = f"{said}; os.write(1, b'{word}'); os._exit(1)"
        with subprocess.Popen([sys.executable, "-c", died]) as process:
            process.wait(30)
        pids.append(process.pid)
    capture.sweep()
    assert [capture.last_words(pids[0]) for _ in range(2)] == ["help", ""]
    (left,) = Path(tempfile.gettempdir()).glob(f"tuner-trial-{pids[1]}-*")
    os.utime(left, (0, 0))
    with Capture():
        capture.sweep()
        assert not left.exists()
        assert [*Path(tempfile.gettempdir()).glob(f"tuner-trial-{os.getpid()}-*")]
    assert not [*Path(tempfile.gettempdir()).glob(f"tuner-trial-{os.getpid()}-*")]
