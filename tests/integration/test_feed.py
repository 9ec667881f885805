"""The feed: each row once in each epoch, the same order for a seed, whatever is held in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.integration import trials
from tuner.errors import DataError
from tuner.study import DataSource, Feature
from tuner.trainer_spaces import Task
from tuner_trainers import feed, golden, rows, statistics
from tuner_trainers.feed import Feed, Shape, Steps
from tuner_trainers.preprocessing import build_encoder, input_kinds
from tuner_trainers.rows import RawRows, Rows
from tuner_trainers.target import Target, target_of

COUNT = 1000

Batches = list[list[int]]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows whose only input, and whose label, is their number."""
    folder = tmp_path_factory.mktemp("numbered")
    lines = [f"{number},{number}" for number in range(COUNT)]
    (folder / "rows.csv").write_text("\n".join(["a,label", *lines]) + "\n")
    learned = statistics.scan(str(folder / "rows.csv"))
    feature = Feature(name="a", kind="numeric", columns=("a",), settings={"scaling": "none"})
    raw = rows.load(
        str(folder / "rows.csv"),
        {"a": "number"},
        ("label", "number"),
        (),
        trials.storage(folder),
    )
    target = Target(label="label", task=Task.REGRESSION)
    return rows.encode(raw, build_encoder((feature,), {}, learned), target)


