"""Types of ``health.py``, written by ``make protos``. Edit ``health.proto``."""

from collections.abc import Mapping
from typing import ClassVar, Final
from google.protobuf.internal.containers import MessageMap
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from protos.loader import Language, Method

LANGUAGE: Final[Language]

class HealthCheckRequest(Message):
    service: str
    def __init__(
        self,
        *,
        service: str | None = None,
    ) -> None: ...

class HealthCheckResponse(Message):
    ServingStatus: ClassVar[EnumTypeWrapper]
    UNKNOWN: Final = 0
    SERVING: Final = 1
    NOT_SERVING: Final = 2
    SERVICE_UNKNOWN: Final = 3
    status: int
    def __init__(
        self,
        *,
        status: int | None = None,
    ) -> None: ...

class HealthListRequest(Message):
    def __init__(self) -> None: ...

class HealthListResponse(Message):
    @property
    def statuses(self) -> MessageMap[str, HealthCheckResponse]: ...
    def __init__(
        self,
        *,
        statuses: Mapping[str, HealthCheckResponse] | None = None,
    ) -> None: ...

Health: Final[dict[str, Method]]
