"""Preparing a study: what its data completes, and what is refused before a trial runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuner.errors import DataError, InvalidArgumentError, TunerError
from tuner.space import Categorical, Child, Domain, Float, Int, Parameter, Space, Value
from tuner.study import DataSource, Feature, Goal, Metric, StudySpec
from tuner.trainer_spaces import Task
from tuner_trainers.learning import Learner
from tuner_trainers.prepare import Prepared, prepare

ACCURACY = Metric(name="val_accuracy")
RMSE = Metric(name="val_rmse", goal=Goal.MINIMIZE)

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes 40 rows of the columns x, city, y, or what is given instead."""

    def write(name: str = "train.csv", **columns: Callable[[int], object]) -> str:
        made: dict[str, Callable[[int], object]] = {
            "x": lambda i: i * i % 37,
            "city": lambda i: "abc"[i % 3],
            "y": lambda i: ("no", "yes")[i % 2],
            **columns,
        }
        lines = [",".join(made), *(",".join(str(f(i)) for f in made.values()) for i in range(40))]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


def prepared(uri: str, metric: Metric = ACCURACY, label: str = "y", **spec: Any) -> Prepared:
    source = {k: spec.pop(k) for k in list(spec) if k in DataSource.__dataclass_fields__}
    return prepare(
        StudySpec(
            metrics=(metric,),
            trainer=spec.pop("trainer", "tabular"),
            data=DataSource(train_uri=uri, label=label, **source),
            **spec,
        )
    )


def numeric(name: str = "x", **settings: Value) -> Feature:
    return Feature(name=name, kind="numeric", columns=(name,), settings=settings)


def category(name: str) -> Feature:
    return Feature(name=name, kind="categorical", columns=(name,))


def space(**domains: Domain) -> Space:
    return Space.of({name.replace("__", "."): domain for name, domain in domains.items()})


class TestClassWeights:
    def test_only_classes_of_the_label_are_weighted(self, write: Write) -> None:
        found = prepared(write(), settings={"class_weights.yes": 2})
        assert found.settings["class_weights.yes"] == 2
        assert "layers" in {parameter.name for parameter in found.space.walk()}
        with pytest.raises(InvalidArgumentError, match=r"names 'maybe', but .* are 'no', 'yes'"):
            prepared(write(), settings={"class_weights.maybe": 2})

    def test_numbers_have_no_classes(self, write: Write) -> None:
        tuned = Space.of({"class_weights": Categorical(("none", "balanced"))})
        uri = write(y=lambda i: i / 7)
        prepared(uri, RMSE, settings={"class_weights": "none"})
        with pytest.raises(InvalidArgumentError, match="but the label is a number"):
            prepared(uri, RMSE, space=tuned)


class TestSharedTables:
    def test_columns_of_two_kinds_share_none(self, write: Write) -> None:
        features = tuple(
            Feature(name=name, kind="categorical", columns=(name,), settings={"share": "t"})
            for name in ("x", "city")
        )
        with pytest.raises(DataError, match="hold numbers and text"):
            prepared(write(), features=features)

    def test_settings_are_given_once(self, write: Write) -> None:
        features = tuple(
            Feature(
                name=name,
                kind="categorical",
                columns=(name,),
                settings={"share": "t", "embedding": 2},
            )
            for name in ("a", "b")
        )
        with pytest.raises(InvalidArgumentError, match="'b': shares the table 't', whose emb"):
            prepared(write(), features=features)


class TestKindsOfColumns:
    def test_a_text_needs_text(self, write: Write) -> None:
        feature = Feature(name="x", kind="text", columns=("x",))
        with pytest.raises(DataError, match="'x' is text, but the column 'x' holds numbers"):
            prepared(write(), features=(feature,))

    def test_a_datetime_needs_times(self, write: Write) -> None:
        feature = Feature(name="city", kind="datetime", columns=("city",))
        with pytest.raises(DataError, match="'city' holds 'a' and no date or time"):
            prepared(write(), features=(feature,))

    def test_what_is_tuned_is_learned_of(self, write: Write) -> None:
        uri = write(note=lambda i: f"word {i % 7} and more")
        feature = Feature(name="note", kind="text", columns=("note",))
        found = prepared(uri, features=(feature,), space=space(note__ngrams=Int(1, 3)))
        assert len(found.statistics.derived) == 6


