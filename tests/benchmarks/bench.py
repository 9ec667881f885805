"""What the contenders share: the space, the result of a trial, and how their servers run."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.crowd import Work
from tuner.processes import Child, Command
from tuner.space import Categorical, Discrete, Domain, Float, Int, Value

STUDY = "benchmark"

SPACE: Mapping[str, Domain] = {
    "learning_rate": Float(1e-5, 1e-1, log=True),
    "weight_decay": Float(1e-6, 1e-2, log=True),
    "dropout": Float(0.0, 0.5),
    "layers": Int(1, 8),
    "units": Int(16, 512),
    "optimizer": Categorical(("sgd", "adam", "rmsprop")),
}

_START_SECONDS = 120.0
_LOG_CHARACTERS = 2000


def score(values: Mapping[str, Value]) -> float:
    """A result that depends on every parameter, so that a sampler has something to find."""
    return (
        -abs(math.log10(float(values["learning_rate"])) + 3)
        - abs(math.log10(float(values["weight_decay"])) + 4) / 2
        - abs(float(values["dropout"]) - 0.2)
        - abs(int(values["layers"]) - 3) / 8
        - abs(int(values["units"]) - 128) / 512
        - (values["optimizer"] != "adam") / 4
    )


def drawn(trials: int) -> list[Mapping[str, Value]]:
    """Points of the space, the same ones each time: every contender has the same past."""
    source = random.Random(0)
    return [{name: _drawn(d, source) for name, d in SPACE.items()} for _ in range(trials)]


def _drawn(domain: Domain, source: random.Random) -> Value:
    match domain:
        case Categorical():
            return source.choice(domain.choices)
        case Discrete():
            return source.choice(domain.values)
        case Int():
            return source.randint(domain.low, domain.high)
    if domain.log:
        return float(domain.low * (domain.high / domain.low) ** source.random())
    return source.uniform(domain.low, domain.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a contender works: a database of its own, and a folder for its files."""

    url: str
    folder: Path
    algorithm: str
    history: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A study with its history, ready for clients."""

    work: Work
    #: The process that clients call; 0 if they call the database themselves.
    server_pid: int = 0


Contender = Callable[[Place], AbstractContextManager[Bench]]


@contextmanager
def server(
    name: str,
    folder: Path,
    *args: str,
    environment: Mapping[str, str] | None = None,
    interpreter: str = "",
) -> Iterator[Mapping[str, Any]]:
    """Runs a Python, this one, with `args` beside; gives what it says when it is ready."""
    log = folder / f"{name.replace(' ', '-')}.log"
    child = Child(
        Command(
            name=name,
            args=(interpreter or sys.executable, *args),
            log=log,
            environment=environment or {},
        ),
    )
    try:
        child.start()
        yield child.wait_ready(time.monotonic() + _START_SECONDS)
    except Exception:
        # The log goes with the folder it lies in.
        print(log.read_text(errors="replace")[-_LOG_CHARACTERS:], file=sys.stderr)
        raise
    finally:
        child.stop()


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process; 0 where /proc does not say."""
    return sum(_times(pid)[:2])


def family_cpu_seconds(pid: int) -> float:
    """The CPU time of a process, of its children, and of those that have ended."""
    children = [child for child in _processes() if _fields(child)[1:2] == [str(pid)]]
    return sum(_times(pid)) + sum(map(cpu_seconds, children))


def machine_cpu_seconds() -> float:
    """The CPU time of everything that runs on the machine; 0 where /proc does not say."""
    try:
        ticks = Path("/proc/stat").read_text().split()[1:9]
    except OSError:
        return 0.0
    # The fourth and the fifth are idle and waiting for a disk.
    busy = sum(int(tick) for tick in ticks) - int(ticks[3]) - int(ticks[4])
    return busy / os.sysconf("SC_CLK_TCK")


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _times(pid: int) -> tuple[float, ...]:
    """User and system time, then those of the ended children."""
    return tuple(int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in _fields(pid)[11:15])


def _fields(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat: the state, the parent, and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
