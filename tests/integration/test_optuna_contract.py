"""Optuna's own suites over our storage and sampler, and Optuna's tools over our studies."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from tuner.engine.mirror import Mirror


class TestMirrorIsAStorage(StorageTestCase):
    @pytest.fixture
    def storage(self) -> BaseStorage:
        return Mirror()
