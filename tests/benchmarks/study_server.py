"""The study server beside Optuna's RDBStorage and gRPC proxy, on one PostgreSQL, in one run.

    python tests/benchmarks/study_server.py [--quick] [--json]
        [--only random tpe growth servers floor]

Clients suggest and complete trials as fast as they can; what is in the study before is not timed.
With --json, standard output is one JSON object with every figure, instead of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(
        sys.executable, [sys.executable, "-m", "tests.benchmarks.study_server", *sys.argv[1:]]
    )

from tests.benchmarks import floor, ours
from tests.benchmarks.bench import (
    SPACE,
    Contender,
    Place,
    cpu_seconds,
    family_cpu_seconds,
    machine_cpu_seconds,
    server,
)
from tests.benchmarks.crowd import Crowd, Done, Work, in_turn
from tuner_storage import EmbeddedPostgres

_ALGORITHMS = ("random", "tpe")
_PARTS = (*_ALGORITHMS, "growth", "servers", "floor")
_OURS, _TWO_CALLS, _RDB, _PROXY = "study server", "  in two calls", "RDBStorage", "gRPC proxy"
_CONTENDERS = {"ours": _OURS, "two_calls": _TWO_CALLS, "rdb": _RDB, "proxy": _PROXY}

#: Whatever is compared takes turns, so that a slow minute of the machine strikes all alike.
_ROUNDS = 3
_GROWTH_FROM = 100
_GROWTH_TURNS = 120
_GROWTH_SECONDS = 30.0
#: Up to here a machine is quiet.
_OTHERS_CPUS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure."""

    clients: int
    history: int
    seconds: float
    growth_history: int
    parts: Sequence[str]
    contenders: Sequence[str]


@dataclass(slots=True, kw_only=True)
class Report:
    """What was measured so far, by part."""

    algorithms: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    growth: dict[str, float] = field(default_factory=dict)
    servers: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Our pairs per second over RDBStorage's, and how much dearer a large study is.

        Also what two servers do over what one does.
        """
        found = {
            algorithm + suffix: measured[ours_]["pairs_per_s"] / measured[_RDB]["pairs_per_s"]
            for algorithm, measured in self.algorithms.items()
            for ours_, suffix in ((_OURS, ""), (_TWO_CALLS, "_two_calls"))
            if {ours_, _RDB} <= set(measured)
        }
        if self.growth:
            found["growth"] = self.growth["ratio"]
        if self.servers:
            found["servers"] = self.servers["ratio"]
        return found


class _Stand:
    """One contender's clients, and what they did in each round."""

    def __init__(self, crowd: Crowd, server_pid: int, postgres_pid: int) -> None:
        self._crowd = crowd
        self._pids = server_pid, postgres_pid
        self._rounds: list[Done] = []
        #: Of the server, of PostgreSQL, and of the machine as a whole.
        self._cpu_seconds = [0.0, 0.0, 0.0]

    def round(self, seconds: float) -> None:
        """Lets the clients work for a while."""
        before = self._cpu()
        self._rounds.append(self._crowd.run(seconds))
        spent = zip(self._cpu_seconds, before, self._cpu(), strict=True)
        self._cpu_seconds = [total + end - start for total, start, end in spent]

    def _cpu(self) -> tuple[float, ...]:
        server_pid, postgres_pid = self._pids
        return cpu_seconds(server_pid), family_cpu_seconds(postgres_pid), machine_cpu_seconds()

    def measured(self) -> dict[str, float]:
        """The figures of all rounds."""
        done, rates = in_turn(self._rounds), [one.rate for one in self._rounds]
        server, postgres, machine = self._cpu_seconds
        return {
            "pairs": len(done.turns),
            "pairs_per_s": done.rate,
            "slowest_round_pairs_per_s": min(rates),
            "fastest_round_pairs_per_s": max(rates),
            **_latencies(done),
            "server_cpu_s": server,
            "postgres_cpu_s": postgres,
            "clients_cpu_s": done.cpu_seconds,
            # What other programs took away, in CPUs.
            "others_cpus": max(0.0, machine - server - postgres - done.cpu_seconds) / done.seconds,
        }


