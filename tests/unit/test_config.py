"""Settings: flags over variables over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.config import Settings
from tuner.errors import InvalidArgumentError


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environment = {"TUNER_SERVER_PORT": "9000", "TUNER_WEB_PORT": "9001", "TUNER_HOST": ""}
    settings = Settings.read(environment, web_port=0)
    assert (settings.server_port, settings.web_port, settings.host) == (9000, 0, "127.0.0.1")
    assert settings.server_address == "127.0.0.1:9000"


def test_the_data_directory_is_absolute_and_holds_the_artifacts(tmp_path: Path) -> None:
    settings = Settings.read({"TUNER_DATA_DIR": "here"})
    assert settings.data_dir == Path.cwd() / "here"
    assert settings.artifacts_dir == settings.data_dir / "artifacts"


def test_a_child_process_gets_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.read({}, data_dir=tmp_path, server_port=1, lease_seconds=2.5)
    assert Settings.read(settings.environment()) == settings


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TUNER_SERVER_PORT": "http"}, "TUNER_SERVER_PORT must be a whole number"),
        ({"TUNER_WEB_PORT": "70000"}, "TUNER_WEB_PORT must be 0 to 65535"),
        ({"TUNER_LEASE_SECONDS": "0"}, "1 to 86400"),
        ({"TUNER_LOG_LEVEL": "loud"}, "debug, info"),
    ],
)
def test_bad_values_name_their_variable(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        Settings.read(environment)
