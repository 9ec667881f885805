"""CSV and Parquet as columns: what counts as a number, as missing, and which files are refused."""

from __future__ import annotations

import datetime
import gzip
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuner.errors import DataError
from tuner_trainers import data, readers


def csv(folder: Path, text: str | bytes, name: str = "rows.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def parquet(folder: Path, columns: dict[str, object], name: str = "rows.parquet") -> str:
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return str(path)


def listed(columns: data.Columns, name: str) -> list[object]:
    """A column's values, None for missing."""
    return [None if value in ("",) or value != value else value for value in columns[name]]


class TestCsv:
    def test_numbers_and_strings(self, tmp_path: Path) -> None:
        columns = data.read(csv(tmp_path, "a,b\n1,x\n2.5,\n,z\n"))
        assert list(columns) == ["a", "b"]
        assert columns["a"].dtype == np.float64 and columns["b"].dtype == object
        assert listed(columns, "a") == [1.0, 2.5, None]
        assert listed(columns, "b") == ["x", None, "z"]

    @pytest.mark.parametrize("word", ["", "NA", "nan", "NaN", "null", "N/A", " ", "None"])
    def test_missing_numbers(self, tmp_path: Path, word: str) -> None:
        columns = data.read(csv(tmp_path, f"a,b\n1,x\n{word},x\n-3e2,x\n"))
        assert listed(columns, "a") == [1.0, None, -300.0]

    def test_strings_keep_words_that_only_numbers_lack(self, tmp_path: Path) -> None:
        columns = data.read(csv(tmp_path, "country\nNA\nDE\n"))
        assert listed(columns, "country") == ["NA", "DE"]

    def test_missing_values(self, tmp_path: Path) -> None:
        uri = csv(tmp_path, "a,b\n1,?\n?,x\n-999,-999\n -999.0 ,y\n")
        columns = data.read(uri, missing_values=["?", "-999"])
        assert listed(columns, "a") == [1.0, None, None, None]
        assert listed(columns, "b") == [None, "x", None, "y"]

    def test_white_space_around_values_and_names(self, tmp_path: Path) -> None:
        columns = data.read(
            csv(
                tmp_path,
                "age, work\n 39, State gov \n 50, ?\n",
            ),
            missing_values=["?"],
        )
        assert listed(columns, "age") == [39.0, 50.0]
        assert listed(columns, "work") == ["State gov", None]

    def test_quotes_newlines_and_byte_order_mark(self, tmp_path: Path) -> None:
        columns = data.read(csv(tmp_path, '\ufeffa,b\r\n"x, y","1"\r\n"two\nlines",2\r\n'))
        assert listed(columns, "a") == ["x, y", "two\nlines"]
        assert listed(columns, "b") == [1.0, 2.0]

    def test_infinite_numbers_stay(self, tmp_path: Path) -> None:
        assert listed(data.read(csv(tmp_path, "a\ninf\n-inf\n1\n")), "a") == [np.inf, -np.inf, 1.0]

    def test_a_column_without_values_is_a_number(self, tmp_path: Path) -> None:
        assert listed(data.read(csv(tmp_path, "a,b\n,x\n,y\n")), "a") == [None, None]

    def test_a_column_that_turns_to_text_late_is_a_string_throughout(self, tmp_path: Path) -> None:
        filler = "x" * 100
        lines = [f"{i},{i},{filler}" for i in range(200_000)]
        uri = csv(tmp_path, "a,b,c\n" + "\n".join(lines) + "\nB7,8,y\n")
        columns = data.read(uri)
        assert columns["a"][0] == "0" and columns["a"][-1] == "B7"
        assert columns["b"].dtype == np.float64 and len(columns["b"]) == 200_001
        assert data.infer(uri) == {"a": "string", "b": "number", "c": "string"}
        assert next(data.batches(uri))["a"].dtype == object

    def test_types_are_obeyed(self, tmp_path: Path) -> None:
        uri = csv(tmp_path, "zip,b\n01234,1\n99,2\n")
        assert listed(data.read(uri, types={"zip": "string"}), "zip") == ["01234", "99"]
        with pytest.raises(DataError, match=r"'b' is a number, but holds 'x'.*missing"):
            data.read(csv(tmp_path, "b\n1\nx\n"), types={"b": "number"})

    def test_tabs_and_compression(self, tmp_path: Path) -> None:
        assert listed(data.read(csv(tmp_path, "a\tb\n1\tx,y\n", "r.tsv")), "b") == ["x,y"]
        packed = csv(tmp_path, gzip.compress(b"a\n1\n"), "r.csv.gz")
        assert listed(data.read(packed), "a") == [1.0]

    def test_unnamed_columns_are_left_out(self, tmp_path: Path) -> None:
        assert list(data.read(csv(tmp_path, ",a\n0,1\n1,2\n"))) == ["a"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "is empty"),
            (b"a,b\n", "header but no rows"),
            (b"a,b", "header but no rows"),
            (b"a,b\n1,2\n1,2,3\n", "row 3 has 3 values where the header has 2"),
            (b"a,b\n1,2\n\n1\n", "has 1 values where the header has 2"),
            (b"a,b\n1,caf\xe9\n", "not UTF-8"),
            (b"caf\xe9,b\n1,2\n", "not UTF-8.*-f LATIN1"),
            ("\ufeffa,b\n1,2\n".encode("utf-16-le"), "not UTF-8.*-f UTF-16"),
            (b"a,b, a\n1,2,3\n", "two columns 'a'"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: bytes, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            data.read(csv(tmp_path, text))
        assert "\n" not in caught.value.message


class TestParquet:
    def test_types(self, tmp_path: Path) -> None:
        uri = parquet(
            tmp_path,
            {
                "whole": pa.array([1, None, 3]),
                "small": pa.array([1, 2, None], pa.uint8()),
                "real": pa.array([1.5, float("nan"), None]),
                "truth": pa.array([True, False, None]),
                "exact": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
                "text": pa.array([" x ", None, ""]),
                "large": pa.array(["x", "12", "y"], pa.large_string()),
                "category": pa.array(["u", None, "v"]).dictionary_encode(),
                "numbers": pa.array([7, 8, 7]).dictionary_encode(),
                "day": pa.array([datetime.date(2020, 1, 2), None, None]),
                "nothing": pa.nulls(3),
            },
        )
        columns = data.read(uri)
        assert listed(columns, "whole") == [1.0, None, 3.0]
        assert listed(columns, "small") == [1.0, 2.0, None]
        assert listed(columns, "real") == [1.5, None, None]
        assert listed(columns, "truth") == [1.0, 0.0, None]
        assert listed(columns, "exact") == [1.5, None, 2.5]
        assert listed(columns, "text") == ["x", None, None]
        assert listed(columns, "large") == ["x", "12", "y"]
        assert listed(columns, "category") == ["u", None, "v"]
        assert listed(columns, "numbers") == [7.0, 8.0, 7.0]
        assert listed(columns, "day") == ["2020-01-02", None, None]
        assert listed(columns, "nothing") == [None, None, None]

    def test_types_are_obeyed(self, tmp_path: Path) -> None:
        uri = parquet(tmp_path, {"a": [3, 12, None], "b": ["1", " 2", "NA"]})
        columns = data.read(uri, types={"a": "string", "b": "number"})
        assert listed(columns, "a") == ["3", "12", None]
        assert listed(columns, "b") == [1.0, 2.0, None]

    def test_whole_numbers_as_strings_keep_all_digits(self, tmp_path: Path) -> None:
        large = [2**53 + 1, 2**53 + 2, None, 0, -99]
        exact = pa.array([None if n is None else Decimal(n) for n in large], pa.decimal128(38, 0))
        uri = parquet(tmp_path, {"a": large, "b": exact, "c": pa.array(large).dictionary_encode()})
        columns = data.read(
            uri, types=dict.fromkeys("abc", "string"), missing_values=["0", "-99.0"]
        )
        for name in "abc":
            told = ["9007199254740993", "9007199254740994", None, None, None]
            assert listed(columns, name) == told

    @pytest.mark.parametrize(
        "other",
        [
            pa.array([datetime.date(2020, 1, 2)]),
            pa.array([[1]]),
            pa.array([b"1"]),
        ],
    )
    def test_files_of_one_data_set_have_the_same_types(
        self, tmp_path: Path, other: pa.Array
    ) -> None:
        for values in ([1], other), (other, [1]):
            parquet(tmp_path, {"a": values[0]}, "0.parquet")
            parquet(tmp_path, {"a": values[1]}, "1.parquet")
            with pytest.raises(DataError, match=r"'a' holds .* in .*0\.parquet and .* one type"):
                data.read(str(tmp_path))
        for values in ([1], ["x"]), (pa.array(["x"]).dictionary_encode(), [1]):
            parquet(tmp_path, {"a": values[0]}, "0.parquet")
            parquet(tmp_path, {"a": values[1]}, "1.parquet")
            assert set(listed(data.read(str(tmp_path)), "a")) == {"1", "x"}

    def test_truth_values_as_strings_are_as_a_csv_file_has_them(self, tmp_path: Path) -> None:
        uri = parquet(tmp_path, {"a": [True, False, None]})
        assert listed(data.read(uri, types={"a": "string"}), "a") == ["True", "False", None]
        assert listed(data.read(uri), "a") == [1.0, 0.0, None]

    def test_what_is_no_column_is_named_when_asked_for(self, tmp_path: Path) -> None:
        uri = parquet(tmp_path, {"a": [1], "list": [[1, 2]], "image": [b"x"]})
        assert list(data.read(uri)) == ["a", "image"]
        with pytest.raises(DataError, match="'list' holds list"):
            data.read(uri, columns=["list"])

    def test_bytes_are_as_they_were_written(self, tmp_path: Path) -> None:
        uri = parquet(tmp_path, {"image": [b"\xff\x00", None, b" a ", b"\xff\x00"]})
        assert data.layout(uri).kinds == {"image": "bytes"}
        assert data.read(uri)["image"].tolist() == [b"\xff\x00", b"", b" a ", b"\xff\x00"]

    def test_large_values_are_read_few_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "_BATCH_BYTES", 40_000)
        uri = parquet(tmp_path, {"image": [bytes([row]) * 10_000 for row in range(20)]})
        sizes = [len(batch["image"]) for batch in data.batches(uri)]
        assert sum(sizes) == 20 and max(sizes) <= 4

    @pytest.mark.parametrize("content", [b"PAR1", b"no parquet at all, but long enough for it"])
    def test_corrupted(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(DataError, match="not a whole Parquet file"):
            data.read(csv(tmp_path, content, "rows.parquet"))

    def test_corrupted_inside(self, tmp_path: Path) -> None:
        uri = parquet(tmp_path, {"a": np.arange(50_000.0)})
        content = bytearray(Path(uri).read_bytes())
        content[4:40_000] = bytes(39_996)
        Path(uri).write_bytes(content)
        with pytest.raises(DataError, match="not a whole Parquet file"):
            data.read(uri)


class TestFiles:
    def test_directories_and_patterns_in_order(self, tmp_path: Path) -> None:
        csv(tmp_path, "a,b\n1,x\n", "1.csv")
        csv(tmp_path, "b,a\ny,2\n", "2.csv")
        csv(tmp_path, "no data", "_SUCCESS")
        csv(tmp_path, "no data", ".hidden.csv")
        for uri in (str(tmp_path), str(tmp_path / "*.csv"), f"file://{tmp_path}"):
            columns = data.read(uri)
            assert listed(columns, "a") == [1.0, 2.0] and listed(columns, "b") == ["x", "y"]

    def test_columns_are_chosen_and_ordered(self, tmp_path: Path) -> None:
        uri = csv(tmp_path, "income,b,c\n1,2,3\n")
        assert list(data.read(uri, columns=["c", "income"])) == ["c", "income"]
        with pytest.raises(DataError, match="no column 'incom'; did you mean 'income'"):
            data.read(uri, columns=["incom"])

    def test_files_of_one_data_set_have_the_same_columns(self, tmp_path: Path) -> None:
        csv(tmp_path, "a,b\n1,x\n", "1.csv")
        csv(tmp_path, "a\n1\n", "2.csv")
        with pytest.raises(DataError, match=r"2\.csv lacks the column 'b'"):
            data.read(str(tmp_path))

    @pytest.mark.parametrize(
        ("files", "uri", "message"),
        [
            ([], "missing.csv", "does not exist"),
            ([], "*.csv", "no file matches"),
            ([], "", "has no data files"),
            (["a.csv", "b.parquet"], "", "both CSV and Parquet"),
            (["a.xlsx"], "a.xlsx", "no known extension"),
        ],
    )
    def test_refused(self, tmp_path: Path, files: Sequence[str], uri: str, message: str) -> None:
        for name in files:
            csv(tmp_path, "a\n1\n", name)
        with pytest.raises(DataError, match=message):
            data.read(str(tmp_path / uri))

    def test_other_schemes_are_refused(self) -> None:
        with pytest.raises(DataError, match="ftp:// is not read"):
            data.read("ftp://host/rows.csv")

    def test_fingerprint_follows_the_content_and_not_the_place(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        here, there = csv(tmp_path, "a\n1\n"), csv(tmp_path / "there", "a\n1\n", "other.csv")
        assert data.fingerprint(here) == data.fingerprint(there)
        assert data.fingerprint(csv(tmp_path, "a\n2\n")) != data.fingerprint(there)

    def test_batches_are_the_rows(self, tmp_path: Path) -> None:
        rows = 300_000
        text = pa.array([f"t{i % 7}" for i in range(rows)])
        uri = parquet(tmp_path, {"a": np.arange(rows), "b": text})
        parts = list(data.batches(uri))
        whole = data.read(uri)
        assert len(parts) > 1
        for name in ("a", "b"):
            assert (np.concatenate([part[name] for part in parts]) == whole[name]).all()


class TestSplit:
    def test_is_a_partition_that_the_seed_decides(self) -> None:
        train, validation = data.split(1000, 0.2, seed=7)
        assert len(validation) == 200
        assert sorted([*train, *validation]) == list(range(1000))
        again = data.split(1000, 0.2, seed=7)
        assert (again[0] == train).all() and (again[1] == validation).all()
        assert not (data.split(1000, 0.2, seed=8)[1] == validation).all()

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_both_parts_get_a_row(self, fraction: float) -> None:
        assert all(len(part) for part in data.split(3, fraction, seed=0))
