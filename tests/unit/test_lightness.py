"""The client starts fast because it loads little."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "ray", "psycopg", "optuna", "numpy", "pandas", "scipy", "pyarrow")


@pytest.mark.parametrize(
    "code",
    [
        "import tuner",
        "import tuner; tuner.connect, tuner.Client",
        "import tuner.client",
        "import tuner.study_file",
        "import tuner.cli.submit, tuner.cli.studies, tuner.cli.control, tuner.cli.logs",
        "import tuner.cli.check",
    ],
)
def test_what_a_script_imports_loads_nothing_heavy(code: str) -> None:
    loaded = _modules_after(code)
    assert not loaded & set(HEAVY)


def test_import_tuner_loads_not_even_grpc() -> None:
    assert not _modules_after("import tuner") & {"grpc", "google", "rich", "yaml"}


def test_the_study_server_starts_without_what_it_seldom_needs() -> None:
    assert not _modules_after("import tuner.service") & {"sklearn", "pandas", "tensorflow", "ray"}
    loaded = "import sys, tuner.service; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", loaded], timeout=60, check=True)


def test_the_help_page_loads_no_command() -> None:
    code = "from tuner.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not _modules_after(code) & {*HEAVY, "grpc", "fastapi", "uvicorn"}


def test_a_server_loads_no_tracing_that_nobody_asked_for() -> None:
    assert "opentelemetry" not in _modules_after("import tuner.service")


def _modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running `code`."""
    report = f"{code}\nimport sys; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())
