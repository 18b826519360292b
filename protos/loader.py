"""Builds message classes from a compiled language file.

Modules that protoc generates register their messages in protobuf's one default pool, where two
files that define the same names cannot live in one process: ``tritonclient`` brings its own
``inference.*``. Here each language gets a pool of its own, so both can be imported, in any order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


class Method(NamedTuple):
    """One call of a service."""

    name: str
    path: str
    """The ``:path`` of an HTTP/2 request: ``/package.Service/Method``."""
    request: type[Message]
    reply: type[Message]


class Language:
    """The messages, enums and services of ``protos/<name>.binpb``, in a pool of their own."""

    def __init__(self, name: str) -> None:
        compiled = Path(__file__).with_name(f"{name}.binpb").read_bytes()
        files = FileDescriptorSet.FromString(compiled).file
        self.package = files[-1].package
        self.files = {file.name: file.SerializeToString() for file in files}
        """Its serialized file descriptors by file name, which server reflection shows."""
        self.services = [
            f"{file.package}.{service.name}" for file in files for service in file.service
        ]
        """Full names of its services."""
        self._pool = DescriptorPool()
        for file in files:
            self._pool.Add(file)

    @property
    def descriptor(self) -> Any:
        """The descriptor of its own file."""
        return self._pool.FindFileByName(next(reversed(self.files)))

    def __repr__(self) -> str:
        return f"Language({self.package!r})"

    def message(self, name: str) -> type[Message]:
        """The class of a top-level message; nested ones are its attributes."""
        return GetMessageClass(self._pool.FindMessageTypeByName(self._full(name)))

    def enum(self, name: str) -> EnumTypeWrapper:
        """A top-level enum, which translates between names and numbers."""
        return EnumTypeWrapper(self._pool.FindEnumTypeByName(self._full(name)))

    def methods(self, service: str) -> dict[str, Method]:
        """The calls of a service, by name."""
        descriptor: Any = self._pool.FindServiceByName(self._full(service))
        return {
            method.name: Method(
                name=method.name,
                path=f"/{descriptor.full_name}/{method.name}",
                request=GetMessageClass(method.input_type),
                reply=GetMessageClass(method.output_type),
            )
            for method in descriptor.methods
        }

    def file_of(self, symbol: str) -> str | None:
        """The name of the file that defines a message, field, enum, service or method, by its full name."""
        try:
            file: Any = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return None
        return str(file.name)

    def has_message(self, full_name: str) -> bool:
        """Whether it has a message of this full name."""
        try:
            self._pool.FindMessageTypeByName(full_name)
        except KeyError:
            return False
        return True

    def _full(self, name: str) -> str:
        return f"{self.package}.{name}"
