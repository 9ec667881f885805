"""Names of models, versions and aliases; conversions there and back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tuner import convert_model
from tuner.errors import InvalidArgumentError
from tuner.model import (
    Lineage,
    Model,
    ModelVersion,
    Published,
    VersionState,
    check_alias,
    check_model_id,
    check_version,
    parse_model_name,
    parse_reference,
    parse_version_name,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LINEAGE = Lineage(
    trial="studies/adult/trials/3",
    trainer="tabular",
    data_fingerprint="f1",
    code="ab" * 32,
    packages={"keras": "3.15.1", "tensorflow": "2.21.0"},
)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 129, "ü", "a\n"])
def test_names_that_are_no_models_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="model's name"):
        check_model_id(name)


@pytest.mark.parametrize("alias", ["", "Champion", "latest", "1st", "a b", "x" * 64, "a\n"])
def test_words_that_are_no_aliases_are_refused(alias: str) -> None:
    with pytest.raises(InvalidArgumentError, match="an alias is"):
        check_alias(alias)


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "", "²", "2147483648", "9" * 20])
def test_words_that_are_no_versions_are_refused(word: str) -> None:
    with pytest.raises(InvalidArgumentError, match="a number from 1"):
        check_version(word)


@pytest.mark.parametrize(
    ("reference", "parsed"),
    [
        ("adult", ("adult", "")),
        ("adult@champion", ("adult", "champion")),
        ("adult@3", ("adult", "3")),
        ("adult/3", ("adult", "3")),
        ("adult/latest", ("adult", "latest")),
        ("adult@007", ("adult", "7")),
    ],
)
def test_references_name_a_model_and_a_version(reference: str, parsed: tuple[str, str]) -> None:
    assert parse_reference(reference) == parsed


@pytest.mark.parametrize("reference", ["", "@x", "a@", "a/", "a/b/c", "a@b@c", "a/0", "a@É"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_reference(reference)


@pytest.mark.parametrize("name", ["models", "studies/a", "models/a/versions/1"])
def test_resource_names_are_read_strictly(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_model_name(name)
    with pytest.raises(InvalidArgumentError):
        parse_version_name(f"{name}/x")


def test_conversions_lead_there_and_back() -> None:
    model = Model(
        model_id="adult",
        description="who earns more",
        aliases={"champion": 1, "next": 2},
        keep_versions=5,
        labels={"team": "ads"},
        latest_version=2,
        version_count=3,
        creator="ann",
        create_time=NOW,
        update_time=NOW,
        etag="7",
    )
    assert convert_model.model_from_proto(convert_model.model_to_proto(model)) == model
    published = Published(
        uri="s3://b/adult/1",
        size_bytes=7,
        sha256="cd" * 32,
        lineage=LINEAGE,
        metrics={"auc": 0.9},
        card="# adult",
        report="fine",
    )
    message = convert_model.published_to_proto(published)
    assert convert_model.published_from_proto(message) == published
    for state in VersionState:
        version = ModelVersion(
            model_id="adult",
            version=1,
            state=state,
            lineage=LINEAGE,
            report="fine",
            metrics={"auc": 0.9},
            uri="/m/adult/1",
            size_bytes=7,
            sha256="cd" * 32,
            card="# adult",
            aliases=("champion",),
            publisher="box:1",
            expire_time=NOW if state is VersionState.PUBLISHING else None,
            publication_token="1.1",
            creator="ann",
            create_time=NOW,
            finish_time=None if state is VersionState.PUBLISHING else NOW,
        )
        assert convert_model.version_from_proto(convert_model.version_to_proto(version)) == version


def test_a_version_is_silent_until_somebody_publishes_it() -> None:
    asked = ModelVersion(model_id="m", version=1, state=VersionState.PUBLISHING, create_time=NOW)
    assert asked.is_silent(NOW)
    ready = ModelVersion(model_id="m", version=1, state=VersionState.READY, create_time=NOW)
    assert not ready.is_silent(NOW)
