"""What the trainers of the box can be given: their parameters, default spaces and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tuner.errors import InvalidArgumentError
from tuner.setting import Setting
from tuner.space import Discrete, Domain, Float, Group, Int, Parameter, Space, Value
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
    """A parameter of a trainer; `domain` is what the default space tunes it over, if it does."""

    setting: Setting
    group: Group
    domain: Domain | None = None


def _number(
    name: str,
    group: Group,
    meaning: str,
    *,
    default: int | float,
    low: float,
    high: float,
    domain: Domain | None = None,
) -> TrainerParameter:
    setting = Setting(
        name=name, type=type(default), default=default, low=low, high=high, meaning=meaning
    )
    return TrainerParameter(setting=setting, group=group, domain=domain)


def _choice(name: str, group: Group, meaning: str, *choices: str) -> TrainerParameter:
    """The first choice is the default."""
    setting = Setting(name=name, type=str, default=choices[0], choices=choices, meaning=meaning)
    return TrainerParameter(setting=setting, group=group)


_TABULAR = (
    _number(
        "layers",
        Group.MODEL,
        "hidden layers of the deep part.",
        default=2,
        low=0,
        high=10,
        domain=Int(1, 3),
    ),
    _number(
        "units",
        Group.MODEL,
        "neurons of each hidden layer.",
        default=64,
        low=1,
        high=4096,
        domain=Int(16, 256, log=True),
    ),
    _choice(
        "activation", Group.MODEL, "of the hidden layers.", "relu", "gelu", "swish", "selu", "tanh"
    ),
    _number(
        "dropout",
        Group.MODEL,
        "the part of each hidden layer's outputs dropped in training.",
        default=0.1,
        low=0.0,
        high=0.9,
        domain=Float(0.0, 0.5),
    ),
    TrainerParameter(
        setting=Setting(
            name="wide",
            type=bool,
            default=True,
            meaning="whether a linear part beside the deep one sees one-hot values and crosses.",
        ),
        group=Group.MODEL,
    ),
    _number(
        "learning_rate",
        Group.TRAINING,
        "the optimizer's step size.",
        default=0.002,
        low=1e-7,
        high=10.0,
        domain=Float(3e-4, 1e-2, log=True),
    ),
    _choice("optimizer", Group.TRAINING, "the optimizer.", "adam", "sgd", "rmsprop", "adagrad"),
    _number(
        "batch_size",
        Group.TRAINING,
        "rows of one step, over all workers.",
        default=256,
        low=1,
        high=1_000_000,
        domain=Discrete((128, 256, 512)),
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
#: Before a class, the name of the parameter that is its weight: `class_weights.yes`.
CLASS_WEIGHT = "class_weights."

#: The parameters of each trainer of the box, by trainer and name.
TRAINERS: Mapping[str, Mapping[str, TrainerParameter]] = {
    "tabular": {parameter.setting.name: parameter for parameter in _TABULAR},
}

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
        "val_loss": Goal.MINIMIZE,
        "loss": Goal.MINIMIZE,
    },
    Task.MULTICLASS: {
        "val_accuracy": Goal.MAXIMIZE,
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


def default_space(trainer: str, without: Iterable[str] = ()) -> Space:
    """What a trainer of the box tunes where nothing is named, but for the names of `without`."""
    fixed = frozenset(without)
    return Space(
        tuple(
            Parameter(name=name, domain=parameter.domain, group=parameter.group)
            for name, parameter in table_of(trainer).items()
            if parameter.domain is not None and name not in fixed
        )
    )


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
