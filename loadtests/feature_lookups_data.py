"""Decides what the bench of lookups serves and asks: values, answers, bodies, and which entity comes when.

Everything comes from a seed, so that whoever writes the rows and whoever judges the answers need not speak to each
other. It must never know a server, nor draw entities in a way that depends on what was answered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import orjson

from loadtests.servers import Protocol

Floats = npt.NDArray[np.float32]
Choice = npt.NDArray[np.intp]

Variant = Literal["direct", "hit", "mixed", "miss", "parts"]
"""All values sent; copies for all, for 90 %, for none of the rows; none, and the values are in five views."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)

FEATURES = 50
PARTS = 5
HOT, ALL = 2_000, 42_000
"""Entities that are asked for again and again, which copies of all fit for; and all there are."""
COPIES = 4_000
"""Rows that the near cache has room for."""
ROW_BYTES, KEY_BYTES, COPY_OVERHEAD_BYTES = 240, 36, 270
HOT_SHARE = 0.895
"""Of the mixed draws. The others are rarely asked for twice while their copy is there; together about 90 % are hits."""
BODIES_OF_MANY = 48
"""Different bodies of more than one row."""
DRAWS = 1_000_000

PROJECT, ENTITY, INPUT, OUTPUT = "bench", "entity", "x", "y"
COLUMNS = [f"f{at}" for at in range(FEATURES)]
MODELS: dict[Variant, str] = {
    "direct": "direct",
    "hit": "near",
    "mixed": "near",
    "miss": "wide",
    "parts": "parts",
}
"""Which model of the repository answers."""


def values(count: int = ALL) -> Floats:
    """The features of the first entities: ``(count, 50)``."""
    return np.random.default_rng(11).random((ALL, FEATURES), dtype=np.float32)[:count]


def weights() -> tuple[Floats, Floats]:
    """Of the model: ``x · w + b``."""
    dice = np.random.default_rng(12)
    return dice.standard_normal((FEATURES, 1), np.float32), dice.standard_normal(1, np.float32)


def answers() -> Floats:
    """What the model says about each entity: ``(ALL,)``."""
    weight, bias = weights()
    said: Floats = (values() @ weight + bias)[:, 0]
    return said


def entity_id(number: int) -> str:
    """How callers name an entity."""
    return f"u{number:06d}"


def near_cache_bytes() -> int:
    """The setting under which about ``COPIES`` rows have room."""
    return COPIES * (ROW_BYTES + KEY_BYTES + COPY_OVERHEAD_BYTES)


def draws(variant: Variant, count: int, seed: int) -> Choice:
    """Entities, one for each request."""
    dice = np.random.default_rng(seed)
    hot = dice.integers(0, HOT, count)
    if variant == "direct" or variant == "hit":
        return hot
    if variant == "mixed":
        cold = dice.integers(HOT, ALL, count)
        return np.where(dice.random(count) < HOT_SHARE, hot, cold)
    # Each asks the store; the wider the draw, the less two that come together share one read.
    return dice.integers(0, HOT if variant == "parts" else ALL, count)


def groups(variant: Variant, rows: int, seed: int) -> list[list[int]]:
    """Entities of requests with several rows, none twice in one."""
    dice = np.random.default_rng(seed)
    among = HOT if variant in ("direct", "hit", "parts") else ALL
    return [dice.choice(among, rows, replace=False).tolist() for _ in range(BODIES_OF_MANY)]


class Requests:
    """The bodies of one load, and what must be answered to each."""

    def __init__(self, variant: Variant, protocol: Protocol, rows: int, seed: int) -> None:
        self._answers = answers()
        if rows == 1:
            known = HOT if variant in ("direct", "hit", "parts") else ALL
            self._groups = [[number] for number in range(known)]
            self._turn: list[int] = draws(variant, DRAWS, seed).tolist()
        else:
            self._groups = groups(variant, rows, seed)
            self._turn = list(range(len(self._groups)))
        make = json_body if protocol == "http" else grpc_body
        table = values() if variant == "direct" else None
        self.bodies = [make(variant, group, table) for group in self._groups]
        firsts = [(group[0], group[-1]) for group in self._groups]
        self._expected = [(float(self._answers[a]), float(self._answers[b])) for a, b in firsts]
        self._rows = rows
        self._read = read_json if protocol == "http" else read_grpc

    def which(self, token: int) -> int:
        """The body of a request."""
        return self._turn[token % len(self._turn)]

    def is_right(self, token: int, reply: bytes) -> bool:
        """Whether a reply has as many answers as there were rows, and the first and the last are the model's."""
        first, last = self._expected[self.which(token)]
        try:
            said_first, said_last = self._read(reply, self._rows)
        except (KeyError, IndexError, TypeError, ValueError, struct.error):
            return False
        return is_close(said_first, first) and is_close(said_last, last)


def is_close(said: float, expected: float) -> bool:
    """The order in which products are added up may differ with the size of a batch, and nothing else."""
    return abs(said - expected) <= 1e-4 + 1e-4 * abs(expected)


def read_json(reply: bytes, rows: int) -> tuple[float, float]:
    """First and last answer."""
    data = orjson.loads(reply)["outputs"][0]["data"]
    if len(data) != rows:
        raise ValueError(f"{len(data)} answers")
    return _number(data[0]), _number(data[-1])


def read_grpc(message: bytes, rows: int) -> tuple[float, float]:
    """First and last answer: the raw contents are a message's last field."""
    size = 4 * rows
    head = b"\x32" + _varint(size)
    if message[-size - len(head) : -size] != head:
        raise ValueError("no raw contents of that length at the end")
    return (
        struct.unpack_from("<f", message, len(message) - size)[0],
        struct.unpack_from("<f", message, len(message) - 4)[0],
    )


def _number(value: object) -> float:
    while isinstance(value, list):
        value = value[0]
    assert isinstance(value, float | int)
    return float(value)


# -- requests -------------------------------------------------------------------------------------


def json_body(variant: Variant, group: Sequence[int], table: Floats | None) -> bytes:
    """A V2 request as client libraries write it; ``table`` has the values for the variant that sends them."""
    rows = len(group)
    if table is not None:
        x = {
            "name": INPUT,
            "shape": [rows, FEATURES],
            "datatype": "FP32",
            "data": table[group].ravel(),
        }
        return orjson.dumps({"inputs": [x]}, option=orjson.OPT_SERIALIZE_NUMPY)
    ids = [entity_id(one) for one in group]
    key = {"name": ENTITY, "shape": [rows, 1], "datatype": "BYTES", "data": ids}
    return orjson.dumps({"inputs": [key]})


def grpc_body(variant: Variant, group: Sequence[int], table: Floats | None) -> bytes:
    """A ModelInferRequest with raw contents."""
    rows = len(group)
    if table is not None:
        tensor = _tensor(INPUT, b"FP32", (rows, FEATURES))
        raw = table[group].astype("<f4").tobytes()
    else:
        tensor = _tensor(ENTITY, b"BYTES", (rows, 1))
        ids = [entity_id(one).encode() for one in group]
        raw = b"".join(struct.pack("<I", len(one)) + one for one in ids)
    return _field(1, MODELS[variant].encode()) + _field(5, tensor) + _field(7, raw)


def _tensor(name: str, datatype: bytes, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(_varint(size) for size in shape)
    return _field(1, name.encode()) + _field(2, datatype) + _field(3, sizes)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
