"""Server reflection: tools like grpcurl ask what this server offers, and read its descriptors.

Decides what is shown: the languages that are spoken on this port, from their own pools. It must never show what the
process has imported besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from gateway.edge.status import GRPC_STATUS
from gateway.errors import ErrorCode, invalid
from protos import headrace, health, inference, reflection, reflection_v1alpha
from protos.loader import Language

LANGUAGES: tuple[Language, ...] = (
    inference.LANGUAGE,
    headrace.LANGUAGE,
    health.LANGUAGE,
    reflection.LANGUAGE,
    reflection_v1alpha.LANGUAGE,
)


def conversations() -> dict[bytes, Callable[[bytes], bytes]]:
    """For each path, what turns one message of the stream into its answer."""
    return {
        method.path.encode(): _Reflection(method.request, method.reply).answer
        for module in (reflection, reflection_v1alpha)
        for method in module.ServerReflection.values()
    }


class _Reflection:
    """One version of the service; both have the same messages under other names."""

    def __init__(self, request: Any, reply: Any) -> None:
        self._request = request
        self._reply = reply

    def answer(self, message: bytes) -> bytes:
        try:
            asked = self._request.FromString(message)
        except DecodeError:
            raise invalid("the message is no ServerReflectionRequest: it does not parse") from None
        reply = self._reply(valid_host=asked.host, original_request=asked)
        kind = asked.WhichOneof("message_request")
        if kind == "list_services":
            names = sorted(name for language in LANGUAGES for name in language.services)
            for name in names:
                reply.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._show(reply, asked.file_by_filename)
        elif kind == "file_containing_symbol":
            self._show(reply, _file_of(asked.file_containing_symbol))
        elif kind == "all_extension_numbers_of_type" and _is_message(
            asked.all_extension_numbers_of_type
        ):
            # proto3 has no extensions: none, of a type that is known.
            found = reply.all_extension_numbers_response
            found.base_type_name = asked.all_extension_numbers_of_type
        elif kind is None:
            self._refuse(reply, ErrorCode.INVALID_ARGUMENT, "the request asks for nothing")
        else:
            self._refuse(reply, ErrorCode.NOT_FOUND, "no such type or extension here")
        found_bytes: bytes = reply.SerializeToString()
        return found_bytes

    def _show(self, reply: Any, filename: str | None) -> None:
        for language in LANGUAGES:
            if filename is not None and filename in language.files:
                shown = reply.file_descriptor_response.file_descriptor_proto
                shown.append(language.files[filename])
                return
        self._refuse(reply, ErrorCode.NOT_FOUND, "no such file or symbol here")

    def _refuse(self, reply: Any, code: ErrorCode, message: str) -> None:
        reply.error_response.error_code = GRPC_STATUS[code]
        reply.error_response.error_message = message


def _file_of(symbol: str) -> str | None:
    for language in LANGUAGES:
        found = language.file_of(symbol)
        if found is not None:
            return found
    return None


def _is_message(name: str) -> bool:
    return any(language.has_message(name) for language in LANGUAGES)
