"""What the trainers of the box can be given: their parameters, default spaces and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tuner.errors import InvalidArgumentError
from tuner.setting import Setting
from tuner.space import (
    Categorical,
    Child,
    Discrete,
    Domain,
    Float,
    Group,
    Int,
    Parameter,
    Space,
    Value,
)
from tuner.study import Goal, Metric


class Task(StrEnum):
    """What a trainer learns to predict."""

    #: One of two classes.
    BINARY = "binary"
    #: One of three classes or more.
    MULTICLASS = "multiclass"
    #: A number.
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerParameter:
    """A parameter of a trainer.

    Attributes:
        setting: what it takes.
        group: what it belongs to.
        domain: what the default space tunes it over, if it does.
        of: a count in whose absence, 0, this parameter means nothing; empty: it always does.
    """

    setting: Setting
    group: Group
    domain: Domain | None = None
    of: str = ""


def _number(
    name: str,
    group: Group,
    meaning: str,
    *,
    default: int | float,
    low: float,
    high: float,
    domain: Domain | None = None,
    of: str = "",
) -> TrainerParameter:
    setting = Setting(
        name=name, type=type(default), default=default, low=low, high=high, meaning=meaning
    )
    return TrainerParameter(setting=setting, group=group, domain=domain, of=of)


def _choice(
    name: str, group: Group, meaning: str, *choices: str, domain: Domain | None = None
) -> TrainerParameter:
    """The first choice is the default."""
    setting = Setting(name=name, type=str, default=choices[0], choices=choices, meaning=meaning)
    return TrainerParameter(setting=setting, group=group, domain=domain)


_ACTIVATION = _choice(
    "activation", Group.MODEL, "of the hidden layers.", "relu", "gelu", "swish", "selu", "tanh"
)


def _layers(default: int, domain: Domain) -> TrainerParameter:
    meaning = "hidden layers of the deep part."
    return _number("layers", Group.MODEL, meaning, default=default, low=0, high=10, domain=domain)


def _units(domain: Domain, of: str = "") -> TrainerParameter:
    meaning = "neurons of each hidden layer."
    return _number(
        "units", Group.MODEL, meaning, default=64, low=1, high=4096, domain=domain, of=of
    )


def _dropout(default: float) -> TrainerParameter:
    return _number(
        "dropout",
        Group.MODEL,
        "the part of each hidden layer's outputs dropped in training.",
        default=default,
        low=0.0,
        high=0.9,
        domain=Float(0.0, 0.5),
    )


def _training(
    learning_rate: float, batch_size: int, optimizers: Domain | None = None
) -> tuple[TrainerParameter, ...]:
    """The parameters of the training that every trainer has."""
    return (
        _number(
            "learning_rate",
            Group.TRAINING,
            "the optimizer's step size.",
            default=learning_rate,
            low=1e-7,
            high=10.0,
            domain=Float(3e-4, 1e-2, log=True),
        ),
        _choice(
            "optimizer",
            Group.TRAINING,
            "the optimizer.",
            "adam",
            "sgd",
            "rmsprop",
            "adagrad",
            domain=optimizers,
        ),
        _number(
            "batch_size",
            Group.TRAINING,
            "rows of one step, over all workers.",
            default=batch_size,
            low=1,
            high=1_000_000,
            domain=Discrete((batch_size // 2, batch_size, batch_size * 2)),
        ),
        _number(
            "epochs",
            Group.TRAINING,
            "passes over the training rows; the best one counts.",
            default=10,
            low=1,
            high=10_000,
        ),
        _number(
            "weight_decay",
            Group.TRAINING,
            "how much each step shrinks the weights, times the learning rate.",
            default=0.0,
            low=0.0,
            high=1.0,
        ),
        _choice(
            "schedule",
            Group.TRAINING,
            "how the learning rate falls from one step to the next.",
            "constant",
            "cosine",
            "exponential",
        ),
        _number(
            "warmup",
            Group.TRAINING,
            "the part of all steps in which the learning rate rises to its value from 0.",
            default=0.0,
            low=0.0,
            high=0.9,
        ),
        _number(
            "final_rate",
            Group.TRAINING,
            "the part of the learning rate that cosine and exponential end with.",
            default=0.01,
            low=1e-6,
            high=1.0,
        ),
        _number(
            "clip_norm",
            Group.TRAINING,
            "the largest norm of all gradients together; 0 for any.",
            default=0.0,
            low=0.0,
            high=1e6,
        ),
        _number(
            "clip_value",
            Group.TRAINING,
            "the largest absolute value in a gradient; 0 for any.",
            default=0.0,
            low=0.0,
            high=1e6,
        ),
        _choice(
            "precision",
            Group.TRAINING,
            "of the numbers in a training step; variables are float32.",
            "float32",
            "mixed_bfloat16",
            "mixed_float16",
        ),
        _choice(
            "class_weights",
            Group.TRAINING,
            "how much the rows of a class count; balanced: all classes the same together.",
            "none",
            "balanced",
        ),
    )


_TABULAR = (
    _layers(2, Int(1, 3)),
    _units(Int(16, 256, log=True)),
    _ACTIVATION,
    _dropout(0.1),
    TrainerParameter(
        setting=Setting(
            name="wide",
            type=bool,
            default=True,
            meaning="whether a linear part beside the deep one sees one-hot values and crosses.",
        ),
        group=Group.MODEL,
    ),
    *_training(0.002, 256),
)

_IMAGE = (
    _number(
        "blocks",
        Group.MODEL,
        "convolutions; each halves the image, or shrinks it by its stride.",
        default=2,
        low=1,
        high=8,
        domain=Int(2, 4),
    ),
    _number(
        "filters",
        Group.MODEL,
        "filters of the first convolution; each further one has twice as many, up to 512.",
        default=32,
        low=1,
        high=512,
        domain=Int(8, 64, log=True),
    ),
    _number(
        "kernel",
        Group.MODEL,
        "the side of a filter, in pixels.",
        default=3,
        low=1,
        high=15,
        domain=Discrete((3, 5)),
    ),
    _number(
        "stride",
        Group.MODEL,
        "the step of a filter, in pixels; with 1, the maximum of each two by two is taken then.",
        default=1,
        low=1,
        high=4,
        domain=Discrete((1, 2)),
    ),
    _choice(
        "pooling",
        Group.MODEL,
        "how what the last convolution gives becomes one vector: all of it, or the mean or the "
        "maximum over the image.",
        "flatten",
        "mean",
        "max",
    ),
    _layers(1, Int(1, 2)),
    _units(Int(32, 256, log=True)),
    _ACTIVATION,
    _dropout(0.2),
    _choice(
        "flip",
        Group.TRAINING,
        "how images are flipped at random in training.",
        "none",
        "horizontal",
        "vertical",
        "both",
        domain=Categorical(("none", "horizontal")),
    ),
    _number(
        "shift",
        Group.TRAINING,
        "the part of its side by which an image is shifted at random in training, at most.",
        default=0.0,
        low=0.0,
        high=0.5,
        domain=Float(0.0, 0.15),
    ),
    _number(
        "rotation",
        Group.TRAINING,
        "the degrees by which an image is turned at random in training, at most.",
        default=0.0,
        low=0.0,
        high=180.0,
        domain=Float(0.0, 20.0),
    ),
    *_training(0.001, 64, Categorical(("adam", "rmsprop"))),
)

_TEXT = (
    _number(
        "convolutions",
        Group.MODEL,
        "convolutions over neighbouring tokens; 0: tokens are pooled whatever their order.",
        default=0,
        low=0,
        high=4,
        domain=Int(0, 2),
    ),
    _number(
        "filters",
        Group.MODEL,
        "filters of each convolution.",
        default=64,
        low=1,
        high=1024,
        domain=Int(16, 128, log=True),
        of="convolutions",
    ),
    _number(
        "kernel",
        Group.MODEL,
        "the tokens that a filter sees at once.",
        default=3,
        low=1,
        high=15,
        domain=Int(2, 5),
        of="convolutions",
    ),
    _layers(1, Int(0, 2)),
    _units(Int(16, 128, log=True), of="layers"),
    _ACTIVATION,
    _dropout(0.2),
    *_training(0.002, 64),
)
#: Before a class, the name of the parameter that is its weight: `class_weights.yes`.
CLASS_WEIGHT = "class_weights."

#: The parameters of each trainer of the box, by trainer and name.
TRAINERS: Mapping[str, Mapping[str, TrainerParameter]] = {
    trainer: {parameter.setting.name: parameter for parameter in parameters}
    for trainer, parameters in (("tabular", _TABULAR), ("image", _IMAGE), ("text", _TEXT))
}

#: The kind of feature that a trainer is made for, of which it needs one at least.
LEADING: Mapping[str, str] = {"image": "image", "text": "text"}

#: What is left of them where a function of the user's own builds the network.
_BUILT: Mapping[str, TrainerParameter] = {
    name: parameter
    for name, parameter in TRAINERS["tabular"].items()
    if parameter.group is Group.TRAINING
}

#: The trainer that is a program of the user's own.
PROGRAM = "program"

#: The metrics that trainers of the box report after each epoch, and which direction is better.
METRICS: Mapping[Task, Mapping[str, Goal]] = {
    Task.BINARY: {
        "val_auc": Goal.MAXIMIZE,
        "val_auc_pr": Goal.MAXIMIZE,
        "val_accuracy": Goal.MAXIMIZE,
        "val_f1": Goal.MAXIMIZE,
        "val_precision": Goal.MAXIMIZE,
        "val_recall": Goal.MAXIMIZE,
        "val_loss": Goal.MINIMIZE,
        "loss": Goal.MINIMIZE,
    },
    Task.MULTICLASS: {
        "val_auc": Goal.MAXIMIZE,
        "val_accuracy": Goal.MAXIMIZE,
        "val_f1": Goal.MAXIMIZE,
        "val_precision": Goal.MAXIMIZE,
        "val_recall": Goal.MAXIMIZE,
        "val_loss": Goal.MINIMIZE,
        "loss": Goal.MINIMIZE,
    },
    Task.REGRESSION: {
        "val_rmse": Goal.MINIMIZE,
        "val_mae": Goal.MINIMIZE,
        "val_r2": Goal.MAXIMIZE,
        "val_loss": Goal.MINIMIZE,
        "loss": Goal.MINIMIZE,
    },
}


def is_own(trainer: str | None) -> bool:
    """Whether a trainer is the user's own: a program, or an object of a module."""
    return trainer is not None and trainer not in TRAINERS


