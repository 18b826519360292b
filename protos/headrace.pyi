"""Types of ``headrace.py``, written by ``make protos``. Edit ``headrace.proto``."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal
from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message
from protos.loader import Language, Method

LANGUAGE: Final[Language]

class PushRequest(Message):
    view: str
    @property
    def rows(self) -> RepeatedCompositeFieldContainer[Row]: ...
    def __init__(
        self,
        *,
        view: str | None = None,
        rows: Iterable[Row] | None = None,
    ) -> None: ...

class Row(Message):
    @property
    def values(self) -> MessageMap[str, Value]: ...
    event_time_us: int
    event_time_text: str
    def __init__(
        self,
        *,
        values: Mapping[str, Value] | None = None,
        event_time_us: int | None = None,
        event_time_text: str | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["event_time_us", "event_time_text"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["event_time"]
    ) -> Literal["event_time_us", "event_time_text"] | None: ...

class Value(Message):
    bool_value: bool
    int_value: int
    float_value: float
    string_value: str
    @property
    def floats(self) -> FloatList: ...
    @property
    def ints(self) -> IntList: ...
    def __init__(
        self,
        *,
        bool_value: bool | None = None,
        int_value: int | None = None,
        float_value: float | None = None,
        string_value: str | None = None,
        floats: FloatList | None = None,
        ints: IntList | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["bool_value", "int_value", "float_value", "string_value", "floats", "ints"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["kind"]
    ) -> Literal["bool_value", "int_value", "float_value", "string_value", "floats", "ints"] | None: ...

class FloatList(Message):
    @property
    def values(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(
        self,
        *,
        values: Iterable[float] | None = None,
    ) -> None: ...

class IntList(Message):
    @property
    def values(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(
        self,
        *,
        values: Iterable[int] | None = None,
    ) -> None: ...

class PushResponse(Message):
    created: int
    newer: int
    rewritten: int
    older: int
    expired: int
    duplicates: int
    def __init__(
        self,
        *,
        created: int | None = None,
        newer: int | None = None,
        rewritten: int | None = None,
        older: int | None = None,
        expired: int | None = None,
        duplicates: int | None = None,
    ) -> None: ...

FeatureService: Final[dict[str, Method]]
