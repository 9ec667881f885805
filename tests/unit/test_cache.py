"""The cache of rows: made once by whoever needs it first, whole or not there, and bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tuner.errors import DataError
from tuner_trainers import table
from tuner_trainers.cache import Cache
from tuner_trainers.storage import Storage
from tuner_trainers.table import Table

SIZE = 1 << 20
_WAIT_SECONDS = 60.0

#: Says each time that it makes the entry, half of it at first.
_MAKER = """
import sys, time
from pathlib import Path
from tuner_trainers.cache import Cache
from tuner_trainers.storage import Storage

def make(folder):
    with open("made", "a") as made:
        made.write("x")
    (folder / "part").write_bytes(bytes(1000))
    yield 1000
    time.sleep(float(sys.argv[1]))
    (folder / "rest").write_bytes(bytes(1000))
    yield 1000

def load(folder):
    return [len((folder / name).read_bytes()) for name in ("part", "rest")]

print(Cache(Storage(cache_dir=Path("cache"))).get("key", make, load))
"""


def _cache(folder: Path, cache_bytes: int = 0) -> Cache:
    return Cache(Storage(cache_dir=folder / "cache", cache_bytes=cache_bytes))


def _make(folder: Path) -> Iterator[int]:
    (folder / "rows").write_bytes(bytes(SIZE))
    yield SIZE


def _load(folder: Path) -> int:
    size = (folder / "rows").stat().st_size
    if size != SIZE:
        raise ValueError(size)
    return size


def _never(folder: Path) -> Iterator[int]:
    raise AssertionError("it is there already")


def _start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _MAKER, str(seconds)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )


def _wait_for(path: Path) -> None:
    """Waits until a file is there, and has something in it."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)


def _names(cache: Cache) -> set[str]:
    return {entry.name for entry in cache.storage.folder.iterdir() if entry.is_dir()}


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    assert cache.get("a", _make, _load) == SIZE
    assert cache.get("a", _never, _load) == SIZE


def test_processes_that_need_the_same_entry_make_it_once(tmp_path: Path) -> None:
    processes = [_start(tmp_path, 0.3) for _ in range(4)]
    said = [process.communicate(timeout=_WAIT_SECONDS)[0].strip() for process in processes]
    assert said == ["[1000, 1000]"] * 4
    assert (tmp_path / "made").read_text() == "x"


def test_threads_that_need_the_same_entry_make_it_once(tmp_path: Path) -> None:
    cache, made = _cache(tmp_path), list[int]()
    together = threading.Barrier(4)

    def make(folder: Path) -> Iterator[int]:
        made.append(1)
        yield from _make(folder)

    def get(_: int) -> int:
        together.wait(timeout=_WAIT_SECONDS)
        return cache.get("a", make, _load)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(get, range(4))) == [SIZE] * 4
    assert made == [1]


def test_a_process_that_is_killed_leaves_no_entry(tmp_path: Path) -> None:
    process = _start(tmp_path, 600)
    _wait_for(tmp_path / "cache" / "key.partial" / "part")
    # One that waits for the same entry makes it as soon as the other is dead.
    waiting = _start(tmp_path, 0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=_WAIT_SECONDS)
    assert process.returncode == -signal.SIGKILL
    said, _ = waiting.communicate(timeout=_WAIT_SECONDS)
    assert said.strip() == "[1000, 1000]"
    assert _names(Cache(Storage(cache_dir=tmp_path / "cache"))) == {"key"}


def test_what_a_killed_process_left_makes_room_for_others(tmp_path: Path) -> None:
    process = _start(tmp_path, 600)
    left = tmp_path / "cache" / "key.partial"
    _wait_for(left / "part")
    process.kill()
    process.communicate(timeout=_WAIT_SECONDS)
    (left / "part").write_bytes(bytes(SIZE))
    cache = _cache(tmp_path, SIZE)
    cache.get("a", _make, _load)
    assert _names(cache) == {"a"}


def test_an_entry_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.get("a", _make, _load)
    os.truncate(tmp_path / "cache" / "a" / "rows", 10)
    assert cache.get("a", _make, _load) == SIZE


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Iterator[int]:
        yield from _make(folder)
        raise DataError("the source is damaged.")

    cache = _cache(tmp_path)
    with pytest.raises(DataError, match="damaged"):
        cache.get("a", fail, _load)
    assert not _names(cache)


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = _cache(tmp_path, 3 * SIZE + SIZE // 2)
    for key in ("a", "b", "c"):
        cache.get(key, _make, _load)
    cache.get("a", _never, _load)
    cache.get("d", _make, _load)
    assert _names(cache) == {"a", "c", "d"}
    assert not (tmp_path / "cache" / "b.lock").exists()


def test_an_entry_in_the_making_is_not_removed(tmp_path: Path) -> None:
    process = _start(tmp_path, 600)
    _wait_for(tmp_path / "cache" / "key.partial" / "part")
    try:
        with pytest.raises(DataError, match=r"in use.*TUNER_CACHE_GIB"):
            _cache(tmp_path, SIZE).get("a", _make, _load)
        _cache(tmp_path, SIZE + 1000).get("a", _make, _load)
    finally:
        process.kill()
        process.communicate(timeout=_WAIT_SECONDS)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="TUNER_CACHE_DIR"):
        _cache(tmp_path).get("a", _make, _load)


class TestTable:
    def _write(self, folder: Path) -> Table:
        batches = [
            ([1.0, np.nan], ["x", ""], ["x", "", "unused"]),
            ([3.0], ["y"], ["y", "x"]),
            ([4.0], ["x"], ["x"]),
        ]
        made = (
            (
                {
                    "a": np.asarray(numbers),
                    "b": pa.DictionaryArray.from_arrays(
                        pa.array([words.index(text) for text in texts], pa.int32()), words
                    ),
                },
                len(texts),
            )
            for numbers, texts, words in batches
        )
        assert sum(table.write(folder, made)) >= 4 * (8 + 4)
        return Table(folder)

    def test_gives_what_was_written(self, tmp_path: Path) -> None:
        written = self._write(tmp_path)
        assert written.rows == 4
        np.testing.assert_array_equal(written.columns["a"].values, [1.0, np.nan, 3.0, 4.0])
        assert written.columns["b"].values.tolist() == [0, 1, 2, 0]
        assert written.columns["b"].words.to_pylist() == ["x", "", "y"]
        assert written.columns["b"].take(np.array([3, 1, 0])).tolist() == ["x", "", "x"]

    def test_stays_readable_when_it_is_removed_and_released(self, tmp_path: Path) -> None:
        written = self._write(tmp_path)
        for file in tmp_path.iterdir():
            file.unlink()
        written.release()
        assert written.columns["a"].values[2] == 3.0
        assert written.columns["b"].take(np.array([2])).tolist() == ["y"]

    def test_that_is_not_whole_is_refused(self, tmp_path: Path) -> None:
        self._write(tmp_path)
        os.truncate(tmp_path / "0.values", 8)
        with pytest.raises(ValueError, match="8 bytes"):
            Table(tmp_path)
        (tmp_path / "table.json").unlink()
        with pytest.raises(OSError, match=r"table\.json"):
            Table(tmp_path)
