"""The metric file of Cloud ML Engine's trainers, read while it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tuner_trainers.hypertune import MetricFile, Steps


def line(step: int, **metrics: float) -> str:
    """A record as the package cloudml-hypertune writes it."""
    told = {name: str(float(value)) for name, value in metrics.items()}
    fields = {"timestamp": 1.5, "trial": "3", "global_step": str(step), "checkpoint_path": ""}
    return json.dumps({**fields, **told}, sort_keys=True) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


def steps_of(records: Iterable[Mapping[str, object]]) -> list[object]:
    return [record["global_step"] for record in records]


def test_each_record_is_read_once_though_the_file_is_written_anew(path: Path) -> None:
    file, lines = MetricFile(path), list[str]()
    assert file.read() == []
    for step in range(1, 6):
        lines.append(line(step, auc=0.5))
        path.write_text("".join(lines[-3:]))
        assert steps_of(file.read()) == [str(step)]
    path.write_text("")
    assert file.read() == [], "caught between its two writes"
    path.write_text("".join(lines[-3:]) + line(6, auc=0.5))
    assert steps_of(file.read()) == ["6"]


def test_a_part_of_a_line_waits_for_its_rest(path: Path) -> None:
    file, whole = MetricFile(path), line(1, auc=0.5) + line(2, auc=0.75)
    for size in range(len(whole) + 1):
        path.write_text(whole[:size])
        found = steps_of(file.read())
        assert found == (
            ["1"] if size == whole.index("\n") + 1 else ["2"] if size == len(whole) else []
        )


def test_the_last_line_needs_no_end_once_nobody_writes(path: Path) -> None:
    file = MetricFile(path)
    path.write_text(line(1, auc=0.5) + line(2, auc=0.5).rstrip())
    assert steps_of(file.read()) == ["1"]
    assert steps_of(file.read(whole=True)) == ["2"]
    assert file.read(whole=True) == []


def test_what_is_no_record_is_passed_over(path: Path) -> None:
    path.write_text("\n[1]\nnonsense\n\xff\n" + line(1, auc=0.5), encoding="latin-1")
    assert steps_of(MetricFile(path).read()) == ["1"]


@pytest.mark.parametrize("bad", ["auc=0.5", "[0.5]", '{"auc": "high"}', '{"global_step": "3"}'])
def test_what_cannot_be_read_is_said_with_its_line(path: Path, bad: str) -> None:
    file = MetricFile(path)
    assert file.fault() == ""
    path.write_text(line(1, auc=0.5) + "\n")
    assert file.fault() == ""
    path.write_text(line(1, auc=0.5) + "\n" + bad + "\nand so on")
    said = file.fault()
    assert said.startswith(f"line 3 of {path} could not be read: it should be a JSON object")
    assert said.endswith(f"but is {bad!r}")


def test_of_a_long_file_the_end_is_read(path: Path) -> None:
    file = MetricFile(path)
    path.write_text("".join(line(step, auc=0.5) for step in range(1, 20_000)))
    found = steps_of(file.read())
    assert found[-1] == "19999" and 5_000 < len(found) < 19_999


def measured(wanted: Iterable[str], *lines: str) -> list[tuple[int, Mapping[str, float]]]:
    steps = Steps(wanted)
    return [*steps.add(map(json.loads, lines)), *steps.flush()]


def test_metrics_of_a_step_come_together() -> None:
    found = measured(["auc"], line(1, loss=3), line(1, auc=0.5), line(2, loss=2), line(2, auc=0.6))
    assert found == [(1, {"loss": 3, "auc": 0.5}), (2, {"loss": 2, "auc": 0.6})]


def test_a_metric_that_comes_late_joins_its_step() -> None:
    found = measured(["auc"], line(1, auc=0.5), line(1, loss=3))
    assert found == [(1, {"auc": 0.5}), (1, {"auc": 0.5, "loss": 3})]


def test_what_is_compared_by_nothing_waits_for_what_is() -> None:
    found = measured(["auc"], line(1, loss=3), line(2, loss=2), line(3, auc=0.5), line(4, loss=1))
    assert found == [(3, {"auc": 0.5}), (4, {"loss": 1})]


def test_reports_without_a_step_are_counted_by_metric() -> None:
    found = measured(
        ["auc", "loss"], line(0, auc=0.5), line(0, loss=3), line(0, auc=0.6), line(0, loss=2)
    )
    assert found == [(1, {"auc": 0.5, "loss": 3}), (2, {"auc": 0.6, "loss": 2})]


def test_values_may_be_numbers_or_none_at_all() -> None:
    record = {"global_step": 4, "auc": 0.5, "note": "hello", "flag": True, "loss": "nan"}
    ((step, metrics),) = measured(["auc"], json.dumps(record))
    assert step == 4 and metrics["auc"] == 0.5
    assert math.isnan(metrics["loss"]) and metrics.keys() == {"auc", "loss"}


def test_a_result_needs_all_metrics_at_one_step() -> None:
    steps = Steps(["auc", "latency"])
    list(steps.add(map(json.loads, [line(1, auc=0.5), line(2, latency=3)])))
    assert not steps.is_complete and steps.names == {"auc", "latency"}
    list(steps.add([json.loads(line(2, auc=0.5))]))
    assert steps.is_complete
