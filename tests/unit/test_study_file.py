"""Study files: what a good one asks for, and what is said about bad ones."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tuner import convert, early_stopping, engine, study_file
from tuner.early_stopping import Progress, Stopping
from tuner.errors import InvalidArgumentError, StudyFileError
from tuner.space import Categorical, Discrete, Float, Group, Int, Value
from tuner.study import Constraint, Goal, Metric, Selection, StudySpec
from tuner.study_file import Problem, sections

GOOD = """\
study: adult-income
metric: {name: val_auc, goal: maximize}
data: {train: data/train.csv, validation: 0.2, label: income, types: {zip: string}, missing: ["?"]}
trainer: tabular
features:
  age: {kind: numeric, scaling: quantile, buckets: {int: [2, 64], log: true}}
  country: {kind: categorical, column: native_country, vocabulary: {int: [8, 64]}}
  age x hours_per_week: {kind: cross, buckets: {int: [64, 1024], log: true}}
parameters:
  layers: {int: [1, 4]}
  dropout: {float: [0, 0.5], step: 0.1}
  learning_rate: {float: [1e-4, 1.0e-1], log: true}
  activation: {categorical: [relu, gelu]}
  optimizer:
    categorical: [adam, sgd, rmsprop]
    when:
      [sgd, rmsprop]: {weight_decay: {float: [0, 0.1]}}
