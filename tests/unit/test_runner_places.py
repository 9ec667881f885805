"""Where trials leave what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.runner.places import folder_of, inside


def test_what_a_trial_left_is_found(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "study", 3)
    left = folder / "1" / "checkpoints" / "7"
    left.mkdir(parents=True)
    assert inside(folder, str(left)) == left
    assert inside(folder, f"file://{left}") == left


@pytest.mark.parametrize(
    "place",
    [
        "/etc",
        "{folder}/../4/1",
        "{folder}x/1",
        "1/checkpoints",
        "",
        "gs://bucket/x",
        "{folder}/\0",
    ],
)
def test_what_is_elsewhere_is_not(tmp_path: Path, place: str) -> None:
    folder = folder_of(tmp_path, "study", 3)
    assert inside(folder, place.format(folder=folder)) is None


def test_links_do_not_lead_out_and_the_folder_may_be_behind_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "real")
    folder = folder_of(tmp_path / "artifacts", "study", 3)
    (folder / "1").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    assert inside(folder, str(folder / "1")) == folder / "1"
    assert inside(folder, str(folder / "out" / "secret")) is None
