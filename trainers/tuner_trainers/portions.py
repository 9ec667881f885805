"""Cuts a data set into portions, each of which any process can read apart from the others.

The cut depends on the data alone. What is learned of portions is put together in their order, so
it is the same to the last bit, however many processes work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, TypeVar

from tuner_trainers import readers
from tuner_trainers.folders import Folder
from tuner_trainers.sources import Source
from tuner_trainers.stores import File

T = TypeVar("T")
R = TypeVar("R")

#: Is told rows and bytes that were read since the last time.
Tell = Callable[[int, int], None]

#: The least bytes of a portion: what takes longer than sending it to a process.
_LEAST_BYTES = 16 << 20
#: About so many portions at most: each takes a moment to be added to what is known.
_MOST_PORTIONS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Some files of a data set, or some row groups of one."""

    source: Source
    #: Where what the rows name by a path lies: the folder of the whole data set.
    folder: Folder
    #: Row groups of the only file; None: all that the files hold.
    groups: range | None = None

    @staticmethod
    def all(source: Source) -> Portion:
        """The whole data set."""
        return Portion(source=source, folder=Folder(source))


class Workers(Protocol):
    """Where portions are worked on."""

    def map(self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell) -> Iterator[R]:
        """Yields the results in the order of the items; few are held at a time.

        Args:
            work: makes the result of an item, and may tell of its progress. It can be pickled,
                and run again if the process that ran it died.
            items: what to work on.
            tell: is told of the progress, in the thread of the caller.
        """
        ...


class Here:
    """This process, one item after the other."""

    def map(self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell) -> Iterator[R]:
        """See Workers."""
        return (work(item, tell) for item in items)


def portions(source: Source) -> tuple[Portion, ...]:
    """Cuts a data set: small files together, large Parquet files between row groups.

    Raises:
        DataError: a file cannot be read.
    """
    size = _least(source)
    folder = Folder(source)
    found: list[Portion] = []
    is_cut = source.format == "parquet"
    for is_large, run in groupby(source.files, lambda file: is_cut and file.size_bytes >= size):
        files = tuple(run)
        if is_large:
            for file in files:
                found += _parts(replace(source, files=(file,)), folder, size)
        else:
            cuts = _runs([file.size_bytes for file in files], size)
            found += (
                Portion(source=replace(source, files=files[cut.start : cut.stop]), folder=folder)
                for cut in cuts
            )
    return tuple(found)


def together(source: Source) -> tuple[tuple[File, ...], ...]:
    """Puts small files together, so that each task has enough to do."""
    sizes = [file.size_bytes for file in source.files]
    return tuple(source.files[run.start : run.stop] for run in _runs(sizes, _least(source)))


def _least(source: Source) -> int:
    return max(_LEAST_BYTES, source.size_bytes // _MOST_PORTIONS)


def _parts(source: Source, folder: Folder, size: int) -> Iterator[Portion]:
    (file,) = source.files
    for groups in _runs(_group_sizes(file), size):
        yield Portion(source=source, folder=folder, groups=groups)


def _group_sizes(file: File) -> Sequence[int]:
    with file.store.explained(file.path):
        return readers.row_groups(file)


def _runs(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Cuts neighbours into runs, each as long as it stays below `most`, but never empty."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield range(start, place)
            start, total = place, 0
        total += size
    yield range(start, len(sizes))
