"""Where data may lie and how it may be written: object stores, TFRecord files, compression."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.integration import object_store, trials
from tests.integration.object_store import ObjectStore
from tuner.errors import DataError
from tuner.study import DataSource, Metric, StudySpec
from tuner_trainers import data, prepare, rows, statistics, stores

CSV = "a,b\n1,x\n2,y\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An object store, and the variables with which it is used."""
    (tmp_path / "buckets" / "bucket").mkdir(parents=True)
    (tmp_path / "buckets" / object_store.FORBIDDEN_BUCKET).mkdir()
    with object_store.running(tmp_path / "buckets") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def _put(store: ObjectStore, key: str, content: str | bytes) -> str:
    path = store.folder / "bucket" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"s3://bucket/{key}"


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    compressed: bytes = sink.getvalue().to_pybytes()
    return compressed


class TestObjectStore:
    def test_files_directories_and_patterns(self, store: ObjectStore) -> None:
        _put(store, "in/1.csv", "a,b\n1,x\n")
        _put(store, "in/2.csv", "a,b\n2,y\n")
        _put(store, "in/_SUCCESS", "")
        _put(store, "in/deep/er/3.csv", "a,b\n3,z\n")
        for key, values in (
            ("in/2.csv", [2]),
            ("in", [1, 2]),
            ("in/", [1, 2]),
            ("in/*.csv", [1, 2]),
            ("in/[13].csv", [1]),
            ("in/?.csv", [1, 2]),
            ("in/**/*.csv", [1, 2, 3]),
            ("*/deep/*/*.csv", [3]),
        ):
            assert data.read(f"s3://bucket/{key}")["a"].tolist() == values, key

    def test_every_format(self, store: ObjectStore, tmp_path: Path) -> None:
        table = pa.table({"a": [1.0, 2.0], "b": ["x", "y"]})
        pq.write_table(table, store.folder / "bucket" / "rows.parquet")
        _put(store, "rows.csv.gz", gzip.compress(CSV.encode()))
        _put(store, "rows.csv.zst", _zstd(CSV.encode()))
        _write_examples(tmp_path / "rows", [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}])
        records = (tmp_path / "rows").read_bytes()
        _put(store, "rows.tfrecord", records)
        _put(store, "rows.tfrecord.zst", _zstd(records))
        names = ("rows.parquet", "rows.csv.gz", "rows.csv.zst", "rows.tfrecord")
        for name in (*names, "rows.tfrecord.zst"):
            columns = data.read(f"s3://bucket/{name}")
            assert columns["a"].tolist() == [1, 2], name
            assert columns["b"].tolist() == ["x", "y"], name

    def test_paths_name_objects_beside_the_data(self, store: ObjectStore) -> None:
        _put(store, "in/images/a.png", b"\x89PNG")
        uri = _put(store, "in/a.csv", "a,b\nimages/a.png,1\ns3://bucket/in/images/a.png,2\n")
        assert data.read(uri, types={"a": "bytes"})["a"].tolist() == [b"\x89PNG"] * 2
        for path in ("../b.png", "s3://bucket/b.png", "s3://other/in/a.png", "/etc/passwd"):
            _put(store, "in/a.csv", f"a,b\n{path},1\n")
            with pytest.raises(DataError, match="is not below s3://bucket/in"):
                data.read(uri, types={"a": "bytes"})

    def test_is_the_same_data_as_a_local_copy(self, store: ObjectStore) -> None:
        uri = _put(store, "rows.csv", CSV)
        assert data.fingerprint(uri) == data.fingerprint(str(store.folder / "bucket/rows.csv"))

    def test_rows_are_read_again_when_the_object_changed(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        uri = _put(store, "rows.csv", "a,b\n1,x\n")

        def count() -> int:
            storage = trials.storage(tmp_path)
            return rows.load(uri, {"a": "number"}, ("b", "string"), (), storage).count

        assert count() == 1
        _put(store, "rows.csv", CSV)
        assert count() == 2
        (store.folder / "bucket/rows.csv").unlink()
        with pytest.raises(DataError, match="does not exist"):
            count()

    def test_a_study_is_prepared_from_it(self, store: ObjectStore) -> None:
        trials.write_rows(store.folder / "bucket" / "train.csv")
        source = DataSource(train_uri="s3://bucket/train.csv", label="answer")
        spec = StudySpec(metrics=(Metric(name="val_auc"),), trainer="tabular", data=source)
        prepared = prepare.prepare(spec)
        assert prepared.statistics.rows == 600

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("s3://bucket/none.csv", "does not exist"),
            ("s3://bucket/*.csv", "no file matches"),
            ("s3://nothing/rows.csv", "no bucket 'nothing'.*AWS_ENDPOINT_URL"),
            ("s3://nothing/*.csv", "no bucket 'nothing'"),
            ("s3://secret/rows.csv", "no permission.*s3:GetObject"),
            ("s3://", "names no bucket"),
        ],
    )
    def test_refused(self, store: ObjectStore, uri: str, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            data.read(uri)
        assert "\n" not in caught.value.message

    def test_without_credentials_they_are_asked_for(
        self, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = _put(store, "rows.csv", CSV)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(DataError, match="no credentials; set AWS_ACCESS_KEY_ID"):
            data.read(uri)

    def test_that_is_down_is_named(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(DataError, match=r"cannot be reached.*AWS_ENDPOINT_URL"):
            data.read("s3://bucket/rows.csv")


def _write_examples(
    path: Path, examples: list[Mapping[str, object]], compression: str = ""
) -> Path:
    """Writes examples; a value may be a number, text, bytes, or a list of such."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for example in examples:
            features = {name: _feature(value) for name, value in example.items()}
            message = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(message.SerializeToString())
    return path


def _feature(value: object) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if not values:
        return tf.train.Feature()
    if all(isinstance(v, int) for v in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    if all(isinstance(v, float) for v in values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


class TestTfRecord:
    def test_features_are_columns_and_may_be_missing(self, tmp_path: Path) -> None:
        path = _write_examples(
            tmp_path / "rows.tfrecord",
            [{"a": 1, "b": 0.5, "c": "Zürich"}, {"c": " x "}, {"a": 3, "b": []}, {}],
        )
        columns = data.read(str(path))
        np.testing.assert_array_equal(columns["a"], [1, np.nan, 3, np.nan])
        np.testing.assert_array_equal(columns["b"], [0.5, np.nan, np.nan, np.nan])
        assert columns["c"].tolist() == ["Zürich", "x", "", ""]

    def test_a_feature_that_only_another_file_has(self, tmp_path: Path) -> None:
        _write_examples(tmp_path / "1.tfrecord", [{"a": 1}])
        _write_examples(tmp_path / "2.tfrecord", [{"b": "x"}])
        columns = data.read(str(tmp_path))
        np.testing.assert_array_equal(columns["a"], [1, np.nan])
        assert columns["b"].tolist() == ["", "x"]

    @pytest.mark.parametrize("name", ["rows.tfrecord.gz", "rows.tfrecords.zst"])
    def test_compressed(self, tmp_path: Path, name: str) -> None:
        if name.endswith(".gz"):
            _write_examples(tmp_path / name, [{"a": 1}, {"a": 2}], "GZIP")
        else:
            plain = _write_examples(tmp_path / "plain", [{"a": 1}, {"a": 2}])
            (tmp_path / name).write_bytes(_zstd(plain.read_bytes()))
        assert data.read(str(tmp_path / name))["a"].tolist() == [1, 2]

    def test_many_rows_are_those_of_parquet(self, tmp_path: Path) -> None:
        count = 40_000
        random = np.random.default_rng(0)
        numbers = random.normal(size=count).astype(np.float32).astype(float)
        words = random.choice(["x", "y", "z"], count)
        _write_examples(
            tmp_path / "rows.tfrecord",
            [{"a": n, "b": w} for n, w in zip(numbers.tolist(), words.tolist(), strict=True)],
        )
        pq.write_table(pa.table({"a": numbers, "b": words}), tmp_path / "rows.parquet")
        ours, other = (
            statistics.scan(str(tmp_path / name)) for name in ("rows.tfrecord", "rows.parquet")
        )
        assert ours.rows == other.rows == count
        assert ours.columns["b"].top == other.columns["b"].top
        assert ours.columns["a"].moments.mean == pytest.approx(other.columns["a"].moments.mean)

    def test_several_values_are_no_column_and_bytes_are(self, tmp_path: Path) -> None:
        path = _write_examples(
            tmp_path / "rows.tfrecord", [{"a": 1, "list": [1, 2], "image": b"\xff\xd8"}]
        )
        assert list(data.read(str(path))) == ["a", "image"]
        assert data.read(str(path))["image"].tolist() == [b"\xff\xd8"]
        with pytest.raises(DataError, match="'list' holds list"):
            data.read(str(path), columns=["list"])

    def test_several_values_further_down_are_named(self, tmp_path: Path) -> None:
        examples: list[Mapping[str, object]] = [{"a": 1}] * 1500
        path = _write_examples(tmp_path / "rows.tfrecord", [*examples, {"a": [1, 2]}])
        with pytest.raises(DataError, match="'a' has 2 values in row 1500"):
            data.read(str(path))

    @pytest.mark.parametrize(
        ("examples", "message"),
        [
            ([{"a": 1}, {"a": "x"}], "'a' is int64 in one example and string in another"),
            ([{}], "no example with a feature"),
            ([{"a": 1}] * 1500 + [{"a": "x"}], "not like the first ones"),
        ],
    )
    def test_refused(
        self, tmp_path: Path, examples: list[Mapping[str, object]], message: str
    ) -> None:
        path = _write_examples(tmp_path / "rows.tfrecord", examples)
        with pytest.raises(DataError, match=message):
            data.read(str(path))

    def test_damaged_and_cut_files_are_refused(self, tmp_path: Path) -> None:
        path = _write_examples(tmp_path / "rows.tfrecord", [{"a": float(i)} for i in range(2000)])
        content = path.read_bytes()
        path.write_bytes(content[:-3])
        with pytest.raises(DataError, match="damaged"):
            data.read(str(path))
        flipped = bytearray(content)
        flipped[-10] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DataError, match="damaged"):
            data.read(str(path))
        path.write_bytes(b"no records at all, but long enough for a header")
        with pytest.raises(DataError, match="no whole TFRecord file"):
            data.read(str(path))


class TestCache:
    def test_what_cannot_be_read_is_not_kept(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("a,b\n1,x\nz,y\n")
        with pytest.raises(DataError, match="holds 'z'"):
            self._load(tmp_path)
        (tmp_path / "rows.csv").write_text("a,b\n1,x\n2,y\n")
        assert self._load(tmp_path).count == 2

    def test_columns_and_words_for_missing_are_part_of_the_key(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("a,b,c\n1,x,?\n2,y,v\n")
        first = self._load(tmp_path)
        more = self._load(tmp_path, c="string")
        known = self._load(tmp_path, missing=("?",), c="string")
        assert first.columns == ("a",) and more.columns == ("a", "c")
        assert more.take(np.arange(2), ["c"])["c"].tolist() == ["?", "v"]
        assert known.take(np.arange(2), ["c"])["c"].tolist() == ["", "v"]

    def test_is_what_reading_gives(self, tmp_path: Path) -> None:
        trials.write_rows(tmp_path / "rows.csv")
        raw = self._load(tmp_path, ("?",), label=("answer", "string"), age="number", city="string")
        whole = data.read(str(tmp_path / "rows.csv"), missing_values=("?",))
        for name, column in raw.take(np.arange(raw.count), ["age", "city", "answer"]).items():
            np.testing.assert_array_equal(column, whole[name])

    def test_serves_without_the_source_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rows.csv").write_text("a,b\n1,x\n2,y\n")
        self._load(tmp_path)
        rows._load.cache_clear()  # as another process would begin

        monkeypatch.setattr(stores.LocalStore, "open", lambda *_: _FailingFile())
        assert self._load(tmp_path).count == 2

    def _load(
        self,
        folder: Path,
        missing: tuple[str, ...] = (),
        label: tuple[str, str] = ("b", "string"),
        **kinds: str,
    ) -> rows.RawRows:
        kinds = kinds or {"a": "number"}
        if label[0] == "b":
            kinds = {"a": "number", **kinds}
        return rows.load(str(folder / "rows.csv"), kinds, label, missing, trials.storage(folder))


class _FailingFile:
    """A file that may be opened, but not read."""

    def close(self) -> None:
        """As a file has it."""
