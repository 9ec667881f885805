"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tuner.runner import environment

# Ray reads it when it is first imported, by whichever test.
environment.prepare(os.environ, own_cluster=True)
# Tables do not depend on where the tests are run.
os.environ["COLUMNS"] = "200"
# How long an example takes is the machine's affair, not the test's.
settings.register_profile("tuner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tuner")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; a test that needs it skips without."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
