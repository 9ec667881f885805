"""A real gateway with real replicas, called by TensorFlow Serving's own client and over HTTP."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.integration.gateways import Gateway, gateway, until

pytestmark = pytest.mark.timeout(180)


def answered_more(statuses: Counter[int]) -> None:
    """Waits for twenty more good answers."""
    enough = statuses[200] + 20
    until(lambda: statuses[200] > enough)


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Gateway]:
    with gateway(str(models), "--cors") as running:
        yield running


# --- REST ---


def test_the_example_of_tensorflow_serving(served: Gateway) -> None:
    answer = served.post("half:predict", {"instances": [1.0, 2.0, 5.0]})
    assert answer.status_code == 200
    assert answer.json() == {"predictions": [3.5, 4.0, 5.5]}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == "2"
    old = served.post("half/versions/1:predict", {"inputs": [1.0]})
    assert old.json() == {"outputs": [2.5]}
    assert served.http.post("/V1/Models/half:Predict", content=b'{"instances": [1]}').is_success


def test_rows_of_named_inputs(served: Gateway) -> None:
    rows = [{"age": 5, "job": "b"}, {"age": float("nan"), "job": {"b64": "Yg=="}}]
    found = served.post("clf:predict", json.dumps({"instances": rows}).encode()).json()
    first, second = found["predictions"]
    assert first["classes"] == ["no", "yes"] and first["predicted"] == "yes"
    assert first["scores"][1] == pytest.approx(1 / (1 + 2.718281828**-2.5), abs=1e-6)
    assert second["scores"][1] == pytest.approx(1 / (1 + 2.718281828**-2.0), abs=1e-6)


def test_classify_and_regress(served: Gateway) -> None:
    found = served.post("clf:classify", {"context": {"age": 5}, "examples": [{"job": "b"}]})
    (pairs,) = found.json()["results"]
    assert [label for label, _ in pairs] == ["no", "yes"]
    assert sum(score for _, score in pairs) == pytest.approx(1, abs=1e-6)
    found = served.post("half:regress", {"examples": [{"x": 4.0}, {"x": 6.0}]})
    assert found.json() == {"results": [5.0, 6.0]}
    refused = served.post("half:classify", {"examples": [{"x": 4.0}]})
    assert refused.status_code == 400 and "does not classify" in refused.json()["error"]


def test_a_packed_body(served: Gateway) -> None:
    body = gzip.compress(b'{"instances": [2]}')
    found = served.post("half:predict", body, **{"Content-Encoding": "gzip"})
    assert found.json() == {"predictions": [4.0]}
    broken = served.post("half:predict", b"no gzip", **{"Content-Encoding": "gzip"})
    assert broken.status_code == 400
    bomb = gzip.compress(bytes(80 * 2**20))
    assert served.post("half:predict", bomb, **{"Content-Encoding": "gzip"}).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "half:predict", b"", 400, "The document is empty"),
        ("POST", "half:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("POST", "half:predict", b'{"signature_name": "x", "instances": [1]}', 400,
         'Serving signature name: "x" not found in signature def'),
        ("POST", "none:predict", b"{}", 404, "Servable not found for request: Latest(none)"),
        ("POST", "half/versions/9:predict", b"{}", 404, "Specific(half, 9)"),
        ("POST", "half/labels/new:predict", b"{}", 400, "Unrecognized servable version label"),
        ("POST", "half/versions/1/labels/a:predict", b"{}", 400, "Malformed request: POST"),
        ("POST", "half:explain", b"{}", 400, "Malformed request: POST"),
        ("POST", "%2e%2e%2fhalf:predict", b"{}", 404, "Servable not found"),
        ("POST", "half/versions/99999999999999999999:predict", b"{}", 400, "to numeric"),
        ("POST", "strict:predict", b'{"instances": [-1]}', 400, "it is negative"),
        ("POST", "half:predict", b"[" * 100_000, 400, "nested too deep"),
        ("POST", "half:predict", b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", 400, "deep"),
        ("POST", "half:predict", b'{"instances": ["x"]}', 400, "JSON Value: \"x\""),
        ("POST", "half:predict", b'{"instances": [[1, 2], [3]]}', 400, ""),
        ("POST", "strict:predict", b'{"instances": [1.5]}', 400, "JSON Value"),
        ("GET", "none", b"", 404, "Could not find any versions of model none"),
        ("GET", "half/versions/9", b"", 404, "Could not find version 9 of model half"),
        ("GET", "", b"", 400, "Malformed request|Missing model name"),
        ("PUT", "half", b"", 400, "Malformed request: PUT"),
    ],
)  # fmt: skip
def test_errors_have_its_codes_and_words(
    served: Gateway, method: str, path: str, body: bytes, status: int, said: str
) -> None:
    answer = served.http.request(method, f"/v1/models/{path}", content=body)
    assert answer.status_code == status, answer.text
    assert any(words in answer.json()["error"] for words in said.split("|")), answer.text


def test_an_error_of_the_model_keeps_its_code(served: Gateway) -> None:
    answer = served.post("lost:predict", {"inputs": "a"})
    assert answer.status_code == 404 and "/proc/nothing/a" in answer.json()["error"]


def test_status_and_metadata(served: Gateway) -> None:
    assert served.http.get("/v1/models").json()["error"] == "Missing model name in request."
    assert served.http.get("/elsewhere").status_code == 404
    states = served.http.get("/v1/models/half").json()["model_version_status"]
    assert [state["version"] for state in states] == ["2", "1"]
    assert states[0]["state"] == "AVAILABLE"
    assert states[0]["status"] == {"error_code": "OK", "error_message": ""}
    found = served.http.get("/v1/models/half/versions/1/metadata").json()
    assert found["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]


def test_what_is_counted_has_its_names(served: Gateway) -> None:
    served.post("half:predict", {"instances": [1]})
    text = served.http.get("/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in text
    assert ':tensorflow:serving:request_latency_bucket{API="Predict"' in text


def test_pages_of_other_sites_may_call_where_they_are_allowed_to(served: Gateway) -> None:
    assert served.http.get("/v1/models/half").headers["access-control-allow-origin"] == "*"


def test_many_at_once_get_each_their_own(served: Gateway) -> None:
    wrong: list[Any] = []

    def caller(start: int) -> None:
        with httpx.Client(base_url=f"http://{served.rest}", timeout=60) as client:
            for n in range(start, start + 60):
                rows = [float(n), float(n + 1)][: 1 + n % 2]
                answer = client.post("/v1/models/half:predict", json={"instances": rows})
                if answer.json() != {"predictions": [row / 2 + 3 for row in rows]}:
                    wrong.append((rows, answer.text))
                refused = client.post("/v1/models/strict:predict", json={"instances": [n - 30]})
                if refused.status_code != (400 if n < 30 else 200):
                    wrong.append((n, refused.text))

    threads = [threading.Thread(target=caller, args=(at,)) for at in range(0, 64, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_open_inference_protocol(served: Gateway) -> None:
    http = served.http
    assert http.get("/v2/health/live").is_success and http.get("/v2/health/ready").is_success
    assert http.get("/v2").json()["name"] == "tuner"
    about = http.get("/v2/models/clf").json()
    assert about["versions"] == ["7"] and about["platform"] == "tensorflow_savedmodel"
    assert {"name": "age", "datatype": "FP64", "shape": [-1]} in about["inputs"]
    assert http.get("/v2/models/half/versions/1/ready").is_success
    request = {
        "id": "q",
        "inputs": [
            {"name": "job", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
            {"name": "age", "shape": [2], "datatype": "FP64", "data": [0, 5.5]},
        ],
        "outputs": [{"name": "predicted"}],
    }
    answer = http.post("/v2/models/clf/infer", json=request)
    output = {"name": "predicted", "datatype": "BYTES", "shape": [2], "data": ["yes", "yes"]}
    assert answer.json() == {
        "model_name": "clf", "model_version": "7", "id": "q", "outputs": [output]
    }  # fmt: skip
    nested = {"name": "x", "shape": [3], "datatype": "FP32", "data": [[1], [2, 3]]}
    found = http.post("/v2/models/half/versions/1/infer", json={"inputs": [nested]}).json()
    assert found["outputs"][0]["data"] == [2.5, 3.0, 3.5]
    for change, said in (
        ({"datatype": "INT32"}, "has the datatype FP32"),
        ({"shape": [2]}, "has 3 values, but the shape [2]"),
        ({"data": "x"}, "is a list"),
        ({"shape": [1] * 100}, "too many dimensions"),
        ({"shape": [2**62, 2**62]}, "values, but the shape"),
        ({"data": json.loads("[" * 900 + "]" * 900)}, "nested too deep|has 0 values"),
        ({"name": "y"}, "takes the inputs x, but got y"),
    ):
        refused = http.post("/v2/models/half/infer", json={"inputs": [{**nested, **change}]})
        assert refused.status_code == 400, refused.text
        assert any(words in refused.json()["error"] for words in said.split("|")), refused.text
    assert http.get("/v2/models/none").status_code == 404


# --- gRPC ---


def test_the_client_of_tensorflow_serving(served: Gateway) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
        regression_pb2,
    )

    with grpc.insecure_channel(served.calls) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0], tf.float32))
        answer = stub.Predict(request, timeout=60)
        assert tf.make_ndarray(answer.outputs["y"]).tolist() == [3.5, 4.0]
        assert answer.model_spec.version.value == 2
        assert answer.model_spec.signature_name == "serving_default"
        request.model_spec.version.value = 1
        request.output_filter.append("y")
        assert tf.make_ndarray(stub.Predict(request, timeout=60).outputs["y"]).tolist() == [2.5, 3]

        def refused(code: grpc.StatusCode, words: str) -> None:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, timeout=60)
            assert caught.value.code() is code
            assert words in (caught.value.details() or "")

        request.output_filter.append("y")
        refused(grpc.StatusCode.INVALID_ARGUMENT, "duplicate")
        request.output_filter[:] = ["z"]
        refused(grpc.StatusCode.INVALID_ARGUMENT, "z")
        del request.output_filter[:]
        request.inputs["more"].CopyFrom(request.inputs["x"])
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "input size does not match signature: 2!=1 len({more,x}) != len({x}). Sent extra: "
            "{more}. Missing but required: {}.",
        )
        del request.inputs["more"]
        request.inputs["x"].tensor_shape.dim[0].size = 2**31
        request.inputs["x"].ClearField("tensor_content")
        request.inputs["x"].float_val[:] = [1.0]
        refused(grpc.StatusCode.INVALID_ARGUMENT, "it has 2147483648 values")
        request.model_spec.signature_name = "none"
        refused(grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "none" not found.')
        request.model_spec.name = "none"
        refused(grpc.StatusCode.NOT_FOUND, "Servable not found")

        classify = classification_pb2.ClassificationRequest()
        classify.model_spec.name = "clf"
        example = classify.input.example_list.examples.add()
        example.features.feature["age"].float_list.value.append(5)
        example.features.feature["job"].bytes_list.value.append(b"b")
        (row,) = stub.Classify(classify, timeout=60).result.classifications
        assert [each.label for each in row.classes] == ["no", "yes"]
        regress = regression_pb2.RegressionRequest()
        regress.model_spec.name = "half"
        example = regress.input.example_list_with_context.examples.add()
        context = regress.input.example_list_with_context.context
        context.features.feature["x"].int64_list.value.append(4)
        assert stub.Regress(regress, timeout=60).result.regressions[0].value == 5.0

        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        metadata.model_spec.name = "half"
        found = stub.GetModelMetadata(metadata, timeout=60)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert found.metadata["signature_def"].Unpack(signatures)
        assert signatures.signature_def["serving_default"].inputs["x"].dtype == 1
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "half"
        states = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
            status, timeout=60
        )
        assert [(s.version, s.state) for s in states.model_version_status] == [(2, 30), (1, 30)]


def test_tensors_are_read_and_written_as_tensorflow_does() -> None:
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2

    from tuner.serving import protos
    from tuner.serving.signature import Signature, Tensor
    from tuner.v1 import tensorflow_serving_pb2 as pb

    def check(dtype: str, proto: Any) -> None:
        tensors = {"x": Tensor(name="x", dtype=dtype, shape=None)}
        signature = Signature(name="", inputs=tensors, outputs=tensors)
        body = pb.PredictRequest(inputs={"x": proto.SerializeToString()}).SerializeToString()
        _, inputs, write = protos.read_predict(body, lambda name: signature)
        expected = tf.make_ndarray(proto)
        assert inputs["x"].dtype == expected.dtype and inputs["x"].shape == expected.shape
        assert inputs["x"].tolist() == expected.tolist()
        response = pb.PredictResponse.FromString(write(inputs))
        assert response.outputs["x"] == tf.make_tensor_proto(expected).SerializeToString()

    kinds: dict[str, list[Any]] = {
        "DT_FLOAT": [1.5, -2.0],
        "DT_DOUBLE": [0.1, 7.0],
        "DT_INT32": [1, -2],
        "DT_INT64": [2**40, 3],
        "DT_UINT8": [1, 2],
        "DT_BOOL": [True, False],
        "DT_STRING": [b"a", b"b\0"],
    }
    for dtype, values in kinds.items():
        of = tf.dtypes.as_dtype(getattr(types_pb2, dtype))
        for made in (values, values[0], values[:1], [values] * 3):
            check(dtype, tf.make_tensor_proto(made, of))
        check(dtype, tf.make_tensor_proto([], of, shape=(0, 3)))
    short = tf.make_tensor_proto([1.0], tf.float32)
    short.tensor_shape.dim[0].size = 3  # the last value stands for those that are left out
    check("DT_FLOAT", short)


# --- replicas ---


def test_a_killed_replica_costs_no_call(served: Gateway) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def caller() -> None:
        with httpx.Client(base_url=f"http://{served.rest}", timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/v1/models/half:predict", json={"instances": [1]})
                statuses[answer.status_code] += 1

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            answered_more(statuses)
            os.kill(served.replicas()[-1], signal.SIGKILL)
        answered_more(statuses)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}


def test_versions_come_and_go_while_it_runs(models: Path, served: Gateway) -> None:
    def answered() -> Any:
        return served.post("half:predict", {"instances": [0]}).json()["predictions"]

    shutil.copytree(models / "half" / "1", models / "half" / ".3")
    (models / "half" / ".3").rename(models / "half" / "3")
    until(lambda: answered() == [2.0])
    shutil.rmtree(models / "half" / "3")
    until(lambda: answered() == [3.0])


def test_from_zero_and_back(models: Path) -> None:
    with gateway(str(models), "--idle-seconds", "0.5") as running:
        assert running.replicas() == []
        assert running.post("half:predict", {"instances": [1]}).json() == {"predictions": [3.5]}
        assert len(running.replicas()) == 1
        until(lambda: running.replicas() == [])
        assert running.post("half:predict", {"instances": [1]}).is_success
        (zygote,) = running.zygotes()
        running.process.kill()
        until(lambda: not Path(f"/proc/{zygote}").exists())


def test_what_a_model_prints_keeps_no_other_from_starting(models: Path) -> None:
    with gateway(str(models)) as running:
        assert running.post("loud:predict", {"instances": [1]}).json() == {"predictions": [1.0]}
        assert running.post("half:predict", {"instances": [1]}).json() == {"predictions": [3.5]}


def test_what_cannot_be_loaded_is_said(served: Gateway) -> None:
    answer = served.post("broken:predict", {"instances": [1]})
    assert answer.status_code == 503 and "cannot be loaded" in answer.json()["error"]
    state = served.http.get("/v1/models/broken").json()["model_version_status"][0]
    assert state["state"] == "END" and "cannot be loaded" in state["status"]["error_message"]


def test_slow_and_idle_clients_hold_nobody_up(served: Gateway) -> None:
    host, port = served.rest.split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(200)]
    slow = socket.create_connection((host, int(port)))
    slow.sendall(
        b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
    )
    try:
        assert served.post("half:predict", {"instances": [1]}).is_success
    finally:
        for each in (*idle, slow):
            each.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "is no folder"),
        (["--least-replicas", "2"], "--least-replicas is 0 to --most-replicas"),
        (["--host", "0.0.0.0"], "TUNER_INSECURE=1"),
    ],
)
def test_what_it_cannot_do_is_said(arguments: list[str], said: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tuner.cli", "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2
    assert said in found.stderr and "Traceback" not in found.stderr


def test_without_a_study_server_and_a_folder_there_is_nothing_to_serve(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tuner.cli", "gateway"],
        env={**os.environ, "TUNER_DATA_DIR": str(tmp_path), "TUNER_SERVER_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2
    assert "there is nothing to serve: no study server at" in found.stderr
    assert "tuner gateway FOLDER" in found.stderr and "Traceback" not in found.stderr