def table_of(trainer: str) -> Mapping[str, TrainerParameter]:
    """The parameters of a trainer of the box that a study with data uses, whole or in part."""
    return TRAINERS.get(trainer, _BUILT)


def find_parameter(trainer: str, name: str) -> TrainerParameter | None:
    """The parameter `name` of a trainer of the box, those of single classes among them."""
    if name.startswith(CLASS_WEIGHT):
        return _number(
            name,
            Group.TRAINING,
            "how much a row of the class counts.",
            default=1.0,
            low=0.0,
            high=1e6,
        )
    return table_of(trainer).get(name)


def parameter_of(trainer: str, name: str) -> TrainerParameter:
    """Returns the parameter `name` of a trainer of the box; raises InvalidArgumentError."""
    parameters, found = table_of(trainer), find_parameter(trainer, name)
    if found is None:
        raise InvalidArgumentError(
            f"the {trainer} trainer has no parameter {name!r}; it has {', '.join(parameters)}."
        )
    return found


def default_space(
    trainer: str, without: Iterable[str] = (), settings: Mapping[str, Value] | None = None
) -> Space:
    """What a trainer of the box tunes where nothing is named.

    Args:
        trainer: its name.
        without: parameters to leave out.
        settings: those that are fixed, which are left out, too.
    """
    table, fixed = table_of(trainer), settings or {}
    left_out = {*without, *fixed}
    domains = {
        name: of.domain
        for name, of in table.items()
        if of.domain is not None and name not in left_out
    }

    def parameter(name: str) -> Parameter:
        domain = domains[name]
        present = tuple(range(1, domain.high + 1)) if isinstance(domain, Int) else ()
        return Parameter(
            name=name,
            domain=domain,
            group=table[name].group,
            children=tuple(
                Child(present, parameter(other)) for other in domains if table[other].of == name
            ),
        )

    def stands_alone(name: str) -> bool:
        count = table[name].of
        return not count or (count not in domains and bool(fixed.get(count, 1)))

    return Space(tuple(parameter(name) for name in domains if stands_alone(name)))


def effective_parameters(
    trainer: str, settings: Mapping[str, Value], parameters: Mapping[str, Value]
) -> Mapping[str, Value]:
    """The trainer's parameters in a trial, in their own types: default < fixed < tuned.

    Those of a function of the user's own are as they were given.
    """
    given = {**settings, **parameters}
    values: dict[str, Value] = {} if trainer in TRAINERS else {**given}
    for name, parameter in table_of(trainer).items():
        value = given.get(name, parameter.setting.default)
        if value is not None:
            values[name] = parameter.setting.check(value)
    for name, value in given.items():
        if name.startswith(CLASS_WEIGHT) and not isinstance(value, str):
            values[name] = float(value)
    return values


def check_metric(metric: Metric, task: Task) -> None:
    """Raises InvalidArgumentError unless trials of `task` report the metric with that goal."""
    goals = METRICS[task]
    if metric.name not in goals:
        raise InvalidArgumentError(
            f"a {task} trial reports no metric {metric.name!r}; it reports {', '.join(goals)}."
        )
    if metric.goal is not goals[metric.name]:
        raise InvalidArgumentError(
            f"{metric.name!r} is better the other way; give it `goal: {goals[metric.name]}`."
        )
