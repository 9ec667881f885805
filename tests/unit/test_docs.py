"""The documentation lists every setting, command, feature setting, parameter and metric."""

from __future__ import annotations

from inspect import isfunction, signature

import pytest

from tests.conftest import REPOSITORY
from tuner.cli.lazy import COMMANDS
from tuner.client import Client, Study
from tuner.config import VARIABLES
from tuner.feature_kinds import KINDS
from tuner.trainer_spaces import METRICS, TRAINERS

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"


def _verbs(kind: type) -> list[str]:
    return [name for name, what in vars(kind).items() if isfunction(what) and name[0] != "_"]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("operations.md", [variable for variable, _ in VARIABLES.values()]),
        ("client.md", [f"tuner {name}" for group in COMMANDS.values() for name in group]),
        (
            "client.md",
            [f"{name}=" for name in list(signature(Client.create_study).parameters)[3:]],
        ),
        ("client.md", [name for kind in (Client, Study) for name in _verbs(kind)]),
        ("study-file.md", [*KINDS, *(s for kind in KINDS.values() for s in kind.settings)]),
        ("study-file.md", [name for trainer in TRAINERS.values() for name in trainer]),
        ("study-file.md", [name for metrics in METRICS.values() for name in metrics]),
    ],
)
def test_everything_is_documented(page: str, names: list[str]) -> None:
    text = (DOCS / page).read_text()
    assert [name for name in names if f"`{name}" not in text] == []


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 150
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []
