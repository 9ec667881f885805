"""What is known of data is the same whoever reads its portions, and is not learned twice."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  # as what is sent to other processes is
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import DataError
from tuner_trainers import portions, relevance, statistics
from tuner_trainers.derived import Times, Values
from tuner_trainers.learning import Knowledge, Learner
from tuner_trainers.portions import Portion, Tell
from tuner_trainers.statistics import Statistics, Survey

T = TypeVar("T")
R = TypeVar("R")


class Elsewhere:
    """Works on the last item first, on copies, as other processes would; counts items."""

    def __init__(self) -> None:
        self.items = 0

    def map(self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell) -> Iterator[R]:
        self.items += sum(isinstance(item, Portion) for item in items)
        sent: list[tuple[Callable[[T, Tell], R], T]]
        sent = [pickle.loads(pickle.dumps((work, item))) for item in items]
        found = [do(item, tell) for do, item in reversed(sent)]
        return iter(pickle.loads(pickle.dumps(found[::-1])))


class Shelf:
    """Keeps knowledge in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def find(self, fingerprint: str) -> bytes | None:
        return self.kept.get(fingerprint)

    def keep(self, fingerprint: str, rows: int, content: bytes) -> None:
        self.kept[fingerprint] = content


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_LEAST_BYTES", 40_000)


