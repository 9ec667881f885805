"""The commands that look at data: `statistics`, `check` with data, `predict`'s output."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_cli import run
from tuner.cli import models

ROWS = "age,town,income\n" + "".join(
    f"{20 + i % 40},{['Rome', 'Oslo', ''][i % 3]},{['low', 'high'][i % 2]}\n" for i in range(120)
)
STUDY = """\
study: people
metric: {name: val_auc}
data: {train: people.csv, label: income}
trainer: tabular
"""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(ROWS)
    return path


def test_statistics_shows_a_line_for_each_column(
    capsys: pytest.CaptureFixture[str], people: Path
) -> None:
    code, out, err = run(capsys, "statistics", str(people))
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["age"][:6] == ["age", "number", "40", "20", "39.50", "59"]
    assert rows["town"][:4] == ["town", "string", "33.3%", "2"]
    assert "Oslo 50%, Rome 50%" in out
    assert out.splitlines()[-1] == "120 rows · 3 columns"


def test_statistics_as_json(capsys: pytest.CaptureFixture[str], people: Path) -> None:
    code, out, _ = run(capsys, "statistics", str(people), "--json", "--type", "age=string")
    document = json.loads(out)
    assert (code, document["rows"]) == (0, 120)
    age, town, _ = document["columns"]
    assert (age["name"], age["kind"], age["mean"]) == ("age", "string", None)
    assert town["top"] == [{"value": "Oslo", "count": 40}, {"value": "Rome", "count": 40}]


@pytest.mark.parametrize("width", ["80", "100"])
def test_statistics_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, people: Path, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    _, out, _ = run(capsys, "statistics", str(people))
    assert all(len(line) <= int(width) for line in out.splitlines())
    assert "39.50" in out


def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "statistics", str(tmp_path / "none.csv"))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "does not exist" in err
    code, _, err = run(capsys, "statistics", "x.csv", "--type", "age")
    assert (code, err) == (
        2,
        "error: a type is COLUMN=number or COLUMN=string, but got 'age'.\n",
    )


def test_check_reads_the_data_and_shows_what_it_proposes(
    capsys: pytest.CaptureFixture[str], people: Path
) -> None:
    file = people.with_name("study.yaml")
    file.write_text(STUDY)
    code, out, err = run(capsys, "check", str(file))
    assert code == 0, err
    assert "age" in out and "town" in out and "learning_rate" in out
    assert out.splitlines()[-1].startswith("ok: people: binary · 120 rows · 2 features · ")


def test_check_finds_what_the_data_does_not_have(
    capsys: pytest.CaptureFixture[str], people: Path
) -> None:
    file = people.with_name("study.yaml")
    file.write_text(STUDY.replace("label: income", "label: wealth"))
    code, out, err = run(capsys, "check", str(file))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {file}: ")
    assert "wealth" in err and err.endswith("; --no-data checks the file alone.\n")
    assert run(capsys, "check", str(file), "--no-data")[0] == 0


def test_predictions_are_written_with_the_digits_they_have() -> None:
    predicted = {
        "income": np.asarray(["low", "high"], object),
        "probability(low)": np.asarray([0.1, 1 / 3], np.float32),
    }
    text = io.StringIO()
    models._write_csv(text, predicted, models._rows(predicted))
    assert text.getvalue() == "income,probability(low)\nlow,0.1\nhigh,0.33333334\n"
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [np.float32(row["probability(low)"]) for row in read] == [
        np.float32(0.1),
        np.float32(1 / 3),
    ]


def test_a_models_newest_version_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("2", "10", "9"):
        (tmp_path / version).mkdir()
    assert models._version(tmp_path) == tmp_path / "10"
    assert models._version(tmp_path / "2") == tmp_path / "2"
    code, _, err = run(capsys, "predict", str(tmp_path / "3"), "--input", "rows.csv")
    assert code == 2 and "is no folder, and no endpoint's name" in err
