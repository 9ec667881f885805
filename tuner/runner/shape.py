"""What a gang is made of: its processes, what each takes of a machine, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.study import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one process of a gang, all of it on one machine."""

    #: What it is called in messages.
    name: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the gangs of a study are made of; gangs of one shape can stand in for each other."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    #: How they train together. The processes of a program find that out by themselves.
    strategy: Strategy = Strategy.SINGLE
    #: Of the strategy of that name; each takes what a worker does, but for GPUs.
    parameter_servers: int = 0
    #: Whether the workers have TensorFlow imported; a program brings its own.
    tensorflow: bool = True

    @property
    def seats(self) -> Sequence[Seat]:
        """The place of each process, by rank."""
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        if self.strategy is Strategy.MIRRORED:
            return [Seat(name="worker 0", cpus=self.workers * cpus, gpus=self.workers * gpus)]
        workers = [Seat(name=f"worker {n}", cpus=cpus, gpus=gpus) for n in range(self.workers)]
        if self.strategy is not Strategy.PARAMETER_SERVER:
            return workers
        servers = [
            Seat(name=f"parameter server {n}", cpus=cpus) for n in range(self.parameter_servers)
        ]
        return [Seat(name="the coordinator", cpus=cpus), *workers, *servers]

    @property
    def trainers(self) -> int:
        """How many of the processes, the first ones, run a trainer; the others obey the first."""
        return 1 if self.strategy is Strategy.PARAMETER_SERVER else len(self.seats)

    @property
    def replicas(self) -> int:
        """How many devices train together."""
        if self.strategy is Strategy.SINGLE:
            return 1
        return self.workers * max(1, int(self.gpus_per_worker))

    @property
    def cpus(self) -> float:
        """The CPUs of a whole gang."""
        return sum(seat.cpus for seat in self.seats)

    @property
    def gpus(self) -> float:
        """The GPUs of a whole gang."""
        return sum(seat.gpus for seat in self.seats)

    def __str__(self) -> str:
        gpus = f" and {self.gpus_per_worker:g} GPUs" if self.gpus_per_worker else ""
        workers = f"{self.workers} workers of {self.cpus_per_worker:g} CPUs{gpus}"
        if self.strategy is Strategy.MIRRORED:
            return f"{workers} in one process"
        if self.strategy is Strategy.PARAMETER_SERVER:
            servers = f"{self.parameter_servers} parameter servers"
            return f"{workers}, {servers} and a coordinator of {self.cpus_per_worker:g} CPUs each"
        return workers
