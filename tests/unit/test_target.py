"""Labels as numbers, and what the training data does not know."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.errors import DataError
from tuner.trainer_spaces import Task
from tuner_trainers.target import Target

ANSWER = Target(label="answer", task=Task.BINARY, classes=("no", "yes"))


def test_labels_become_the_places_of_their_classes() -> None:
    codes = ANSWER.encode(np.asarray(["yes", "no", ""], object))
    np.testing.assert_array_equal(codes, [1.0, 0.0, np.nan])


def test_a_label_that_training_never_saw_is_named() -> None:
    with pytest.raises(DataError, match="'answer' holds 'maybe', which the training data has not"):
        ANSWER.encode(np.asarray(["yes", "maybe"], object))
