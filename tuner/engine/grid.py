"""Every point of a finite space by its rank, in a shuffled order that needs no memory."""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tuner.engine import domains, points
from tuner.space import Categorical, Discrete, Domain, Parameter, Space, Value


class Grid:
    """The points of a space, in an order that depends on the seed alone.

    The order is shuffled: whatever part of a grid there is time for is spread over all of it.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._roots = [_branch(parameter) for parameter in space.parameters]
        #: How many points there are; None if they cannot be counted.
        self.size = _product(self._roots)
        self._seed = seed
        self._rank = 0

    def point(self, rank: int) -> dict[str, Value]:
        """The point at `rank`, from 0, in the shuffled order."""
        index = shuffled(rank, self.size or 1, self._seed)
        return dict(_unrank_all(self._roots, index))

    def first_untried(self, tried: Collection[points.Key]) -> dict[str, Value] | None:
        """The first point not among `tried`, a set that only grows; None if none is left."""
        while self.size is not None and self._rank < self.size:
            point = self.point(self._rank)
            if points.key_of(point) not in tried:
                return point
            self._rank += 1
        return None


def shuffled(rank: int, size: int, seed: int) -> int:
    """The `rank`-th member of a random order of range(size): a Feistel cipher, walked in cycles.

    Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    index = rank
    while True:
        left, right = index >> half_bits, index & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(f"{seed}/{turn}/{right}", half_bits) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


def _mix(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.shake_256(text.encode()).digest(bits // 8 + 1), "big")


@dataclass(frozen=True, slots=True)
class _Branch:
    """A parameter with everything below it, as a range of points."""

    parameter: Parameter
    #: The indices of values with children, ascending, and the children's branches by index.
    special: tuple[int, ...]
    below: dict[int, list[_Branch]]
    #: How many values have no children; they come first. None if they cannot be counted.
    plain: int | None
    #: How many points there are in all; None if they cannot be counted.
    size: int | None


def _branch(parameter: Parameter) -> _Branch:
    special = tuple(_indices_with_children(parameter))
    below = {
        index: [
            _branch(child)
            for child in parameter.active_children(domains.nth(parameter.domain, index))
        ]
        for index in special
    }
    values = domains.count(parameter.domain)
    plain = None if values is None else values - len(special)
    sizes = [plain, *(_product(branches) for branches in below.values())]
    known = [size for size in sizes if size is not None]
    size = sum(known) if len(known) == len(sizes) else None
    return _Branch(parameter, special, below, plain, size)


def _indices_with_children(parameter: Parameter) -> list[int]:
    domain = parameter.domain
    if domains.count(domain) is None:
        return []
    if isinstance(domain, (Categorical, Discrete)):
        return [
            i for i in range(domains.count(domain) or 0) if _has_children(parameter, domain, i)
        ]
    # A range may be long; only the values that children name can have any.
    found: list[int] = []
    low, step = domain.low, domain.step or 1
    for value in {value for child in parameter.children for value in child.parent_values}:
        own = domains.canonical(domain, value)
        if own is not None and not isinstance(own, str):
            index = round((own - low) / step)
            if index not in found and _has_children(parameter, domain, index):
                insort(found, index)
    return found


def _has_children(parameter: Parameter, domain: Domain, index: int) -> bool:
    return any(True for _ in parameter.active_children(domains.nth(domain, index)))


def _product(branches: list[_Branch]) -> int | None:
    sizes = [branch.size for branch in branches]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _unrank_all(branches: list[_Branch], index: int) -> Iterator[tuple[str, Value]]:
    for branch in branches:
        index, own = divmod(index, branch.size or 1)
        yield from _unrank(branch, own)


def _unrank(branch: _Branch, index: int) -> Iterator[tuple[str, Value]]:
    name, domain = branch.parameter.name, branch.parameter.domain
    plain = branch.plain or 0
    if index < plain:
        for special in branch.special:
            index += special <= index
        yield name, domains.nth(domain, index)
        return
    index -= plain
    for special in branch.special:
        size = _product(branch.below[special]) or 1
        if index < size:
            yield name, domains.nth(domain, special)
            yield from _unrank_all(branch.below[special], index)
            return
        index -= size
