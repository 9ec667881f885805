"""Settings: flags over variables over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.config import Settings, is_loopback, words
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


def test_rows_are_kept_in_the_data_directory_unless_another_disk_is_named(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).rows_dir == tmp_path / "cache"
    settings = Settings.read({"TUNER_CACHE_DIR": "/fast", "TUNER_MEMORY_GIB": "0.5"})
    assert (settings.rows_dir, settings.memory_gib) == (Path("/fast"), 0.5)
    with pytest.raises(InvalidArgumentError, match="TUNER_CACHE_GIB must be 0 or more"):
        Settings.read({"TUNER_CACHE_GIB": "-1"})


def test_a_child_process_gets_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.read(
        {}, data_dir=tmp_path, server_port=1, lease_seconds=2.5, token="x", insecure=True
    )
    assert settings.insecure
    assert Settings.read(settings.environment()) == settings


def test_secrets_are_not_shown() -> None:
    settings = Settings(token="tuner_secret", database_url="postgresql://me:secret@host/db")
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("text", ["0", "false", "No", ""])
def test_what_is_not_true_is_false(text: str) -> None:
    assert not Settings.read({"TUNER_INSECURE": text}).insecure


def test_lists_have_commas_or_lines_between() -> None:
    assert words(" /a, s3://b/c ,\n/d\n\n") == ("/a", "s3://b/c", "/d")


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.example.com", False),
        ("127.example.com", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TUNER_SERVER_PORT": "http"}, "TUNER_SERVER_PORT must be a whole number"),
        ({"TUNER_WEB_PORT": "70000"}, "TUNER_WEB_PORT must be 0 to 65535"),
        ({"TUNER_LEASE_SECONDS": "0"}, "1 to 86400"),
        ({"TUNER_AUDIT_DAYS": "-1"}, "TUNER_AUDIT_DAYS must be 0 to 36500"),
        ({"TUNER_LOG_LEVEL": "loud"}, "debug, info"),
        ({"TUNER_AUTH": "password"}, "TUNER_AUTH must be none or token"),
        ({"TUNER_INSECURE": "perhaps"}, "TUNER_INSECURE must be 1 or 0"),
        ({"TUNER_TLS_CERTIFICATE": "a"}, "both TUNER_TLS_CERTIFICATE and TUNER_TLS_KEY"),
        (
            {"TUNER_TLS_CLIENT_KEY": "a"},
            "both TUNER_TLS_CLIENT_CERTIFICATE and TUNER_TLS_CLIENT_KEY",
        ),
        ({"TUNER_TLS_CLIENT_CA": "a"}, "TUNER_TLS_CLIENT_CA needs TUNER_TLS_CERTIFICATE"),
    ],
)
def test_bad_values_name_their_variable(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Settings.read(environment)
