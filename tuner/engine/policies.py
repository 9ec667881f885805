"""The ways to choose the next point, each from the history, the seed and the number alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuner.engine import gp, points
from tuner.engine.encoding import Encoding
from tuner.engine.evolution import CmaEsPolicy, NsgaPolicy
from tuner.engine.fit import Fit
from tuner.engine.grid import Grid
from tuner.engine.history import History
from tuner.engine.policy import Policy, generator, uniforms
from tuner.engine.tpe import Model, Outcomes, Tree
from tuner.space import Space, Value
from tuner.study import StudySpec

# Beyond this a Gaussian process costs more than it finds.
_MOST_MODELLED = 250


class RandomPolicy(Policy):
    """Points at random, uniform on each parameter's scale."""

    in_use = "random"

    def __init__(self, space: Space, seed: int) -> None:
        self._cube = points.UnitCube(space)
        self._seed = seed

    def propose(self, number: int, attempt: int) -> Mapping[str, Value]:
        """A random point."""
        return self._cube.point(uniforms(self._cube.sides, self._seed, number, attempt))


class GridPolicy(Policy):
    """Every point of a finite space once."""

    def __init__(self, grid: Grid, history: History) -> None:
        self._grid = grid
        self._history = history

    @property
    def in_use(self) -> str:
        """How many points there are."""
        return f"grid ({self._grid.size} points in shuffled order)"

    def propose(self, number: int, attempt: int) -> Mapping[str, Value] | None:
        """The first point not tried yet."""
        return self._grid.first_untried(self._history.tried)


class SobolPolicy(Policy):
    """Points of a scrambled Sobol sequence: random, but evenly spread."""

    in_use = "qmc (scrambled Sobol)"
    _BLOCK = 64

    def __init__(self, space: Space, seed: int) -> None:
        self._cube = points.UnitCube(space)
        self._random = RandomPolicy(space, seed)
        self._seed = seed
        self._block: tuple[int, list[list[float]]] | None = None

    def propose(self, number: int, attempt: int) -> Mapping[str, Value]:
        """Point `number` of the sequence; at later attempts a random one."""
        if attempt or not self._cube.sides:
            return self._random.propose(number, attempt)
        block, row = divmod(number, self._BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, self._draw(block))
        return self._cube.point(self._block[1][row])

    def _draw(self, block: int) -> list[list[float]]:
        from scipy.stats import qmc  # half a second of a server's start

        sobol = qmc.Sobol(self._cube.sides, scramble=True, rng=generator(self._seed))
        if block:
            sobol.fast_forward(block * self._BLOCK)
        drawn: list[list[float]] = sobol.random(self._BLOCK).tolist()
        return drawn


class TpePolicy(Policy):
    """Tree-structured Parzen estimators, multivariate, running trials taken as bad ones.

    With several metrics the good trials are those of the first fronts; those beyond a constraint
    are bad ones. What it learned is kept from one proposal to the next, and only read: the same
    is learned from the history at any time.
    """

    def __init__(self, space: Space, seed: int, history: History, *, startup: int = 10) -> None:
        self._encoding = Encoding(space)
        self._random = RandomPolicy(space, seed)
        self._seed = seed
        self._history = history
        self._startup = startup
        self._tree = Tree(space)
        self._outcomes = Outcomes(history.directions)
        self._model = Model(self._outcomes)
        self._read = 0
        for row, trial in enumerate(history.warm_start.trials):
            self._outcomes.put(row, trial)

    def propose(self, number: int, attempt: int) -> Mapping[str, Value]:
        """A point at random, and from enough trials on one that the model draws."""
        if self._history.informative < self._startup:
            return self._random.propose(number, attempt)
        self._catch_up()
        randomness = generator(self._seed, number, attempt)
        drawn = self._tree.draw(
            lambda block: self._model.draw(block, randomness), self._tree.choices
        )
        return self._encoding.point(drawn)

    def _catch_up(self) -> None:
        earlier = len(self._history.warm_start.trials)
        for number in self._history.changes[self._read :]:
            self._outcomes.put(earlier + number, self._history.trial(number))
        self._read = len(self._history.changes)

    @property
    def in_use(self) -> str:
        """What it started from."""
        earlier = self._history.warm_start.summary
        return f"tpe ({earlier})" if earlier else "tpe"


