"""Rows of several requests that are predicted at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from tuner.errors import TunerError
from tuner.serving.batching import Array, Batcher, Outputs, Run
from tuner.serving.signature import Signature, Tensor

TENSOR = Tensor(name="x", dtype="DT_FLOAT", shape=(None,))
SIGNATURE = Signature(name="serving_default", inputs={"x": TENSOR}, outputs={"y": TENSOR})


def answers(run: Run, *rows: list[float]) -> list[list[float] | str]:
    """What requests of these rows are answered that arrive at once: values, or an error's code."""

    async def ask() -> list[Outputs | TunerError]:
        batcher = Batcher(run)
        futures = [asyncio.get_running_loop().create_future() for _ in rows]
        for each, future in zip(rows, futures, strict=True):
            batcher.predict(SIGNATURE, {"x": np.array(each, np.float32)}, future.set_result)
        try:
            return await asyncio.wait_for(asyncio.gather(*futures), 10)
        finally:
            batcher.close()

    return [
        each.code if isinstance(each, TunerError) else each["y"].tolist()
        for each in asyncio.run(ask())
    ]


def test_a_model_that_does_not_answer_row_by_row_is_asked_one_by_one() -> None:
    def twice(signature: Signature, inputs: Mapping[str, Array]) -> Outputs:
        return {"y": np.repeat(inputs["x"], 2)}

    def positive(signature: Signature, inputs: Mapping[str, Array]) -> Outputs:
        return {"y": inputs["x"][inputs["x"] > 0]}

    assert answers(twice, [1], [2, 3]) == [[1, 1], [2, 2, 3, 3]]
    assert answers(positive, [1, -1], [2, 3]) == [[1], [2, 3]]


def test_whatever_a_model_raises_is_an_answer_to_who_asked_for_it() -> None:
    def picky(signature: Signature, inputs: Mapping[str, Array]) -> Outputs:
        if (inputs["x"] < 0).any():
            raise MemoryError("no room")
        return {"y": inputs["x"]}

    assert answers(picky, [1], [-2], [3]) == [[1], "INTERNAL", [3]]
    assert answers(picky, [-1]) == ["INTERNAL"]
