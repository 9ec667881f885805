"""Works on the portions of a data set in Ray tasks, so that all machines of a cluster read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from tuner.errors import TunerError
from tuner_trainers.portions import Here, Tell

T = TypeVar("T")
R = TypeVar("R")

#: How often a portion is read again if the process that read it died.
_RETRIES = 3
#: Tasks at once: what each has found waits for its turn in the memory of one process.
_MOST_TASKS = 64


class RayWorkers:
    """As many tasks at once as Ray has CPUs. Used by one thread.

    The tasks ask for no CPU: the gangs that warm up meanwhile hold them, and are idle.
    """

    def __init__(self) -> None:
        cpus = int(ray.cluster_resources().get("CPU", 1.0))  # type: ignore[no-untyped-call]
        self._most = min(max(cpus, 1), _MOST_TASKS)

    def map(self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell) -> Iterator[R]:
        """See `tuner_trainers.portions.Workers`; what a task read is told when it has ended."""
        if len(items) < 2:
            yield from Here().map(work, items, tell)
            return
        run: Any = ray.remote(num_cpus=0, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_run)
        shared = ray.put(work)
        started = deque[Any]()
        try:
            for item in items:
                if len(started) == self._most:
                    yield _result(started.popleft(), tell)
                started.append(run.remote(shared, item))
            while started:
                yield _result(started.popleft(), tell)
        finally:
            for reference in started:
                ray.cancel(reference, force=True)


def _run(work: Callable[[T, Tell], R], item: T) -> tuple[R, int, int]:
    """The result, and how many rows and bytes were read for it."""
    rows = size = 0

    def tell(more_rows: int, more_bytes: int) -> None:
        nonlocal rows, size
        rows += more_rows
        size += more_bytes

    return work(item, tell), rows, size


def _result(reference: Any, tell: Tell) -> Any:
    try:
        result, rows, size = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, TunerError):
            raise error.cause from error
        raise
    tell(rows, size)
    return result
