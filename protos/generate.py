"""Generates tuner/v1 from the protos, with stubs; `--check` compares instead of writing."""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import google.api
import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent


def generate(root: Path) -> None:
    """Writes the generated modules below `root`."""
    includes = [
        str(PROTOS),
        str(Path(next(iter(google.api.__path__))).parents[1]),
        str(Path(grpc_tools.__file__).parent / "_proto"),
    ]
    paths = [f"-I{include}" for include in includes]
    files = sorted((PROTOS / "tuner/v1").glob("*.proto"))
    services = [f for f in files if f.stem.endswith("_service")]
    out = f"={root}"
    for arguments in (
        [f"--python_out{out}", f"--mypy_out=quiet:{root}", *map(str, files)],
        [f"--grpc_python_out{out}", f"--mypy_grpc_out=quiet:{root}", *map(str, services)],
    ):
        if protoc.main(["protoc", *paths, *arguments]) != 0:
            sys.exit(1)


def main() -> None:
    """Generates, or checks."""
    check = "--check" in sys.argv
    root = Path(sys.argv[-1]).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made = sorted((Path(scratch) / "tuner/v1").iterdir())
        stale = [
            f.name
            for f in made
            if not (root / "tuner/v1" / f.name).exists()
            or not filecmp.cmp(f, root / "tuner/v1" / f.name, shallow=False)
        ]
        if check and stale:
            sys.exit(f"stale: {', '.join(stale)}; run `make protos`")
        if not check:
            for file in made:
                shutil.copy(file, root / "tuner/v1" / file.name)


if __name__ == "__main__":
    main()
