"""Where trials leave what they leave."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.config import Settings
from tuner.errors import InvalidArgumentError
from tuner.runner.places import check_writable, folder_of, inside
from tuner.runner.runner import serve
from tuner.runner.worker import Assignment, Context
from tuner_trainers.context import Result


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


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "one")
    assert [*(tmp_path / "new" / "one").iterdir()] == []
    taken = tmp_path / "taken"
    taken.touch()
    for folder in (taken, taken / "below", Path("/proc/none")):
        with pytest.raises(InvalidArgumentError, match=rf"to {folder}: .* TUNER_ARTIFACTS name"):
            check_writable(folder)
    for name, settings in (
        ("TUNER_ARTIFACTS", Settings(data_dir=tmp_path / "data", artifacts=str(taken))),
        ("TUNER_MODELS", Settings(data_dir=tmp_path / "data", models=f"file://{taken}")),
    ):
        with pytest.raises(InvalidArgumentError, match=rf"to {taken}: File exists; .* {name}"):
            serve(settings, print)
    trial = Assignment(
        trial="studies/s/trials/0",
        lease_token="1.0.1",
        artifact_dir=str(taken / "1"),
        train=lambda context, strategy: Result(metrics={}, step=0, stopped=False),
    )
    with closing(Connection(Access.to("127.0.0.1:1"))) as connection:
        context = Context(trial, 0, 1, connection)
        with pytest.raises(InvalidArgumentError, match=rf"nothing can be written to {taken}/1"):
            context.prepare_artifacts()