class TestComplete:
    def test_features_and_space_are_proposed(self, write: Write) -> None:
        found = prepared(write())
        assert [feature.name for feature in found.features] == ["x", "city"]
        names = [parameter.name for parameter in found.space.walk()]
        assert {"layers", "units", "learning_rate"} <= set(names)
        assert found.statistics.rows == 40
        assert (found.task, found.classes) == (Task.BINARY, ("no", "yes"))

    def test_every_parameter_is_tuned_or_set(self, write: Write) -> None:
        found = prepared(write(), settings={"epochs": 3, "units": 8})
        names = {parameter.name for parameter in found.space.walk()}
        assert found.settings["epochs"] == 3 and found.settings["units"] == 8
        assert "units" not in names and "layers" in names
        assert not names & set(found.settings)
        assert found.settings["optimizer"] == "adam"

    def test_the_users_features_and_space_stay(self, write: Write) -> None:
        mine = (numeric(scaling="log"),)
        asked = space(x__buckets=Int(2, 8), learning_rate=Float(1e-4, 1e-1, log=True))
        found = prepared(write(), features=mine, space=asked, exclude=("*",))
        assert found.features == mine and found.space == asked
        assert found.settings["layers"] == 2

    def test_other_columns_get_features_that_nothing_tunes(self, write: Write) -> None:
        numbers = {name: lambda i: i * i % 31 for name in ("a1", "a2", "b")}
        mine = (numeric(scaling="log"), Feature(name="b x x", kind="cross", columns=("b", "x")))
        asked = space(learning_rate=Float(1e-4, 1e-1, log=True))
        found = prepared(write(**numbers), features=mine, space=asked, exclude=("a?",))
        assert [feature.name for feature in found.features] == ["x", "b x x", "city", "b"]
        assert found.space == asked

    def test_a_pattern_does_not_exclude_what_a_feature_names(self, write: Write) -> None:
        found = prepared(write(), features=(numeric("x"),), exclude=("x", "ci*"))
        assert [feature.name for feature in found.features] == ["x"]
        with pytest.raises(InvalidArgumentError, match="no column to learn from"):
            prepared(write(), exclude=("*",))

    def test_tuned_features_or_training_leave_the_trainers_space(self, write: Write) -> None:
        asked = space(x__buckets=Int(2, 8), batch_size=Int(16, 32))
        found = prepared(write(), features=(numeric(),), space=asked)
        names = [parameter.name for parameter in found.space.walk()]
        assert names[:2] == ["x.buckets", "batch_size"] and "layers" in names
        assert names.count("batch_size") == 1

    def test_a_setting_of_a_proposed_feature_may_be_tuned(self, write: Write) -> None:
        found = prepared(write(), space=space(x__buckets=Int(2, 3)))
        assert found.space.parameters[0].domain == Int(2, 3)
        assert [p.name for p in found.space.walk()].count("x.buckets") == 1

    def test_children_count_as_parameters(self, write: Write) -> None:
        child = Parameter(name="weight_decay", domain=Float(1e-6, 1e-2, log=True))
        parent = Parameter(
            name="optimizer",
            domain=Categorical(("adam", "sgd")),
            children=(Child(("adam",), child),),
        )
        found = prepared(write(), space=Space((parent,)))
        assert "weight_decay" not in found.settings

    def test_progress(self, write: Write) -> None:
        seen: list[int] = []
        source = DataSource(train_uri=write(), label="y")
        spec = StudySpec(metrics=(ACCURACY,), trainer="tabular", data=source)
        prepare(spec, learner=Learner(progress=lambda rows, done, total: seen.append(rows)))
        assert seen == [40, 40]  # once for the statistics, once for what tells of the label