def _latencies(done: Done) -> dict[str, float]:
    """Of suggesting and of completing, or of the exchange that is both."""
    calls = ("exchange",) if len(done.turns[0]) == 1 else ("suggest", "complete")
    return {
        f"{call}_p{percent}_ms": done.quantile(part, percent / 100)
        for part, call in enumerate(calls)
        for percent in (50, 99)
    }


class Benchmark:
    """A PostgreSQL server in a temporary folder, and what is measured on it."""

    def __init__(self, options: Options, folder: Path, postgres: EmbeddedPostgres) -> None:
        self._options = options
        self._folder = folder
        self._postgres = postgres
        self.report = Report()

    def run(self) -> None:
        """Measures the parts that were asked for."""
        options = self._options
        if "floor" in options.parts:
            self._floor()
        for algorithm in _ALGORITHMS:
            if algorithm in options.parts:
                self._algorithm(algorithm)
        if "growth" in options.parts:
            self._growth()
        if "servers" in options.parts:
            self._servers()

    def _place(self, name: str, algorithm: str, history: int) -> Place:
        """A fresh database, and a folder."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        folder = self._folder / name
        folder.mkdir()
        url = self._postgres.url.replace("/postgres?", f"/{name}?", 1)
        return Place(url=url, folder=folder, algorithm=algorithm, history=history)

    def _settle(self) -> None:
        """Lets no contender pay for what was written before."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    # --- pairs -----------------------------------------------------------------------------

    def _algorithm(self, algorithm: str) -> None:
        options, contenders = self._options, _contenders(self._options.contenders)
        with ExitStack() as stack:
            stands: dict[str, _Stand] = {}
            for key, contender in contenders.items():
                name = _CONTENDERS[key]
                _say(f"{algorithm}: {name}: {options.history:,} finished trials")
                place = self._place(f"{algorithm}_{key}", algorithm, options.history)
                bench = stack.enter_context(contender(place))
                crowd = stack.enter_context(Crowd(bench.work, options.clients))
                stands[name] = _Stand(crowd, bench.server_pid, self._postgres.pid)
            for number in range(_ROUNDS):
                for name, stand in stands.items():
                    _say(f"{algorithm}: {name}: round {number + 1} of {_ROUNDS}")
                    self._settle()
                    stand.round(options.seconds / _ROUNDS)
        measured = {name: stand.measured() for name, stand in stands.items()}
        self.report.algorithms[algorithm] = measured

    # --- growth ----------------------------------------------------------------------------

    def _growth(self) -> None:
        large, clients = self._options.growth_history, self._options.clients
        place = self._place("growth", "random", 0)
        with ours.running(place) as (address, _):
            _say(f"growth: {large:,} finished trials")
            ours.study(address, "large", "random", large)
            few, many = self._sizes(address, 1)
            found = {
                "small": _GROWTH_FROM,
                "large": large,
                "suggest_p50_ms_small": few,
                "suggest_p50_ms_large": many,
                "ratio": many / few,
            }
            few, many = self._sizes(address, clients)
            found |= {
                "clients": clients,
                "clients_suggest_p50_ms_small": few,
                "clients_suggest_p50_ms_large": many,
                "clients_ratio": many / few,
            }
        self.report.growth.update(found)

    def _sizes(self, address: str, clients: int) -> tuple[float, float]:
        """The median suggest of a small and of the large study, in milliseconds."""
        small, large = list[Done](), list[Done]()
        for number in range(_ROUNDS):
            _say(f"growth: {clients} at once, round {number + 1} of {_ROUNDS}")
            # What is measured makes a study grow, so that each round takes a new small one.
            name = f"small-{clients}-{number}"
            ours.study(address, name, "random", _GROWTH_FROM)
            self._settle()
            small.append(_some(ours.Pairs(address, name, one_call=False), clients))
            large.append(_some(ours.Pairs(address, "large", one_call=False), clients))
        return in_turn(small).quantile(0, 0.5), in_turn(large).quantile(0, 0.5)

    # --- several servers -------------------------------------------------------------------

    def _servers(self) -> None:
        """Two studies in the hands of one server, and of two on the same database.

        With TPE, as then the server is what a pair waits for, and not this machine as a whole.
        """
        options, rates = self._options, list[float]()
        for count in (1, 2):
            place = self._place(f"servers_{count}", "tpe", options.history)
            with ExitStack() as stack:
                addresses = [
                    stack.enter_context(ours.running(place, f"data{number}"))[0]
                    for number in range(count)
                ]
                studies = list[tuple[str, str]]()
                for number in range(2):
                    _say(f"servers: {count}: study {number + 1}: {options.history:,} trials")
                    # Whoever is asked to create a study owns it.
                    address, name = addresses[number % count], f"study-{number}"
                    ours.study(address, name, "tpe", options.history)
                    studies.append((address, name))
                self._settle()
                done = _timed(ours.Spread(tuple(studies)), options.clients, options.seconds)
                rates.append(done.rate)
        one, two = rates
        self.report.servers.update(
            one_pairs_per_s=one, two_pairs_per_s=two, ratio=two / one, history=options.history
        )

    # --- the floor -------------------------------------------------------------------------

    def _floor(self) -> None:
        clients, seconds = self._options.clients, min(self._options.seconds, 3.0)
        place, found = self._place("floor", "", 0), self.report.floor
        floor.make_table(place.url)
        for count in (1, clients):
            _say(f"floor: durable commits, {count} at once")
            done = _timed(floor.Commits(place.url), count, seconds)
            found[f"commit_p50_ms_{count}"] = done.quantile(0, 0.5)
            found[f"commits_per_s_{count}"] = done.rate
        with server("floor", place.folder, "-m", "tests.benchmarks.floor") as said:
            for count in (1, clients):
                _say(f"floor: empty calls, {count} at once")
                done = _timed(floor.Calls(str(said["address"])), count, seconds)
                found[f"call_p50_ms_{count}"] = done.quantile(0, 0.5)
                found[f"calls_per_s_{count}"] = done.rate


