"""Features: which settings they take, and what is proposed from statistics, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tuner import features as kinds
from tuner.errors import InvalidArgumentError
from tuner.setting import Setting
from tuner.space import Categorical, Discrete, Domain, Float, Group, Int, Value
from tuner.study import Feature, Goal, Metric
from tuner.trainer_spaces import (
    METRICS,
    TRAINERS,
    Task,
    check_metric,
    default_space,
    effective_parameters,
)
from tuner_trainers import relevance, statistics
from tuner_trainers.features import Proposal, propose
from tuner_trainers.statistics import Statistics, Survey


def scanned(folder: Path, columns: Mapping[str, Sequence[object]]) -> Statistics:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return statistics.scan(str(folder / "rows.csv"))


def feature(proposal: Proposal, name: str) -> Feature:
    return next(feature for feature in proposal.features if feature.name == name)


class TestSettings:
    @pytest.mark.parametrize(
        ("kind", "setting", "value"),
        [
            ("numeric", "buckets", 0),
            ("numeric", "buckets", 16.0),
            ("numeric", "scaling", "log"),
            ("numeric", "clip", 0.05),
            ("categorical", "embedding", 0),
            ("cross", "buckets", 1000),
        ],
    )
    def test_allowed(self, kind: str, setting: str, value: Value) -> None:
        known = kinds.setting_of(kind, setting)
        assert known.check(value) == value and isinstance(known.check(value), known.type)

    @pytest.mark.parametrize(
        ("kind", "setting", "value", "message"),
        [
            ("numeric", "buckets", 2000, "whole number from 0 to 1024"),
            ("numeric", "buckets", 2.5, "whole number"),
            ("numeric", "buckets", True, "whole number"),
            ("numeric", "buckets", float("nan"), "whole number"),
            ("numeric", "clip", 0.5, "number from 0 to 0.4"),
            ("numeric", "scaling", "max", "one of zscore, quantile, log, none"),
            ("datetime", "hour", "sine", "one of none, cyclic, one_hot"),
            ("datetime", "elapsed", "yes", "true or false"),
            ("categorical", "vocabulary", 0, "from 1 to"),
            ("categorical", "buckets", 4, "has no setting 'buckets'; it has vocabulary"),
            ("crossed", "buckets", 4, "kind is one of numeric, expression, categorical"),
        ],
    )
    def test_refused(self, kind: str, setting: str, value: Value, message: str) -> None:
        with pytest.raises(InvalidArgumentError, match=message):
            kinds.setting_of(kind, setting).check(value)

    @pytest.mark.parametrize(
        "domain", [Int(2, 64, log=True), Discrete((0, 8, 16)), Categorical((4, 8))]
    )
    def test_domains_allowed(self, domain: Domain) -> None:
        kinds.setting_of("numeric", "buckets").check_domain(domain)

    @pytest.mark.parametrize(
        "domain", [Int(2, 2048), Float(2, 8), Discrete((1.5,)), Categorical(("a",))]
    )
    def test_domains_refused(self, domain: Domain) -> None:
        with pytest.raises(InvalidArgumentError, match="whole number"):
            kinds.setting_of("numeric", "buckets").check_domain(domain)

    def test_what_cannot_be_tuned(self) -> None:
        with pytest.raises(InvalidArgumentError, match="cannot be tuned"):
            kinds.setting_of("datetime", "day_first").check_domain(Categorical((True, False)))

    def test_truth_values(self) -> None:
        setting = Setting(name="wide", type=bool, default=True, meaning="")
        assert setting.check(False) is False
        with pytest.raises(InvalidArgumentError, match="true or false"):
            setting.check(1)

    def test_columns(self) -> None:
        cross = Feature(name="a x b", kind="cross", columns=("a",))
        with pytest.raises(InvalidArgumentError, match="2 to 8 columns, but got 1"):
            kinds.check_feature(cross, {})

    def test_a_vocabulary_or_a_hash(self) -> None:
        both = Feature(name="a", kind="categorical", columns=("a",), settings={"vocabulary": 4})
        with pytest.raises(InvalidArgumentError, match="both"):
            kinds.check_feature(both, {"hash_buckets": Int(2, 8)})

    def test_tuned_over_fixed_over_default(self) -> None:
        number = Feature(
            name="a.b", kind="numeric", columns=("a.b",), settings={"buckets": 4, "scaling": "log"}
        )
        assert kinds.effective_settings(number, {"a.b.buckets": 8.0, "buckets": 5}) == {
            "scaling": "log",
            "clip": 0.0,
            "buckets": 8,
        }
        category = Feature(name="c", kind="categorical", columns=("c",))
        assert kinds.effective_settings(category, {})["oov_buckets"] == 1
        assert kinds.effective_settings(category, {})["vocabulary"] is None

    def test_a_shared_table_has_the_settings_of_the_one_that_gives_them(self) -> None:
        def of(name: str, **settings: Value) -> Feature:
            shared = {"share": "t", **settings}
            return Feature(name=name, kind="categorical", columns=(name,), settings=shared)

        features = [of("a"), of("b", vocabulary=7), of("c", oov_buckets=3)]
        found = kinds.all_settings(features, {"c.embedding": 5.0})
        for settings in found.values():
            assert (settings["vocabulary"], settings["oov_buckets"]) == (7, 3)
            assert settings["embedding"] == 5
        assert list(kinds.share_problems(features, {"c": {"embedding": Int(1, 5)}})) == []

    def test_the_longest_feature_owns_a_parameter(self) -> None:
        short = Feature(name="a", kind="numeric", columns=("a",))
        long = Feature(name="a.b", kind="numeric", columns=("a.b",))
        assert kinds.find_setting("a.b.buckets", [short, long]) == (long, "buckets")
        assert kinds.find_setting("a.buckets", [long, short]) == (short, "buckets")
        assert kinds.find_setting("layers", [short, long]) is None

    def test_embeddings_grow_with_the_entries(self) -> None:
        sizes = [kinds.default_embedding(n) for n in (2, 32, 33, 1000, 10**6)]
        assert sizes[:2] == [0, 0] and sizes == sorted(sizes) and 2 < sizes[2] and sizes[-1] == 64


class TestTrainers:
    @pytest.mark.parametrize("trainer", TRAINERS)
    def test_defaults_and_domains_are_allowed(self, trainer: str) -> None:
        for parameter in TRAINERS[trainer].values():
            if parameter.setting.default is not None:
                parameter.setting.check(parameter.setting.default)
            if parameter.domain is not None:
                parameter.setting.check_domain(parameter.domain)

    def test_the_default_space_leaves_out_what_is_fixed(self) -> None:
        names = [parameter.name for parameter in default_space("tabular", ["units"]).walk()]
        assert "learning_rate" in names and "units" not in names

    def test_effective_parameters(self) -> None:
        found = effective_parameters("tabular", {"epochs": 3, "units": 8}, {"units": 16.0})
        assert (found["epochs"], found["units"], found["activation"]) == (3, 16, "relu")
        assert isinstance(found["units"], int)

    def test_metrics(self) -> None:
        check_metric(Metric(name="val_auc"), Task.BINARY)
        with pytest.raises(InvalidArgumentError, match=r"no metric 'val_auc'.*val_rmse"):
            check_metric(Metric(name="val_auc"), Task.REGRESSION)
        with pytest.raises(InvalidArgumentError, match="goal: minimize"):
            check_metric(Metric(name="val_loss", goal=Goal.MAXIMIZE), Task.BINARY)
        assert all("val_loss" in goals for goals in METRICS.values())


class TestProposal:
    def test_numbers(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        found = propose(
            scanned(
                tmp_path,
                {
                    "y": [i % 2 for i in range(400)],
                    "real": rng.normal(size=400).round(4).tolist(),
                    "spiky": [0] * 399 + [10**6],
                    "month": [1 + i % 12 for i in range(400)],
                    "flag": [i % 2 for i in range(400)],
                    "tail": np.exp(3 * rng.normal(size=400)).round(3).tolist(),
                },
            ),
            "y",
        )
        assert [f.name for f in found.features] == ["real", "spiky", "month", "flag", "tail"]
        assert feature(found, "real").settings == {"scaling": "zscore"}
        assert feature(found, "month").settings == {"scaling": "zscore", "buckets": 12}
        assert feature(found, "flag").settings["buckets"] == 0
        parameters = {parameter.name: parameter for parameter in found.parameters}
        assert parameters["real.buckets"].domain == Int(2, 64, log=True)
        assert parameters["tail.scaling"].domain.contains("log")
        assert parameters["tail.clip"].domain == Float(0.0, 0.05)
        assert {parameter.group for parameter in found.parameters} == {Group.PREPROCESSING}

    def test_strings(self, tmp_path: Path) -> None:
        names = [f"v{i % 100}" if i % 3 else "v0" for i in range(900)]
        found = propose(
            scanned(
                tmp_path,
                {
                    "y": [i % 2 for i in range(900)],
                    "few": [f"f{i % 5}" if i % 9 else "" for i in range(900)],
                    "many": names,
                },
            ),
            "y",
        )
        assert feature(found, "few").settings == {"vocabulary": 5}
        assert "11.1% missing" in feature(found, "few").reason
        assert feature(found, "many").settings == {}
        vocabulary, embedding = found.parameters
        assert (vocabulary.name, embedding.name) == ("many.vocabulary", "many.embedding")
        assert isinstance(vocabulary.domain, Int) and vocabulary.domain.high == 100

    def test_dates_and_times(self, tmp_path: Path) -> None:
        days = [f"2013-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(900)]
        found = propose(
            scanned(
                tmp_path,
                {
                    "y": [i % 2 for i in range(900)],
                    "text": [f"{day} {i % 24:02d}:00" for i, day in enumerate(days)],
                    "german": [f"{1 + i % 28}.{1 + i % 2}.2013" for i in range(900)],
                    "digits": [int(day.replace("-", "")) for day in days],
                    "sent_at": [1_363_219_200_000 + 61_007 * i for i in range(900)],
                    "size": [1_363_219_200_000 + 61_007 * i for i in range(900)],
                    "mixed": [day if i % 2 else "soon" for i, day in enumerate(days)],
                },
            ),
            "y",
            tune=False,
        )
        chosen = {feature.name: feature for feature in found.features}
        assert {name: feature.kind for name, feature in chosen.items()} == {
            "text": "datetime",
            "german": "datetime",
            "digits": "datetime",
            "sent_at": "datetime",
            "size": "numeric",
            "mixed": "categorical",
        }
        cyclic = dict.fromkeys(("day", "weekday", "hour"), "cyclic")
        assert chosen["text"].settings == cyclic
        assert "2013-01-01 to 2013-12-28, of which day and" in chosen["text"].reason
        assert chosen["german"].settings == {"day": "cyclic", "weekday": "cyclic"}
        assert chosen["digits"].settings["unit"] == "yyyymmdd"
        assert chosen["sent_at"].settings == {"unit": "milliseconds"}

    def test_columns_of_the_same_values_share_vectors(self, tmp_path: Path) -> None:
        columns: dict[str, list[object]] = {
            "y": [i % 2 for i in range(900)],
            "home": [f"team {i % 60}" for i in range(900)],
            "city": [f"city {i % 60}" for i in range(900)],
            "away": [f"team {5 + i % 61}" for i in range(900)],
            "side": ["left" if i % 2 else "right" for i in range(900)],
        }
        learned = scanned(tmp_path, columns)
        found = propose(learned, "y")
        shares = {feature.name: feature.settings.get("share") for feature in found.features}
        both = "home & away"
        assert shares == {"home": both, "city": None, "away": both, "side": None}
        assert feature(found, "away").settings == {"share": both}
        assert "also in 'home', so they share" in feature(found, "away").reason
        names = [parameter.name for parameter in found.parameters]
        assert names == ["home.vocabulary", "home.embedding", "city.vocabulary", "city.embedding"]
        assert list(kinds.share_problems(propose(learned, "y", tune=False).features, {})) == []

    def test_very_many_strings_are_hashed(self, tmp_path: Path) -> None:
        values = [f"user{i % 12_000}" for i in range(36_000)]
        found = propose(
            scanned(tmp_path, {"y": [i % 2 for i in range(36_000)], "user": values}), "y"
        )
        assert [p.name for p in found.parameters] == ["user.hash_buckets", "user.embedding"]
        assert found.parameters[0].domain == Int(256, 8192, log=True)

    def test_what_teaches_nothing_is_left_out(self, tmp_path: Path) -> None:
        rows = range(200)
        found = propose(
            scanned(
                tmp_path,
                {
                    "y": [i % 2 for i in rows],
                    "same": ["x" for _ in rows],
                    "empty": ["" for _ in rows],
                    "key": [f"k{i}" for i in rows],
                    "row": [i * 1.0 for i in rows],
                    "good": [i % 7 for i in rows],
                    "seldom": ["x" if i % 5 else "" for i in rows],
                },
            ),
            "y",
        )
        assert [f.name for f in found.features] == ["good", "seldom"]
        assert "'x'" in found.skipped["same"] and "missing" in found.skipped["empty"]
        assert "identifier" in found.skipped["key"] and "numbers the rows" in found.skipped["row"]

    def test_what_tells_most_is_tuned(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(3)
        noise = {f"n{i}": rng.normal(size=2000).round(4).tolist() for i in range(8)}
        signal = rng.normal(size=2000).round(4)
        columns = {**noise, "signal": signal.tolist(), "y": (signal > 0).astype(int).tolist()}
        found = scanned(tmp_path, columns)
        told = relevance.measure(Survey.of(str(tmp_path / "rows.csv")), found, "y")
        assert told["signal"] > 0.8 and all(told[name] < 0.05 for name in noise)
        proposal = propose(found, "y", told)
        names = [parameter.name for parameter in proposal.parameters]
        assert "signal.buckets" in names and len(names) <= 5
        assert "known when predicting" in feature(proposal, "signal").reason
        silent = [name for name in noise if told[name] == 0.0]
        assert silent
        for name in silent:
            assert feature(proposal, name).settings["buckets"] == 0

    def test_proposals_are_features_that_can_be_made(self, shared_data: Path) -> None:
        for path, label in (("adult/train.csv", "income"), ("flights/flights.csv", "arr_delay")):
            found = propose(statistics.scan(str(shared_data / path)), label)
            tuned: dict[str, dict[str, Domain]] = {f.name: {} for f in found.features}
            for parameter in found.parameters:
                owner = kinds.find_setting(parameter.name, found.features)
                assert owner is not None
                tuned[owner[0].name][owner[1]] = parameter.domain
            for item in found.features:
                kinds.check_feature(item, tuned[item.name])
                assert item.reason
            assert 1 <= len(found.parameters) <= 5
