"""What a way to choose points is, and the randomness that it may use."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from tuner.engine.fit import Fit
from tuner.space import Value


class Policy(ABC):
    """Chooses points of one space.

    Proposing changes nothing that a later proposal depends on, so an engine built anew from the
    same history goes on as the old one would have.
    """

    #: Whether it ever takes a model that is worth a process of its own to fit.
    fits = False

    @abstractmethod
    def propose(self, number: int, attempt: int) -> Mapping[str, Value] | None:
        """The point for trial `number`, found in a few milliseconds; None if there is none left.

        A later `attempt`, from 1, is made where the point before was one already tried.
        """

    def fit(self, number: int, pending: Sequence[Mapping[str, Value]] = ()) -> Fit | None:
        """What finds a better point, but takes longer; None where `propose` is all there is.

        Args:
            number: The trial's.
            pending: Points that trials not created yet are going to have.
        """
        return None

    @property
    def takes_fit(self) -> bool:
        """Whether `fit` gives something now."""
        return False

    @property
    def fits_soon(self) -> bool:
        """Whether it gives something, or will after another result or two."""
        return False

    @property
    @abstractmethod
    def in_use(self) -> str:
        """What it does at present, and why, for people."""


def uniforms(count: int, seed: int, *purpose: int) -> list[float]:
    """Independent numbers from [0, 1), other ones for each purpose, the same in every process.

    A hash of a counter is random enough for any use (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", SC 2011), and costs a tenth of seeding one of NumPy's generators.
    """
    found = list[float]()
    for block in range(0, count, 8):
        words = struct.pack(f"<{2 + len(purpose)}q", _signed(seed), *purpose, block)
        digest = hashlib.blake2b(words, digest_size=64).digest()
        found += [(word >> 11) * 2.0**-53 for word in struct.unpack("<8Q", digest)]
    return found[:count]


def _signed(seed: int) -> int:
    return (seed & 0xFFFF_FFFF_FFFF_FFFF) - 2**63


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Randomness of its own for each purpose, the same in every process."""
    return np.random.default_rng([seed & 0xFFFF_FFFF_FFFF_FFFF, *purpose])