class GpPolicy(Policy):
    """Gaussian processes: where the expected improvement is largest, given all that is known.

    Spread points come first. Several metrics, constraints, and running, stopped and failed trials
    are part of the model. Where there is no time to fit it, TPE takes its place.
    """

    fits = True

    def __init__(
        self, space: Space, seed: int, history: History, substitute: TpePolicy | None = None
    ) -> None:
        self._encoding = Encoding(space)
        self._cube = gp.cube_of(space)
        self._start = SobolPolicy(space, seed)
        self._substitute = substitute or TpePolicy(space, seed, history, startup=1)
        self._startup = startup_of(space)
        self._seed = seed
        self._history = history

    @property
    def in_use(self) -> str:
        """Whether it has started, and what from."""
        start = "" if self._is_ready else f"after {self._startup} spread points"
        notes = ", ".join(filter(None, (start, self._history.warm_start.summary)))
        return f"gp ({notes})" if notes else "gp"

    def propose(self, number: int, attempt: int) -> Mapping[str, Value]:
        """A spread point, or once there is something to learn from, one that TPE draws."""
        policy = self._substitute if self.takes_fit else self._start
        return policy.propose(number, attempt)

    def fit(self, number: int, pending: Sequence[Mapping[str, Value]] = ()) -> Fit | None:
        """The point that the model thinks most of, once there is something to learn from."""
        if not self.takes_fit:
            return None
        encoded = [self._encoding.encode(point) for point in pending]
        problem = gp.problem_of(
            self._cube,
            self._history.known,
            self._history.directions,
            (self._seed & 0xFFFF_FFFF_FFFF_FFFF, number),
            coming=encoded,
        )
        tried = [self._history.tried, {points.key_of(point) for point in pending}]
        return Fit(problem=problem, encoding=self._encoding, tried=tried)

    @property
    def takes_fit(self) -> bool:
        """Whether there is something to learn, and to learn from."""
        return self._is_ready and bool(self._cube.axes)

    @property
    def fits_soon(self) -> bool:
        """Whether there will be after another result or two."""
        return self._history.informative >= self._startup - 2 and bool(self._cube.axes)

    @property
    def _is_ready(self) -> bool:
        return self._history.informative >= self._startup


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What `auto` does until enough trials have ended with a value."""

    policy: Policy
    until: float
    reason: str = field(default="")


class AutoPolicy(Policy):
    """The centre of the space, then spread points, then a model of what was seen.

    Stages follow each other by the number of trials that ended with a value, so failed trials
    do not bring the model on too early, and results of earlier studies bring it on sooner. With
    such results the first point is the best of theirs, seen again here.
    """

    fits = True

    def __init__(self, space: Space, seed: int, history: History) -> None:
        startup = startup_of(space)
        tpe = TpePolicy(space, seed, history, startup=1)
        self._space = space
        self._history = history
        self._stages = (
            Stage(
                policy=SobolPolicy(space, seed),
                until=startup,
                reason=f"spread points until {startup} trials have ended with a value",
            ),
            Stage(policy=GpPolicy(space, seed, history, tpe), until=_MOST_MODELLED),
            Stage(policy=tpe, until=float("inf")),
        )

    @property
    def in_use(self) -> str:
        """The stage, and why."""
        stage, warm = self._stage(), self._history.warm_start
        ended = self._history.informative - len(warm.trials)
        reason = stage.reason or f"{ended} trials have ended with a value"
        earlier = f"; {warm.summary}" if warm.summary else ""
        return f"{stage.policy.in_use.split()[0]} (auto: {reason}{earlier})"

    def propose(self, number: int, attempt: int) -> Mapping[str, Value] | None:
        """The best earlier point or the centre first; later what the stage proposes."""
        if number == 0 and attempt == 0:
            return self._history.warm_start.best or points.centre(self._space)
        return self._stage().policy.propose(number, attempt)

    def fit(self, number: int, pending: Sequence[Mapping[str, Value]] = ()) -> Fit | None:
        """What the stage's model takes; the first point of all takes none."""
        return self._stage().policy.fit(number, pending) if self.takes_fit else None

    @property
    def takes_fit(self) -> bool:
        """Whether the stage's model takes a fit."""
        return len(self._history) > 0 and self._stage().policy.takes_fit

    @property
    def fits_soon(self) -> bool:
        """Whether it does, or the next one's will after another result or two."""
        return self._stages[1].policy.fits_soon and self._stage() is not self._stages[-1]

    def _stage(self) -> Stage:
        # What was learned elsewhere brings the model on, but is no reason to leave it.
        known = self._history.informative
        own = known - len(self._history.warm_start.trials)
        counts = (known, own, own)
        return next(s for s, count in zip(self._stages, counts, strict=True) if count < s.until)


def startup_of(space: Space) -> int:
    """How many trials are spread before a model is worth fitting: one a parameter, 5 to 16."""
    return min(max(5, sum(1 for _ in space.walk())), 16)


#: The algorithms by their names in a study file.
ALGORITHMS = ("auto", "random", "grid", "qmc", "tpe", "gp", "cma-es", "nsga-ii")


def policy_of(spec: StudySpec, grid: Grid, history: History) -> Policy:
    """The policy that the study asks for."""
    space, seed = spec.space, spec.search.seed
    match spec.search.algorithm:
        case "random":
            return RandomPolicy(space, seed)
        case "grid":
            return GridPolicy(grid, history)
        case "qmc":
            return SobolPolicy(space, seed)
        case "tpe":
            return TpePolicy(space, seed, history)
        case "gp":
            return GpPolicy(space, seed, history)
        case "cma-es":
            return CmaEsPolicy(space, seed, history)
        case "nsga-ii":
            return NsgaPolicy(space, seed, history, SobolPolicy(space, seed))
        case _:
            return AutoPolicy(space, seed, history)
