"""Decides what the odd clients of a soak send over HTTP/1.1: whole requests as bytes, good ones and bad ones.

It must never send anything itself, nor look at an answer.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import orjson

from loadtests import json_payload, models


def post(model: str, body: bytes, fields: str = "") -> bytes:
    """An infer call, with more header fields where some are given."""
    head = (
        f"POST {json_payload.infer_path(model)} HTTP/1.1\r\nhost: soak\r\n{fields}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def json_requests(model: str) -> Iterator[bytes]:
    """One row in JSON, again and again."""
    return itertools.repeat(post(model, json_payload.infer_body()))


def binary(rows: int) -> bytes:
    """Rows of the tiny model as raw bytes behind a JSON head."""
    data = models.sample_rows(rows).astype("<f4").tobytes()
    text = orjson.dumps(
        {
            "inputs": [
                {
                    "name": models.INPUT,
                    "shape": [rows, models.FEATURES],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    fields = f"inference-header-content-length: {len(text)}\r\n"
    return post(models.TINY, text + data, fields)


def binary_requests() -> Iterator[bytes]:
    """Binary calls of many sizes, the same in each run."""
    sizes = np.random.default_rng(5).integers(1, 65, 32)
    return itertools.cycle([binary(int(rows)) for rows in sizes])


def gets() -> Iterator[bytes]:
    """Questions about the server and its models."""
    paths = (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/tiny",
        "/v2/models/tiny/config",
    )
    return itertools.cycle(
        [f"GET {path} HTTP/1.1\r\nhost: soak\r\n\r\n".encode() for path in paths]
    )


def bad_requests() -> list[tuple[bytes, int, bool]]:
    """Requests that must be refused, the status of each, and whether it counts as an infer call."""
    good = json_payload.infer_body()
    return [
        (post(models.TINY, b"{"), 400, True),
        (post(models.TINY, good.replace(b"[1,32]", b"[2,32]")), 400, True),
        (post(models.TINY, good.replace(b"FP32", b"FP64")), 400, True),
        (post("nobody", good), 404, True),
        (post(models.TINY, good, "content-encoding: br\r\n"), 501, True),
        (b"GET /nowhere HTTP/1.1\r\nhost: soak\r\n\r\n", 404, False),
        (b"DELETE /v2 HTTP/1.1\r\nhost: soak\r\n\r\n", 405, False),
    ]