class TestTask:
    @pytest.mark.parametrize(
        ("label", "task", "classes"),
        [
            (lambda i: i % 2, Task.BINARY, ("0", "1")),
            (lambda i: (10, 9, -1)[i % 3], Task.MULTICLASS, ("-1", "9", "10")),
            (lambda i: "cab"[i % 3], Task.MULTICLASS, ("a", "b", "c")),
            (lambda i: "" if i < 5 else "ab"[i % 2], Task.BINARY, ("a", "b")),
            (lambda i: i, Task.REGRESSION, ()),
            (lambda i: (i % 3) / 2, Task.REGRESSION, ()),
        ],
    )
    def test_inferred(
        self, write: Write, label: Callable[[int], object], task: Task, classes: tuple[str, ...]
    ) -> None:
        metric = RMSE if task is Task.REGRESSION else ACCURACY
        found = prepared(write(y=label), metric)
        assert (found.task, found.classes) == (task, classes)

    def test_said(self, write: Write) -> None:
        uri = write(y=lambda i: i % 4)
        assert prepared(uri, RMSE, task="regression").task is Task.REGRESSION
        halves = write(y=lambda i: (i % 2) / 2)
        assert prepared(halves, task="classification").classes == ("0", "0.5")


class TestLeftOut:
    def test_columns_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        rows = {"x": [*range(40)], "tags": [["a"]] * 40, "more": [[1]] * 40, "y": ["n", "y"] * 20}
        pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
        found = prepared(str(tmp_path / "rows.parquet"), exclude=("more",))
        assert "list" in found.skipped["tags"] and "more" not in found.skipped

    def test_huge_numbers_are_shown_by_their_first_digits(self, write: Write) -> None:
        found = prepared(write(x=lambda i: i * 1e300 + 0.5))
        assert "from 0.5 to 3.9e+301" in found.features[0].reason

    @pytest.mark.parametrize("step", [1, 10**15])
    def test_numbers_that_floats_make_one_are_said(self, write: Write, step: int) -> None:
        found = prepared(write(x=lambda i: 10**18 + step * i))
        said = found.skipped["x"] if step == 1 else found.features[0].reason
        assert "whole numbers beyond 2^53" in said and "`types: {x: string}`" in said
        exact = prepared(write(x=lambda i: 10**15 + i * i))
        assert "2^53" not in exact.features[0].reason