search: {algorithm: tpe, early_stopping: median, seed: 7}
limits: {trials: 30, parallel: 2, hours: 1, no_improvement_trials: 15, worker_hours: 0.5}
training: {epochs: 10, batch_size: {discrete: [64, 128]}}
resources: {strategy: multi_worker, workers: 2, cpus_per_worker: 0.5}
export: {model: adult}
labels: {team: research}
"""

SCRIPT = "study: mine\nmetric: {name: score}\nparameters: {x: {float: [0, 1]}}\n"


@pytest.fixture
def spec() -> StudySpec:
    read = study_file.parse(GOOD, folder=Path("/studies"))
    assert read.problems == ()
    assert read.study_id == "adult-income"
    assert read.spec is not None
    return read.spec


def test_the_space_holds_the_tuned_parameters_with_their_groups(spec: StudySpec) -> None:
    parameters = {parameter.name: parameter for parameter in spec.space.walk()}
    assert {name: parameter.domain for name, parameter in parameters.items()} == {
        "age.buckets": Int(2, 64, log=True),
        "country.vocabulary": Int(8, 64),
        "age x hours_per_week.buckets": Int(64, 1024, log=True),
        "layers": Int(1, 4),
        "dropout": Float(0.0, 0.5, step=0.1),
        "learning_rate": Float(1e-4, 0.1, log=True),
        "activation": Categorical(("relu", "gelu")),
        "optimizer": Categorical(("adam", "sgd", "rmsprop")),
        "weight_decay": Float(0.0, 0.1),
        "batch_size": Discrete((64, 128)),
    }
    assert parameters["age.buckets"].group is Group.PREPROCESSING
    assert parameters["layers"].group is Group.MODEL
    assert parameters["learning_rate"].group is Group.TRAINING
    assert parameters["batch_size"].group is Group.TRAINING


def test_a_child_is_active_under_each_of_its_parents_values(spec: StudySpec) -> None:
    (optimizer,) = (p for p in spec.space.parameters if p.name == "optimizer")
    assert [child.parent_values for child in optimizer.children] == [("sgd", "rmsprop")]


def test_plain_values_are_fixed_settings(spec: StudySpec) -> None:
    assert spec.settings == {"epochs": 10}
    assert [dict(feature.settings) for feature in spec.features] == [
        {"scaling": "quantile"},
        {},
        {},
    ]


def test_features_name_their_columns(spec: StudySpec) -> None:
    assert [(feature.name, feature.kind, feature.columns) for feature in spec.features] == [
        ("age", "numeric", ("age",)),
        ("country", "categorical", ("native_country",)),
        ("age x hours_per_week", "cross", ("age", "hours_per_week")),
    ]


def test_the_rest_of_the_file(spec: StudySpec) -> None:
    assert spec.metric.goal is Goal.MAXIMIZE
    assert spec.trainer == "tabular"
    assert spec.data is not None
    assert spec.data.train_uri == "/studies/data/train.csv"
    assert spec.data.column_types == {"zip": "string"}
    assert spec.data.missing_values == ("?",)
    assert (spec.search.algorithm, spec.search.early_stopping, spec.search.seed) == (
        "tpe",
        "median",
        7,
    )
    assert spec.limits.duration == timedelta(hours=1)
    assert spec.limits.worker_time == timedelta(minutes=30)
    assert spec.limits.failed_trials is None
    assert (spec.resources.strategy, spec.resources.workers) == ("multi_worker", 2)
    assert spec.export_model == "adult"
    assert spec.labels == {"team": "research"}


def test_classes_are_weighted_one_by_one_or_together() -> None:
    def read(written: str) -> StudySpec:
        spec = study_file.parse(MANAGED + f"training: {{class_weights: {written}}}\n").spec
        assert spec is not None
        return spec

    each = read('{"<=50K": 1.5, ">50K": {float: [1, 9], log: true}}')
    assert each.settings == {"class_weights.<=50K": 1.5}
    assert each.space.parameters[0].name == "class_weights.>50K"
    assert each.space.parameters[0].group is Group.TRAINING
    together = read("{categorical: [none, balanced]}")
    assert together.space.parameters[0].domain == Categorical(("none", "balanced"))
    assert read("balanced").settings == {"class_weights": "balanced"}


def test_a_specification_survives_the_wire(spec: StudySpec) -> None:
    assert convert.spec_from_proto(convert.spec_to_proto(spec)) == spec


def test_uris_and_absolute_paths_are_left_alone() -> None:
    text = GOOD.replace("data/train.csv", "s3://bucket/*.parquet, test: /data/t.csv")
    spec = study_file.parse(text, folder=Path("/studies")).spec
    assert spec is not None and spec.data is not None
    assert spec.data.train_uri == "s3://bucket/*.parquet"
    assert spec.data.test_uri == "/data/t.csv"


def test_a_validation_path_replaces_the_fraction() -> None:
    text = GOOD.replace("validation: 0.2", "validation: v.csv")
    spec = study_file.parse(text, folder=Path("/studies")).spec
    assert spec is not None and spec.data is not None
    assert spec.data.validation_uri == "/studies/v.csv"
    assert spec.data.validation_fraction is None


def test_a_known_metric_needs_no_goal() -> None:
    text = GOOD.replace("{name: val_auc, goal: maximize}", "{name: val_loss}")
    spec = study_file.parse(text).spec
    assert spec is not None
    assert spec.metric.goal is Goal.MINIMIZE


def test_a_script_study_takes_any_parameter_and_metric() -> None:
    text = SCRIPT + "training: {momentum: {float: [0, 1]}, warmup: 5}\n"
    spec = study_file.parse(text).spec
    assert spec is not None
    assert not spec.is_managed
    assert [p.group for p in spec.space.walk()] == [Group.MODEL, Group.TRAINING]
    assert spec.settings == {"warmup": 5}


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        ("[on, off]", ("on", "off")),
        ("[yes, no, y, n]", ("yes", "no", "y", "n")),
        ("[true, false]", (True, False)),
        ("[1e-4, 1e3]", (1e-4, 1e3)),
        ("[1, 1.5, '1']", (1, 1.5, "1")),
        ("[010, 1_000]", (10, 1000)),
        ("[1:30, 2001-01-01]", ("1:30", "2001-01-01")),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, choices: tuple[object, ...]) -> None:
    text = SCRIPT.replace("float: [0, 1]", f"categorical: {written}")
    spec = study_file.parse(text).spec
    assert spec is not None
    domain = spec.space.parameters[0].domain
    assert isinstance(domain, Categorical)
    assert domain.choices == choices
    assert [type(c) for c in domain.choices] == [type(c) for c in choices]


def test_a_fixed_value_under_a_condition_exists_only_there() -> None:
    text = SCRIPT.replace(
        "{float: [0, 1]}", "{categorical: [a, b], when: {a: {y: 3, z: {int: [1, 2]}}}}"
    )
    spec = study_file.parse(text).spec
    assert spec is not None
    assert spec.settings == {}
    children = {c.parameter.name: c.parameter.domain for c in spec.space.parameters[0].children}
    assert children == {"y": Categorical((3,)), "z": Int(1, 2)}


def parsed(text: str) -> StudySpec:
    file = study_file.parse(text)
    assert file.problems == ()
    assert file.spec is not None
    assert convert.spec_from_proto(convert.spec_to_proto(file.spec)) == file.spec
    return file.spec


def test_several_metrics() -> None:
    several = "metrics:\n- {name: auc}\n- {name: latency_ms, goal: minimize}\n"
    spec = parsed(SCRIPT.replace("metric: {name: score}\n", several))
    assert spec.metrics == (Metric(name="auc"), Metric(name="latency_ms", goal=Goal.MINIMIZE))
    assert spec.early_stopping_in_use == "none"
    assert spec.selection is Selection.LAST


def test_a_trainer_knows_the_goals_of_several_metrics() -> None:
    several = "metrics: [{name: val_auc}, {name: val_loss}]"
    spec = parsed(MANAGED.replace("metric: {name: val_auc}", several))
    assert [metric.goal for metric in spec.metrics] == [Goal.MAXIMIZE, Goal.MINIMIZE]


def test_constraints_bound_metrics_from_both_sides() -> None:
    spec = parsed(SCRIPT + "constraints: {ms: {at_most: 50}, auc: {at_least: 0.5, at_most: 1}}\n")
    assert spec.constraints == (
        Constraint(metric="ms", at_most=50.0),
        Constraint(metric="auc", at_most=1.0),
        Constraint(metric="auc", at_least=0.5),
    )
    assert parsed(SCRIPT).constraints == ()


def test_earlier_studies_and_which_measurement_counts() -> None:
    spec = parsed(SCRIPT + "warm_start: [older, oldest-2]\nmeasurement: last\n")
    assert spec.warm_start == ("older", "oldest-2")
    assert spec.selection is Selection.LAST
    assert parsed(SCRIPT + "measurement: best\n").selection is Selection.BEST
    assert parsed(SCRIPT).measurement_selection is None


@pytest.mark.parametrize(
    ("domain", "default"),
    [
        ("float: [0, 1], default: 1", 1.0),
        ("float: [0.1, 1], log: true, default: 0.5", 0.5),
        ("int: [1, 9], step: 2, default: 3", 3),
        ("discrete: [16, 32], default: 32", 32.0),
        ("categorical: [a, true, 1], default: true", True),
        ("categorical: [a, true, 1], default: 1", 1),
        ("categorical: [a, b], when: {a: {y: {int: [1, 2], default: 2}}}, default: b", "b"),
    ],
)
def test_every_kind_of_parameter_may_have_a_default(domain: str, default: Value) -> None:
    spec = parsed(SCRIPT.replace("float: [0, 1]", domain))
    given = spec.space.parameters[0].default
    assert (given, type(given)) == (default, type(default))
    assert [p.default for p in spec.space.walk()][1:] in ([], [2])


def test_a_tuned_setting_of_a_feature_may_have_a_default() -> None:
    feature = "features: {age: {kind: numeric, buckets: {int: [2, 64], default: 8}}}\n"
    (buckets,) = parsed(MANAGED + feature).space.parameters
    assert (buckets.name, buckets.default) == ("age.buckets", 8)


MANAGED = "study: s\nmetric: {name: val_auc}\ndata: {train: t.csv, label: y}\ntrainer: tabular\n"

#: What follows MANAGED (so line 5 on), where the mistake is, and words of the message.
MISTAKES = [
    ("colour: red", 5, 1, "unknown key 'colour'; allowed: study, metric"),
    ("paramters: {}", 5, 1, "unknown key 'paramters'; did you mean 'parameters'?"),
    ("trainer: tabular", 5, 1, "trainer appears twice; first in line 4"),
    ("features: {age: {kind: numeric, bucket: 3}}", 5, 33, "unknown key 'bucket' in features.age"),
    ("features: {age: {kind: numeric, bucket: 3}}", 5, 33, "did you mean 'buckets'?"),
    ("features: {age: numeric}", 5, 17, "must be a mapping such as {kind: numeric}"),
    ("features: {age: {}}", 5, 12, "missing key 'features.age.kind'"),
    ("features: {age: {kind: number}}", 5, 24, "unknown kind of feature 'number'"),
    ("features: {}", 5, 11, "features is empty"),
    ("features: {y: {kind: numeric}}", 5, 12, "uses the label 'y'"),
    ("features: {a: {kind: cross}}", 5, 12, "takes 2 to 8 columns, but got 1"),
    ("features: {a x a: {kind: cross}}", 5, 12, "names a column twice"),
    ("features: {a: {kind: categorical, vocabulary: 9, hash_buckets: 9}}", 5, 50, "keep one"),
    ("features: {a: {kind: image}}", 5, 12, "features.a is an image; write `trainer: image`"),
    (
        "features: {a: {kind: text, pooling: min}}",
        5,
        37,
        "one of mean, sum, tfidf, max, attention",
    ),
    ("parameters: {blocks: 3}", 5, 14, "unknown key 'blocks' in parameters"),
    ("features: {a: {kind: datetime, hour: sine}}", 5, 38, "one of none, cyclic, one_hot"),
    (
        "features: {a: {kind: datetime, day_first: {categorical: [true, false]}}}",
        5,
        43,
        "cannot be tuned",
    ),
    ("features: {a: {kind: expression}}", 5, 12, "missing key 'features.a.expression'"),
    ("features: {a: {kind: expression, expression: b +}}", 5, 46, "is no expression"),
    ("features: {a: {kind: expression, expression: sin(b)}}", 5, 46, "no function 'sin'"),
    ("features: {a: {kind: expression, expression: b - y}}", 5, 12, "uses the label 'y'"),
    ("features: {a: {kind: expression, expression: b, column: b}}", 5, 49, "unknown key 'column'"),
    ("features: {a: {kind: categorical, share: t}}", 5, 35, "nothing else shares the table 't'"),
    (
        "features:\n  a: {kind: categorical, share: t, embedding: {int: [2, 8]}}\n"
        "  b: {kind: categorical, share: t, embedding: 4}",
        7,
        36,
        "whose embedding 'a' gives",
    ),
    (
        "features:\n  a: {kind: categorical, share: t, embedding: {int: [0, 8]}}\n"
        "  b: {kind: categorical, share: t}",
        6,
        36,
        "embedding starts at 1",
    ),
    (
        "features:\n  a: {kind: categorical, share: t, vocabulary: 9}\n"
        "  b: {kind: categorical, share: t, hash_buckets: 9}",
        7,
        36,
        "has a vocabulary, too",
    ),
    (
        "features:\n  a: {kind: categorical, share: {categorical: [t, u]}}",
        6,
        33,
        "cannot be tuned",
    ),
    ("features: {a: {kind: numeric, scaling: minmax}}", 5, 40, "one of zscore, quantile, log"),
    ("features: {a: {kind: numeric, buckets: {float: [2, 9]}}}", 5, 40, "whole number"),
    ("parameters: {}", 5, 13, "parameters is empty; leave it out"),
    ("parameters: {unit: {int: [1, 4]}}", 5, 14, "did you mean 'units'?"),
    ("parameters: {units: {int: [4, 1]}}", 5, 27, "`low <= high` must hold"),
    ("parameters: {units: {int: [1, 2, 3]}}", 5, 27, "takes two numbers, [low, high], but got 3"),
    ("parameters: {units: {int: [1.5, 3]}}", 5, 27, "takes whole numbers; use float"),
    ("parameters: {units: {int: 5}}", 5, 27, "must be [low, high], but got 5"),
    ("parameters: {units: {int: []}}", 5, 27, "is empty"),
    ("parameters: {units: {int: [0, 9], log: true}}", 5, 27, "`low > 0` must hold on a log"),
    (
        "parameters: {units: {int: [1, 9], log: yes}}",
        5,
        40,
        "must be true or false, but got 'yes'",
    ),
    ("parameters: {units: {int: [1, 9], step: -1}}", 5, 41, "a number above 0, but got -1"),
    ("parameters: {units: {int: [1, 9], step: 2, log: true}}", 5, 27, "not be combined with log"),
    ("parameters: {units: {int: [1, 99999999]}}", 5, 21, "from 1 to 4096, but is tuned over"),
    ("parameters: {dropout: {float: [0, .inf]}}", 5, 35, "must be finite"),
    ("parameters: {dropout: {float: [a, b]}}", 5, 31, "must be two numbers"),
    ("parameters: {dropout: {float: [0, 0.5], when: {0: {}}}}", 5, 41, "does not go with float"),
    ("parameters: {units: {discrete: [32, 16]}}", 5, 32, "must increase"),
    ("parameters: {units: {discrete: [a]}}", 5, 32, "must hold numbers; words are categorical"),
    ("parameters: {units: {discrete: [8, 16], log: true}}", 5, 41, "does not go with discrete"),
    ("parameters: {optimizer: {categorical: []}}", 5, 39, "is empty"),
    ("parameters: {optimizer: {categorical: [sgd, sgd]}}", 5, 39, "must differ"),
    ("parameters: {optimizer: {categorical: [sgd, lbfgs]}}", 5, 25, "one of adam, sgd"),
    ("parameters: {optimizer: {categorical: [[sgd]]}}", 5, 40, "must hold values, but got a list"),
    ("parameters: {units: [1, 4]}", 5, 21, "is a list; write {discrete: [...]}"),
    ("parameters: {units: {}}", 5, 14, "needs {int: [1, 4]}"),
    ("parameters: {units: {int: [1, 4], float: [1, 4]}}", 5, 14, "has both int and float"),
    ("parameters: {units: }", 5, 14, "has no value"),
    ("parameters: {units: many}", 5, 21, "takes a whole number from 1 to 4096, but got 'many'"),
    ("parameters: {units: 9}\ntraining: {units: 9}", 6, 12, "was given before, in line 5"),
    (
        "parameters: {optimizer: {categorical: [adam], when: {sgd: {dropout: 0.1}}}}",
        5,
        54,
        "'sgd' is not in categorical [adam]",
    ),
    (
        "parameters: {optimizer: {categorical: [adam], when: {adam: {momentum: 0.1}}}}",
        5,
        61,
        "unknown key 'momentum' in parameters.optimizer.when.adam",
    ),
    ("parameters: {units: {int: [1, 9], default: 10}}", 5, 44, "default: 10 is not in int [1, 9]"),
    ("parameters: {units: {int: [1, 9], default: }}", 5, 35, "must be one value, but got nothing"),
    (
        "parameters: {units: {int: [1, 9], default: [2]}}",
        5,
        35,
        "must be one value, but got a list",
    ),
    (
        "parameters: {activation: {categorical: [relu], default: gelu}}",
        5,
        57,
        "'gelu' is not in categorical [relu]",
    ),
    ("metrics: [{name: val_loss}]", 5, 1, "`metric` or `metrics`, but not both; keep one"),
    ("constraints: {val_los: {at_most: 1}}", 5, 15, "did you mean 'val_loss'?"),
    ("constraints: {val_loss: 1}", 5, 25, "must be a mapping such as {at_most: 50}, but got 1"),
    ("constraints: {val_loss: {}}", 5, 15, "constraints.val_loss needs {at_most: 50}"),
    ("constraints: {val_loss: {below: 1}}", 5, 26, "unknown key 'below' in constraints.val_loss"),
    ("constraints: {val_loss: {at_most: low}}", 5, 35, "must be a number, but got 'low'"),
    ("constraints: {val_loss: {at_most: .inf}}", 5, 35, "must be a number, but got .inf"),
    ("constraints: {val_loss: {at_most: 1, at_least: 2}}", 5, 48, "is at least 2 and at most 1"),
    ("constraints: [val_loss]", 5, 14, "such as {latency_ms: {at_most: 50}}, but got a list"),
    ("warm_start: older", 5, 13, "must be a list such as [older-study], but got 'older'"),
    ("warm_start: [a, A]", 5, 17, "warm_start: a study's name is 1 to 63 of a-z"),
    ("warm_start: [a, b, a]", 5, 20, "warm_start names 'a' twice"),
    ("warm_start: [a, s]", 5, 17, "does not start from its own results"),
    ("warm_start: [a, b, c, d, e, f]", 5, 13, "at most 5 studies, but got 6"),
    ("warm_start: [a, {b: c}]", 5, 17, "must hold words, but got a mapping"),
    ("measurement: first", 5, 14, "unknown measurement 'first'; allowed: best, last"),
    ("training: {epochs: 0}", 5, 20, "from 1 to 10000, but got 0"),
    ("search: {algorithm: bayes}", 5, 21, "unknown algorithm 'bayes'; allowed: auto, random"),
    (
        "search: {algorithm: grid}\nparameters: {dropout: {float: [0, 0.5]}}",
        5,
        21,
        "for each parameter, but dropout has none; add `step:`",
    ),
    ("search: {early_stopping: off}", 5, 26, "unknown early stopping 'off'; allowed: none, asha"),
    ("search: {early_stopping: {eta: 3}}", 5, 10, "missing key 'search.early_stopping.rule'"),
    ("search: {early_stopping: {rule: asha, grace: 1}}", 5, 39, "unknown key 'grace' in search"),
    ("search: {early_stopping: {rule: asha, eta: 1}}", 5, 44, "from 1.5 to 10, but got 1"),
    ("search: {early_stopping: {rule: median, eta: 3}}", 5, 46, "`median` takes no `eta`"),
    ("search: {early_stopping: {rule: asha, by: seconds}}", 5, 43, "`asha` needs `first`"),
    ("search: {early_stopping: {rule: hyperband, brackets: many}}", 5, 54, "a whole number"),
    ("search: {early_stopping: threshold}", 5, 26, "needs a bound: `at_least`, `at_most`"),
    ("search: {early_stopping: [asha]}", 5, 26, "must be one of none, asha"),
    ("search: {seed: 1.5}", 5, 16, "must be a whole number"),
    ("limits: {trials: 0}", 5, 18, "limits.trials must be a whole number from 1"),
    ("limits: {trials: many}", 5, 18, "but got 'many'"),
    ("limits: {parallel: true}", 5, 20, "limits.parallel must be a whole number"),
    ("limits: {hours: 0}", 5, 17, "a number of hours above 0"),
    ("limits: {trial: 3}", 5, 10, "unknown key 'trial' in limits; did you mean 'trials'?"),
    ("search: grid", 5, 9, "search must be a mapping such as {algorithm: auto}, but got 'grid'"),
    ("limits: 30", 5, 9, "limits must be a mapping such as {trials: 30}, but got 30"),
    ("resources: {workers: 0}", 5, 22, "resources.workers must be a whole number from 1"),
    ("resources: {strategy: parameters}", 5, 23, "unknown strategy 'parameters'"),
    ("resources: {strategy: single, workers: 2}", 5, 40, "strategy single has 1 worker"),
    ("resources: {parameter_servers: 1}", 5, 32, "need `strategy: parameter_server`; add it"),
    ("resources: {gpus_per_worker: 1.5}", 5, 30, "a part of one or a whole number"),
    ("resources: {strategy: mirrored, gpus_per_worker: 0.5}", 5, 50, "have whole GPUs"),
    ("training: {precision: half}", 5, 23, "takes one of float32, mixed_bfloat16, mixed_float16"),
    ("training: {class_weights: {yes: -1}}", 5, 33, "takes a number from 0 to 1e+06, but got -1"),
    ("training: {class_weights: balance}", 5, 27, "takes one of none, balanced"),
    ("export: {model: ../up}", 5, 17, "export.model must be"),
    ("export: {}", 5, 1, "missing key 'export.model'"),
    ("labels: {a: [1]}", 5, 13, "labels.a must be text, but got a list"),
    ("limits: {trials: [}", 5, 19, "not valid YAML"),
    ("limits:\n\ttrials: 3", 6, 1, "not valid YAML"),
    ("---\nstudy: b", 5, 1, "single document"),
]


@pytest.mark.parametrize(("addition", "line", "column", "words"), MISTAKES)
def test_a_mistake_is_found_where_it_is(addition: str, line: int, column: int, words: str) -> None:
    problems = study_file.check(MANAGED + addition + "\n")
    assert [(p.line, p.column) for p in problems] == [(line, column)]
    assert words in problems[0].message


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "the file is empty"),
        ("# nothing\n", 1, 1, "the file is empty"),
        ("- a\n", 1, 1, "a study file is a mapping of keys, but got a list"),
        ("[" * 900, 1, 1, "nested too deeply"),
        ("study: a\nmetric: {name: m}\n", 1, 1, "nothing to search: add `parameters:"),
        (SCRIPT.replace("{x: {float: [0, 1]}}", "{}"), 3, 1, "the space is empty"),
        (SCRIPT.replace("{float: [0, 1]}", "3"), 3, 1, "every parameter is fixed"),
        (SCRIPT + "export: {model: m}\n", 4, 1, "export needs a trainer"),
        (SCRIPT.replace("mine", "My Study"), 1, 8, "'my-study' would do"),
        (SCRIPT.replace("study: mine\n", ""), 1, 1, "missing key 'study'"),
        (SCRIPT.replace("metric: {name: score}\n", ""), 1, 1, "missing key 'metric'"),
        (SCRIPT.replace("{name: score}", "{goal: maximize}"), 2, 1, "missing key 'metric.name'"),
        (SCRIPT.replace("{name: score}", "{name: s, goal: up}"), 2, 25, "unknown goal 'up'"),
        (SCRIPT.replace("mine", "!!python/name:os.system x"), 1, 8, "must be a name"),
        (MANAGED.replace("trainer: tabular\n", ""), 1, 1, "missing key 'trainer'"),
        (MANAGED.replace("tabular", "tabluar"), 4, 10, "did you mean 'tabular'?"),
        (MANAGED.replace("data: {train: t.csv, label: y}\n", ""), 1, 1, "missing key 'data'"),
        (MANAGED.replace("train: t.csv, ", ""), 3, 1, "missing key 'data.train'"),
        (MANAGED.replace(", label: y", ""), 3, 1, "missing key 'data.label'"),
        (MANAGED.replace("y}", "y, validation: 1}"), 3, 44, "above 0 and below 1"),
        (MANAGED.replace("y}", "y, task: guess}"), 3, 38, "unknown task 'guess'"),
        (MANAGED.replace("y}", "y, types: {a: int}}"), 3, 43, "unknown column type 'int'"),
        (MANAGED.replace("y}", "y, missing: NA}"), 3, 41, "must be a list such as"),
        (
            MANAGED.replace("val_auc", "auc"),
            2,
            16,
            "unknown metric 'auc'; did you mean 'val_auc'?",
        ),
        (MANAGED.replace("val_auc", "val_loss, goal: maximize"), 2, 32, "write `goal: minimize`"),
        (MANAGED.replace("y}", "y, task: regression}"), 2, 16, "unknown metric 'val_auc'"),
    ],
)
def test_what_must_be_there_is_asked_for(text: str, line: int, column: int, words: str) -> None:
    problems = study_file.check(text)
    assert [(p.line, p.column) for p in problems] == [(line, column)]
    assert words in problems[0].message


SEVERAL = SCRIPT.replace("metric: {name: score}", "metrics: [{name: a}, {name: b}]")


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        (SEVERAL.replace("[{name: a}, {name: b}]", "[]"), 2, 10, "metrics must be a list such as"),
        (SEVERAL.replace("[{name: a}, {name: b}]", "a"), 2, 10, "must be a list such as"),
        (SEVERAL.replace("{name: b}", "b"), 2, 22, "metrics[1] must be a mapping such as"),
        (SEVERAL.replace("name: b", "goal: minimize"), 2, 22, "missing key 'metrics[1].name'"),
        (SEVERAL.replace("name: b", "name: a"), 2, 29, "metrics[1]: 'a' appears twice"),
        (SEVERAL.replace("name: b", "name: b, goal: up"), 2, 38, "unknown goal 'up'"),
        (SEVERAL.replace("name: b", "name: b, weight: 2"), 2, 32, "unknown key 'weight'"),
        (SEVERAL + "search: {early_stopping: asha}\n", 4, 26, "but there are 2; write"),
        (SEVERAL + "search: {early_stopping: median}\n", 4, 26, "median compares trials by one"),
        (
            MANAGED.replace("metric: {name: val_auc}", "metrics: [{name: val_auc}, {name: ms}]"),
            2,
            35,
            "unknown metric 'ms'; allowed: val_auc",
        ),
    ],
)
def test_mistakes_in_several_metrics(text: str, line: int, column: int, words: str) -> None:
    problems = study_file.check(text)
    assert [(p.line, p.column) for p in problems] == [(line, column)]
    assert words in problems[0].message


def test_a_rule_may_have_parameters(tmp_path: Path) -> None:
    rule = "{rule: hyperband, first: 30, by: seconds, brackets: 2}"
    path = tmp_path / "study.yaml"
    path.write_text(f"{SCRIPT}search: {{early_stopping: {rule}}}")
    spec = study_file.load(path)[1]
    assert spec.search.early_stopping == "hyperband"
    assert spec.search.stopping == Stopping(first=30, by=Progress.SECONDS, brackets=2)
    assert spec.search.stopping.describe() == "first 30, brackets 2, by seconds"


def test_several_metrics_may_turn_early_stopping_off() -> None:
    assert study_file.check(SEVERAL + "search: {early_stopping: none}\n") == []


def test_the_words_for_searching_are_the_engines() -> None:
    assert sections.MAX_EARLIER == engine.MAX_EARLIER
    assert sections.ALGORITHMS == engine.ALGORITHMS
    assert set(early_stopping.RULES) == set(engine.RULES)


def test_every_mistake_is_found_at_once() -> None:
    text = MANAGED.replace("tabular", "tabluar").replace("label: y", "lable: y") + (
        "features:\n  age: {kind: numeric, bucket: 3}\nparameters:\n  unit: {int: [4, 1]}\n"
        "limits: {trials: -1}\n"
    )
    assert [p.line for p in study_file.check(text)] == [3, 3, 4, 6, 8, 9]


def test_aliases_that_hold_themselves_end() -> None:
    text = SCRIPT.replace("{x: {float: [0, 1]}}", "&p {x: {int: [1, 2], when: {1: *p}}}")
    assert [p.line for p in study_file.check(text)] == [3]


def test_loading_a_bad_file_names_it_in_every_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(SCRIPT + "colour: red\nshape: round\n")
    with pytest.raises(StudyFileError) as caught:
        study_file.load(path)
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [
        f"{path}:4:1",
        f"{path}:5:1",
    ]


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("\ufeff" + MANAGED)
    study_id, spec = study_file.load(path)
    assert study_id == "s"
    assert spec.data is not None
    assert spec.data.train_uri == str(tmp_path / "t.csv")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no such file or directory"):
        study_file.load(tmp_path / "none.yaml")
    with pytest.raises(InvalidArgumentError, match="is a directory"):
        study_file.load(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"study: a\nmetric: \xff\n")
    assert study_file.check(path) == [Problem(2, 1, "not UTF-8 text; save the file as UTF-8")]
