"""Decides the bytes of the V2 JSON request, and reads the one number out of a reply.

The request is an ordinary one: what a client library would send for one row of floats.
It must never be tuned to what a server parses fastest.
"""

import orjson

from loadtests import models


def infer_path(model: str) -> str:
    """The route of one model's infer call."""
    return f"/v2/models/{model}/infer"


def infer_body(timeout_us: int | None = None, rows: int = 1) -> bytes:
    """Rows of 32 floats, in one list; with a deadline where one is given."""
    tensor = {
        "name": models.INPUT,
        "shape": [rows, models.FEATURES],
        "datatype": "FP32",
        "data": models.sample_rows(rows).ravel(),
    }
    request: dict[str, object] = {"inputs": [tensor]}
    if timeout_us is not None:
        request["parameters"] = {"timeout": timeout_us}
    return orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)


def infer_reply(model: str, answer: float) -> bytes:
    """A reply of the size and shape that a real server would write."""
    tensor = {"name": models.OUTPUT, "shape": [1, 1], "datatype": "FP32", "data": [answer]}
    return orjson.dumps({"model_name": model, "model_version": "1", "outputs": [tensor]})


def answer_of(reply: bytes) -> float:
    """The first number of the first output, nested or flat."""
    data = orjson.loads(reply)["outputs"][0]["data"]
    for _ in range(4):
        if not isinstance(data, list):
            break
        data = data[0]
    return float(data)