def _timed(work: Work, clients: int, seconds: float) -> Done:
    with Crowd(work, clients) as crowd:
        return crowd.run(seconds)


def _some(work: Work, clients: int) -> Done:
    """As many turns in all, whatever the number of clients: a study grows by them."""
    with Crowd(work, clients) as crowd:
        return crowd.run(_GROWTH_SECONDS, max(1, _GROWTH_TURNS // clients))


def _contenders(keys: Sequence[str]) -> Mapping[str, Contender]:
    found: dict[str, Contender] = {"ours": ours.contender, "two_calls": ours.in_two_calls}
    if {"rdb", "proxy"} & set(keys):
        # Optuna is heavy, and each client imports what this module does.
        from tests.benchmarks import rivals

        found |= {"rdb": rivals.rdb, "proxy": rivals.proxy}
    return {key: found[key] for key in keys}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- what is printed -----------------------------------------------------------------------


def as_json(options: Options, report: Report) -> str:
    """One object: the ratios, and all that they come from."""
    document: dict[str, Any] = {
        "ratios": report.ratios,
        "clients": options.clients,
        "parameters": len(SPACE),
        "history": options.history,
        "seconds": options.seconds,
        "cpus": os.cpu_count(),
        "algorithms": report.algorithms,
        "growth": report.growth,
        "servers": report.servers,
        "floor": report.floor,
    }
    return json.dumps(document, indent=2)


def as_text(options: Options, report: Report) -> str:
    """The same for people."""
    lines = [
        f"{options.clients} clients, {len(SPACE)} parameters, {options.history:,} finished trials "
        f"before, {options.seconds:g} s each; PostgreSQL with fsync, {os.cpu_count()} CPUs",
        "",
    ]
    for algorithm, measured in report.algorithms.items():
        lines += [*_pairs_table(algorithm, measured), ""]
    if report.growth:
        lines += [*_growth_table(report.growth), ""]
    if report.servers:
        one, two = report.servers["one_pairs_per_s"], report.servers["two_pairs_per_s"]
        lines += [f"tpe, two studies, pairs/s: one server {one:.1f}, two servers {two:.1f}", ""]
    if report.floor:
        lines += [*_floor_table(options.clients, report.floor), ""]
    if (others := _most_others(report)) > _OTHERS_CPUS:
        lines += [f"Other programs took up to {others:.1f} CPUs: measure again without them.", ""]
    for name, ratio in report.ratios.items():
        lines.append(f"ratio {name:<8} {ratio:8.2f}")
    return "\n".join(lines).rstrip()


def _most_others(report: Report) -> float:
    rows = [row for measured in report.algorithms.values() for row in measured.values()]
    return max((row["others_cpus"] for row in rows), default=0.0)


def _pairs_table(algorithm: str, measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [
        f"{'':<14}{'':>9}{'suggest, ms':>18}{'complete, ms':>18}{'CPU, ms per pair':>28}",
        f"{algorithm:<14}{'pairs/s':>9}{'p50':>9}{'p99':>9}{'p50':>9}{'p99':>9}"
        f"{'server':>10}{'database':>10}{'client':>8}",
    ]
    for name, row in measured.items():
        each = 1000 / max(row["pairs"], 1)
        server = f"{row['server_cpu_s'] * each:.2f}" if name != _RDB else "-"
        calls = ("exchange",) if "exchange_p50_ms" in row else ("suggest", "complete")
        quantiles = [row[f"{call}_p{percent}_ms"] for call in calls for percent in (50, 99)]
        # One call that is both stands between the two.
        latencies = "".join(f"{value:>9.2f}" for value in quantiles).center(36)
        lines.append(
            f"{name:<14}{row['pairs_per_s']:>9.1f}{latencies}"
            f"{server:>10}{row['postgres_cpu_s'] * each:>10.2f}{row['clients_cpu_s'] * each:>8.2f}"
        )
    return lines


def _growth_table(growth: Mapping[str, float]) -> list[str]:
    small, large, clients = (f"{growth[key]:,.0f}" for key in ("small", "large", "clients"))
    lines = [f"{'growth: suggest p50, ms':<32}{small:>9}{large:>9}{'ratio':>9}"]
    for who, key in (("1 client", ""), (f"{clients} clients", "clients_")):
        lines.append(
            f"{'  finished trials, ' + who:<32}{growth[key + 'suggest_p50_ms_small']:>9.2f}"
            f"{growth[key + 'suggest_p50_ms_large']:>9.2f}{growth[key + 'ratio']:>9.2f}"
        )
    return lines


def _floor_table(clients: int, found: Mapping[str, float]) -> list[str]:
    lines = [f"{'floor':<24}{'1 client, p50 ms':>18}{'per s':>9}{f'{clients} clients, per s':>20}"]
    for name, one, many in (
        ("one durable commit", "commit", "commits"),
        ("one empty call", "call", "calls"),
    ):
        lines.append(
            f"{'  ' + name:<24}{found[one + '_p50_ms_1']:>18.2f}{found[many + '_per_s_1']:>9.0f}"
            f"{found[f'{many}_per_s_{clients}']:>20.0f}"
        )
    return lines


# --- the command ---------------------------------------------------------------------------


def options_of(arguments: Sequence[str] | None = None) -> tuple[Options, bool]:
    """Reads the command line; also whether JSON is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--history", type=int, help="finished trials before: 1000")
    parser.add_argument("--seconds", type=float, help="how long each is measured: 10")
    parser.add_argument("--growth-history", type=int, help="the large study's trials: 20000")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="PART")
    parser.add_argument("--contenders", nargs="+", choices=_CONTENDERS, default=[*_CONTENDERS])
    parser.add_argument("--quick", action="store_true", help="small numbers, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    history, seconds, growth = (100, 2.0, 1000) if given.quick else (1000, 10.0, 20_000)
    options = Options(
        clients=given.clients,
        history=history if given.history is None else given.history,
        seconds=seconds if given.seconds is None else given.seconds,
        growth_history=growth if given.growth_history is None else given.growth_history,
        parts=given.only,
        contenders=given.contenders,
    )
    return options, given.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    options, wants_json = options_of(arguments)
    # Every process that was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tuner-bench-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder))
        benchmark = Benchmark(options, folder, postgres)
        benchmark.run()
        show = as_json if wants_json else as_text
        print(show(options, benchmark.report))
        return 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