class TestRefused:
    @pytest.mark.parametrize(
        ("columns", "asked", "message"),
        [
            ({"y": lambda i: "no"}, {}, r"only one value, 'no'.*at least two"),
            ({"y": lambda i: ""}, {}, "missing in every row"),
            ({"y": lambda i: i if i else "inf"}, {}, "infinite in 1 rows"),
            ({"y": lambda i: "no" if i else "yes"}, {}, "'yes' in one row only"),
            ({"y": lambda i: f"id-{i}"}, {}, "40 different values in 40 rows.*another column"),
            ({"y": lambda i: i if i else "n.d."}, {}, "add 'n.d.' to `missing`"),
            ({}, {"label": "why"}, "no label 'why'"),
            ({}, {"label": "Y"}, r"no label 'Y'; "),
            ({}, {"task": "regression"}, r"holds text such as 'no'.*classification"),
            ({}, {"task": "ranking"}, "classification or regression, but got 'ranking'"),
            ({}, {"metric": Metric(name="auc")}, "no metric 'auc'; it reports"),
            ({}, {"metric": Metric(name="val_loss")}, "goal: minimize"),
            ({}, {"validation_fraction": 0.01}, r"leaves 40 to train on and 0 to validate"),
            ({}, {"validation_fraction": 1.5}, "0 < validation < 1"),
            ({}, {"features": (numeric("z"),)}, "no column 'z'"),
            ({}, {"features": (numeric("y"),)}, "uses the label"),
            ({}, {"features": (numeric("city"),)}, r"holds text such as 'a'.*categorical"),
            ({"x": lambda i: ""}, {"features": (numeric(),)}, "missing in every row; remove"),
            ({}, {"features": (numeric(bins=4),)}, "no setting 'bins'; it has scaling"),
            ({}, {"features": (numeric(), numeric())}, "same name"),
            ({}, {"space": space(layer=Int(1, 2))}, "'layer'"),
            (
                {},
                {"features": (numeric(),), "space": space(layer=Int(1, 2))},
                "did you mean 'layers'",
            ),
            ({}, {"space": space(layers=Float(1, 2))}, "whole number from 0 to 10"),
            ({}, {"settings": {"units": "many"}}, "`units` takes a whole number"),
            ({}, {"settings": {"neurons": 4}}, "no parameter 'neurons'"),
            ({}, {"column_types": {"town": "string"}}, "no column 'town'"),
            ({"x": lambda i: 1, "city": lambda i: ""}, {}, "no column to learn from"),
            (
                {"x": lambda i: -(10**18) - i % 9},
                {"features": (category("x"),)},
                r"feature 'x' takes each value .* 2\^53, .* `types: \{x: string\}`",
            ),
            (
                {"x": lambda i: 10**18 + 512 * (i % 9)},
                {"features": (Feature(name="x x city", kind="cross", columns=("x", "city")),)},
                r"feature 'x x city' takes each value of the column 'x'",
            ),
            (
                {"y": lambda i: 10**18 + 512 * (i % 2)},
                {"task": "classification"},
                r"classes in the label 'y' cannot be told apart: .*string",
            ),
            ({}, {"trainer": "forest"}, "no trainer 'forest'; it is one of tabular"),
        ],
    )
    def test_with_cause_and_remedy(
        self, write: Write, columns: dict[str, Any], asked: dict[str, Any], message: str
    ) -> None:
        with pytest.raises((DataError, InvalidArgumentError), match=message) as caught:
            prepared(write(**columns), **asked)
        assert "\n" not in caught.value.message

    def test_everything_fixed(self, write: Write) -> None:
        every = {"layers": 1, "units": 4, "dropout": 0.0, "learning_rate": 0.01, "batch_size": 8}
        with pytest.raises(InvalidArgumentError, match="space is empty"):
            prepared(write(), features=(numeric(),), settings=every)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("x,city,y\n", "header but no rows"),
            ("x,y\n1,no\n", "no column 'city'"),
            ("x,city\n1,a\n", "no label 'y'"),
            ("x,city,y\nfar,a,no\n", "'x' is a number, but holds 'far'"),
            ("x,city,y\n1,a,no\n2,b,maybe\n", "'y' holds 'maybe', which the training data has"),
        ],
    )
    @pytest.mark.parametrize("role", ["validation_uri", "test_uri"])
    def test_held_out_data(
        self, write: Write, tmp_path: Path, role: str, text: str, message: str
    ) -> None:
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            prepared(write(), ACCURACY, "y", **{role: str(tmp_path / "other.csv")})
        assert "other.csv" in caught.value.message

    def test_paths(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere\.csv does not exist"):
            prepared(str(tmp_path / "nowhere.csv"))
        (tmp_path / "empty.csv").touch()
        with pytest.raises(DataError, match="is empty"):
            prepared(str(tmp_path / "empty.csv"))

    def test_a_study_without_data(self) -> None:
        with pytest.raises(TunerError, match="trainer and data"):
            prepare(StudySpec(metrics=(ACCURACY,)))


def test_real_data(shared_data: Path) -> None:
    adult = prepared(
        str(shared_data / "adult" / "train.csv"),
        Metric(name="val_auc"),
        label="income",
        test_uri=str(shared_data / "adult" / "test.csv"),
    )
    assert adult.classes == ("<=50K", ">50K") and len(adult.features) == 14
    tuned = [p.name for p in adult.space.walk() if p.group == "preprocessing"]
    assert "age.buckets" in tuned and "capital_gain.buckets" in tuned
    flights = prepared(str(shared_data / "flights" / "flights.csv"), RMSE, label="arr_delay")
    assert flights.task is Task.REGRESSION and set(flights.skipped) == {"year"}