@pytest.fixture(params=["one window", "many windows"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of one window, as of few rows, and of several, as of many."""
    if request.param == "many windows":
        monkeypatch.setattr(feed, "WINDOW_ROWS", 128)
        monkeypatch.setattr(feed, "BLOCK_ROWS", 16)
    monkeypatch.setattr(feed, "CALL_ROWS", 256)


def _shapes(workers: int, batch_size: int) -> list[Shape]:
    return [
        Shape(batch_size=batch_size, replicas=workers, local=(worker,))
        for worker in range(workers)
    ]


def _batches(given: Rows, epoch: int, shape: Shape, seed: int = 7, start: int = 0) -> Batches:
    """The numbers of the rows that a process takes in each step, without padding."""
    with Feed(given, seed).epoch(epoch, shape, start) as steps:
        return list(chain.from_iterable(_real(part, shape) for part in steps))


def _real(steps: Steps, shape: Shape) -> Iterator[list[int]]:
    replica = np.repeat(shape.local, shape.share)
    places = np.tile(np.arange(shape.share), len(shape.local)) * shape.replicas + replica
    numbers = steps.inputs["numbers"].numpy()[:, :, 0].astype(int)
    np.testing.assert_array_equal(steps.labels.numpy().astype(int), numbers)
    for step, count in zip(numbers, steps.counts.numpy(), strict=True):
        yield step[places < count].tolist()


def _rows(count: int, numbered: Rows) -> Rows:
    return numbered.take(np.arange(count))


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("count", "batch_size"), [(1000, 64), (997, 50), (10, 64), (1, 7)])
def test_every_row_is_seen_once_in_each_epoch(
    numbered: Rows, held: bool, workers: int, count: int, batch_size: int
) -> None:
    given = _rows(count, numbered)
    given = given.hold() if held else given
    parts = [_batches(given, 3, shape) for shape in _shapes(workers, batch_size)]
    assert len({len(part) for part in parts}) == 1
    for step in zip(*parts, strict=True):
        sizes = [len(rows) for rows in step]
        assert max(sizes) - min(sizes) <= 1
    seen = [row for part in parts for step in part for row in step]
    assert sorted(seen) == list(range(count))


@pytest.mark.usefixtures("windows")
def test_workers_take_the_batches_of_one_process(numbered: Rows) -> None:
    (alone,) = (_batches(numbered, 1, shape) for shape in _shapes(1, 50))
    for workers in (2, 3):
        parts = [_batches(numbered, 1, shape) for shape in _shapes(workers, 50)]
        for whole, *shares in zip(alone, *parts, strict=True):
            assert shares == [whole[rank::workers] for rank in range(workers)]


@pytest.mark.usefixtures("windows")
def test_a_process_with_several_replicas_takes_the_rows_of_each(numbered: Rows) -> None:
    both = _batches(numbered, 1, Shape(batch_size=48, replicas=4, local=(2, 3)))
    one, other = (
        _batches(numbered, 1, Shape(batch_size=48, replicas=4, local=(n,))) for n in (2, 3)
    )
    assert both == [a + b for a, b in zip(one, other, strict=True)]


@pytest.mark.usefixtures("windows")
def test_the_order_depends_on_the_seed_and_the_epoch_alone(numbered: Rows) -> None:
    (shape,) = _shapes(1, 64)
    first = _batches(numbered, 2, shape)
    assert _batches(numbered, 2, shape) == first
    assert _batches(numbered.hold(), 2, shape) == first
    assert _batches(numbered, 3, shape) != first
    assert _batches(numbered, 2, shape, seed=8) != first


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("start", [1, 3, 9, 15, 16])
def test_an_epoch_may_start_at_any_step(numbered: Rows, start: int) -> None:
    for shape in _shapes(2, 64):
        assert _batches(numbered, 2, shape, start=start) == _batches(numbered, 2, shape)[start:]


def test_the_order_of_few_rows_is_a_permutation_of_all() -> None:
    (window,) = feed.order(COUNT, 7, 1)
    expected = np.random.default_rng([7, 1]).permutation(COUNT)
    np.testing.assert_array_equal(window, expected)


def test_windows_hold_rows_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WINDOW_ROWS", 4096)
    monkeypatch.setattr(feed, "BLOCK_ROWS", 64)
    windows = list(feed.order(100_000, 7, 1))
    assert len(windows) == 25
    for window in windows[:-1]:
        # Of 64 blocks drawn at random, the mean place is half with a deviation of 0.036.
        assert abs(window.mean() / 100_000 - 0.5) < 0.15
        # Neighbours in the order are no neighbours on the disk.
        assert np.median(np.abs(np.diff(window))) > 10_000


def test_the_thread_ends_with_the_epoch(numbered: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CALL_ROWS", 64)
    (shape,) = _shapes(1, 1)
    with Feed(numbered, 7).epoch(1, shape) as steps:
        next(steps)
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_an_error_of_the_thread_is_raised(numbered: Rows) -> None:
    broken = Rows(
        raw=numbered.raw,
        places=numbered.places + 1,
        encoder=numbered.encoder,
        target=numbered.target,
    )
    (shape,) = _shapes(1, 50)
    with pytest.raises(IndexError), Feed(broken, 7).epoch(1, shape) as steps:
        list(steps)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[statistics.Statistics, RawRows]:
    """Rows with columns of every kind, some missing, some never seen by the statistics."""
    folder = tmp_path_factory.mktemp("mixed")
    header, *lines = trials.write_rows(folder / "plain.csv").read_text().splitlines()
    lines = [f"{line},{['A', 'B ', 'C', ''][row % 4]}" for row, line in enumerate(lines)]
    first = lines[0].split(",")
    strange = [",".join([*first[:2], city, *first[3:]]) for city in ("", " ?", "Wien", "Zürich ")]
    for name, some in (("known.csv", lines), ("strange.csv", lines + strange)):
        (folder / name).write_text("\n".join([f"{header},flat", *some]) + "\n")
    learned = statistics.scan(str(folder / "known.csv"), missing_values=("?",))
    kinds = {**input_kinds(trials.FEATURES, learned), "flat": "string"}
    raw = rows.load(
        str(folder / "strange.csv"), kinds, ("answer", "string"), ("?",), trials.storage(folder)
    )
    return learned, raw


@pytest.mark.parametrize("graph_rows", [1, 1 << 30])
@pytest.mark.parametrize(
    "features",
    [
        trials.FEATURES,
        *((feature,) for feature in trials.FEATURES),
        (
            Feature(name="h", kind="categorical", columns=("city",), settings={"hash_buckets": 5}),
            Feature(name="v", kind="categorical", columns=("city",), settings={"oov_buckets": 3}),
            Feature(name="n", kind="categorical", columns=("gain",)),
            Feature(name="x", kind="cross", columns=("city", "rooms"), settings={"buckets": 9}),
            Feature(name="y", kind="cross", columns=("city", "flat"), settings={"buckets": 9}),
            Feature(name="z", kind="cross", columns=("flat", "city", "city"), settings={}),
        ),
    ],
)
def test_rows_of_a_table_are_encoded_as_in_the_serving_graph(
    mixed: tuple[statistics.Statistics, RawRows],
    features: tuple[Feature, ...],
    graph_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "GRAPH_ROWS", graph_rows)
    learned, raw = mixed
    encoder = build_encoder(features, {}, learned, ("?",))
    places = np.random.default_rng(0).permutation(raw.count)
    whole = rows.encode(raw, encoder, Target(label="answer", task=Task.BINARY))
    found = whole.encoded(places)
    expected = encoder.encode(golden.tensors(raw.take(places, encoder.columns)))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        # In a graph, TensorFlow may multiply by what it would divide by.
        rounding = 1e-6 if raw.count >= graph_rows else 0.0
        np.testing.assert_allclose(found[name], tensor, rtol=rounding, atol=rounding)


def test_labels_are_those_of_the_target_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,label\n1,yes\n2,\n3,no\n4,yes\n")
    learned = statistics.scan(str(tmp_path / "rows.csv"))
    target = target_of(DataSource(train_uri="", label="label"), learned)
    feature = Feature(name="a", kind="numeric", columns=("a",))
    encoder = build_encoder((feature,), {}, learned)

    def load(name: str) -> Rows:
        raw = rows.load(
            str(tmp_path / name),
            {"a": "number"},
            ("label", "string"),
            (),
            trials.storage(tmp_path),
        )
        return rows.encode(raw, encoder, target)

    whole = load("rows.csv")
    np.testing.assert_array_equal(whole.labels(), [1, np.nan, 0, 1])
    assert whole.labelled().places.tolist() == [0, 2, 3]
    (tmp_path / "other.csv").write_text("a,label\n1,maybe\n")
    with pytest.raises(DataError, match="'maybe', which the training data has not"):
        load("other.csv").labelled()


def test_held_rows_are_the_streamed_ones(numbered: Rows) -> None:
    given = numbered.take(np.arange(5, 500))
    held = given.hold()
    for one, other in zip(given.chunks(), held.chunks(), strict=True):
        np.testing.assert_array_equal(one["numbers"], other["numbers"])
    assert tf.size(held.encoded(slice(None))["numbers"]) == held.count == 495
    assert held.take(np.arange(3)).places.tolist() == [5, 6, 7]
