"""Networks that a function of the user's own builds over the features of a study.

    def build(trial, inputs):
        x = inputs                                    # float32 [batch, width], features encoded
        for layer in range(trial.int("layers", 1, 4)):
            x = keras.layers.Dense(trial.int(f"units_{layer}", 16, 256, log=True))(x)
            x = keras.layers.Activation(trial.choice("activation", ["relu", "gelu"]))(x)
        return x

A last dense layer, to the outputs that the label asks for, is ours, and so is all the rest: the
data, preprocessing, training and export.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tuner import code
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.space import Space, Value
from tuner.study import StudySpec
from tuner.trainer_spaces import TRAINERS, table_of
from tuner_trainers import declared, own
from tuner_trainers.declared import Callback, Declaration
from tuner_trainers.preprocessing import Encoder
from tuner_trainers.tabular import encoded, together

Build = Callable[[Declaration, keras.KerasTensor], Any]


def build_network(
    build: Build, encoder: Encoder, parameters: Mapping[str, Value], units: int
) -> tuple[keras.Model, Sequence[Callback]]:
    """Builds the network of a trial.

    Args:
        build: the user's function.
        encoder: the preprocessing whose outputs the network takes.
        parameters: the trial's, fixed ones included.
        units: how many outputs it has.

    Returns:
        A model from the encoder's outputs to float32 [batch, units], without an activation, and
        what the function wants to be called after each epoch.

    Raises:
        InvalidArgumentError: the function returned something else than a tensor or a model.
        Exception: what the function raised.
    """
    trial = Declaration(parameters)
    return _network(build, trial, encoder, units), tuple(trial.callbacks)


def _network(build: Build, trial: Declaration, encoder: Encoder, units: int) -> keras.Model:
    inputs, parts = encoded(encoder)
    tensor = together(parts)
    made = build(trial, tensor)
    if isinstance(made, keras.layers.Layer):
        made = made(tensor)
    if not isinstance(made, keras.KerasTensor) or len(made.shape) != 2:
        raise InvalidArgumentError(
            f"`build` returns a Keras tensor [batch, width], or a layer or model that makes one "
            f"of its input, but got {made!r:.200}."
        )
    outputs = keras.layers.Dense(units, name="output")(made)
    return keras.Model(inputs, outputs, name="built")


def space_of(spec: StudySpec, encoder: Encoder, units: int, artifacts: Path) -> Space:
    """Finds what the user's function tunes, with what the study file says of it.

    Raises:
        InvalidArgumentError: the function cannot be used; in a line.
        UnavailableError: its code was not shipped to where this process looks.
    """
    reference = spec.trainer or ""
    if not own.REFERENCE.fullmatch(reference):
        raise InvalidArgumentError(
            f"there is no trainer {reference!r}; write {', '.join(TRAINERS)} or "
            "`package.module:function`."
        )
    folder = code.unpack(artifacts, spec.own.code) if spec.own.code else None

    def declare(trial: Declaration) -> None:
        keras.backend.clear_session()
        _network(build, trial, encoder, units)

    try:
        with own.found(reference, spec.own.code, artifacts) as build:
            _check(reference, build)
            space = declared.complete(spec.space, spec.settings, declare)
    except UnavailableError:
        raise
    except BaseException as error:  # code of the user's may raise anything, SystemExit included
        raise own.refusal(error, reference.partition(":")[0], folder) from error
    taken = table_of(reference).keys() & {p.name for p in space.walk()} - {
        p.name for p in spec.space.walk()
    }
    if taken:
        raise InvalidArgumentError(
            f"`build` asks for {min(taken)!r}, which belongs to the training: give it another "
            "name, or set it in the study file."
        )
    return space


def _check(reference: str, build: object) -> None:
    if inspect.isclass(build) or not callable(build):
        raise InvalidArgumentError(
            f"{reference} builds no network: with `data`, it is a function `build(trial, inputs)`."
        )
    own.check_call(reference, build, 2, "(trial, inputs)")
