"""TensorFlow Serving's JSON, as its own tests have it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import InvalidArgumentError
from tuner.serving import examples, json_tensors
from tuner.serving.json_tensors import PredictRequest
from tuner.serving.signature import Signature, Tensor


def signature(*, takes_missing: bool = False, **inputs: str) -> Signature:
    """A signature with inputs of some types, `DT_INT32`."""
    tensors = {n: Tensor(name=n, dtype=t, shape=(None,)) for n, t in sorted(inputs.items())}
    return Signature(
        name="serving_default", inputs=tensors, outputs={}, takes_missing=takes_missing
    )


def read(document: Any, takes: Signature) -> PredictRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return json_tensors.read_predict(body, lambda name: takes)


INT32 = signature(default="DT_INT32")
STRING = signature(default="DT_STRING")
MIXED = signature(ints="DT_INT32", strs="DT_STRING", floats="DT_FLOAT", doubles="DT_DOUBLE")


# --- what is read ---


@pytest.mark.parametrize(
    ("takes", "document", "expected"),
    [
        (INT32, {"instances": [[1, 2], [3, 4], [5, 6]]}, [[1, 2], [3, 4], [5, 6]]),
        (INT32, {"instances": [{"default": [1, 2]}, {"default": [3, 4]}]}, [[1, 2], [3, 4]]),
        (INT32, {"inputs": [[[1, 2], [3, 4]]]}, [[[1, 2], [3, 4]]]),
        (INT32, {"inputs": {"default": [1], "extra": 5}}, [1]),
        (INT32, {"inputs": 7}, 7),
        (signature(default="DT_FLOAT"), {"instances": [1, 2.0, 5.003]}, [1, 2, 5.003]),
        (signature(default="DT_BOOL"), {"instances": [True, False]}, [True, False]),
        (signature(default="DT_UINT64"), {"instances": [2**64 - 1]}, [2**64 - 1]),
        (STRING, {"instances": [{"b64": "aGVsbG8="}, "world"]}, [b"hello", b"world"]),
        (STRING, {"instances": [[{"b64": "aGVsbG8"}]]}, [[b"hello"]]),
        (STRING, {"inputs": {"b64": "aGVsbG8="}}, b"hello"),
        (STRING, {"instances": [{"default": [[{"b64": "aGVsbG8="}]]}]}, [[[b"hello"]]]),
    ],
)
def test_values_become_arrays(takes: Signature, document: Any, expected: Any) -> None:
    found = read(document, takes)
    (array,) = found.inputs.values()
    assert found.in_rows is ("instances" in document)
    if takes is STRING:
        assert array.tolist() == expected
    else:
        np.testing.assert_allclose(array, expected)


def test_rows_of_several_inputs_with_tokens_that_are_no_json() -> None:
    body = b"""{"instances": [
        {"ints": [[1,2],[3,4]], "strs": ["foo", "bar"], "floats": [1.0, NaN], "doubles": [NaN]},
        {"ints": [[5,6],[7,8]], "strs": ["baz", "b\\u00e9"], "floats": [-Infinity, 2],
         "doubles": [2.0]}]} trailing"""
    inputs = read(body, MIXED).inputs
    assert inputs["ints"].dtype == np.int32
    assert inputs["ints"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert inputs["strs"].tolist() == [[b"foo", b"bar"], [b"baz", "bé".encode()]]
    assert inputs["floats"].dtype == np.float32
    np.testing.assert_array_equal(inputs["floats"], [[1, math.nan], [-math.inf, 2]])
    np.testing.assert_array_equal(inputs["doubles"], [[math.nan], [2.0]])


def test_missing_values_are_taken_by_models_that_know_them() -> None:
    takes = signature(takes_missing=True, a="DT_DOUBLE", b="DT_STRING")
    inputs = read({"instances": [{"a": None, "b": None}, {"a": 1, "b": "x"}]}, takes).inputs
    np.testing.assert_array_equal(inputs["a"], [math.nan, 1.0])
    assert inputs["b"].tolist() == [b"", b"x"]
    with pytest.raises(InvalidArgumentError, match="Type: Null is not of expected type: float"):
        read({"instances": [None]}, signature(default="DT_FLOAT"))


# --- what is refused ---


@pytest.mark.parametrize(
    ("takes", "document", "said"),
    [
        (INT32, b"", "JSON Parse error: The document is empty"),
        (INT32, b" \n", "The document is empty"),
        (INT32, b"{", "JSON Parse error: .* at offset: 1"),
        (INT32, b"\xff{}", "Invalid encoding"),
        (INT32, b"[1]", "Is not object"),
        (INT32, b'{"instances": ' + b"[" * 5000, "JSON Parse error"),
        (INT32, b'{"instances": [' + b"9" * 5000 + b"]}", "too big|int32"),
        (INT32, {}, "Missing 'inputs' or 'instances' key"),
        (INT32, {"signature_name": 5, "instances": [1]}, "must be a string value"),
        (INT32, {"instances": [1], "inputs": [1]}, "Not formatted correctly expecting only one"),
        (INT32, {"instances": []}, "No values in 'instances' array"),
        (INT32, {"instances": {"a": 1}}, "Excepting 'instances' to be an list/array"),
        (INT32, {"instances": [[1, 2], [3, 4], [5, 6, 7]]}, "Expecting tensor size: 2 but got: 3"),
        (
            INT32,
            {"instances": [[1, 2], [3, 4], [[5, 6]]]},
            r"Expecting shape \[2\] but got: \[1,2",
        ),
        (INT32, {"instances": [1, [1]]}, r"Expecting shape \[\] but got: \[1\]"),
        (INT32, {"instances": [[1], [[1, 2], 3]]}, "found at incorrect level|unexpected level"),
        (INT32, {"instances": [{"default": [1]}, 5]}, "Expecting object but got list at item 1"),
        (
            INT32,
            {"instances": [5, {"default": 1}]},
            "Expecting value/list but got object at item 1",
        ),
        (INT32, {"instances": [{"other": 1}]}, "does not have named input: other"),
        (
            INT32,
            {"instances": [1.0]},
            "JSON Value: 1.0 Type: Number is not of expected type: int32",
        ),
        (INT32, {"instances": [2**31]}, "is not of expected type: int32"),
        (INT32, {"instances": [True]}, "Type: True is not of expected type: int32"),
        (INT32, {"instances": ["x"]}, 'JSON Value: "x" Type: String is not of expected type'),
        (signature(default="DT_FLOAT"), {"instances": [2**24]}, "to float without loss"),
        (signature(default="DT_FLOAT"), {"instances": [1e39]}, "to float without loss"),
        (signature(default="DT_DOUBLE"), {"instances": [2**53]}, "to double without loss"),
        (signature(default="DT_COMPLEX64"), {"instances": [1]}, "to type: DT_COMPLEX64"),
        (STRING, {"instances": [{"b64": "$"}]}, "Unable to base64 decode"),
        (STRING, {"instances": [["x", {"c": "y"}]]}, "not formatted correctly for base64 data"),
        (MIXED, {"instances": [1]}, "expecting list of objects as multiple input tensors"),
        (MIXED, {"inputs": [1]}, "expecting an object as multiple input tensors"),
        (MIXED, {"inputs": {"ints": 1}}, "Missing named input: doubles in 'inputs' object"),
        (MIXED, {"instances": [{"ints": 1}]}, "keys must be equal to: doubles,floats,ints,strs"),
    ],
)
def test_what_is_wrong_is_said_in_its_words(takes: Signature, document: Any, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        read(document, takes)
    assert getattr(caught.value, "code", "") in ("INVALID_ARGUMENT", "UNIMPLEMENTED")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["instances", "inputs", "ints", "b64", "x"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_whatever_is_sent_is_read_or_refused(document: Any) -> None:
    for takes in (INT32, STRING, MIXED):
        try:
            read(document, takes)
        except InvalidArgumentError as error:
            assert error.message


# --- what is written ---


def test_rows_of_several_outputs() -> None:
    outputs = {
        "scores": np.array([[0.2, 1.0], [3e-9, 16777216.0]], np.float32),
        "classes": np.array([[b"<=50K", b">50K"]] * 2, object),
    }
    assert (
        json_tensors.write_predict(outputs, in_rows=True).decode()
        == """{
    "predictions": [
        {
            "classes": ["<=50K", ">50K"],
            "scores": [0.2, 1.0]
        },
        {
            "classes": ["<=50K", ">50K"],
            "scores": [3e-09, 1.6777216e+07]
        }
    ]
}"""
    )


def test_rows_of_one_output_are_bare() -> None:
    written = json_tensors.write_predict({"y": np.array([[1], [2]])}, in_rows=True)
    assert written == b'{\n    "predictions": [[1], [2]\n    ]\n}'


def test_columns() -> None:
    written = json_tensors.write_predict({"y": np.array([0.5, 2.0])}, in_rows=False)
    assert written == b'{\n    "outputs": [\n        0.5,\n        2.0\n    ]\n}'
    both = {"a": np.array(True), "b": np.zeros((0, 2), np.int64)}
    assert json.loads(json_tensors.write_predict(both, in_rows=False)) == {
        "outputs": {"a": True, "b": []}
    }


def test_bytes_go_out_as_base64_by_name_alone() -> None:
    outputs = {"image_bytes": np.array([b"\xff"], object), "text": np.array([b'\xff"'], object)}
    (row,) = json.loads(json_tensors.write_predict(outputs, in_rows=True))["predictions"]
    assert row == {"image_bytes": {"b64": "/w=="}, "text": '\ufffd"'}


def test_numbers_that_are_none() -> None:
    written = json_tensors.write_predict(
        {"y": np.array([math.nan, math.inf, -math.inf, 1])}, in_rows=True
    )
    assert b"[NaN, Infinity, -Infinity, 1.0" in written


def test_rows_need_as_many_of_each_output() -> None:
    with pytest.raises(InvalidArgumentError, match="inconsistent batch size: 2 expecting: 1"):
        json_tensors.write_predict({"a": np.zeros(1), "b": np.zeros(2)}, in_rows=True)
    with pytest.raises(InvalidArgumentError, match="has no shape information"):
        json_tensors.write_predict({"a": np.zeros(())}, in_rows=True)


@given(
    st.lists(st.floats(width=32), min_size=1),
    st.lists(st.floats(), min_size=1),
)
def test_decimals_are_read_as_the_same_numbers(singles: list[float], doubles: list[float]) -> None:
    for values, dtype in ((singles, np.float32), (doubles, np.float64)):
        array = np.array(values, dtype)
        written = json_tensors.write_predict({"y": array}, in_rows=True)
        again = np.array(json.loads(written)["predictions"], dtype)
        np.testing.assert_array_equal(array, again)


# --- examples ---


def test_examples_reach_named_inputs() -> None:
    takes = signature(age="DT_DOUBLE", job="DT_STRING")
    body = json.dumps(
        {"context": {"age": 3}, "examples": [{"job": "a"}, {"job": ["b"], "age": [4.5]}]}
    ).encode()
    _, inputs = examples.read(body, lambda name: takes)
    assert inputs["age"].tolist() == [3.0, 4.5]
    assert inputs["job"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": 1}, "to be an list/array"),
        ({"examples": []}, "is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "unexpected JSON type: Array"),
        ({"examples": [{"x": [1, 1.5]}]}, "Unexpected element type in feature: x"),
        ({"examples": [{"x": 2**63}]}, "Only int64 is supported"),
        ({"examples": [{"y": 1}]}, "has no feature 'x'"),
        ({"examples": [{"x": [1, 2]}]}, "has 2 values, but the model takes one"),
    ],
)
def test_bad_examples(document: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        examples.read(json.dumps(document).encode(), lambda name: signature(x="DT_DOUBLE"))


def test_answers_are_called_results() -> None:
    outputs = {
        "classes": np.array([[b"no", b"yes"]], object),
        "scores": np.array([[0.2, 0.8]], np.float32),
    }
    assert examples.write_classifications(outputs) == (
        b'{\n    "results": [[["no", 0.2], ["yes", 0.8]]\n    ]\n}'
    )
    assert examples.write_regressions({"value": np.array([1.5, 2], np.float32)}) == (
        b'{\n    "results": [1.5, 2.0]\n}'
    )
