"""What the bench of feature lookups asks, how it reads answers, and what it makes of its samples."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import numpy as np
import orjson
import pytest

from backends.model_settings import FeaturesSettings
from featurecache.manifests.manifest import decode_manifest, encode_manifest
from foundation.settings import load
from gateway.settings import GatewaySettings
from loadtests import feature_lookups_data as data
from loadtests import feature_lookups_stage as stage
from loadtests.feature_lookups_data import VARIANTS, Requests, Variant
from loadtests.feature_lookups_inside import definitions, encoded
from loadtests.feature_lookups_load import hit_share, seed_of
from loadtests.feature_lookups_wire import WRONG, FrameConnection, frame
from loadtests.replies import Reply
from protos.inference import ModelInferRequest, ModelInferResponse

# -- what is asked --------------------------------------------------------------------------------


def test_answers_are_those_of_the_model_over_the_values() -> None:
    weight, bias = data.weights()
    told = data.answers()
    assert told.shape == (data.ALL,)
    assert told[7] == pytest.approx(float(data.values()[7] @ weight[:, 0] + bias[0]), rel=1e-5)
    assert np.array_equal(data.values(3), data.values()[:3])


def test_mixed_draws_come_back_for_the_hot_entities_and_seldom_for_others() -> None:
    drawn = data.draws("mixed", 100_000, seed=1)
    hot = drawn < data.HOT
    assert hot.mean() == pytest.approx(data.HOT_SHARE, abs=0.005)
    assert drawn.max() < data.ALL
    assert len(np.unique(drawn[~hot])) > 8_000
    assert data.draws("hit", 10_000, seed=1).max() < data.HOT
    assert len(np.unique(data.draws("miss", 10_000, seed=1))) > 8_000
    assert np.array_equal(drawn, data.draws("mixed", 100_000, seed=1))
    assert not np.array_equal(drawn, data.draws("mixed", 100_000, seed=2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_name_no_entity_twice(variant: Variant) -> None:
    for group in data.groups(variant, 100, seed=3):
        assert len(set(group)) == 100


@pytest.mark.parametrize("rows", [1, 100])
def test_both_protocols_ask_for_the_same(rows: int) -> None:
    group = list(range(5, 5 + rows))
    said = orjson.loads(data.json_body("miss", group, None))["inputs"][0]
    message = ModelInferRequest.FromString(data.grpc_body("miss", group, None))
    assert (said["name"], said["shape"], said["datatype"]) == ("entity", [rows, 1], "BYTES")
    [tensor] = message.inputs
    assert (message.model_name, tensor.name, tensor.datatype) == ("wide", "entity", "BYTES")
    assert list(tensor.shape) == [rows, 1]
    ids = [struct.pack("<I", len(one)) + one.encode() for one in said["data"]]
    assert message.raw_input_contents == [b"".join(ids)]
    assert said["data"] == [data.entity_id(one) for one in group]


def test_both_protocols_send_the_same_values() -> None:
    table = data.values()
    said = orjson.loads(data.json_body("direct", [3, 9], table))["inputs"][0]
    message = ModelInferRequest.FromString(data.grpc_body("direct", [3, 9], table))
    assert said["shape"] == list(message.inputs[0].shape) == [2, data.FEATURES]
    sent = np.array(said["data"], np.float32).reshape(2, -1)
    assert np.array_equal(sent, table[[3, 9]])
    assert message.raw_input_contents[0] == table[[3, 9]].tobytes()


# -- what is answered -----------------------------------------------------------------------------


def grpc_answer(*values: float) -> bytes:
    reply = ModelInferResponse(model_name="wide", model_version="1")
    reply.outputs.add(name="y", datatype="FP32", shape=[len(values), 1])
    reply.raw_output_contents.append(struct.pack(f"<{len(values)}f", *values))
    return reply.SerializeToString()


def json_answer(*values: float) -> bytes:
    return orjson.dumps({"outputs": [{"name": "y", "shape": [len(values), 1], "data": values}]})


def test_an_answer_is_right_only_for_its_own_request() -> None:
    told = data.answers()
    for protocol, answer in (("http", json_answer), ("grpc", grpc_answer)):
        requests = Requests("hit", protocol, 1, seed=5)  # type: ignore[arg-type]
        token = 17
        [number] = {int(requests.which(token))}
        assert requests.is_right(token, answer(float(told[number])))
        assert not requests.is_right(token, answer(float(told[number]) + 0.01))
        assert not requests.is_right(token, answer())
        assert not requests.is_right(token, b"")
        assert not requests.is_right(token, b"{}")
        assert not requests.is_right(token, answer(float(told[number]), 1.0))


def test_of_many_rows_the_first_and_the_last_are_compared() -> None:
    requests = Requests("miss", "grpc", 100, seed=5)
    group = data.groups("miss", 100, seed=5)[3]
    right = [float(one) for one in data.answers()[group]]
    assert requests.is_right(3, grpc_answer(*right))
    assert requests.is_right(3 + data.BODIES_OF_MANY, grpc_answer(*right))
    assert not requests.is_right(4, grpc_answer(*right))
    assert not requests.is_right(3, grpc_answer(*right[:-1], 0.0))
    assert not requests.is_right(3, grpc_answer(*right[:-1]))


class GrpcAnswerer:
    """Reads the frames of calls on a real socket and answers them with given messages, the first call last."""

    def __init__(self, calls: int, answer: bytes | None) -> None:
        self._calls, self._answer = calls, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.requests: dict[int, bytes] = {}
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> GrpcAnswerer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        line, _ = self._listener.accept()
        line.settimeout(10)
        with line:
            left = b""
            ended: list[int] = []
            preface = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while len(ended) < self._calls:
                left += line.recv(65536)
                if preface and len(left) >= preface:
                    left, preface = left[preface:], 0
                while not preface and len(left) >= 9 + int.from_bytes(left[:3], "big"):
                    size = int.from_bytes(left[:3], "big")
                    kind, flags, stream = left[3], left[4], int.from_bytes(left[5:9], "big")
                    payload, left = left[9 : 9 + size], left[9 + size :]
                    if kind == 0:
                        self.requests[stream] = self.requests.get(stream, b"") + payload
                        line.sendall(frame(8, 0, 0, struct.pack(">I", size)))
                        if flags & 1:
                            ended.append(stream)
            said = frame(4, 0, 0, b"") + frame(6, 0, 0, b"8 bytes!")
            for stream in reversed(ended):
                said += frame(1, 4, stream, b"\x88")
                if self._answer is not None:
                    message = b"\0" + struct.pack(">I", len(self._answer)) + self._answer
                    said += frame(0, 0, stream, message[:7]) + frame(0, 0, stream, message[7:])
                said += frame(1, 5, stream, b"")
            for at in range(0, len(said), 11):
                line.sendall(said[at : at + 11])
            # Closed with acknowledgements unread, the line would be reset, and answers on their way with it.
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass


@pytest.mark.parametrize(
    ("right", "outcome"), [(True, "answered"), (False, "failed"), (None, "failed")]
)
def test_frames_carry_calls_and_their_answers(right: bool | None, outcome: str) -> None:
    requests = Requests("miss", "grpc", 100, seed=5)
    group = data.groups("miss", 100, seed=5)[0]
    values = [float(one) for one in data.answers()[group]]
    if right is False:
        values[0] += 1.0
    answer = None if right is None else grpc_answer(*values)
    calls = [0, data.BODIES_OF_MANY]
    with GrpcAnswerer(len(calls), answer) as server:
        connection = FrameConnection(server.address, requests, streams=2)
        for token in calls:
            assert connection.has_room
            connection.send(token)
        assert not connection.has_room
        replies: list[Reply] = []
        connection._socket.setblocking(True)
        connection._socket.settimeout(10)
        while len(replies) < len(calls):
            replies += connection.receive()
        connection.close()
    assert [one.token for one in replies] == calls[::-1]
    assert {one.outcome for one in replies} == {outcome}
    if right is False:
        assert {one.detail for one in replies} == {WRONG}
    for body in server.requests.values():
        assert body[5:] == requests.bodies[0]


def test_a_message_larger_than_a_frame_is_cut_and_waits_for_the_window() -> None:
    requests = Requests("direct", "grpc", 100, seed=5)
    size = len(requests.bodies[0]) + 5
    assert size > 16384
    listener = socket.create_server(("127.0.0.1", 0))
    connection = FrameConnection(listener.getsockname(), requests, streams=8)
    accepted, _ = listener.accept()
    for token in range(5):
        connection.send(token)
    assert len(connection._held) == 5 - 65535 // size
    accepted.sendall(frame(8, 0, 0, struct.pack(">I", 200_000)))
    connection._socket.setblocking(True)
    connection._socket.settimeout(10)
    assert connection.receive() == []
    assert not connection._held
    connection.close()
    accepted.close()
    listener.close()


# -- the stage ------------------------------------------------------------------------------------


def test_settings_and_models_are_what_the_gateway_reads(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(stage.settings(tmp_path / "manifest.json", "unix:///tmp/s"))
    found = load(GatewaySettings, file=file, environment={}, overrides={})
    assert found.store.redis_url == "unix:///tmp/s"
    assert found.features.near_cache_bytes == data.near_cache_bytes()
    manifest = decode_manifest(encode_manifest(definitions()), "manifest")
    for name in set(data.MODELS.values()) - {"direct"}:
        assert f'service = "{name}"' in stage.model_settings(name)
        assert len(manifest.service(name).refs) == data.FEATURES
    assert "[features]" not in stage.model_settings("direct")
    FeaturesSettings(service="wide", lookup_budget_ms=stage.BUDGET_MS)


def test_the_near_cache_has_room_for_the_hot_entities_and_some_more() -> None:
    manifest = definitions()
    [(key, row)] = encoded(manifest, "near", 1).items()
    assert len(row) == data.ROW_BYTES
    assert len(key) <= data.KEY_BYTES
    assert data.HOT * 1.5 < data.COPIES < (data.ALL - data.HOT) / 4


def test_no_two_rows_or_rounds_draw_the_same_entities() -> None:
    rows = ("http-1", "grpc-1", "http-100", "grpc-100")
    seeds = [seed_of(row, number) for row in rows for number in range(1, 6)]
    assert len({0, *seeds}) == len(seeds) + 1  # 0 is that of the load that fills the copies


def test_hits_are_what_grew_in_between() -> None:
    before = {"hit": 10.0, "read": 50.0}
    assert hit_share(before, {"hit": 100.0, "read": 60.0, "aged": 0.0}) == pytest.approx(0.9)
    assert hit_share(before, before) is None
