"""Keeps trials of one process apart: what one changes, the next one finds as it was."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from tuner.runner import offspring

#: How long threads that a trial left may take to end.
_THREAD_SECONDS = 1.0
_TICK_SECONDS = 0.02

Restore = Callable[[], object]


class Isolation:
    """Undoes what a trial did to the state of its process. Used by one thread.

    Undone are changes of environment variables, of the working directory, of where modules are
    looked for, of the random generators of Python and NumPy, and of the settings of Keras and
    TensorFlow; processes that it left are ended. What cannot be undone is told in `leftovers`.
    """

    def __init__(self) -> None:
        #: What is left of the trial in the process; empty if nothing is.
        self.leftovers = ""
        self._restores: list[Restore] = []
        self._threads: set[threading.Thread] = set()
        self._children: set[int] = set()

    def __enter__(self) -> Self:
        self._threads = set(threading.enumerate())
        self._children = offspring.children()
        self._restores = [_environment(), _folder(), _path(), _randomness(), *_frameworks()]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        offspring.end(offspring.children() - self._children)
        for restore in self._restores:
            restore()
        if left := self._left():
            names = ", ".join(sorted(repr(thread.name) for thread in left))
            self.leftovers = f"threads that its last trial left behind: {names}"

    def _left(self) -> list[threading.Thread]:
        """Threads that the trial started, once they had time to end.

        Those that Python did not start are not the trial's but those of libraries.
        """
        deadline = time.monotonic() + _THREAD_SECONDS
        while True:
            left = [
                thread
                for thread in threading.enumerate()
                if thread not in self._threads and not isinstance(thread, threading._DummyThread)
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(_TICK_SECONDS)


def _environment() -> Restore:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return restore


def _folder() -> Restore:
    # Ray's workers may stand in a folder that is gone; it is held open, not named.
    descriptor = os.open(".", os.O_RDONLY)

    def restore() -> None:
        os.fchdir(descriptor)
        os.close(descriptor)

    return restore


def _path() -> Restore:
    before = list(sys.path)

    def restore() -> None:
        sys.path[:] = before

    return restore


def _randomness() -> Restore:
    python, numpy = random.getstate(), np.random.get_state()

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)

    return restore


def _frameworks() -> list[Restore]:
    if "tensorflow" not in sys.modules:  # a worker that runs programs
        return []
    import keras  # heavy, and only workers have it
    import tensorflow as tf

    settings: list[tuple[Callable[[Any], object], Any]] = [
        (keras.config.set_floatx, keras.config.floatx()),
        (keras.config.set_epsilon, keras.config.epsilon()),
        (keras.config.set_image_data_format, keras.config.image_data_format()),
        (keras.config.set_dtype_policy, keras.config.dtype_policy()),
        (tf.config.run_functions_eagerly, tf.config.functions_run_eagerly()),
        (tf.config.set_soft_device_placement, tf.config.get_soft_device_placement()),
    ]
    # It cannot be read; so every trial starts with the same one.
    tf.random.set_seed(0)

    def restore() -> None:
        # First: it forgets the settings, too. Collecting garbage is the trainer's affair.
        keras.backend.clear_session(free_memory=False)
        for change, before in settings:
            change(before)

    return [restore]
