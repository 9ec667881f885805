"""Training beside what one would write by hand with Keras, in one run.

    python tests/benchmarks/training.py PART [--quick] [--json]

Each subcommand is a module beside this one. With --json, standard output is one JSON object with
every figure, instead of a table; its `ratios` are ours over the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

if not __package__:
    # Run by its path: once more as a module, so that it and its children find `tests`.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.training", *sys.argv[1:]])

from tests.benchmarks.report import Report

#: The subcommands, each a module of this name with a function `measure`.
PARTS: Mapping[str, str] = {
    "start_up": "from a trial's assignment to its first step, beside Ray Train",
    "study": "12 short trials, beside a plain Keras loop and Ray Tune",
    "throughput": "examples per second of one worker, with the rows in memory",
    "scaling": "one trial under each strategy on one worker and on several: losses and speed",
    "streaming": "the same with ten times the rows that the allowed memory holds",
    "statistics": "one pass over all columns, beside DuckDB's SUMMARIZE",
    "pictures": "examples per second of the image trainer, with the images decoded once",
}


class Part(Protocol):
    """The module of a subcommand."""

    def measure(self, folder: Path, quick: bool) -> Report:
        """Measures, with its files in an empty folder."""
        ...


def main() -> None:
    """Runs one subcommand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parsers = parser.add_subparsers(dest="part", required=True)
    for name, text in PARTS.items():
        sub = parsers.add_parser(name, help=text)
        sub.add_argument("--quick", action="store_true", help="less data, for a first look")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument("--folder", type=Path, help="where to put the files; TMPDIR by default")
    options = parser.parse_args()
    # A module called `statistics` would hide Python's own from whoever is run beside it.
    module = {"statistics": "statistics_pass"}.get(options.part, options.part)
    part: Part = import_module(f"tests.benchmarks.{module}")
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-", dir=options.folder) as folder:
        report = part.measure(Path(folder), options.quick)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text())


if __name__ == "__main__":
    main()