@pytest.fixture
def folder(tmp_path: Path, small_portions: None) -> Path:
    """Parquet files, small ones and one with many row groups; many numbers differ."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, rows in (("a", 300), ("b", 200), ("c", 120_000), ("d", 300)):
        days = rng.integers(1, 28, rows)
        table = pa.table(
            {
                "x": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.1),
                "few": rng.integers(0, 9, rows),
                "town": pa.array([f"t{i}" for i in rng.integers(0, 40, rows)]),
                "day": pa.array([f"2013-04-{day:02}" for day in days]),
                "y": pa.array(np.where(days > 14, "late", "early")),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=10_000)
    return folder


def learner(shelf: Shelf | None = None) -> tuple[Learner, Elsewhere]:
    workers = Elsewhere()
    return Learner(workers=workers, shelf=shelf), workers


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 80))
def test_runs_cover_everything_in_order(sizes: list[int], most: int) -> None:
    runs = list(portions._runs(sizes, most))
    assert [place for run in runs for place in run] == list(range(len(sizes)))
    for run in runs:
        assert len(run) == 1 or sum(sizes[place] for place in run) <= most


class TestPortions:
    def test_large_files_are_cut_and_small_ones_put_together(self, folder: Path) -> None:
        cut = Survey.of(str(folder)).portions
        names = [[file.name for file in portion.source.files] for portion in cut]
        assert names[0] == ["a.parquet", "b.parquet"] and names[-1] == ["d.parquet"]
        groups = [group for portion in cut for group in portion.groups or ()]
        assert groups == list(range(12)) and len(cut) > 4

    def test_who_reads_them_makes_no_difference(self, folder: Path) -> None:
        here = statistics.scan(str(folder))
        workers = Elsewhere()
        elsewhere = statistics.scan(str(folder), workers=workers)
        assert workers.items == len(Survey.of(str(folder)).portions)
        assert here.to_json() == elsewhere.to_json()
        assert here.rows == 120_800 and not here.columns["x"].is_exact

    def test_what_portions_make_is_what_one_pass_makes(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cut = statistics.scan(str(folder))
        told = relevance.measure(Survey.of(str(folder)), cut, "y")
        monkeypatch.setattr(portions, "_LEAST_BYTES", 1 << 40)
        assert len(Survey.of(str(folder)).portions) == 1
        whole = statistics.scan(str(folder))
        for name, column in whole.columns.items():
            other = cut.columns[name]
            assert (column.count, column.missing) == (other.count, other.missing)
            assert (column.minimum, column.maximum) == (other.minimum, other.maximum)
            if column.is_exact:
                assert column.top == other.top and column.distinct == other.distinct
        key = Times("day").keys[0]
        assert whole.derived[key].top == cut.derived[key].top
        known = np.sort(pq.read_table(folder, columns=["x"])["x"].drop_null().to_numpy())
        for found in (whole, cut):
            ranks = np.searchsorted(known, found.columns["x"].quantiles(1000)) / len(known)
            assert np.abs(ranks - np.arange(1, 1000) / 1000).max() < 0.003
        again = relevance.measure(Survey.of(str(folder)), whole, "y")
        assert told == pytest.approx(again, abs=0.002)

    def test_progress_adds_up(self, folder: Path) -> None:
        seen: list[tuple[int, int, int]] = []
        statistics.scan(str(folder), progress=lambda *told: seen.append(told))
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert seen == sorted(seen) and seen[-1][0] == 120_800 and seen[-1][2] == size
        assert 0.9 * size < seen[-1][1] <= size

    def test_a_column_that_turns_to_text_in_a_later_file(
        self, tmp_path: Path, small_portions: None
    ) -> None:
        (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 15_000)
        (tmp_path / "b.csv").write_text("x,y\n" + "1,2\n" * 15_000 + "one,2\n")
        (tmp_path / "c.csv").write_text("x,y\n")
        workers = Elsewhere()
        found = statistics.scan(str(tmp_path), workers=workers)
        assert len(Survey.of(str(tmp_path)).portions) == 3 and workers.items == 6
        assert found.columns["x"].top == (("1", 30_000), ("one", 1))
        assert found.types == {"x": "string", "y": "number"} and found.rows == 30_001

    def test_files_with_nothing_but_headers(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="has a header but no rows"):
            statistics.scan(str(tmp_path))


class TestKeeping:
    def test_what_is_known_is_not_read_again(self, folder: Path) -> None:
        shelf = Shelf()
        first, workers = learner(shelf)
        learned = first.statistics(str(folder))
        told = first.relevance("y")
        passes = workers.items // len(Survey.of(str(folder)).portions)
        assert passes == 2 and not first.was_kept
        second, workers = learner(shelf)
        assert second.statistics(str(folder)).to_json() == learned.to_json()
        assert second.relevance("y") == told
        assert workers.items == 0 and second.was_kept

    def test_another_label_reads_for_what_tells_of_it_alone(self, folder: Path) -> None:
        shelf = Shelf()
        learner(shelf)[0].statistics(str(folder))
        other, workers = learner(shelf)
        other.statistics(str(folder))
        assert workers.items == 0
        fresh = Learner()
        fresh.statistics(str(folder))
        assert other.relevance("few") == fresh.relevance("few")
        assert workers.items > 0 and not other.was_kept

    def test_another_feature_reads_for_itself_alone(self, folder: Path) -> None:
        shelf, asked = Shelf(), [Values("x * few")]
        learner(shelf)[0].statistics(str(folder))
        plain = statistics.scan(str(folder))
        other, _ = learner(shelf)
        found = other.statistics(str(folder), derived=asked)
        fresh = statistics.scan(str(folder), derived=asked)
        assert found.to_json() == fresh.to_json()
        # Who asks for nothing sees nothing of it.
        third, workers = learner(shelf)
        assert third.statistics(str(folder)).to_json() == plain.to_json()
        assert workers.items == 0 and third.was_kept

    def test_how_the_data_is_read_is_part_of_it(self, folder: Path) -> None:
        shelf = Shelf()
        learner(shelf)[0].statistics(str(folder))
        other, workers = learner(shelf)
        assert other.statistics(str(folder), missing_values=["t1"]).columns["town"].missing > 0
        assert workers.items > 0

    def test_the_same_bytes_elsewhere_are_known(self, folder: Path, tmp_path: Path) -> None:
        shelf = Shelf()
        learned = learner(shelf)[0].statistics(str(folder))
        folder.rename(tmp_path / "moved")
        os.utime(tmp_path / "moved" / "a.parquet", (1, 1))
        other, workers = learner(shelf)
        assert other.statistics(str(tmp_path / "moved")).to_json() == learned.to_json()
        assert workers.items == 0 and other.was_kept

    def test_a_file_that_was_written_again_is_read_again(self, folder: Path) -> None:
        shelf = Shelf()
        learned = learner(shelf)[0].statistics(str(folder))
        file = folder / "a.parquet"
        table = pq.read_table(file)
        pq.write_table(table.set_column(1, "few", pa.array([7] * len(table))), file)
        other, workers = learner(shelf)
        found = other.statistics(str(folder))
        assert workers.items > 0 and not other.was_kept
        assert found.fingerprint != learned.fingerprint
        assert dict(found.columns["few"].top)["7"] > dict(learned.columns["few"].top)["7"]

    def test_files_that_change_while_they_are_read(self, folder: Path) -> None:
        class Meddling(Elsewhere):
            def map(
                self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell
            ) -> Iterator[R]:
                yield from super().map(work, items, tell)
                os.utime(folder / "a.parquet", (1, 1))

        shelf = Shelf()
        with pytest.raises(DataError, match="changed while it was read"):
            Learner(workers=Meddling(), shelf=shelf).statistics(str(folder))
        assert not shelf.kept

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"x",
            zlib.compress(b"[1]"),
            zlib.compress(b'{"statistics": "{}", "noticed": [], "relevance": {}}'),
            zlib.compress(b" " * (1 << 28)),
        ],
        ids=["empty", "noise", "list", "nothing", "bomb"],
    )
    def test_what_is_broken_is_learned_again(self, folder: Path, content: bytes) -> None:
        shelf = Shelf()
        learned = learner(shelf)[0].statistics(str(folder))
        with pytest.raises(DataError):
            Knowledge.unpack(content)
        shelf.kept[learned.fingerprint] = content
        other, workers = learner(shelf)
        assert other.statistics(str(folder)).to_json() == learned.to_json()
        assert workers.items > 0
        assert Knowledge.unpack(shelf.kept[learned.fingerprint]).statistics.rows == 120_800

    def test_what_is_known_of_other_columns_is_not_believed(self, folder: Path) -> None:
        shelf = Shelf()
        learned = learner(shelf)[0].statistics(str(folder))
        fewer = {name: learned.columns[name] for name in ("x", "y")}
        fake = Knowledge(statistics=replace(learned, columns=fewer))
        shelf.kept[learned.fingerprint] = fake.pack()
        assert learner(shelf)[0].statistics(str(folder)).to_json() == learned.to_json()

    def test_packing(self, folder: Path) -> None:
        known = Knowledge(
            statistics=statistics.scan(str(folder)),
            noticed=tuple(Times("day").keys),
            relevance={"y": {"x": 0.5}},
        )
        again = Knowledge.unpack(known.pack())
        assert again.statistics.to_json() == known.statistics.to_json()
        assert (again.noticed, again.relevance) == (known.noticed, known.relevance)


def test_rows_sorted_by_the_label_tell_as_much(tmp_path: Path) -> None:
    """What only looks at the first rows of such a file sees one label."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.normal(size=200_000))
    table = pa.table({"x": x, "noise": rng.normal(size=len(x)), "y": np.where(x > 1, "a", "b")})
    pq.write_table(table, tmp_path / "rows.parquet")
    told = relevance.measure(*_known(tmp_path / "rows.parquet"), "y")
    assert told["x"] > 0.9 and told["noise"] < 0.001


def test_a_label_with_one_value_is_told_of_by_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": ["a", ""]}), tmp_path / "rows.parquet")
    assert relevance.measure(*_known(tmp_path / "rows.parquet"), "y") == {}


def _known(path: Path) -> tuple[Survey, Statistics]:
    return Survey.of(str(path)), statistics.scan(str(path))
